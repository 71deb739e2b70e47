"""Runs, models and artifacts that are in use right now, checked before bytes are deleted."""
