"""Runs on a Kubernetes cluster: what is applied, and how it is followed from a laptop."""
