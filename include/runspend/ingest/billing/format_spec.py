"""Stages the formats that are mapped to FOCUS by a SQL file: how a format describes its files, and how their rows get into `staged`.

Belongs here: the code that all of these formats share. A format's module declares how headers spell its columns. Its SQL file reads one
view of strings and selects FOCUS columns by their names in `schema/tables.py`. A column that it does not select is null.

The SQL may select a cost, a quantity or a time as a string, which is parsed here. A string that cannot be parsed becomes null and is
counted. A row without a cost, a currency or its times is quarantined as a whole. The SQL may select `reject_reason`: why a row must be
quarantined. It may select `skip_reason`: why a row charges nothing and does not become a line; such rows are counted. One row of a file
may become no row or several rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from runspend.core.ahead import Ahead
from runspend.core.sql_quoting import sql_text
from runspend.ingest.billing import columns, distinct, texts
from runspend.ingest.billing import cost_splits as splits
from runspend.ingest.billing.columns import combine_chunks
from runspend.ingest.billing.focus_columns import TIMES
from runspend.ingest.billing.staging import Staged, StagedFile, ask, delivered_fields
from runspend.ingest.billing.verify import refused
from runspend.schema.tables import FOCUS_COLUMNS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.ingest.billing.manifests import Delivered

# The words that exports write for an empty value. They stay in gathered columns: a tag with the value NULL is a tag.
NULL_TEXTS = ("NULL", "null", "(null)", "nan", "NaN")
SQL_TYPES = {"STRING": "varchar", "BIGNUMERIC": "decimal(38, 22)", "TIMESTAMP": "timestamptz"}
FOCUS_NAMES = {c.name: "".join(part.capitalize() for part in c.name.split("_")) for c in FOCUS_COLUMNS}
OTHERS = ("delivered_instance_type", "iam_principal", "reject_reason", "skip_reason", "long_billed_cost")
UNREAD = "unread_"  # prefix of the columns that state whether the value of a FOCUS column could not be read


@dataclass(frozen=True)
class FileKind:
    """One kind of file of a format.

    `view` is the name under which SQL reads the rows. `columns` are the columns of that view, all strings, each with its spellings in
    headers. The first spelling with a value wins. The header must contain all `required` columns. A `gathered` column holds a JSON object
    of all header columns that start with one of its prefixes, for exports with one column per tag.

    `sql` names a SQL file in the folder of the formats, for a kind whose rows are charges. Without it, the rows become a lookup table
    for the SQL of other kinds. `splits_sql` names a SQL file that selects weights from the same rows: how much each pod used of a machine
    whose line is split (`cost_splits.py`). If `splits_of` names a column and values, batches without any of these values are skipped.
    """

    view: str
    columns: Mapping[str, Sequence[str]]
    required: Sequence[str]
    sql: str | None = None
    gathered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    splits_sql: str | None = None
    splits_of: tuple[str, Sequence[str]] | None = None


def kind_of(kinds: Sequence[FileKind], header: Sequence[str]) -> FileKind | None:
    """Return the kind of file that a header belongs to, or None.

    It is the first kind whose required columns are all in the header. Otherwise it is the kind with the largest share of its required
    columns, if that share is more than half.
    """
    names = set(header)

    def found(kind: FileKind) -> int:
        return sum(1 for column in kind.required if names & set(kind.columns[column]))

    best = max(kinds, key=lambda kind: (found(kind) == len(kind.required), found(kind) / len(kind.required)))
    return best if found(best) * 2 > len(best.required) else None


def stage(
    staged: Staged,
    delivered: Delivered,
    kinds: Sequence[FileKind],
    version: Callable[[Sequence[str]], str],
    variables: Mapping[str, Any] | None = None,
    look: Callable[[pa.Table], None] | None = None,
) -> StagedFile:
    """Put the rows of one verified file into `staged`, as lines or as a lookup table.

    `variables` are the values that the SQL file reads with `getvariable`. `version(header)` returns the variant of the format. `look` is
    called with each batch of rows before it is mapped, in the columns of the view. Raises SourceRefused if the file cannot be read, is of
    another format, or lacks a required column.
    """
    layout = _lay_out(delivered, kinds)
    for variable, value in (variables or {}).items():
        staged.con.execute(f"set variable {variable} = ?", [value])
    show_aside(staged, kinds)
    found = _Found()
    _read_all(staged, delivered, kinds, _Plan(layout, variables or {}, look), found)
    wanted = set(layout.wanted)
    dropped = tuple(h for h in layout.header if h not in wanted)
    return StagedFile(
        version(layout.header), found.rows, dropped, found.unreadable, is_aside=layout.kind.sql is None, skip_reasons=found.skip_reasons
    )


@dataclass(frozen=True)
class _Layout:
    """The columns of a file that are read: the columns of its kind, as its header spells them, and the gathered columns."""

    kind: FileKind
    header: Sequence[str]
    spelled: Mapping[str, Sequence[str]]
    gathered: Mapping[str, Sequence[str]]

    @property
    def wanted(self) -> list[str]:
        """The names of these columns in the header, each once."""
        return list(dict.fromkeys([h for names in (*self.spelled.values(), *self.gathered.values()) for h in names]))


def _lay_out(delivered: Delivered, kinds: Sequence[FileKind]) -> _Layout:
    """Return which columns to read, from the file's header. Raises SourceRefused for another format, or if a required column is missing."""
    source, name = delivered.source.name, delivered.name
    header = texts.read_header(source, name, delivered.file)
    kind = kind_of(kinds, header)
    if kind is None:
        sought = ", ".join(kinds[0].columns[c][0] for c in kinds[0].required)
        raise refused(
            source, name, f"its header is of another format: {', '.join(header[:5])} …. Runspend looks for columns such as {sought}"
        )
    spelled = {column: [s for s in spellings if s in header] for column, spellings in kind.columns.items()}
    if missing := [kind.columns[column][0] for column in kind.required if not spelled[column]]:
        raise refused(source, name, f"it lacks {', '.join(missing)}. Add them to the export")
    gathered = {c: [h for h in header if h.startswith(tuple(prefixes))] for c, prefixes in kind.gathered.items()}
    return _Layout(kind, header, spelled, gathered)


def show_aside(staged: Staged, kinds: Sequence[FileKind]) -> None:
    """Create the lookup tables of a format, empty if no file had rows for them. The SQL of charges may read them."""
    for kind in kinds:
        if kind.sql is None and kind.splits_sql is None:
            staged.keep_aside(kind.view, -1, _canonical(staged.con, None, dict.fromkeys(kind.columns, ()), kind.gathered))


@dataclass(frozen=True)
class _Plan:
    """How each batch of one file is processed: the file's layout, the variables of the SQL, and the function that sees each batch."""

    layout: _Layout
    variables: Mapping[str, Any]
    look: Callable[[pa.Table], None] | None


@dataclass
class _Found:
    """Counts collected while a file is read."""

    rows: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)
    skip_reasons: dict[str, int] = field(default_factory=dict)


def _read_all(staged: Staged, delivered: Delivered, kinds: Sequence[FileKind], plan: _Plan, found: _Found) -> None:
    """Read a file the fast way. If the fast way cannot read it, discard its rows and read it from the start the slow way.

    Three batches are processed at a time, each on its own connection. While one batch is read, SQL maps the one before it, and the batch
    before that is staged.
    """
    layout, kind = plan.layout, plan.layout.kind

    def keep(shares: Iterator[pa.Table]) -> None:
        with staged.cursor() as con, closing(Ahead(_judged(con, shares, plan, staged.answers))) as views:
            for view, judged in views:
                found.rows += view.num_rows
                if kind.splits_sql is not None:
                    _weigh(staged, delivered, kind, view, found)
                elif kind.sql is None:
                    staged.keep_aside(kind.view, delivered.index, view)
                if judged is not None:
                    _stage_judged(staged, delivered, judged, found)

    import duckdb
    import pyarrow as pa

    source, name = delivered.source.name, delivered.name
    try:
        with closing(_begun(staged, delivered, kinds)) as shares:
            keep(shares)
    except texts.NotPlain:
        staged.drop(delivered.index)
        found.rows, found.unreadable, found.skip_reasons = 0, {}, {}
        with staged.cursor() as reader:
            keep(texts.read_slowly(reader, source, name, delivered.file, layout.header, layout.wanted, staged.room.share_rows))
    except (pa.ArrowException, OSError, UnicodeDecodeError, duckdb.NotImplementedException) as error:
        raise refused(source, name, f"it cannot be read ({str(error).splitlines()[0]}). Deliver it again") from error


def _read_quickly(staged: Staged, delivered: Delivered, kinds: Sequence[FileKind]) -> Iterator[pa.Table]:
    """Yield the batches of a file. After the last batch, start to read the next file, so that no core waits between two files."""
    layout, following = _lay_out(delivered, kinds), staged.following.get(delivered.index)
    with staged.cursor() as reader:
        yield from texts.read_quickly(reader, delivered.file, layout.header, layout.wanted, staged.room)
    if following is not None and not staged.begun:  # otherwise a chain of files without rows would start one thread each
        staged.begun[following.index] = (kinds, following.file), Ahead(_read_quickly(staged, following, kinds))


def _begun(staged: Staged, delivered: Delivered, kinds: Sequence[FileKind]) -> Ahead[pa.Table]:
    """Return the batches of a file. The first ones may already be read, unless the format replaced the file with another (SLURM)."""
    begun_as, shares = staged.begun.pop(delivered.index, (None, None))
    if shares is not None and begun_as != (kinds, delivered.file):
        shares.close()
        shares = None
    return shares or Ahead(_read_quickly(staged, delivered, kinds))


def _judged(
    con: duckdb.DuckDBPyConnection, shares: Iterator[pa.Table], plan: _Plan, answers: dict[str, distinct.KnownAnswers]
) -> Iterator[tuple[pa.Table, pa.Table | None]]:
    """Yield each batch in the columns of its kind's view, and the result of the format's SQL for it.

    The result is None if the kind has no SQL for charges. `answers` has the results for distinct values of earlier files.
    """
    layout, kind = plan.layout, plan.layout.kind
    for variable, value in plan.variables.items():
        con.execute(f"set variable {variable} = ?", [value])
    asked: _Asked | None = None
    variables = repr(plan.variables)
    for share in shares:
        view = _canonical(con, share, layout.spelled, layout.gathered)
        if plan.look is not None:
            plan.look(view)
        con.register(kind.view, view)
        if asked is None and kind.sql is not None:
            asked = _ask_for(con, kind, kind.sql, plan.variables)
            known = answers.setdefault(distinct.key_of(asked.query, asked.derived, variables), distinct.KnownAnswers())
        judged = asked and _with_trouble(distinct.run(con, kind.view, view, asked.query, asked.derived, asked.others, variables, known))
        con.unregister(kind.view)
        yield view, judged


def _canonical(
    con: duckdb.DuckDBPyConnection, share: pa.Table | None, spelled: Mapping[str, Sequence[str]], gathered: Mapping[str, Sequence[str]]
) -> pa.Table:
    """Return a batch in the columns of the view.

    `spelled` maps each column to its spellings in the header; per row, the first spelling with a value wins. A column in `gathered` gets a
    JSON object of several header columns.
    """
    import pyarrow as pa

    rows = 0 if share is None else share.num_rows
    nothing = pa.nulls(rows, columns.text_type())
    coded = {} if share is None else {name: combine_chunks(share.column(name)) for name in share.column_names}
    made = {
        column: columns.first_of([_without_nulls(coded[name]) for name in names]) if share is not None and names else nothing
        for column, names in spelled.items()
    }
    for column, names in gathered.items():
        made[column] = _gather(con, [coded[name] for name in names], names) if share is not None and names else nothing
    made[texts.ROW_NUMBER] = pa.nulls(0, pa.int64()) if share is None else coded[texts.ROW_NUMBER]
    return pa.table(made)


def _without_nulls(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return the column with `NULL_TEXTS` replaced by null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not columns.has_any(column, NULL_TEXTS):
        return column
    is_nothing = pc.is_in(column.dictionary, value_set=pa.array(NULL_TEXTS, pa.string()))
    return columns.remap(column, pc.if_else(is_nothing, pa.scalar(None, pa.string()), column.dictionary))


def _gather(con: duckdb.DuckDBPyConnection, found: Sequence[pa.DictionaryArray], names: Sequence[str]) -> pa.DictionaryArray:
    """Return, per row, a JSON object of the columns that have a value, or null if none has. It is built once per combination of values."""
    stated = [(column, name) for column, name in zip(found, names, strict=True) if column.null_count < len(column)]
    if not stated:
        return columns.first_of(found)
    codes, distinct = columns.combine([column for column, _ in stated], [f"v{i}" for i in range(len(stated))])
    pairs = ", ".join(f"{{'k': {sql_text(name)}, 'v': v{i}}}" for i, (_, name) in enumerate(stated))
    kept = f"list_filter([{pairs}], lambda pair: pair.v is not null)"
    [objects] = ask(con, distinct, f"case when len({kept}) > 0 then cast(to_json(map_from_entries({kept})) as varchar) end")
    return columns.spread(codes, objects)


def _weigh(staged: Staged, delivered: Delivered, kind: FileKind, view: pa.Table, found: _Found) -> None:
    """Keep the weights in one batch of rows. The lines of the bill are split by them later."""
    if kind.splits_of is not None and not columns.has_any(combine_chunks(view.column(kind.splits_of[0])), kind.splits_of[1]):
        return
    staged.con.register(kind.view, view)
    query = files("runspend.ingest.billing.formats").joinpath(str(kind.splits_sql)).read_text(encoding="utf-8")
    for why, count in splits.keep_weights(staged, delivered.index, query).items():
        found.skip_reasons[why] = found.skip_reasons.get(why, 0) + count
    staged.con.unregister(kind.view)


@dataclass(frozen=True)
class _Asked:
    """The query that runs for every batch. The fields are arguments of `distinct.run`."""

    query: str
    derived: Sequence[str]
    others: Sequence[str]


_asked_for: dict[tuple[str, str, str], _Asked] = {}


def _ask_for(con: duckdb.DuckDBPyConnection, kind: FileKind, sql: str, variables: Mapping[str, Any]) -> _Asked:
    """Return the query of the format's SQL with the checks of each row. The kind's view must be registered.

    The query is built once for all files with the same variables.
    """
    key = (sql, kind.view, repr(variables))
    if key not in _asked_for:
        _asked_for[key] = _describe_and_ask(con, kind, sql)
    return _asked_for[key]


def _describe_and_ask(con: duckdb.DuckDBPyConnection, kind: FileKind, sql: str) -> _Asked:
    query = files("runspend.ingest.billing.formats").joinpath(sql).read_text(encoding="utf-8")
    types = {str(row[0]): str(row[1]).upper() for row in con.execute(f"describe {query}").fetchall()}
    _check_columns(kind, types)
    derived = [c.name for c in FOCUS_COLUMNS if c.name in types] + ["billing_period", "odd", "skip_reason"]
    derived += [name for name in ("delivered_instance_type", "iam_principal") if name in types]
    derived += [f"{UNREAD}{name}" for name in _may_be_unread(types)]
    return _Asked(_judging_sql(query, types), derived, ["reject_reason", "odd_cost", "long_billed_cost", texts.ROW_NUMBER])


def _may_be_unread(types: Mapping[str, str]) -> list[str]:
    """Return the columns that the SQL selects as strings, and whose value becomes null if it cannot be parsed.

    The cost and the times are not among them, because a row without them is quarantined.
    """
    needed = (*TIMES, "billed_cost")
    return [c.name for c in FOCUS_COLUMNS if c.type != "STRING" and types.get(c.name) == "VARCHAR" and c.name not in needed]


def _stage_judged(staged: Staged, delivered: Delivered, judged: pa.Table, found: _Found) -> None:
    """Put one batch of rows into `staged`. Rows with a `skip_reason` charge nothing, so they are only counted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if judged.column("skip_reason").null_count < judged.num_rows:
        is_out = pc.and_(pc.is_valid(judged.column("skip_reason")), pc.is_null(judged.column("reject_reason")))
        _add_counts(found.skip_reasons, judged.column("skip_reason").filter(is_out))
        judged = _only(judged, pc.indices_nonzero(pc.invert(is_out)))
    for name in [name for name in judged.column_names if name.startswith(UNREAD) and judged.column(name).null_count < judged.num_rows]:
        is_unread = pc.and_(pc.is_valid(judged.column(name)), pc.is_null(judged.column("reject_reason")))
        if count := pc.sum(is_unread).as_py():
            focus_name = FOCUS_NAMES[name.removeprefix(UNREAD)]
            found.unreadable[focus_name] = found.unreadable.get(focus_name, 0) + count
    raw = _whole_rows_in_trouble(staged.con, delivered, judged)
    rows = judged.num_rows
    nulls = columns.Nulls(rows)
    made: dict[str, pa.Array] = {
        "raw": pa.array([raw.get(n) for n in judged.column(texts.ROW_NUMBER).to_pylist()], pa.string()).dictionary_encode()
        if raw
        else nulls.of(columns.text_type()),
        "file_index": pa.repeat(pa.scalar(delivered.index, pa.int32()), rows),
    }
    stated = {name for name in judged.column_names if judged.column(name).null_count < rows}
    made |= {field.name: nulls.of(field.type) for field in delivered_fields() if field.name not in stated and field.name not in made}
    wanted = [field for field in delivered_fields() if field.name not in made]
    with ThreadPoolExecutor() as several:
        coded = several.map(lambda field: _coded(judged, field.name, field.type), wanted)
        made |= {field.name: column for field, column in zip(wanted, coded, strict=True)}
    staged.add(delivered.index, pa.table({wanted.name: made[wanted.name] for wanted in delivered_fields()}))


def _only(judged: pa.Table, places: pa.Array) -> pa.Table:
    """Return the rows at these positions."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nulls = columns.Nulls(len(places))

    def taken(column: pa.ChunkedArray) -> pa.Array:
        return nulls.of(column.type) if column.null_count == len(column) else pc.take(combine_chunks(column), places, boundscheck=False)

    with ThreadPoolExecutor() as several:
        return pa.table(list(several.map(taken, judged.columns)), names=judged.column_names)


def _with_trouble(judged: pa.Table) -> pa.Table:
    """Return the rows with one column `reject_reason`, which holds the first problem of each row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = [judged.column(name) for name in ("reject_reason", "odd", "odd_cost")]
    wrong = [column.cast(pa.string()) for column in found if column.null_count < judged.num_rows]
    reject_reason = pc.coalesce(*wrong) if wrong else pa.nulls(judged.num_rows, pa.string())
    return judged.drop_columns(["reject_reason", "odd", "odd_cost"]).append_column("reject_reason", reject_reason)


def _coded(judged: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    """Return a column in its staged type."""
    import pyarrow as pa

    column = combine_chunks(judged.column(name))
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    return column.cast(kind)


def _add_counts(counts: dict[str, int], column: pa.ChunkedArray) -> None:
    """Add the number of rows per value of a column to `counts`."""
    import pyarrow.compute as pc

    for pair in pc.value_counts(column.drop_null()).to_pylist():
        counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]


def _check_columns(kind: FileKind, types: Mapping[str, str]) -> None:
    """Raise ValueError if a format's SQL lacks a mandatory FOCUS column or selects an unknown column."""
    known = {*SQL_TYPES, *(c.name for c in FOCUS_COLUMNS), *OTHERS, texts.ROW_NUMBER}
    needed = {"billed_cost", "billing_currency", *TIMES, "charge_category", texts.ROW_NUMBER}
    if unknown := sorted(set(types) - known):
        raise ValueError(f"{kind.sql} selects {', '.join(unknown)}, which FOCUS does not have. Use the column names of tables.py.")
    if missing := sorted(needed - set(types)):
        raise ValueError(f"{kind.sql} does not select {', '.join(missing)}. Every line of a bill has them.")


def _judging_sql(query: str, types: Mapping[str, str]) -> str:
    """Return SQL that turns the result of a format's SQL into the staged columns, and checks each row.

    It adds three columns with what is wrong with a row: `reject_reason` by the format's SQL, `odd` for times and currency, `odd_cost` for
    the cost. For each column of `_may_be_unread`, it adds whether the value could not be read.
    """
    typed = []
    for column in FOCUS_COLUMNS:
        kind, name = SQL_TYPES[column.type], column.name
        if name not in types:
            typed.append(f"cast(null as {kind}) as {name}")
        elif types[name] == "VARCHAR" and column.type != "STRING":
            read = f"number({name})" if column.type == "BIGNUMERIC" else f"instant({name})"
            typed.append(f"{read} as {name}, {name} as {name}_text")
        else:
            typed.append(f"cast({name} as {kind}) as {name}")
            if name in (*TIMES, "billed_cost"):
                typed.append(f"cast({name} as varchar) as {name}_text")
    typed += [f"{name if name in types else 'cast(null as varchar)'} as {name}" for name in OTHERS]
    checks = [
        *(
            f"case when not is_plausible({name}) then unreadable('{FOCUS_NAMES[name]}', {name}_text, 'a UTC time such as 2026-10-01T00:00:00Z') end"
            for name in TIMES
        ),
        "case when billing_currency is null or not is_currency(upper(trim(billing_currency))) "
        "then unreadable('BillingCurrency', billing_currency, 'an ISO 4217 code such as USD') end",
    ]
    cost_check = "case when billed_cost is null then unreadable('BilledCost', billed_cost_text, 'a plain decimal number') end"
    long_cost = (
        "long_billed_cost"
        if "long_billed_cost" in types or types["billed_cost"] != "VARCHAR"
        else "case when length(billed_cost_text) - instr(billed_cost_text, '.') > 22 or contains(lower(billed_cost_text), 'e') then billed_cost_text end"
    )
    names = ", ".join(
        "upper(trim(billing_currency)) as billing_currency" if c.name == "billing_currency" else c.name for c in FOCUS_COLUMNS
    )
    unread = [f"case when {name} is null and {name}_text is not null then true end as {UNREAD}{name}" for name in _may_be_unread(types)]
    return (
        f"with mapped as ({query}\n), typed as (select {', '.join(typed)}, {texts.ROW_NUMBER} from mapped), "
        f"judged as (select *, coalesce({', '.join(checks)}) as odd, {cost_check} as odd_cost, {long_cost} as long_cost from typed) "
        f"select {names}, delivered_instance_type, iam_principal, month_of(billing_period_start) as billing_period, reject_reason, odd, odd_cost, "
        f"{', '.join(['long_cost as long_billed_cost', texts.ROW_NUMBER, 'skip_reason', *unread])} from judged"
    )


def _whole_rows_in_trouble(con: Any, delivered: Delivered, judged: pa.Table) -> dict[int, str]:
    """Return the quarantined rows as delivered: row number -> JSON object with all columns."""
    import pyarrow.compute as pc

    if judged.column("reject_reason").null_count == judged.num_rows:
        return {}
    numbers = judged.filter(pc.is_valid(judged.column("reject_reason"))).column(texts.ROW_NUMBER).unique().to_pylist()
    return texts.read_whole_rows(con, delivered.source.name, delivered.name, delivered.file, numbers)
