"""A tagger or sentence classifier on frozen word features."""
