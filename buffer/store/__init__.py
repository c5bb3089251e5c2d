"""The item store: keys, scripts, indexes, statistics, checks."""
