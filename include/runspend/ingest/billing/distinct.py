"""Computes a SQL expression once per distinct combination of its inputs if there are few combinations, and otherwise once per row.

Belongs here: how Runspend finds out which columns an answer depends on, and how answers get to the rows. Millions of rows of a bill
repeat few values: category, service, region, machine, hour. DuckDB's plan shows which columns of a view a selected column needs. If
these columns have few combinations, the SQL runs once per combination, and each row gets the answer of its combination. All other
columns are computed for every row. The results are the same in both cases; only the time differs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runspend.ingest.billing import columns
from runspend.ingest.billing.columns import combine_chunks

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ROW_NUMBER = "row_number"
# Some columns of the view are needed by all columns of the query. This column holds a number for each combination of their values.
SHARED = "(shared)"
LEAST_ROWS = 20_000  # for fewer rows, finding the combinations takes longer than it saves
FEW = 8  # combinations are few if each has at least this many rows on average
FEW_VALUES = 100  # a column has few values if each has at least this many rows on average
# Steps of a plan that treat each row independently of the other rows.
ROW_BY_ROW = ("PROJECTION", "FILTER", "UNION", "UNNEST", "CTE", "SCAN", "JOIN", "CROSS_PRODUCT", "EMPTY_RESULT")

MOST_KNOWN = 50_000  # combinations whose answers are kept for later batches

Needs = Mapping[str, frozenset[str]]
_kept: dict[str, Needs | None] = {}


def run(
    con: duckdb.DuckDBPyConnection,
    view: str,
    rows: pa.Table,
    query: str,
    derived: Sequence[str],
    others: Sequence[str],
    variables: str,
    known: KnownAnswers,
) -> pa.Table:
    """Return the columns `derived` and `others` of a query over the view of `rows`, in any row order.

    `derived` are columns that may depend on few columns of the view. `others` are computed for every row, and include ROW_NUMBER.
    `variables` is a text of the variables of the query, which may change what a column depends on. `known` keeps the answers for later
    batches with the same query.
    """
    con.register(view, rows)
    names = ", ".join([*derived, *others])
    if rows.num_rows < LEAST_ROWS:
        return _ask_once(con, f"select {names} from ({query})")
    needs = _find_needs(con, rows.column_names, query, derived, variables)
    if needs is None:
        return con.sql(f"select {names} from ({query})").to_arrow_table()
    answers = _ask_few(con, view, rows, query, derived, needs, known)
    con.register(view, rows)
    left = [name for name in derived if name not in answers]
    asked = con.sql(f"select {', '.join([*left, *others])} from ({query})").to_arrow_table()
    return _put_together(con, view, rows, f"select {names} from ({query})", asked, answers)


def _ask_once(con: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """Return the result of a query over few rows. It creates a table, because a relation would plan the query twice, which takes longer."""
    con.execute(f"create or replace temp table answers as {query}")
    return con.sql("from answers").to_arrow_table()


def _put_together(
    con: duckdb.DuckDBPyConnection, view: str, rows: pa.Table, query: str, asked: pa.Table, answers: Mapping[str, pa.Array]
) -> pa.Table:
    """Join the answers of the combinations with the columns that were computed for every row.

    `query` selects all of these columns. If the query returns several rows for one row of the view, they are computed again with it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    first = rows.column(ROW_NUMBER)[0] if rows.num_rows else pa.scalar(0)
    at, whole = pc.subtract(combine_chunks(asked.column(ROW_NUMBER)), first), pa.arange(0, rows.num_rows)
    several = at.slice(rows.num_rows).unique()
    if len(at) < rows.num_rows or not at.slice(0, rows.num_rows).equals(whole):
        counts = pc.value_counts(at)
        several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    elif len(several):  # the first rows are in the order of the view; the rest are additional rows of some of them
        asked, at = asked.slice(0, rows.num_rows), whole
    if len(several):
        single = pc.invert(pc.is_in(at, value_set=several))
        asked, at = asked.filter(single), at.filter(single)
    if len(at) > 1 and not pc.all(pc.less(at.slice(0, len(at) - 1), at.slice(1))).as_py():
        order = pc.sort_indices(at)  # a join with a lookup table that is larger than the view returns rows in any order
        asked, at = asked.take(order), at.take(order)
    is_whole = at.equals(whole)  # nearly always true: each row of the view became one row
    for name, column in answers.items():
        asked = asked.append_column(name, column if is_whole else column.take(at))
    if not len(several):
        return asked
    con.register(view, rows.take(several))
    again = con.sql(query).to_arrow_table().select(asked.column_names)
    return pa.concat_tables([asked, again.cast(asked.schema)])


def _find_needs(
    con: duckdb.DuckDBPyConnection, columns_of_view: Sequence[str], query: str, names: Sequence[str], variables: str
) -> Needs | None:
    """Return the columns of the view that each named column needs, or None if the query does not process rows one by one.

    The result is cached for the query, the names and the variables.
    """
    key = key_of(query, names, variables)
    if key not in _kept:
        _kept[key] = _ask_needs(con, columns_of_view, query, names)
    return _kept[key]


def key_of(query: str, names: Sequence[str], variables: str) -> str:
    """Return a hash of the query, the names and the variables, which together decide what the named columns depend on."""
    return hashlib.sha256(f"{variables} {','.join(names)} {query}".encode()).hexdigest()[:24]


def _ask_needs(con: duckdb.DuckDBPyConnection, columns_of_view: Sequence[str], query: str, names: Sequence[str]) -> Needs | None:
    """Return what `_find_needs` returns, from DuckDB's plan for each column. The plan shows which columns of the view it reads."""
    needs: dict[str, frozenset[str]] = {}
    for name in names:
        [(_, text)] = con.execute(f"explain (format json) select {name} from ({query})").fetchall()
        steps = list(_steps(json.loads(text)))
        if not all(_is_row_by_row(step) for step in steps):
            return None
        # The columns that a scan returns or filters by. A name that is found by accident makes the query slower, not wrong.
        read = " ".join(json.dumps(step.get("extra_info")) for step in steps if "ARROW" in step["name"])
        needs[name] = frozenset(set(re.findall(r"\w+", read)) & set(columns_of_view))
    return needs


def _steps(plan: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    for step in plan:
        yield step
        yield from _steps(step.get("children", []))


def _is_row_by_row(step: Mapping[str, Any]) -> bool:
    """Return whether a step of a plan processes each row independently of other rows, and joins rows only with lookup tables."""
    name = str(step["name"]).strip()
    if not name.endswith(ROW_BY_ROW) or "DELIM" in name or name.startswith("POSITIONAL"):
        return False
    is_join = name.endswith(("JOIN", "CROSS_PRODUCT"))
    return not is_join or not all(_reads_rows(child) for child in step.get("children", []))


def _reads_rows(step: Mapping[str, Any]) -> bool:
    """Return whether a step of a plan reads rows of the view, or rows derived from them."""
    return any("ARROW" in each["name"] or each["name"].strip() == "CTE_SCAN" for each in _steps([step]))


def _ask_few(
    con: duckdb.DuckDBPyConnection, view: str, rows: pa.Table, query: str, names: Sequence[str], needs: Needs, known: KnownAnswers
) -> dict[str, pa.Array]:
    """Return the columns that depend on few combinations of values, with an answer for every row of the view.

    The answers are correct only for rows of the view that become exactly one row. One query computes all columns for all combinations
    that are new in this batch, because planning a query takes longer than running it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    groups = _group(rows, names, needs, known)
    unknown = {group: group.combinations.filter(pc.is_null(group.places)) for group in groups if group.places.null_count}
    if unknown:
        few = pa.concat_tables(unknown.values(), promote_options="default")
        given = {name: few.column(name) for name in few.column_names if name != SHARED}
        given |= known.what_all_need(few.column(SHARED))
        numbers = pa.arange(0, few.num_rows)
        empty = {f.name: pa.nulls(few.num_rows, f.type) for f in rows.schema if f.name not in given}
        con.register(view, pa.table(given | empty | {ROW_NUMBER: numbers}))
        asked = ", ".join([ROW_NUMBER, *(name for group in unknown for name in group.names)])
        found = _ask_once(con, f"select {asked} from ({query})")
        first, at = 0, combine_chunks(found.column(ROW_NUMBER))
        for group, combinations in unknown.items():
            places = pc.index_in(numbers.slice(first, combinations.num_rows), value_set=at)
            answers = pa.table({name: _plain(found.column(name)).take(places) for name in group.names})
            known.add(group, combinations, answers)
            first += combinations.num_rows
    return {name: column for group in groups for name, column in known.spread(group).items()}


@dataclass(eq=False)
class _Group:
    """Columns of the query that need the same columns of the view, and the combinations of their values.

    `codes`: the number of each row's combination. `combinations`: one row per combination. Its column SHARED numbers the values that all
    columns of the query need; its other columns are the values that only this group needs. `places`: the position of each combination
    among the known ones, or null.
    """

    names: tuple[str, ...]
    codes: pa.Array
    combinations: pa.Table
    places: pa.Array


@dataclass
class _Answered:
    """Known answers: one row of `answers` for each row of `combinations`."""

    combinations: pa.Table
    answers: pa.Table


class KnownAnswers:
    """The answers to one query, kept for later batches. Combinations of the values that all columns of the query need are numbered."""

    def __init__(self) -> None:
        self._shared: pa.Table | None = None  # the combination of each number
        self._answered: dict[tuple[str, ...], _Answered] = {}

    def number(self, combinations: pa.Table) -> pa.Array:
        """Return the numbers of these combinations of values that all columns of the query need. New combinations get new numbers.

        If there are more than `MOST_KNOWN`, all known combinations and answers are dropped first.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._shared is None or self._shared.num_rows + combinations.num_rows > MOST_KNOWN:
            self._shared, self._answered = combinations, {}
            return pa.arange(0, combinations.num_rows)
        places = _places(combinations, self._shared)
        if places.null_count:
            self._shared = pa.concat_tables([self._shared, combinations.filter(pc.is_null(places))])
            places = _places(combinations, self._shared)
        return places

    def what_all_need(self, numbers: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
        """Return the columns of the view that all columns of the query need, for these numbers."""
        import pyarrow as pa

        rows = self._shared.take(numbers.cast(pa.int64())) if self._shared is not None else pa.table({})
        return {name: rows.column(name) for name in rows.column_names}

    def places(self, names: tuple[str, ...], combinations: pa.Table) -> pa.Array:
        """Return the position of each combination among the known ones of this group, or null for a new one."""
        import pyarrow as pa

        before = self._answered.get(names)
        return pa.nulls(combinations.num_rows, pa.int32()) if before is None else _places(combinations, before.combinations)

    def add(self, group: _Group, combinations: pa.Table, answers: pa.Table) -> None:
        """Keep new answers. If there are more than `MOST_KNOWN` with the earlier ones, keep only the earlier ones that the group needs."""
        import pyarrow as pa

        before = self._answered.get(group.names)
        if before is not None:
            if before.combinations.num_rows + combinations.num_rows > MOST_KNOWN:
                needed = group.places.drop_null()
                before = _Answered(before.combinations.take(needed), before.answers.take(needed))
            combinations = pa.concat_tables([before.combinations, combinations])
            answers = pa.concat_tables([before.answers, answers])
        self._answered[group.names] = _Answered(combinations, answers)
        group.places = self.places(group.names, group.combinations)

    def spread(self, group: _Group) -> dict[str, pa.Array]:
        """Return the answers of the group's columns, one per row."""
        answers = self._answered[group.names].answers
        return {name: columns.spread(group.codes, combine_chunks(answers.column(name)).take(group.places)) for name in group.names}


def _places(combinations: pa.Table, among: pa.Table) -> pa.Array:
    """Return the position of each row of strings in the table `among`, which has the same columns. Null if it is not there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    both = pa.concat_tables([among, combinations])
    codes, _ = columns.combine([combine_chunks(column).dictionary_encode() for column in both.columns], both.column_names)
    return pc.index_in(codes.slice(among.num_rows), value_set=codes.slice(0, among.num_rows))


def _group(rows: pa.Table, names: Sequence[str], needs: Needs, known: KnownAnswers) -> list[_Group]:
    """Return groups of query columns that need the same columns of the view, if those have few combinations of values.

    All columns with few values are combined once. Combinations of some of these columns are then found in that much shorter table.
    """
    import pyarrow as pa

    coded = {f.name: combine_chunks(rows.column(f.name)) for f in rows.schema if pa.types.is_dictionary(f.type)}
    coded = {name: column for name, column in coded.items() if len(column.dictionary) * FEW <= rows.num_rows}
    shared = frozenset.intersection(*(needs[name] for name in names))
    if not shared or not shared <= coded.keys():
        return []
    codes, combinations = _combine(coded, shared)
    if combinations.num_rows * FEW > rows.num_rows:
        return []
    coded[SHARED] = pa.DictionaryArray.from_arrays(codes, known.number(combinations).cast(pa.string()))
    alike: dict[frozenset[str], list[str]] = {}
    for name in names:
        alike.setdefault((needs[name] - shared) | {SHARED}, []).append(name)
    labels = {name for name, column in coded.items() if len(column.dictionary) * FEW_VALUES <= rows.num_rows}
    label_codes, together = _combine(coded, {SHARED}.union(*(needed for needed in alike if needed <= labels)))
    short = {name: combine_chunks(together.column(name)).dictionary_encode() for name in together.column_names}
    groups = []
    for needed, group in alike.items():
        is_short = needed <= short.keys() and together.num_rows * FEW <= rows.num_rows
        if is_short or needed <= coded.keys():
            codes, combinations = _combine(short if is_short else coded, needed)
            if combinations.num_rows * FEW <= rows.num_rows:
                places = known.places(tuple(group), combinations)
                groups.append(_Group(tuple(group), codes.take(label_codes) if is_short else codes, combinations, places))
    return groups


def _combine(coded: Mapping[str, pa.DictionaryArray], names: Collection[str]) -> tuple[pa.Array, pa.Table]:
    """Return (the number of each row's combination of these columns, a table of the combinations).

    Columns with a single value or without values are not compared, so they take no time.
    """
    import pyarrow as pa

    rows = len(next(iter(coded.values())))
    same = {name for name in names if len(coded[name].dictionary) == 1 and not coded[name].null_count}
    stated = sorted(name for name in names if coded[name].null_count < rows and name not in same)
    codes, distinct = (
        columns.combine([coded[name] for name in stated], stated) if stated else (pa.repeat(pa.scalar(0, pa.int32()), rows), None)
    )
    count = 1 if distinct is None else distinct.num_rows
    found = {name: pa.repeat(coded[name].dictionary[0], count) if name in same else pa.nulls(count, pa.string()) for name in sorted(names)}
    return codes, pa.table(found | ({} if distinct is None else {name: distinct.column(name) for name in stated}))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return the column as one array. Large strings and string views become plain strings, which can be dictionary-coded."""
    import pyarrow as pa

    piece = combine_chunks(column)
    return piece.cast(pa.string()) if pa.types.is_large_string(piece.type) or pa.types.is_string_view(piece.type) else piece
