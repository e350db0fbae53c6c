"""RankCSE: sentence embeddings that order sentences as frozen teachers do."""
