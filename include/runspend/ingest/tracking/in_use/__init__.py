"""Which runs, models and artifacts are in use right now, asked before bytes are deleted."""
