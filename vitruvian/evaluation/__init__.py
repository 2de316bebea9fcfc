"""How good a classifier is: metrics, pictures, a report, and the gates it must pass."""
