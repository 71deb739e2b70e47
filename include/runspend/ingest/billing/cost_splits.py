"""Splits the lines of a machine that several pods or tasks shared: each line becomes one line per part, in proportion to weights.

Belongs here: how weights are matched to lines, and how a line is split. Weights come from the formats (`splits_sql` of a `FileKind`,
`opencost.py`). The models decide who pays for a part. The bill's total never changes. The parts replace their line, and their measures
add up to those of the line exactly, to 22 decimals.

A weight states how much of a machine a part claims between two times. It is never an amount of money. A `splits_sql` selects:

* `resource`, `resource_name`: names that bills may use for the machine;
* `part_id`, `part_name`, `part_tags` (JSON): the pod or task;
* `from_time`, `to_time`: the time for which the weight counts, in UTC and half-open;
* `weight`: a decimal, not negative;
* `is_idle`: whether this is the unused part of the machine;
* `billing_period`: only for a bill's own weights;
* `skip_reason`: why a row is not a weight, or null;
* `cluster`, `step_from`, `step_to`: only for sources whose files may contain the same weights twice.

A column that a query does not select is null.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from runspend.core.amounts import EXACT, SMALLEST
from runspend.core.sql_quoting import sql_text
from runspend.ingest.billing import columns
from runspend.ingest.billing.columns import combine_chunks
from runspend.ingest.billing.staging import Staged

if TYPE_CHECKING:
    import pyarrow as pa

    from runspend.core.selectors import Selector

MEASURES = (
    "billed_cost", "effective_cost", "list_cost", "contracted_cost", "pricing_currency_effective_cost", "pricing_quantity", "consumed_quantity",
    "commitment_discount_quantity",
)  # fmt: skip
OWN = "split_rows"  # the lookup table of a bill's own weights, filled while its files are read
INFORMATIONAL = ("lines_split_among_pods_or_tasks", "parts_they_were_split_into")  # findings that do not need attention
OWN_METHOD = "aws-split-cost-allocation"
WEIGHT_COLUMNS = {
    "resource": "varchar", "resource_name": "varchar", "part_id": "varchar", "part_name": "varchar", "part_tags": "varchar",
    "from_time": "timestamptz", "to_time": "timestamptz", "weight": "decimal(38, 22)", "is_idle": "boolean", "billing_period": "date",
    "skip_reason": "varchar", "cluster": "varchar", "step_from": "timestamptz", "step_to": "timestamptz",
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """The weights of one source other than the bill.

    `rows`: the weights, with the columns of WEIGHT_COLUMNS. `digests`: billing period -> digest of the rows that count for it. `lines`: if
    set, all lines that match it are one pool, and the rows do not name machines. `idle`: "keep" the unused part as a part of its own, or
    let the other parts "share" it.
    """

    source: str
    method: str
    rows: pa.Table
    digests: Mapping[str, str]
    lines: Selector | None = None
    idle: str = "keep"

    def digest_of(self, period: str) -> str:
        """Return a string that changes when the weights that count for a billing period change."""
        return f"{self.source} {self.digests.get(period, '')}"

    def fingerprint(self) -> list[Any]:
        """Return the configuration as plain values that can be compared with those of another load."""
        return [self.source, self.method, self.lines, self.idle]


def digest_rows(rows: pa.Table) -> dict[str, str]:
    """Return billing period -> digest of the weights that count for it.

    Weights count if they overlap the month, the month before it, or the day after it. `splits.sql` uses the same bounds.
    """
    import duckdb

    names = ", ".join(WEIGHT_COLUMNS)
    with duckdb.connect(":memory:") as con:
        con.execute("set TimeZone = 'UTC'")
        con.register("weight_rows", rows)
        found = con.execute(
            "with span as (select date_trunc('month', min(from_time)::timestamp) - interval 1 month as first, max(to_time)::timestamp + interval 1 month as last from weight_rows), "
            "months as (select unnest(generate_series(first, last, interval 1 month)) as month from span), "
            f"hashed as (select from_time::timestamp as from_time, to_time::timestamp as to_time, hash({names}) as row_hash from weight_rows) "
            "select strftime(month, '%Y-%m'), count(*), sum(row_hash::hugeint), bit_xor(row_hash) from months "
            "join hashed on from_time < month + interval 1 month + interval 1 day and to_time > month - interval 1 month group by 1"
        ).fetchall()
    return {period: hashlib.sha256(",".join(map(str, rest)).encode()).hexdigest()[:32] for period, *rest in found}


def keep_weights(staged: Staged, file_index: int, query: str) -> dict[str, int]:
    """Keep the rows that a format's `splits_sql` selects, for the lines of the same bill.

    Return the number of rows that are not weights, by reason.
    """
    found = staged.con.sql(_typed_sql(staged, query)).to_arrow_table()
    staged.keep_aside(OWN, file_index, found)
    return count_left_out(staged, found)


def _typed_sql(staged: Staged, query: str) -> str:
    """Return SQL for the weights of a query, with every column of WEIGHT_COLUMNS in its type."""
    there = {str(row[0]) for row in staged.con.execute(f"describe {query}").fetchall()}
    selected = {name: f"try_cast({name if name in there else 'null'} as {kind}) as {name}" for name, kind in WEIGHT_COLUMNS.items()}
    selected["part_tags"] = "case when json_valid(part_tags) and json_type(part_tags) = 'OBJECT' then part_tags end as part_tags"
    return f"select {', '.join(selected.values())} from ({query})"


def count_left_out(staged: Staged, rows: pa.Table) -> dict[str, int]:
    """Return the number of rows that are not weights, by reason."""
    staged.con.register("weights_found", rows)
    counts = staged.con.execute(
        "select skip_reason, count(*) from weights_found where skip_reason is not null group by 1 order by 1"
    ).fetchall()
    staged.con.unregister("weights_found")
    return dict(counts)


def has_weights(staged: Staged, others: Sequence[Weights], *, has_own: bool) -> bool:
    """Return whether there are weights to split lines by. `has_own`: whether the bill's own weights count."""
    return bool(others) or (has_own and OWN in staged.aside)


def split_lines(
    staged: Staged, others: Sequence[Weights], pools: Mapping[str, pa.Array], found: dict[str, Any], *, is_by_file: bool, has_own: bool
) -> None:
    """Replace every line that has weights with its parts. The columns `resource_key` and `attached_to` must be set before.

    `others`: weights from other sources than the bill. `pools`: for each source with `lines`, which rows its selector matches.
    `is_by_file`: whether the bill's own weights apply only to lines of the same file. `has_own`: whether the bill's own weights count.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    con = staged.con
    if not _gather_weights(staged, others, has_own):
        return
    con.register("split_pools", _pool_rows(pools))
    con.execute(
        f"set variable split_by_file = {'true' if is_by_file else 'false'}; set variable split_share = {2 * staged.room.share_rows}"
    )
    con.execute(_sql("splits.sql"))
    con.unregister("split_pools")
    _count_findings(staged, found)
    positions = combine_chunks(con.sql("select position from split_lines order by position").to_arrow_table().column(0))
    if len(positions):
        _note_delivered(staged)
        everything = pa.array(range(staged.rows.num_rows), pa.int64())
        staged.replace(pc.invert(pc.is_in(everything, value_set=positions)), _parts(staged))
    for name in (
        "splits",
        "split_candidates",
        "split_names",
        "split_machines",
        "split_groups",
        "split_pods",
        "split_parts",
        "split_lines",
    ):
        con.execute(f"drop table {name}")


def _note_delivered(staged: Staged) -> None:
    """Make the digest of the bill cover the rows before the split, plus the bill's own weights. Called before lines are replaced."""
    own = f"union all select file_index, billing_period, 1, hash({', '.join(WEIGHT_COLUMNS)})::hugeint, hash({', '.join(WEIGHT_COLUMNS)}) from {OWN}"
    staged.con.execute(
        "create table delivered_rows as select file_index, billing_period, sum(rows) as rows, sum(hash_sum) as hash_sum, bit_xor(hash_xor) as hash_xor "
        f"from (from {staged.delivered_rows} {own if OWN in staged.aside else ''}) group by all"
    )
    staged.delivered_rows = "delivered_rows"


def _gather_weights(staged: Staged, others: Sequence[Weights], has_own: bool) -> bool:
    """Fill the table `splits` with the weights of every source, the bill's own first. Return whether there are any.

    Times are microseconds since 1970. Weights are integers, in units of 10^-22.
    """
    con = staged.con
    con.execute(
        "create or replace temp macro to_units(amount) as cast(replace(cast(amount as varchar), '.', '') as hugeint); "
        "create or replace temp table split_sources (rank int, source varchar, method varchar, fills boolean, shares_idle boolean); "
        "create or replace temp table splits (rank int, names varchar, part_id varchar, part_name varchar, part_tags varchar, from_us bigint, "
        "to_us bigint, units hugeint, is_idle boolean, billing_period date, file_index int)"
    )
    if has_own and OWN in staged.aside:
        con.execute("insert into split_sources values (0, null, ?, true, false)", [OWN_METHOD])
        _insert(staged, 0, OWN, None)
    for rank, weights in enumerate(others, 1):
        con.execute("insert into split_sources values (?, ?, ?, false, ?)", [rank, weights.source, weights.method, weights.idle == "share"])
        con.register("weights_of_source", weights.rows)
        pool = None if weights.lines is None else f"p|{weights.source}"
        _insert(staged, rank, "(select *, null::int as file_index from weights_of_source)", pool)
        con.unregister("weights_of_source")
    return bool(con.execute("select count(*) from splits").fetchall()[0][0])


def _insert(staged: Staged, rank: int, relation: str, pool: str | None) -> None:
    """Insert the weights of one source into `splits`, with the names by which bill lines may identify the machine.

    The names are the resource key, the name of a Google instance, the scale set of an Azure instance, and the resource name. `pool`: the
    name of a pool, which replaces these names.
    """
    scale_set = "case when contains(key, '/virtualmachinescalesets/') then 'r|' || regexp_replace(key, '/virtualmachines/[^/]+$', '') end"
    instance = "case when not contains(key, '/') then 'i|' || key when key like 'projects/%/instances/%' then 'r|' || regexp_extract(key, '[^/]+$') end"
    names = f"list_filter(['r|' || key, {instance}, {scale_set}, 'n|' || nullif(resource_name, '')], lambda name: name is not null)"
    called = sql_text(pool) if pool else f"nullif(array_to_string({names}, chr(31)), '')"
    staged.con.execute(
        f"insert into splits select {rank}, {called}, "
        "part_id, part_name, part_tags, epoch_us(from_time), epoch_us(to_time), to_units(weight), coalesce(is_idle, false), billing_period, file_index "
        f"from (select *, resource_key(resource) as key from {relation}) where skip_reason is null and weight > 0 and epoch_us(to_time) > epoch_us(from_time)"
    )


def _pool_rows(pools: Mapping[str, pa.Array]) -> pa.Table:
    """Return a table with the position of each line that belongs to a pool, and the name of the pool."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [
        pa.table({"position": (at := pc.indices_nonzero(mask).cast(pa.int64())), "name": pa.repeat(pa.scalar(f"p|{source}"), len(at))})
        for source, mask in pools.items()
    ]
    return pa.concat_tables([pa.schema([("position", pa.int64()), ("name", pa.string())]).empty_table(), *parts])


def _count_findings(staged: Staged, found: dict[str, Any]) -> None:
    """Count the split lines and their parts. Also count weights that match no line, although the lines cover their time."""
    [(lines, parts, nameless, absent, scaled)] = staged.con.execute(
        "with span as (select min(from_us) as from_us, max(to_us) as to_us from split_candidates), "
        "inside as (select s.* from splits s, span where s.from_us < span.to_us and s.to_us > span.from_us) "
        "select (select count(*) from split_lines), (select coalesce(sum(parts), 0) from split_lines), (select count(*) from inside where names is null), "
        "(select count(distinct (i.rank, i.names)) from inside i anti join split_machines m on m.rank = i.rank and m.names = i.names where i.names is not null), "
        "(select count(distinct group_number) from split_parts where is_scaled)"
    ).fetchall()
    counts = {
        INFORMATIONAL[0]: lines,
        INFORMATIONAL[1]: int(parts),
        "weights_of_pods_that_name_no_machine": nameless,
        "machines_with_weights_that_are_not_on_the_bill": absent,
        "windows_whose_pods_claim_more_than_the_machine_cost": scaled,
    }
    found.update({what: count for what, count in counts.items() if count})


def _parts(staged: Staged) -> Iterator[pa.Table]:
    """Yield the parts of all lines a batch at a time, in the columns of the staged rows."""
    con = staged.con
    shares = con.execute("select max(share) from split_lines").fetchall()[0][0]
    for share in range(shares + 1):
        lines = con.sql(
            f"select position, group_number, tells_time from split_lines where share = {share} order by position"
        ).to_arrow_table()
        if lines.num_rows:
            yield _cut(staged, lines)


def _cut(staged: Staged, lines: pa.Table) -> pa.Table:
    """Return the parts of these lines, in the order of the lines."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parents = staged.rows.take(lines.column("position"))
    amounts = {name: _with_scale(combine_chunks(parents.column(name)), 0) for name in MEASURES}
    places = pa.array(range(lines.num_rows), pa.int64())
    staged.con.register(
        "lines_of_share", pa.table({"place": places, **{c: lines.column(c) for c in ("group_number", "tells_time")}, **amounts})
    )
    staged.con.execute(_sql("splits_share.sql"))
    made = staged.con.sql("from split_share order by rowid").to_arrow_table()
    staged.con.execute("drop table split_share")
    staged.con.unregister("lines_of_share")
    parts = parents.take(made.column("place"))
    changed = {name: _with_scale(combine_chunks(made.column(name)), 22) for name in MEASURES}
    for name, source_column in (
        ("allocated_method_id", "method"), ("allocated_method_details", "details"), ("allocated_resource_id", "part_id"),
        ("allocated_resource_name", "part_name"), ("allocated_tags", "part_tags"),
    ):  # fmt: skip
        changed[name] = combine_chunks(made.column(source_column).cast(pa.string()).dictionary_encode()).cast(columns.text_type())
    # The billed time of a pod is its own lifetime, at most the machine's billed time. The idle part keeps the machine's billed time.
    life = pc.multiply(combine_chunks(made.column("life_us")), pa.scalar(1000, pa.int64()))
    changed["billed_nanoseconds"] = pc.if_else(
        combine_chunks(made.column("is_idle")), combine_chunks(parts.column("billed_nanoseconds")), life
    )
    changed["long_billed_cost"] = _rounding_of_last(parts, made, changed["billed_cost"])
    for name, column in changed.items():
        parts = parts.set_column(parts.schema.get_field_index(name), parts.schema.field(name), column)
    return parts


def _with_scale(column: pa.Array, scale: int) -> pa.Array:
    """Return decimals with the same digits and another scale. The buffers are reused, so nothing is computed."""
    import pyarrow as pa

    plain = pa.concat_arrays([column])  # buffers without an offset
    return pa.Array.from_buffers(pa.decimal128(38, scale), len(plain), plain.buffers(), plain.null_count)


def _rounding_of_last(parts: pa.Table, made: pa.Table, billed: pa.Array) -> pa.Array:
    """Return `long_billed_cost` of the parts. Only the last part of a line has one, which adds the amount that loading rounded off."""
    import pyarrow as pa

    long_costs = combine_chunks(parts.column("long_billed_cost"))
    if long_costs.null_count == len(long_costs):
        return long_costs
    texts: list[str | None] = [None] * len(long_costs)
    for i, (text, is_last, cost) in enumerate(
        zip(long_costs.to_pylist(), made.column("is_last").to_pylist(), billed.to_pylist(), strict=True)
    ):
        if text is not None and is_last:
            delivered = Decimal(text.strip())
            loaded = delivered.quantize(SMALLEST, context=EXACT)
            texts[i] = f"{EXACT.add(EXACT.subtract(delivered, loaded), cost):f}"
    return pa.array(texts, pa.string()).dictionary_encode().cast(columns.text_type())


def _sql(name: str) -> str:
    return files("runspend.ingest.billing").joinpath(name).read_text(encoding="utf-8")
