"""Pure functions of arrays: correlation, alignment and uniformity."""
