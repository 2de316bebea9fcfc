"""The operator: a Classifier on a cluster is trained, gated, published and served, and says how far that is."""
