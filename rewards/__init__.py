"""Score log R at every prefix of a trajectory."""
