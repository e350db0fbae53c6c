"""CoVe: word vectors in context from a translation model."""
