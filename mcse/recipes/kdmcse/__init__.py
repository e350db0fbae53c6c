"""KDMCSE: MCSE with a frozen image–text teacher, margins by its similarities, and a filter of false negatives."""
