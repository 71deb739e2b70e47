"""The warehouse as Parquet files in a folder or a bucket, queried by DuckDB."""
