"""`tributary reproduce`: contenders of one experiment, run one after the other, and their table."""
