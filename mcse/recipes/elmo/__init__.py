"""ELMo: word vectors in context from language models."""
