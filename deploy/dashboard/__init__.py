"""The dashboard: a read-only server for the histories of runs, and the web page under static/."""
