"""Interfaces for people and schedulers: commands, pages, the demo, the first trial."""
