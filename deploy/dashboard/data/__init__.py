"""Readers of a run: its history, its Redis, its folder."""
