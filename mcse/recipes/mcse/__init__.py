"""MCSE: sentence embeddings from text and images."""
