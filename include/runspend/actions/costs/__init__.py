"""Costs as people ask for them: grouped, filtered, as of an earlier day."""
