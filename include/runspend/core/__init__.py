"""Helpers that every room may use. They know nothing of runs, bills or tables."""
