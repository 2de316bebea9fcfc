"""Answering with a bundle: predictor, protocols, server and web page; no torch in here."""
