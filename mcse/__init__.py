"""mcse: train and judge sentence embeddings that have seen pictures."""
