"""Training variants of one classifier and telling which is best."""
