"""Reads a run: history, Redis, folder."""
