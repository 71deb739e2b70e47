"""The warehouse, which stores the tables. `base` is the interface, `parquet` and `bigquery` implement it, and `factory` opens one."""
