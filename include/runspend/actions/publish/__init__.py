"""Copies of tables and views in databases and files that other tools read.

`content.py` defines what is copied, in parts that are replaced as a whole. `postgres`, `duckdb_file.py` and `iceberg.py` each have a function
`publish`, and a function `probe` that only reads. `pipeline/publish.py` selects the targets and handles their errors.
"""

from runspend.actions.publish.content import Content, Found, Published, open_content

__all__ = ["Content", "Found", "Published", "open_content"]
