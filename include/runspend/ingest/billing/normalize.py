"""Normalizes the rows of every format once, at load: canonical strings; the run, job and machine of each line; pools; scope.

Belongs here: the order of these steps and the small rules about strings. Tags are read in `tags.py`, and resources are identified in
`core/resource_keys.py`. Dictionary-coded strings are in `columns.py`, and versions of a bill in `versions.py`. The results depend only
on the line and the configuration, never on runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.config.settings import BillSource, DimensionSettings, KeySettings, Pool, ScopeSettings
from runspend.core.resource_keys import (
    pool_key_sql,
    principal_key_sql,
    resource_job_sql,
    scale_set_machine_sql,
    storage_class_sql,
    storage_key_sql,
)
from runspend.core.selectors import Selector, glob_to_regex, selector_yaml
from runspend.core.service_kinds import CALL_METERS, MODEL_METERS, MODEL_SERVICES, NO_MODEL_CALLS, SERVICES_WITH_MODELS
from runspend.core.sql_quoting import sql_text
from runspend.ingest.billing import columns
from runspend.ingest.billing import cost_splits as splits
from runspend.ingest.billing.instance_types import describe_machine, instance_types
from runspend.ingest.billing.staging import SecondConnection, Staged
from runspend.ingest.billing.tags import Tags, find_attached, normalize_tags, place_instances, read_tags
from runspend.schema.tables import DIMENSION_NAMES

if TYPE_CHECKING:
    import pyarrow as pa

# Increase this number when the code writes different values for the same files. The versions then differ, so every bill is loaded again.
NORMALIZE_VERSION = 12
# The values that FOCUS allows, the same from 1.0 to 1.4. Producers write them in different cases.
ENUMERATIONS = {
    "charge_category": ("Usage", "Purchase", "Tax", "Credit", "Adjustment"),
    "charge_class": ("Correction",),
    "charge_frequency": ("One-Time", "Recurring", "Usage-Based"),
    "pricing_category": ("Standard", "Dynamic", "Committed", "Other"),
    "commitment_discount_category": ("Spend", "Usage"),
    "commitment_discount_status": ("Used", "Unused"),
    "capacity_reservation_status": ("Used", "Unused"),
}
JSON_COLUMNS = (
    "sku_price_details", "allocated_method_details", "allocated_tags", "contract_applied", "commitment_program_eligibility_details",
)  # fmt: skip
SECOND_NS = 1_000_000_000
TIME_UNITS = {
    SECOND_NS: ("s", "sec", "secs", "second", "seconds"),
    60 * SECOND_NS: ("min", "mins", "minute", "minutes"),
    3600 * SECOND_NS: ("h", "hr", "hrs", "hour", "hours"),
    86400 * SECOND_NS: ("d", "day", "days"),
}
ATTACHED_GPUS = Path(__file__).with_name("attached_gpus.sql").read_text(encoding="utf-8")
TIME_SQL = "try_cast(round(cast(consumed_quantity as double) * unit_nanoseconds) as bigint)"


@dataclass(frozen=True)
class Rules:
    """The part of the configuration that decides which values are written to lines."""

    scope: ScopeSettings | None = None
    pools: Sequence[Pool] = ()
    dimensions: DimensionSettings = field(default_factory=DimensionSettings)
    keys: KeySettings = field(default_factory=KeySettings)
    weights: Sequence[splits.Weights] = ()  # how machines' lines are split among pods
    is_by_file: bool = False  # each file of the bill is a complete bill
    pods: str = "split"  # what split cost allocation rows do: "split" their machines' lines among pods, or leave the lines "whole"
    only: Selector | None = None  # the lines of this bill that count; all others are out of scope
    shared: Sequence[Selector] = ()  # lines of services that the whole platform uses
    principals: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # dimension -> key of an IAM principal -> value

    @classmethod
    def of(
        cls,
        source: BillSource,
        *,
        scope: ScopeSettings | None = None,
        shared: Sequence[Selector] = (),
        pools: Sequence[Pool] = (),
        dimensions: DimensionSettings | None = None,
        keys: KeySettings | None = None,
        weights: Sequence[splits.Weights] = (),
    ) -> Rules:
        """Return the rules of one bill."""
        dimensions = dimensions or DimensionSettings()
        return cls(
            scope,
            pools,
            dimensions,
            keys or KeySettings(),
            weights,
            source.delivery == "versions",
            source.pods,
            shared=shared,
            principals=dimensions.principals,
        )

    @property
    def is_scoped(self) -> bool:
        return bool(self.only) or (self.scope is not None and bool(self.scope.include or self.scope.exclude))

    def line_tags(self, dimension: str) -> list[str]:
        """Return the names of the line tags that `dimensions` lists for a dimension, in order."""
        named = [source for source in getattr(self.dimensions, dimension) if isinstance(source, str)]
        return [source.removeprefix("line.tag.") for source in named if source.startswith("line.tag.")]

    def fingerprint(self) -> dict[str, Any]:
        """Return these rules as plain values that can be compared with those of another load."""
        found: dict[str, Any] = {
            "scope": None if self.scope is None else {"include": self.scope.include, "exclude": self.scope.exclude},
            "pools": [[pool.name, pool.lines, list(pool.equal)] for pool in self.pools],
            "dimensions": {dimension: self.line_tags(dimension) for dimension in DIMENSION_NAMES},
            "keys": {"run_id": self.keys.run_id, "job": self.keys.job, "attached_to": self.keys.attached_to, "groups": self.keys.groups},
        }
        if self.weights:
            found["splits"] = [w.fingerprint() for w in self.weights]
        if self.pods != "split":
            found["pods"] = self.pods
        if self.shared:
            found["shared"] = list(self.shared)
        if self.principals:
            found["principals"] = {dimension: dict(sorted(values.items())) for dimension, values in self.principals.items()}
        return found


def normalize_rows(staged: Staged, source: str, rules: Rules) -> dict[str, Any]:
    """Normalize all staged rows and set the columns that identify what each line paid for. Return the findings for the user, by kind."""
    found: dict[str, Any] = {}
    _normalize_enumerations(staged, found)
    normalize_tags(staged, found)
    _normalize_json(staged, found)
    _find_model_calls(staged)
    _find_resources(staged)
    _find_billed_time(staged)
    if any("instance_type" in (w.lines or {}) for w in rules.weights):
        _find_machines(staged)  # runs again below, because splitting adds rows
    if splits.has_weights(staged, rules.weights, has_own=rules.pods == "split"):
        find_attached(staged, rules.keys)  # runs again below, because splitting adds rows
        pools = {w.source: select_rows(staged, w.lines, source) for w in rules.weights if w.lines is not None}
        splits.split_lines(staged, rules.weights, pools, found, is_by_file=rules.is_by_file, has_own=rules.pods == "split")
    with staged.second_connection() as rows, ThreadPoolExecutor(1) as executor:
        finding = executor.submit(_find_repeats, rows) if not staged.is_mapped else None
        _find_machines(staged)
        _find_attached_gpus(staged)
        read_tags(staged, rules.keys, {dimension: rules.line_tags(dimension) for dimension in DIMENSION_NAMES}, found)
        _find_principals(staged, rules.principals)
        _find_storage(staged)
        _find_pools(staged, source, rules)
        _normalize_parts(staged)
        _normalize_scope(staged, source, rules, found)
        _reject_negative_prices(staged, found)
        _count_repeats(staged, finding.result() if finding is not None else _find_repeats(rows))
    return found


def place_unreadable_periods(staged: Staged, stated: Mapping[int, str]) -> list[int]:
    """Set the billing period of quarantined rows, and return the indexes of files that still have rows without a period.

    A row keeps its own period if it is plausible. A row without a period gets the one in `stated` for its file. Otherwise the row gets the
    most frequent period of the file's good rows, or else the month of its charge.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    staged.join_up()
    troubled = pc.is_valid(staged.column("reject_reason"))
    if not pc.any(troubled, min_count=0).as_py():
        return []
    firsts = pa.table(
        {
            "file_index": pa.array(stated, pa.int32()),
            "period": pa.array([f"{period}-01" for period in stated.values()], pa.string()),
        }
    )
    staged.con.register("stated_periods", firsts)
    placed = staged.con.sql(
        "with good as (select file_index, mode(billing_period) as period from staged where reject_reason is null group by 1) "
        "select coalesce(case when is_plausible(cast(s.billing_period as timestamptz)) then s.billing_period "
        "when s.billing_period is null then cast(n.period as date) end, g.period, "
        "case when is_plausible(s.charge_period_start) then month_of(s.charge_period_start) end) as period, s.file_index "
        "from (select row_number() over () as position, * from staged where reject_reason is not null) s "
        "left join stated_periods n on n.file_index = s.file_index left join good g on g.file_index = s.file_index order by s.position"
    ).to_arrow_table()
    staged.con.unregister("stated_periods")
    periods = placed.column("period").combine_chunks()
    staged.set(billing_period=pc.replace_with_mask(staged.column("billing_period"), troubled, periods))
    return sorted({row["file_index"] for row in placed.to_pylist() if row["period"] is None})


def _normalize_enumerations(staged: Staged, found: dict[str, Any]) -> None:
    for name, allowed in ENUMERATIONS.items():
        spelled = {value.lower(): value for value in allowed}
        column = staged.column(name)
        values = column.dictionary.to_pylist()
        if set(values) <= set(allowed):
            continue
        rows = columns.count_values(column)
        known = [value if value in allowed else spelled.get(value.strip().lower()) for value in values]
        for value, spelling in sorted(zip(values, known, strict=True)):
            if value not in allowed and rows[value]:
                found.setdefault("respelled_values" if spelling else "unknown_values", {})[f"{name}: {value}"] = rows[value]
        staged.set(**{name: columns.remap(column, columns.texts(new or old for new, old in zip(known, values, strict=True)))})


def _normalize_json(staged: Staged, found: dict[str, Any]) -> None:
    """Set values of `JSON_COLUMNS` to null if they are not JSON objects, and count them. JSON objects keep their text."""
    for name in JSON_COLUMNS:
        column = staged.column(name)
        if not len(column.dictionary):
            continue
        [kept] = staged.ask_of(name, f"case when json_valid({name}) and json_type({name}) = 'OBJECT' then {name} end")
        if not kept.null_count:
            continue
        rows = columns.count_values(column)
        bad_values = {value for value, good in zip(column.dictionary.to_pylist(), kept.to_pylist(), strict=True) if good is None}
        if bad := sum(rows[value] for value in bad_values):
            found.setdefault("unreadable_json", {})[name] = bad
        staged.set(**{name: columns.remap(column, kept)})


def _reject_negative_prices(staged: Staged, found: dict[str, Any]) -> None:
    """Set negative unit prices to null and count them, because FOCUS does not allow them. Costs keep their value, even if negative."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in ("list_unit_price", "contracted_unit_price"):
        column = staged.column(name)
        lowest = pc.min(column).as_py()
        if lowest is not None and lowest < 0:
            negative = staged.ask_rows(f"coalesce({name} < 0, false)")
            found["negative_unit_prices"] = found.get("negative_unit_prices", 0) + negative.true_count
            staged.set(**{name: pc.if_else(negative, pa.scalar(None, column.type), column)})


def _find_repeats(rows: SecondConnection) -> pa.Table:
    """Return the hashes that more than one row of a billing period has."""
    return rows.con.sql("select row_hash from staged group by billing_period, row_hash having count(*) > 1").to_arrow_table()


def _count_repeats(staged: Staged, repeated: pa.Table) -> None:
    """Set `ordinal` of repeated rows: 1 for the second of equal rows in a billing period, 2 for the third. The first keeps null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not repeated.num_rows:
        return
    staged.con.register("repeated", repeated)
    places = staged.con.sql(
        "with placed as (select row_number() over () - 1 as position, billing_period, row_hash from staged) "
        "select position, row_number() over (partition by billing_period, row_hash order by position) - 1 as ordinal "
        "from placed where row_hash in (select row_hash from repeated) qualify ordinal > 0 order by position"
    ).to_arrow_table()
    staged.con.unregister("repeated")
    marked = pc.is_in(pa.array(range(staged.rows.num_rows), pa.int64()), value_set=places.column("position").combine_chunks())
    ordinals = places.column("ordinal").combine_chunks().cast(pa.int64())
    staged.set(ordinal=pc.replace_with_mask(staged.column("ordinal"), marked, ordinals))


def _find_model_calls(staged: Staged) -> None:
    """Set the FOCUS category and subcategory of calls to language models. Training gets the subcategory Machine Learning.

    Most exports state no subcategory, and marketplaces state no category. Allocation recognizes calls by the subcategory "Generative AI".
    """
    import pyarrow.compute as pc

    services = staged.column("service_name")
    has_models, no_calls = columns.matching(services, SERVICES_WITH_MODELS), columns.matching(services, NO_MODEL_CALLS)
    is_stated = columns.matching(staged.column("service_subcategory"), "^Generative AI$")
    is_model = pc.or_(columns.matching(services, MODEL_SERVICES), columns.matching(staged.column("sku_meter"), CALL_METERS))
    is_sure = pc.or_(is_model, is_stated)
    if not pc.any(pc.or_(is_sure, has_models), min_count=0).as_py():
        return
    for name in ("sku_meter", "charge_description"):
        meters = staged.column(name)
        is_sure = pc.or_(is_sure, pc.and_(has_models, columns.matching(meters, MODEL_METERS)))
        no_calls = pc.or_(no_calls, columns.matching(meters, NO_MODEL_CALLS))
    is_call, is_training = pc.and_not(is_sure, no_calls), pc.and_(is_stated, no_calls)
    for name, value, rows in (
        ("service_category", "AI and Machine Learning", is_call),
        ("service_subcategory", "Machine Learning", is_training),
        ("service_subcategory", "Generative AI", is_call),
    ):
        stated = columns.constant(value, staged.rows.num_rows)
        staged.set(**{name: columns.first_of([columns.only_where(rows, stated), columns.only_where(pc.invert(rows), staged.column(name))])})


def _find_resources(staged: Staged) -> None:
    """Set `resource_key`. Set `resource_job` too, if the resource itself is a job."""
    column = staged.column("resource_id")
    keys, jobs = staged.ask_of("resource_id", "resource_key(resource_id)", resource_job_sql("resource_id"))
    staged.set(resource_key=columns.remap(column, keys), resource_job=columns.remap(column, jobs))
    place_instances(staged, "resource_key")
    _name_instances_of_scale_sets(staged)


def _name_instances_of_scale_sets(staged: Staged) -> None:
    """Set the `resource_key` of a machine in an Azure scale set to the machine's own path.

    The bill line names only the scale set as its resource. The machine is named in the details of the line: `AdditionalInfo`, or
    `x_SkuDetails` in Azure's FOCUS 1.0 exports.
    """
    import pyarrow.compute as pc

    is_scale_set = pc.match_substring(staged.column("resource_key").dictionary, "/virtualmachinescalesets/")
    if not pc.any(is_scale_set, min_count=0).as_py():
        return
    names = ("resource_key", "sku_price_details", "delivered_instance_type")
    codes, distinct = columns.combine([staged.column(name) for name in names], names)
    details = "coalesce(sku_price_details, case when json_valid(delivered_instance_type) then delivered_instance_type end)"
    [keys] = staged.ask(distinct, scale_set_machine_sql(details))
    staged.set(resource_key=columns.spread(codes, keys))


def _find_machines(staged: Staged) -> None:
    """Set instance type, GPUs, vCPUs and memory. They are computed once per distinct description, because many lines share one."""
    import pyarrow as pa

    names = ("sku_price_details", "resource_type", "delivered_instance_type")
    codes, distinct = columns.combine([staged.column(name) for name in names], names)
    known = instance_types()
    facts = [
        describe_machine(row["sku_price_details"], row["resource_type"], row["delivered_instance_type"], known)
        for row in distinct.to_pylist()
    ]
    kinds = {"instance_type": pa.string(), "machine_gpus": pa.int64(), "machine_cpus": pa.int64(), "machine_memory_gb": pa.float64()}
    staged.set(**{name: columns.spread(codes, pa.array([f[i] for f in facts], kind)) for i, (name, kind) in enumerate(kinds.items())})


def _find_attached_gpus(staged: Staged) -> None:
    """Set `machine_gpus` on the lines of GPUs that Google attaches to a machine: GPU-hours per hour of the machine.

    The type of such a machine does not include GPUs. If no line states the machine's hours, its longest use in a charge period counts.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    units = staged.column("consumed_unit")
    nanoseconds = [plain_time(unit.removeprefix("GPU-")) if unit.startswith("GPU-") else None for unit in units.dictionary.to_pylist()]
    gpu_unit = columns.spread(units.indices, pa.array(nanoseconds, pa.int64()))
    keys = staged.column("resource_key")
    is_counted = pc.and_(pc.is_valid(gpu_unit), columns.matching(keys, "/instances/"))
    if not pc.any(is_counted, min_count=0).as_py():
        return
    gpus = staged.column("machine_gpus")
    on_machine = pc.is_in(keys.indices, pc.unique(keys.indices.filter(is_counted)))
    names = ("charge_category", "charge_period_start", "charge_period_end", "sku_id", "consumed_quantity", "billed_nanoseconds")
    rows = pa.table(
        {
            "position": pa.array(range(staged.rows.num_rows), pa.int64()),
            "resource_key": keys,
            "gpu_unit": gpu_unit,
            "is_counted": pc.and_(is_counted, pc.fill_null(pc.equal(gpus, 0), True)),
            **{name: staged.column(name) for name in names},
        }
    )
    staged.con.register("machine_rows", rows.filter(on_machine))
    counted = staged.con.sql(ATTACHED_GPUS).to_arrow_table()
    staged.con.unregister("machine_rows")
    marked = pc.is_in(rows["position"], value_set=counted["position"].combine_chunks())
    staged.set(machine_gpus=pc.replace_with_mask(gpus, marked.combine_chunks(), counted["gpus"].combine_chunks()))


def _find_billed_time(staged: Staged) -> None:
    """Set the billed time in nanoseconds if the unit is a plain time. A reversal has a negative time, which cancels that of another line.

    Fargate lines get no time. They bill hours of vCPUs, of gigabytes and of licenses per vCPU, never hours of the task. AWS' FOCUS sample
    still gives them the unit "Hours".
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    units = staged.column("consumed_unit")
    nanoseconds = pa.array([plain_time(unit) for unit in units.dictionary.to_pylist()], pa.int64())
    unit_nanoseconds = columns.spread(units.indices, nanoseconds)
    is_time = pc.and_(pc.is_valid(unit_nanoseconds), pc.is_null(staged.column("allocated_method_id")))
    for name in ("sku_meter", "charge_description"):
        is_time = pc.and_not(is_time, columns.matching(staged.column(name), "(?i)fargate"))
    billed = pa.nulls(len(units), pa.int64())
    if pc.any(is_time, min_count=0).as_py():
        quantities = staged.column("consumed_quantity").filter(is_time)
        times = staged.ask_values({"consumed_quantity": quantities, "unit_nanoseconds": unit_nanoseconds.filter(is_time)}, TIME_SQL)
        billed = pc.replace_with_mask(billed, is_time, times)
    staged.set(unit_nanoseconds=unit_nanoseconds, billed_nanoseconds=billed)


def plain_time(unit: str) -> int | None:
    """Return the nanoseconds in a plain time unit ("Hours", "h", "100 Hours"). Return None for GB-Hours, vCPU-Hours and all other units."""
    match = re.fullmatch(r"\s*(?:(\d{1,7})\s+)?([A-Za-z]+)(?:\(s\))?\s*", unit)
    if not match:
        return None
    word = match[2].lower()
    return next((int(match[1] or 1) * ns for ns, words in TIME_UNITS.items() if word in words), None)


def _find_principals(staged: Staged, owners: Mapping[str, Mapping[str, str]]) -> None:
    """Set `principal_key`. Fill dimensions that no tag of the line states with the values that `owners` has for the line's principal.

    `owners`: dimension -> key of an IAM principal -> value. The value of the role's session wins over the value of the role.
    """
    import pyarrow as pa

    column = staged.column("iam_principal")
    [keys] = staged.ask_of("iam_principal", principal_key_sql("iam_principal"))
    staged.set(principal_key=columns.remap(column, keys))
    if not len(column.dictionary):
        return
    for dimension, values in owners.items():
        named = pa.array(
            [values.get(key, values.get("/".join(key.split("/")[:2]))) if key else None for key in keys.to_pylist()], pa.string()
        )
        staged.set(**{f"line_{dimension}": columns.first_of([staged.column(f"line_{dimension}"), columns.remap(column, named)])})


def _find_storage(staged: Staged) -> None:
    """Set `storage_key` and `storage_class` of the lines of buckets and storage accounts."""
    import pyarrow.compute as pc

    codes, distinct = columns.combine([staged.column("resource_id"), staged.column("service_name")], ["resource_id", "service_name"])
    [keys] = staged.ask(
        distinct,
        f"case when regexp_matches(resource_id, '(?i)(:s3|storage|://|/buckets/)') or not regexp_matches(resource_id, '[/:]') then {storage_key_sql('resource_id', 'service_name')} end",
    )
    key = columns.spread(codes, keys)
    if key.null_count == len(key):
        staged.set(storage_key=key, storage_class=key)
        return
    names = ("sku_price_details", "delivered_instance_type", "sku_meter")
    codes, distinct = columns.combine([staged.column(name) for name in names], names)
    stated_classes = [
        "json_extract_string(sku_price_details, '$.StorageClass')",
        "json_extract_string(sku_price_details, '$.x_StorageClass')",
    ]
    [classes] = staged.ask(
        distinct, f"coalesce({', '.join(storage_class_sql(text) for text in (*stated_classes, 'delivered_instance_type', 'sku_meter'))})"
    )
    spoken = columns.spread(codes, classes)
    staged.set(storage_key=key, storage_class=columns.only_where(pc.is_valid(key), spoken))


def _find_pools(staged: Staged, source: str, rules: Rules) -> None:
    """Set `pool_key`. The first pool whose selector matches the line decides, even if the line has no value for a dimension in `equal`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = [pa.nulls(staged.rows.num_rows, columns.text_type())]
    free: pa.Array | None = None
    for pool in rules.pools:
        named = select_rows(staged, pool.lines, source)
        mine = named if free is None else pc.and_(named, free)
        free = pc.invert(named) if free is None else pc.and_not(free, named)
        if pool.equal:
            codes, distinct = columns.combine([staged.column(f"line_{d}") for d in pool.equal], pool.equal)
            [texts] = staged.ask(distinct, pool_key_sql(pool.name, [(d, d) for d in pool.equal]))
            key = columns.spread(codes, texts)
        else:
            key = columns.constant(pool.name, staged.rows.num_rows)
        keys.append(columns.only_where(mine, key))
    staged.set(pool_key=columns.first_of(keys))


def _normalize_parts(staged: Staged) -> None:
    """Set the keys of the parts of a split machine. Runs can name the pod or task, and the unused part keeps the machine's key.

    A pod does not belong to the machine's other runs, and it is not a machine of that type. So a key that finds the machine never finds
    a pod. The columns `node_key`, `node_instance_type` and `node_gpus` state the machine of a part; no allocation rule matches by them.
    A part has no group keys, because the part that a run states may be a small share of the machine. So the traffic of the machine's
    group follows none of the parts. In a pool, the pool already decides who pays. There, each part counts as its share of a machine, so
    that all parts add up to the machines that were billed.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    is_part = pc.is_valid(staged.column("allocated_method_id"))
    if not pc.any(is_part, min_count=0).as_py():
        no_text = pa.nulls(len(is_part), columns.text_type())
        staged.set(node_key=no_text, node_instance_type=no_text, node_gpus=pa.nulls(len(is_part), pa.int64()))
        return
    in_pool = pc.and_(is_part, pc.is_valid(staged.column("pool_key")))
    is_pod = pc.is_valid(staged.column("allocated_resource_id"))
    allocated = staged.column("allocated_resource_id")
    [keys] = staged.ask_of("allocated_resource_id", "resource_key(allocated_resource_id)")
    key = columns.first_of([columns.remap(allocated, keys), staged.column("resource_key")])
    alone = pc.and_not(is_part, in_pool)
    pod_alone = pc.and_(is_pod, alone)
    share = staged.ask_rows(TIME_SQL)
    nothing = pa.array([[]], pa.list_(pa.string()))
    groups = staged.column("group_keys")
    changed = {
        "node_key": columns.only_where(is_part, columns.first_of([staged.column("attached_to"), staged.column("resource_key")])),
        "node_instance_type": columns.only_where(is_part, staged.column("instance_type")),
        "node_gpus": pc.if_else(is_part, staged.column("machine_gpus"), pa.scalar(None, pa.int64())),
        "resource_key": columns.only_where(pc.invert(in_pool), key),
        "billed_nanoseconds": pc.if_else(in_pool, share, staged.column("billed_nanoseconds")),
        "instance_type": columns.only_where(pc.invert(alone), staged.column("instance_type")),
        "attached_to": columns.only_where(pc.invert(is_pod), staged.column("attached_to")),
        "group_keys": pa.concat_arrays([groups, nothing]).take(pc.if_else(is_part, len(groups), pa.array(range(len(groups)), pa.int64()))),
    }
    for name in ("machine_gpus", "machine_cpus", "machine_memory_gb"):
        column = staged.column(name)
        changed[name] = pc.if_else(pod_alone, pa.scalar(None, column.type), column)
    staged.set(**changed)


def _normalize_scope(staged: Staged, source: str, rules: Rules, found: dict[str, Any]) -> None:
    """Set the scope from the explicit scope, `only` and `shared`.

    Lines that the scope or `only` leave out get "exclude", even if `shared` names them. If only `only` is set, the default scope decides
    about the lines that match it: they get null. Of the remaining lines, those that `shared` names get "shared": they are in scope, and
    the whole platform uses them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    scope, rows = rules.scope or ScopeSettings(), staged.rows.num_rows
    if not rules.is_scoped and not rules.shared:
        staged.set(scope=pa.nulls(rows, columns.text_type()))
        return
    inside = pa.repeat(pa.scalar(not scope.include), rows)
    for selector in scope.include:
        inside = pc.or_(inside, select_rows(staged, selector, source))
    for selector in scope.exclude:
        inside = pc.and_not(inside, select_rows(staged, selector, source))
    if rules.only:
        named = select_rows(staged, rules.only, source)
        if left_out := rows - named.true_count:
            found["lines_left_out_by_only"] = left_out
        inside = pc.and_(inside, named)
    has_scope = bool(scope.include or scope.exclude)
    codes = pc.if_else(inside, pa.scalar(0 if has_scope else None, pa.int32()), pa.scalar(1, pa.int32()))
    lost = []
    for selector in rules.shared:
        named = select_rows(staged, selector, source)
        shared = pc.and_(inside, named)
        codes = pc.if_else(shared, pa.scalar(2, pa.int32()), codes)
        if named.true_count and not shared.true_count:
            lost.append(selector_yaml({key: values[0] if len(values) == 1 else values for key, values in selector.items()}))
    if lost and inside.true_count:  # if the whole bill is out of scope, the user expects no shared charges from it
        found["entries of shared.lines whose charges are all out of scope"] = f"{', '.join(lost)}. Include them in `scope`, or remove them"
    staged.set(scope=pa.DictionaryArray.from_arrays(codes, pa.array(["include", "exclude", "shared"])))


def select_rows(staged: Staged, selector: Selector, source: str) -> pa.Array:
    """Return a boolean array: whether a line selector matches each row.

    All keys of the selector must match, each by any of its patterns. Null never matches.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    held = {
        "account": ("sub_account_id", "billing_account_id"),
        "service": ("service_name",),
        "region": ("region_id",),
        "resource": ("resource_id", "resource_key"),
        "instance_type": ("instance_type",),
        "meter": ("sku_meter", "charge_description"),
        "category": ("charge_category",),
    }
    rows = pa.repeat(pa.scalar(True), staged.rows.num_rows)
    for key, patterns in selector.items():
        if key == "source":
            [fits] = staged.ask(pa.table({"source": pa.array([source])}), _matching_sql("source", patterns))
            rows = pc.and_(rows, pa.repeat(fits[0], staged.rows.num_rows))
            continue
        named: pa.Array | None = None
        for name in held.get(key, ("tags",)):
            values = [name] if key in held else [Tags(staged, name).value_sql([key.partition(".")[2]])]
            if key in ("instance_type", "meter"):  # clouds and people write these in upper, lower or mixed case
                values, patterns = [f"lower({name})"], [pattern.lower() for pattern in patterns]
            if name == "resource_key":
                # A pattern may be just a name: an instance, a pod with its namespace, or the scale set of a machine.
                values += [f"regexp_extract({name}, '[^/]+$')", f"regexp_extract({name}, '[^/]+/[^/]+$')"]
                values += [f"regexp_extract({name}, '^(.*/virtualmachinescalesets/([^/]+))/', {part})" for part in (1, 2)]
            mine = staged.rows_where(name, " or ".join(_matching_sql(value, patterns) for value in values))
            named = mine if named is None else pc.or_(named, mine)
        rows = pc.and_(rows, named)
    return rows


def _matching_sql(value: str, patterns: Sequence[str]) -> str:
    """Return the DuckDB condition that a value matches one of the globs. It is false for null."""
    tests = [
        f"regexp_matches({value}, {sql_text(glob_to_regex(p))})" if re.search(r"[*?]", p) else f"{value} = {sql_text(p)}" for p in patterns
    ]
    return f"coalesce({' or '.join(tests)}, false)"
