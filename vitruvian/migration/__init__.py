"""From the configs of five existing systems to a Classifier: one table for each of them, no files and no console."""
