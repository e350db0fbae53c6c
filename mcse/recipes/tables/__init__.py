"""Sentence embeddings from tables that people bring."""
