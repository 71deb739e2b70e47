"""Queries costs: grouped, filtered, or as of an earlier day."""
