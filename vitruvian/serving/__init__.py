"""What KServe and Ray Serve run: thin entry points over `inference`."""
