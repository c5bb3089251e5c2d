"""One run, from its checks to its summary."""
