"""The web server: the page, its API and access control."""
