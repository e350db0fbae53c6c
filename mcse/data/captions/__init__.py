"""Captions by image, from files, hub data sets and vocabularies."""
