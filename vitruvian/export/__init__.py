"""Formats for serving, one file each, checked against the trained model."""
