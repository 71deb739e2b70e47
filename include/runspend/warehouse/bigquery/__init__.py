"""The warehouse as tables of a BigQuery dataset."""
