"""The allocation rules: the models that fill the cost tables, in running order, and their parameters.

Each bill line is allocated once, by the first rule that finds an owner. The rules run_tag, job_id and resource_id price each line by
itself. Then attached, artifact_bytes, llm_identity, llm_cost, pool_time and instance_type_time price lines together. The SQL of the rules
is in the folders of `allocation/models/`. `pipeline/allocate.py` decides when a period is built; `inputs/` determines its inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runspend.allocation.inputs import ALIVE_HOURS, SILENT_HOURS
from runspend.config.settings import Settings
from runspend.warehouse.base import Model

# In running order. A model without `into` fills a temporary table, which is dropped when the step ends. A model with `shard_by` runs once
# for each shard of the machines.
WINDOW_MODELS = (Model("window_runs"), Model("run_ancestors"))
GAPS = Model("run_gaps")
# Jobs are treated like machines that their runs share, so the same models run with jobs instead of machines.
JOB_MODELS = (
    Model("cluster_times"),
    Model("job_windows"),
    Model("job_aliases"),
    Model("late_names"),
    Model("bill_names"),
    Model("matched_names"),
    Model("run_names"),
    Model("stated_machines"),
    Model("job_machines"),
    Model("job_stretches"),
    Model("job_members"),
    Model("job_spans", makes="run_spans"),
    Model("job_units", makes="machine_units"),
    Model("run_intervals"),
    Model("job_slots", makes="machine_slots"),
    *(Model(name) for name in ("slot_uses", "machine_clock", "job_uses", "job_lives", "job_targets")),
)
# Callers of language models are treated the same way, with IAM principals instead of machines.
IDENTITY_MODELS = (Model("identity_spans", makes="run_spans"), Model("run_intervals"), Model("identity_uses"))
DIRECT_MODELS = tuple(
    Model(name)
    for name in (
        "earlier_machines",
        "run_spans",
        "allocated_jobs",
        "known_machines",
        "machine_blocks",
        "earlier_properties",
        "earlier_times",
        "borrowed_times",
        "machine_units",
        "platform_stores",
        "inside_accounts",
        "tagged_runs",
        "claimed_runs",
        "type_claims",
        "wanted_types",
        "machine_types",
        "machine_pools",
        "usable_machines",
        "attachable_machines",
        "attachable_groups",
        "group_regions",
        "attach_keys",
    )
)
MACHINE_MODELS = (
    Model("ledger_lines", shard_by="resource_key"),
    Model("run_intervals", shard_by="resource_key"),
    Model("machine_slots", makes="charged_slots", shard_by="resource_key", inline=True),
    Model("ledger_slots", makes="machine_slots", shard_by="resource_key"),
    *(Model(name, shard_by="resource_key") for name in ("slot_uses", "machine_clock", "slot_targets")),
)
MACHINE_RESULTS = (
    "machine_time",
    "machine_use",
    "attached_parts",
    "rest_lines",
    "line_cells",
    "offered_lines",
    "offered_machines",
    "offered_times",
    "offered_sums",
    "machine_taken",
    "offered_taken",
    "pool_known_uses",
    "out_of_scope_parts",
)
# In the order of the allocation rules: the first rule that finds an owner for a bill line allocates it.
POOLED_MODELS = tuple(
    Model(name)
    for name in (
        "job_tails",
        "job_attached_parts",
        "attached_candidates",
        "attached_periods",
        "attached_windows",
        "tail_windows",
        "attached_lines",
        "storage_candidates",
        "storage_targets",
        "storage_lines",
        "llm_candidates",
        "llm_cells",
        "llm_tokens",
        "identity_candidates",
        "identity_targets",
        "identity_lines",
        "identity_paid",
        "llm_targets",
        "llm_lines",
        "timed_candidates",
        "type_choices",
        "pools",
        "pool_cells",
        "pool_machines",
        "pool_spans",
        "pool_held",
        "pool_claims",
        "pool_windows",
        "pool_uses",
        "pool_taken",
        "pool_families",
        "pool_clock",
        "pool_shares",
        "pool_targets",
        "pools_with_other_charges",
        "pool_day_hours",
        "pool_other_shares",
        "pool_lines",
        "type_parts",
        "type_targets",
        "type_lines",
        "offered_blocks",
        "offered_windows",
        "unreached_sums",
    )
)
# Lines attached to machines that are allocated only by pool or by instance type. They run after those rules, with the same models.
LATER_MODELS = (
    Model("followed_lines"),
    Model("followed_machines"),
    Model("later_periods", makes="attached_periods"),
    Model("attached_windows", makes="later_windows"),
    Model("later_lines"),
)
CHARGE_MODELS = tuple(Model(name) for name in ("allocated_lines", "pooled_lines", "pooled_targets", "run_times"))
SUM_MODELS = ("charge_lines", "run_bill_dimensions", "run_costs_daily", "unallocated_costs", "unmet_claims", "instance_type_hours")
LEDGER_SUMS = (*SUM_MODELS, "cost_daily")
LEDGER_CHECKS = (
    "accounts_once",
    "costs_add_up",
    "allocations_complete",
    "cost_allocations_grain",
    "run_costs_daily_grain",
)
RUN_CHECKS = ("run_costs_equals_daily", "run_costs_grain")


def ledger_models(period: str) -> list[Model]:
    """Return the models of one billing period, in running order."""
    into = (period, "all")
    priced = Model("cost_allocations", into=into, fills="cost_allocations")
    return [
        *WINDOW_MODELS,
        GAPS,
        *JOB_MODELS,
        *IDENTITY_MODELS,
        *DIRECT_MODELS,
        *MACHINE_MODELS,
        Model("direct_lines", makes="charge_targets", shard_by="resource_key", inline=True),
        Model("cost_allocations", into=into, shard_by="resource_key"),
        *(Model(name, shard_by="resource_key") for name in MACHINE_RESULTS),
        *POOLED_MODELS,
        *LATER_MODELS,
        *CHARGE_MODELS,
        *(
            Model(name, shard_by="target_key")
            for name in ("charge_sums", "attached_sums", "charge_parts", "followed_parts", "followed_shares")
        ),
        Model("pooled_charges", makes="charge_targets", shard_by="target_key", inline=True),
        Model("cost_allocations", into=into, fills="cost_allocations", shard_by="target_key"),
        Model("attached_targets"),
        Model("attached_charges", makes="charge_targets", shard_by="target_key", inline=True),
        Model("cost_allocations", into=into, fills="cost_allocations", shard_by="target_key"),
        Model("left_lines", makes="charge_targets", shard_by="resource_key", inline=True),
        Model("cost_allocations", into=into, fills="cost_allocations", shard_by="resource_key"),
        Model("out_of_scope_charges", fills="cost_allocations", into=into),
        Model("sharing_charges", makes="charge_targets"),
        priced,
        *(Model(name, into=into) for name in SUM_MODELS),
        # These run for one shard of the days at a time. Cost that is spread over several days comes after all shards.
        Model("named_charges", shard_by="charge_date", sums=True),
        Model("cost_daily", into=into, shard_by="charge_date"),
        Model("long_charges", shard_by="charge_date"),
        Model("spread_charges", fills="cost_daily", into=into),
    ]


def run_costs_models(month: str) -> list[Model]:
    """Return the models of one start month, in running order."""
    return [Model("run_descendants"), Model("run_costs", into=(month, "all"))]


def ledger_parameters(settings: Settings) -> dict[str, Any]:
    """Return the model parameters that come from the configuration. A change in any of them rebuilds every period."""
    return {
        "alive_hours": ALIVE_HOURS,
        "silent_hours": SILENT_HOURS,
        "rented_pools": _words(pool.name for pool in settings.pools if pool.unused == "to_runs"),
        "share_shared": settings.sharing.shared,
        "share_idle": settings.sharing.idle,
        **{
            f"{name}_before_bill": _words(_before_bill(getattr(settings.dimensions, name)))
            for name in ("team", "project", "cost_center", "owner")
        },
    }


def _before_bill(sources: list[Any]) -> list[str]:
    """Return the sources of a run's own value that come before the first bill line tag. Without a line tag, these are all sources."""
    texts = [
        source if isinstance(source, str) else f"user:{Path(source['user']).name}" if "user" in source else "line.principal"
        for source in sources
    ]
    on_bill = [place for place, text in enumerate(texts) if text.startswith("line.")]
    return texts[: on_bill[0]] if on_bill else texts


def _words(names: Iterable[str]) -> str:
    """Return a list in the form that models expect: |a|b|."""
    return "".join(f"|{name}" for name in names) + "|"
