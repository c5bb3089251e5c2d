"""A model's name -> a folder."""
