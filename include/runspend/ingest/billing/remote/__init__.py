"""Reads bills where they are stored: a table in BigQuery, system tables of Databricks."""
