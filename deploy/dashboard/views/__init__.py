"""The content of each page, as plain values."""
