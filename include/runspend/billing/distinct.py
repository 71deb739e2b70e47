"""SQL over many rows, asked once per distinct combination of the values its answers depend on, where those are few.

Put here how it is found out what an answer depends on, and how answers come to the rows. A bill of millions of rows says the
same few things of them: category, service, place, machine, hour. DuckDB tells in its plan which columns of a view a selected
column needs; where their combinations are few, the SQL runs over those alone, and each row gets the number of its answer.
What is not told so is asked of every row. Which way is taken changes nothing but the time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from runspend.billing import columns
from runspend.billing.staging import one_piece

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ROW_NUMBER = "row_number"
LEAST_ROWS = 20_000  # below it finding out costs more than it saves
FEW = 8  # combinations are few where each stands for so many rows
FEW_VALUES = 100  # and a column has few values where each stands for so many
# Steps of a plan that make of a row what they make of it whatever the other rows are.
ROW_BY_ROW = ("PROJECTION", "FILTER", "UNION", "UNNEST", "CTE", "SCAN", "JOIN", "CROSS_PRODUCT", "EMPTY_RESULT")

Needs = Mapping[str, frozenset[str]]
_kept: dict[str, Needs | None] = {}


def run(
    con: duckdb.DuckDBPyConnection, view: str, rows: pa.Table, query: str, told: Sequence[str], others: Sequence[str], variables: str
) -> pa.Table:
    """The columns `told` and `others` of a query over the view that `rows` are, in no order.

    `told` are columns that may depend on little; `others` have ROW_NUMBER, that of the row. `variables` says what besides the
    query decides what it depends on.
    """
    con.register(view, rows)
    names = ", ".join([*told, *others])
    needs = _find_needs(con, rows.column_names, query, told, variables) if rows.num_rows >= LEAST_ROWS else None
    if needs is None:
        return con.sql(f"select {names} from ({query})").to_arrow_table()
    answers = _ask_few(con, view, rows, query, told, needs)
    con.register(view, rows)
    left = [name for name in told if name not in answers]
    asked = con.sql(f"select {', '.join([*left, *others])} from ({query})").to_arrow_table()
    return _put_together(con, view, rows, f"select {names} from ({query})", asked, answers)


def _put_together(
    con: duckdb.DuckDBPyConnection, view: str, rows: pa.Table, query: str, asked: pa.Table, answers: Mapping[str, pa.Array]
) -> pa.Table:
    """Answers per row beside what was asked of every row. Rows that became several are asked again, whole."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = rows.column(ROW_NUMBER)[0] if rows.num_rows else pa.scalar(0)
    at = pc.subtract(one_piece(asked.column(ROW_NUMBER)), first)
    if at.equals(pa.arange(0, rows.num_rows)):  # nearly always: each row is one, in its place
        for name, column in answers.items():
            asked = asked.append_column(name, column)
        return asked
    counts = pc.value_counts(at)
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(several):
        single = pc.invert(pc.is_in(at, value_set=several))
        asked, at = asked.filter(single), at.filter(single)
    if len(at) > 1 and not pc.all(pc.less(at.slice(0, len(at) - 1), at.slice(1))).as_py():
        order = pc.sort_indices(at)  # a join hands on rows as they come where they are fewer than what is looked up
        asked, at = asked.take(order), at.take(order)
    for name, column in answers.items():
        asked = asked.append_column(name, column.take(at))
    if not len(several):
        return asked
    con.register(view, rows.take(several))
    whole = con.sql(query).to_arrow_table().select(asked.column_names)
    return pa.concat_tables([asked, whole.cast(asked.schema)])


def _find_needs(
    con: duckdb.DuckDBPyConnection, columns_of_view: Sequence[str], query: str, names: Sequence[str], variables: str
) -> Needs | None:
    """Which columns of the view each named column of the query needs; None where rows are not told one by one. Kept."""
    key = key_of(query, names, variables)
    if key not in _kept:
        recorded = _read_recorded().get(key)
        _kept[key] = recorded if recorded is not None else ask_needs(con, columns_of_view, query, names)
    return _kept[key]


def key_of(query: str, names: Sequence[str], variables: str) -> str:
    """What decides what is needed, as a short text."""
    return hashlib.sha256(f"{variables} {','.join(names)} {query}".encode()).hexdigest()[:24]


def _read_recorded() -> dict[str, Needs]:
    """What `needs.py` wrote of large formats."""
    recorded = json.loads(files("runspend.billing.formats").joinpath("needs.json").read_text(encoding="utf-8"))
    return {key: {name: frozenset((*one["all"], *besides)) for name, besides in one["besides"].items()} for key, one in recorded.items()}


def ask_needs(con: duckdb.DuckDBPyConnection, columns_of_view: Sequence[str], query: str, names: Sequence[str]) -> Needs | None:
    """The same, asked of DuckDB."""
    needs: dict[str, frozenset[str]] = {}
    for name in names:
        [(_, text)] = con.execute(f"explain (format json) select {name} from ({query})").fetchall()
        steps = list(_steps(json.loads(text)))
        if not all(_is_row_by_row(step) for step in steps):
            return None
        # What a scan hands on and what it filters by; a name that is found in vain makes an answer dearer, not wrong.
        read = " ".join(json.dumps(step.get("extra_info")) for step in steps if "ARROW" in step["name"])
        needs[name] = frozenset(set(re.findall(r"\w+", read)) & set(columns_of_view))
    return needs


def _steps(plan: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    for step in plan:
        yield step
        yield from _steps(step.get("children", []))


def _is_row_by_row(step: Mapping[str, Any]) -> bool:
    """Whether a step looks at one row at a time, and joins it with nothing but what is looked up."""
    name = str(step["name"]).strip()
    if not name.endswith(ROW_BY_ROW) or "DELIM" in name or name.startswith("POSITIONAL"):
        return False
    is_join = name.endswith(("JOIN", "CROSS_PRODUCT"))
    return not is_join or not all(_reads_rows(child) for child in step.get("children", []))


def _reads_rows(step: Mapping[str, Any]) -> bool:
    """Whether rows of the view, or of what was made of them, come through a step."""
    return any("ARROW" in each["name"] or each["name"].strip() == "CTE_SCAN" for each in _steps([step]))


def _ask_few(
    con: duckdb.DuckDBPyConnection, view: str, rows: pa.Table, query: str, names: Sequence[str], needs: Needs
) -> dict[str, pa.Array]:
    """The columns that depend on few combinations, an answer for every row of the view (one that counts if it has just one)."""
    import pyarrow as pa

    coded = {f.name: one_piece(rows.column(f.name)) for f in rows.schema if pa.types.is_dictionary(f.type)}
    labels = {name for name, column in coded.items() if len(column.dictionary) * FEW_VALUES <= rows.num_rows}
    together = [name for name in names if needs[name] <= labels]
    answers: dict[str, pa.Array] = {}
    for group in [together, *([name] for name in names if name not in together)]:
        needed = sorted(set().union(*(needs[name] for name in group)))
        if group and coded.keys() >= set(needed):
            answers |= _ask_combinations(con, view, rows, query, group, {name: coded[name] for name in needed})
    return answers


def _ask_combinations(
    con: duckdb.DuckDBPyConnection, view: str, rows: pa.Table, query: str, names: Sequence[str], needed: Mapping[str, pa.DictionaryArray]
) -> dict[str, pa.Array]:
    """The answers for every row, by its combination of the needed columns; none if those are many."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if any(len(column.dictionary) * FEW > rows.num_rows for column in needed.values()):
        return {}
    same = {name: column.dictionary[0] for name, column in needed.items() if len(column.dictionary) == 1 and not column.null_count}
    said = {name: column for name, column in needed.items() if column.null_count < len(column) and name not in same}
    if not said:
        return {}
    codes, distinct = columns.combine(list(said.values()), list(said))
    count = distinct.num_rows
    if count * FEW > rows.num_rows:
        return {}
    numbers = pa.arange(0, count)
    few = {f.name: distinct.column(f.name) if f.name in said else pa.nulls(count, f.type) for f in rows.schema}
    few |= {name: pa.repeat(value, count) for name, value in same.items()}
    con.register(view, pa.table({**few, ROW_NUMBER: numbers}))
    # As a table: a relation plans its query twice, which takes longer than answering for few rows.
    con.execute(f"create or replace temp table answers as select {', '.join([ROW_NUMBER, *names])} from ({query})")
    found = con.sql("from answers").to_arrow_table()
    places = pc.index_in(numbers, value_set=one_piece(found.column(ROW_NUMBER)))
    return {name: columns.spread(codes, _plain(found.column(name)).take(places)) for name in names}


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array; of texts, in the type that is coded."""
    import pyarrow as pa

    piece = one_piece(column)
    return piece.cast(pa.string()) if pa.types.is_large_string(piece.type) or pa.types.is_string_view(piece.type) else piece
