"""The tables: their columns, documentation and rows."""
