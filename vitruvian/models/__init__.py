"""Architectures, one file each, behind one registry."""
