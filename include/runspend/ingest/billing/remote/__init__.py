"""Bills that are read where they are: a table in BigQuery, system tables of Databricks."""
