"""The HTTP handlers, one file for each protocol."""
