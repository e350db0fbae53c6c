"""Tars in WebDataset's layout, and the caption pairs in them."""
