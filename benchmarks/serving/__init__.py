"""Serving, side by side with other servers in one run."""
