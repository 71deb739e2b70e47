"""Computes a SQL expression once per distinct combination of its inputs, if there are few, and otherwise once per row.

Belongs here: how Runspend finds out what an answer depends on, and how answers get to the rows. Millions of rows of a bill repeat few
values: category, service, region, machine, hour. DuckDB's plan shows which columns of a view a selected column needs. If they have
few combinations, the SQL runs over those alone, and each row gets the number of its answer. All other columns are computed for every
row. The choice changes only the time it takes.
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
SHARED = "(shared)"  # the column that holds the number of the values that all columns of a query need
LEAST_ROWS = 20_000  # for fewer rows, finding out costs more than it saves
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

    `derived` are columns that may depend on few others. `others` include ROW_NUMBER, the row's number. `variables` is everything, apart
    from the query, that decides its dependencies. `known` keeps answers for later rows with the same query.
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
    """Return the answers for few rows. It uses a table, because a relation plans its query twice, which takes longer than answering."""
    con.execute(f"create or replace temp table answers as {query}")
    return con.sql("from answers").to_arrow_table()


def _put_together(
    con: duckdb.DuckDBPyConnection, view: str, rows: pa.Table, query: str, asked: pa.Table, answers: Mapping[str, pa.Array]
) -> pa.Table:
    """Join the answers per row with what was computed for every row. Rows that became several are computed again as a whole."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = rows.column(ROW_NUMBER)[0] if rows.num_rows else pa.scalar(0)
    at, whole = pc.subtract(combine_chunks(asked.column(ROW_NUMBER)), first), pa.arange(0, rows.num_rows)
    several = at.slice(rows.num_rows).unique()
    if len(at) < rows.num_rows or not at.slice(0, rows.num_rows).equals(whole):
        counts = pc.value_counts(at)
        several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    elif len(several):  # each row is in its place, followed by the additional rows of some
        asked, at = asked.slice(0, rows.num_rows), whole
    if len(several):
        single = pc.invert(pc.is_in(at, value_set=several))
        asked, at = asked.filter(single), at.filter(single)
    if len(at) > 1 and not pc.all(pc.less(at.slice(0, len(at) - 1), at.slice(1))).as_py():
        order = pc.sort_indices(at)  # a join with more lookup rows than rows returns rows in any order
        asked, at = asked.take(order), at.take(order)
    is_whole = at.equals(whole)  # nearly always: each row is one
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
    """Return which columns of the view each named column needs, or None if the query does not treat rows one by one. Cached."""
    key = key_of(query, names, variables)
    if key not in _kept:
        _kept[key] = _ask_needs(con, columns_of_view, query, names)
    return _kept[key]


def key_of(query: str, names: Sequence[str], variables: str) -> str:
    """Return a short key of everything that decides what is needed."""
    return hashlib.sha256(f"{variables} {','.join(names)} {query}".encode()).hexdigest()[:24]


def _ask_needs(con: duckdb.DuckDBPyConnection, columns_of_view: Sequence[str], query: str, names: Sequence[str]) -> Needs | None:
    """Ask DuckDB, whose plan of each column shows what it reads."""
    needs: dict[str, frozenset[str]] = {}
    for name in names:
        [(_, text)] = con.execute(f"explain (format json) select {name} from ({query})").fetchall()
        steps = list(_steps(json.loads(text)))
        if not all(_is_row_by_row(step) for step in steps):
            return None
        # The columns that a scan returns and those it filters by. A name found by accident makes an answer slower, not wrong.
        read = " ".join(json.dumps(step.get("extra_info")) for step in steps if "ARROW" in step["name"])
        needs[name] = frozenset(set(re.findall(r"\w+", read)) & set(columns_of_view))
    return needs


def _steps(plan: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    for step in plan:
        yield step
        yield from _steps(step.get("children", []))


def _is_row_by_row(step: Mapping[str, Any]) -> bool:
    """Return whether a step treats one row at a time and joins it only with lookup tables."""
    name = str(step["name"]).strip()
    if not name.endswith(ROW_BY_ROW) or "DELIM" in name or name.startswith("POSITIONAL"):
        return False
    is_join = name.endswith(("JOIN", "CROSS_PRODUCT"))
    return not is_join or not all(_reads_rows(child) for child in step.get("children", []))


def _reads_rows(step: Mapping[str, Any]) -> bool:
    """Return whether rows of the view, or rows derived from them, pass through a step."""
    return any("ARROW" in each["name"] or each["name"].strip() == "CTE_SCAN" for each in _steps([step]))


def _ask_few(
    con: duckdb.DuckDBPyConnection, view: str, rows: pa.Table, query: str, names: Sequence[str], needs: Needs, known: KnownAnswers
) -> dict[str, pa.Array]:
    """Return the columns that depend on few combinations, with an answer for every row of the view.

    The answers hold only if each row of the view becomes exactly one row. Combinations that no earlier batch had are computed in one query
    for all columns: planning takes longer than answering.
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

    `codes`: the combination of each row. `combinations`: for each combination, the number of the values that all columns need, and the values that only these columns need.
    `places`: the position of each combination among the known ones, or null.
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
    """The answers to one query, kept for later rows. The values that all of its columns need are numbered."""

    def __init__(self) -> None:
        self._shared: pa.Table | None = None  # one row for each number
        self._answered: dict[tuple[str, ...], _Answered] = {}

    def number(self, combinations: pa.Table) -> pa.Array:
        """Return the numbers of these combinations of the values that all columns need."""
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
        """Return the columns that all need, for these numbers."""
        import pyarrow as pa

        rows = self._shared.take(numbers.cast(pa.int64())) if self._shared is not None else pa.table({})
        return {name: rows.column(name) for name in rows.column_names}

    def places(self, names: tuple[str, ...], combinations: pa.Table) -> pa.Array:
        """Return the position of each combination; null for an unknown one."""
        import pyarrow as pa

        before = self._answered.get(names)
        return pa.nulls(combinations.num_rows, pa.int32()) if before is None else _places(combinations, before.combinations)

    def add(self, group: _Group, combinations: pa.Table, answers: pa.Table) -> None:
        """Keep new answers. If there are too many, only the earlier ones that the group needs are kept."""
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
        """Return the answers of each row."""
        answers = self._answered[group.names].answers
        return {name: columns.spread(group.codes, combine_chunks(answers.column(name)).take(group.places)) for name in group.names}


def _places(combinations: pa.Table, among: pa.Table) -> pa.Array:
    """Return the position of each row of strings in a table of the same columns; null if it is not there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    both = pa.concat_tables([among, combinations])
    codes, _ = columns.combine([combine_chunks(column).dictionary_encode() for column in both.columns], both.column_names)
    return pc.index_in(codes.slice(among.num_rows), value_set=codes.slice(0, among.num_rows))


def _group(rows: pa.Table, names: Sequence[str], needs: Needs, known: KnownAnswers) -> list[_Group]:
    """Group the columns of the query whose needed columns have few combinations.

    Columns of few values are combined first. Combinations of some of them are then found in a much shorter table.
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
    """Return (the code of every row's combination of these columns, one row per code). Columns with one value or none take no time."""
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
    """Return one array. Strings get the type that is coded."""
    import pyarrow as pa

    piece = combine_chunks(column)
    return piece.cast(pa.string()) if pa.types.is_large_string(piece.type) or pa.types.is_string_view(piece.type) else piece
