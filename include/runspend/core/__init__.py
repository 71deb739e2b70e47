"""Helpers that every room may use. They do not know runs, bills or tables."""
