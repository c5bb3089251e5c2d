"""Build the rooms, connect them, run them. The only package that imports Ray."""
