"""A Redis-compatible server of the run's own, and connections to any."""
