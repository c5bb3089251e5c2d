"""The processes of a run; the only folder that imports Ray."""
