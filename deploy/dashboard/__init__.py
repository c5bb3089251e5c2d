"""One page a researcher keeps open: a server that only reads a run's history, and the page's files under static/."""
