"""MAF: named entities in tweets with images."""
