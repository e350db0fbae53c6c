"""Images and their stored features, matched to captions by name."""
