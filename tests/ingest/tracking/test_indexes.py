"""The indexes that a copy of an older MLflow database gets."""

from __future__ import annotations

import sqlite3

import pytest

from runspend.ingest.tracking.database import INDEXES, _add_indexes


@pytest.mark.parametrize("name", ["plain", "it's", "x') union select 'run_uuid' --", 'quo"ted', "a;b"])
def test_the_name_of_an_index_is_never_read_as_sql(name: str) -> None:
    """An index of any name is enough if it covers the column. Otherwise Runspend adds one."""
    table, column = next(iter(INDEXES.items()))
    quoted = '"' + name.replace('"', '""') + '"'
    for covered, added in ((column, 0), ("other", 1)):
        with sqlite3.connect(":memory:") as copy:
            copy.execute(f"create table {table} ({column} text, other text)")
            copy.execute(f"create index {quoted} on {table}({covered})")
            _add_indexes(copy)
            found = copy.execute("select count(*) from sqlite_master where type = 'index' and name = ?", (f"runspend_{table}",)).fetchone()
            assert found == (added,)
        copy.close()
