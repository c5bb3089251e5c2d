"""Sample trajectories from the current policy with vLLM."""
