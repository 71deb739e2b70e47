"""SQL that runs once per combination of values: stored answers equal those that the SQL would give for each row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from runspend.ingest.billing import distinct
from runspend.ingest.billing.staging import Staged

QUERY = """
  select row_number, kind || '/' || coalesce(place, 'nowhere') as named, hour || 'h' as at_hour, cost from bill where kind <> 'none'
  union all
  select row_number, 'rest of ' || kind, hour || 'h', '0' from bill where kind = 'fee'
"""
DERIVED, OTHERS = ["named", "at_hour"], ["cost", "row_number"]


def rows_of(first: int, kinds: Sequence[str], places: Sequence[str | None], hours: Sequence[str]) -> pa.Table:
    """Return rows with every combination of these values. They are numbered from `first` and have different costs."""
    every = [(kind, place, hour) for kind in kinds for place in places for hour in hours]
    texts = {name: pa.array([row[i] for row in every], pa.string()) for i, name in enumerate(("kind", "place", "hour"))}
    texts["cost"] = pa.array([f"{first}.{i}" for i in range(len(every))])
    coded = {name: column.dictionary_encode() for name, column in texts.items()}
    return pa.table({**coded, "row_number": pa.array(range(first, first + len(every)), pa.int64())})


SHARES = (
    rows_of(1, ["use", "fee", "none"], ["here", None], ["1", "2"]),
    rows_of(101, ["use", "fee"], ["here", "there", None], ["2", "3"]),  # a new place and a new hour
    rows_of(201, ["use", "tax"], ["here"], ["1", "2"]),  # only a new kind
    rows_of(301, ["fee", "use"], ["there", "here"], ["3"]),  # nothing new
)


@pytest.fixture(params=[50_000, 3], ids=["all kept", "few kept"])
def known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> distinct.KnownAnswers:
    """Stored answers of one query. Every share of rows is large enough to be asked once per combination."""
    for name, value in (("LEAST_ROWS", 1), ("FEW", 1), ("FEW_VALUES", 1), ("MOST_KNOWN", request.param)):
        monkeypatch.setattr(distinct, name, value)
    distinct._kept.clear()
    return distinct.KnownAnswers()


def test_answers_equal_those_of_every_row_after_any_earlier_rows(tmp_path: Path, known: distinct.KnownAnswers) -> None:
    with Staged(tmp_path) as staged:
        for share in SHARES:
            found = distinct.run(staged.con, "bill", share, QUERY, DERIVED, OTHERS, "", known)
            staged.con.register("bill", share)
            each = staged.con.sql(f"select {', '.join([*DERIVED, *OTHERS])} from ({QUERY})").to_arrow_table()
            rows, wanted = (sorted(table.select([*OTHERS, *DERIVED]).to_pylist(), key=str) for table in (found, each))
            assert rows == wanted


def test_answered_questions_are_not_asked_again(tmp_path: Path, known: distinct.KnownAnswers) -> None:
    """Runspend makes a table of answers only for combinations that are new in a share of rows."""
    asked = []
    with Staged(tmp_path) as staged:
        for share in (SHARES[1], SHARES[1], SHARES[3], SHARES[2]):
            distinct.run(staged.con, "bill", share, QUERY, DERIVED, OTHERS, "", known)
            made = staged.con.execute("select count(*) from duckdb_tables() where table_name = 'answers'").fetchall()[0][0]
            asked.append(bool(made) and staged.con.execute("select count(*) from answers").fetchall()[0][0] > 0)
            staged.con.execute("drop table if exists answers")
    assert asked == ([True, False, False, True] if distinct.MOST_KNOWN > 3 else [True] * 4)
