"""Where tables live: `base` is what every engine does, `factory` opens one; `parquet` and `bigquery` are the engines."""
