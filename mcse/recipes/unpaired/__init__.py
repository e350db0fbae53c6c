"""VisualCSE: SimCSE, whose encoder's layers also learn from images that belong to no text."""
