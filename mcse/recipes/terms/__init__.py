"""Loss terms that several recipes share. A term is called with a step's rows and its batch and gives ``LossTerms``."""
