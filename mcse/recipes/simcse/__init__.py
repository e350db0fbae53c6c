"""SimCSE: sentence embeddings from text alone."""
