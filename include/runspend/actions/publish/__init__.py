"""Copies of tables and views in databases and files that other tools read.

`content.py` says what is copied, in parts that are replaced as a whole. `postgres.py`, `duckdb_file.py` and `iceberg.py` each have one
function `publish`, and `probe`, which only looks. Which targets there are, and what happens to errors, is in `pipeline/publish.py`.
"""

from runspend.actions.publish.content import Content, Found, Published, open_content

__all__ = ["Content", "Found", "Published", "open_content"]
