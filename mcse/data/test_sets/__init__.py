"""Test sets of the published protocols, and whether training text holds them."""
