"""Visually grounded word vectors."""
