"""Keeps the tables: `base` is the interface of every engine, `factory` opens one; `parquet` and `bigquery` are the engines."""
