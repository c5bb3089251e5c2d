"""One file per command of `tributary`: parse, call, print."""
