"""Model names, and the folders they stand for."""
