"""Sources, formats, splits, preprocessing and the synthetic set; no torch in here."""
