"""Move the policy towards the posterior: objectives, one packed pass, optimiser, adapter."""
