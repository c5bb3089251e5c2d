"""PNG plots and the HTML report."""
