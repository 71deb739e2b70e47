"""Code that every package may use. It does not know runs, bills or tables."""
