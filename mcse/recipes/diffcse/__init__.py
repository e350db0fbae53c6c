"""DiffCSE: sentence embeddings that also tell a sentence from an edited one."""
