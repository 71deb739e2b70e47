"""The tables: their columns, their documentation, rows for them."""
