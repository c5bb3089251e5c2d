"""Serves the page and its API."""
