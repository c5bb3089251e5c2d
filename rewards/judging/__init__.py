"""Metrics of sampled text: overlap with a reference, diversity, majority vote, posterior fit, confidence intervals."""
