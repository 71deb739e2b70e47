"""Reads bills that are tables: a table in BigQuery, or the system tables of Databricks."""
