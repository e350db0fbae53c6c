"""Blocks without pretrained weights."""
