"""Judges for sampled text: overlap with a reference, spread among samples, votes, intervals. Used by tasks."""
