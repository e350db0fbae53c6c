"""A masked language model: pre-training from nothing, or on with an encoder on one's own text."""
