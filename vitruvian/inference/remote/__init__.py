"""Pictures that a request names by URL: from where they may come, and fetching them; off unless hosts are named."""
