"""Every model and every check gives the same rows on DuckDB, as the product runs them, and on Google's reference implementation.

Rows are compared as multisets, to the last decimal, of temporary tables too; each engine works on its own earlier results.
The cases and `truth.py` define the expected rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from runspend.allocation import model_order
from runspend.allocation.estimates import estimate_models, estimate_parameters
from runspend.config.settings import Settings
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Model
from runspend.warehouse.sql_files import read_sql, sql_files
from tests.allocation.chain import (
    DAY,
    FILLED,
    INPUTS,
    PACKAGE,
    SETTINGS,
    World,
    input_tables,
    line,
    make_run,
    merge_worlds,
    moment,
    parameters_of,
    parameters_of_month,
    query_reference,
    read_world,
    run_on_duckdb,
    run_on_reference,
    summarize_on_duckdb,
)
from tests.allocation.pooled_chain import artifact, trace
from tests.allocation.truth import random_world
from tests.reference import GoogleSQL, exact_value

FOLDERS = sorted(p.parent for p in Path(__file__).parent.glob("*/*/expect.yaml"))
CASES = [folder for folder in FOLDERS if not (folder / "settings.yaml").exists()]
LEDGER = model_order.ledger_models("2026-10")
SUMMARY = model_order.run_costs_models("2026-10")
# the settings of the cases that have their own; of two that say how to share, the first in the alphabet counts, which spreads all cost
SAID = Settings(
    **{
        key: value
        for folder in reversed(FOLDERS)
        if folder not in CASES
        for key, value in yaml.safe_load((folder / "settings.yaml").read_text()).items()
    }
)
SHARED = next(folder for folder in FOLDERS if folder.name == "fees_spread_in_proportion_idle_spread_evenly")
SITUATIONS = {
    "a_charge_of_three_days_is_spread_evenly", "bucket_behind_an_artifact_uri_is_inside", "a_disk_that_names_its_machine", "a_job_shares_its_overhead_by_own_time", "default_scope_leaves_out_the_database",
    "a_late_correction_weighs_by_the_size_of_its_month", "fees_tax_and_unused_commitments_are_shared", "half_an_hour_shared", "one_gpu_of_eight_on_a_machine_rented_for_the_run", "parent_waits_for_children",
    "a_machine_that_a_run_states_serves_its_type_as_well", "gpus_of_one_machine_by_id_and_by_type",
    "a_pod_name_that_two_clusters_have", "disks_of_a_pool_serve_the_runs_that_state_their_machine_too", "what_a_pool_has_by_the_hour_beside_machines_by_the_day",
    "a_short_name_beside_runs_that_state_theirs_in_full", "a_child_that_states_its_machine_leaves_its_siblings_their_nodes", "node_groups_of_one_name_in_two_clusters", "an_owner_of_a_caller_without_runs", "callers_of_a_language_model_share_by_time", "traffic_follows_the_node_group", "what_hangs_on_a_jobs_machines",
    "what_a_run_states_is_stronger_than_a_declaration",
    "a_run_that_was_stopped_twice_over_the_months_end", "a_childs_gap_is_not_its_parents", "a_run_asks_no_pool_while_it_was_stopped", "a_run_that_states_an_end_in_the_future",
    "nodes_of_a_type_of_which_a_run_states_the_first", "disks_of_a_pool_serve_runs_by_tag_and_job_too",
    "shares_of_a_types_hours", "clusters_of_one_name_in_two_regions", "a_load_balancer_of_a_region_whose_node_group_is_gone", "a_driver_on_a_small_machine_and_its_trials_on_large_ones", "a_machine_that_a_run_states_in_a_pool_whose_lines_say_no_time",
    "trials_in_jobs_of_their_own_do_not_share_their_drivers_machine", "a_child_on_its_own_machine_is_not_in_its_parents_job", "trials_in_a_pool_do_not_share_a_notebook_outside_of_it",
    "a_discount_that_states_no_type_follows_its_machine", "a_job_number_on_two_slurm_bills", "job_runs_of_one_number_in_two_workspaces", "a_cluster_id_that_two_workspaces_have",
    "trials_of_a_run_whose_machine_is_tagged", "a_trial_outside_a_pool_that_states_a_machine_of_it",
    "a_run_on_a_machine_of_another_runs_job", "a_jobs_machines_stop_after_the_months_end", "a_jobs_tail_follows_its_whole_life",
    "a_cluster_that_one_job_after_another_has", "a_trial_in_a_pool_outside_of_its_parents_job", "a_trial_on_another_type_than_its_parents_job", "two_jobs_of_a_cluster_in_one_hour",
    "a_run_that_left_a_jobs_machine_for_a_while", "what_a_pool_of_daily_and_hourly_machines_has", "charge_periods_of_a_job_that_overlap", "a_pools_disk_that_names_a_jobs_machine",
    "machines_of_one_name_on_two_clouds", "a_job_of_two_instances_in_parts_of_hours", "what_a_pool_has_by_the_day_without_any_stated_machine", "what_a_pool_has_by_the_hour_without_any_stated_machine",
    "a_jobs_cluster_is_up_for_a_part_of_an_hour", "short_names_of_another_place_than_the_run_states",
    "a_folder_of_a_bucket_pays_for_its_bytes", "a_folder_with_mostly_bytes_that_are_not_mlflows",
    "a_parent_that_calls_while_its_child_trains", "calls_by_a_gateway_are_where_bills_exceed_known_calls",
    "tokens_that_a_caller_has_paid_do_not_weigh_again", "a_disk_of_a_machine_that_its_type_uses_too", "a_disk_of_a_machine_whose_lines_carry_a_run",
    "traffic_of_a_group_of_which_runs_state_one_machine", "corrections_on_the_next_bill_go_by_the_time_that_was_billed",
    "late_lines_of_a_node_group_whose_machines_are_on_an_earlier_bill", "late_lines_of_a_jobs_cluster",
    "a_refund_is_weighed_by_the_runs_of_its_month", "a_refund_of_a_machine_that_a_run_states_in_part",
    "a_refund_that_states_no_region_or_option_of_its_machine", "a_refund_of_a_machine_that_changed_within_its_month",
    "a_late_correction_of_a_cluster_of_several_nodes", "a_credit_of_a_machine_without_the_tag_of_its_pool",
}  # fmt: skip


def multiset(table: pa.Table, columns: Sequence[str]) -> Counter[tuple[Any, ...]]:
    """Return the rows without their order. Equal decimals compare equal however many zeros they have."""
    return Counter(tuple(exact_value(row[column]) for column in columns) for row in table.to_pylist())


def assert_equal(models: Sequence[Model], ours: Mapping[str, pa.Table], theirs: Mapping[str, pa.Table]) -> None:
    """Both engines filled every table of the models with the same columns and rows."""
    for name in dict.fromkeys(model.target for model in models):
        columns = [c for c in ours[name].column_names if c not in FILLED]
        assert sorted(columns) == sorted(c for c in theirs[name].column_names if c not in FILLED), name
        mine, other = multiset(ours[name], columns), multiset(theirs[name], columns)
        assert (mine - other, other - mine) == (Counter(), Counter()), (name, columns)


def random_worlds() -> dict[str, World]:
    """Make random situations. The last has sums of a dozen unequal shares, where the order of addition must not matter."""
    worlds = {f"world-{seed}": random_world(seed, runs=10, machines=2, hours=4) for seed in range(6)}
    return worlds | {"many": random_world(17, runs=30, machines=6, hours=3)}


def extras() -> World:
    """Make rows for the models that no case reaches: stored bytes, tokens and a family in a pool."""
    world: World = {name: [] for name in INPUTS}
    whole = "2026-10-01T00:00..2026-11-01T00:00"
    world["billing_lines"] += [
        line(9000, on="bucket", storage_key="bucket", storage_class="STANDARD", service_category="Storage", at=whole, cost="10.01"),
        line(9001, on="bucket", storage_key="bucket", service_category="Storage", at=whole, cost="3"),
        *(
            line(9002 + n, on=None, service_category="AI and Machine Learning", service_subcategory="Generative AI", at=at, cost="7")
            for n, at in enumerate(("00:00..24:00", "200:00..201:00"))
        ),
        line(9004, on="node", pool_key="gpu|", at="00:00..01:00", hours=1, cost="5", line_team="vision"),
        *(
            line(9010 + n, on=f"box-{n}", instance_type="box", at="00:00..01:00", hours=1, cost="3.3333", line_team="vision")
            for n in range(3)
        ),
        # runs that ask for the type reach only the first of the stated machines
        *(line(9020 + n, on=f"own-{n}", instance_type="box", at="00:00..01:00", hours=1, cost="2.5") for n in range(3)),
    ]
    smoke, stated = make_run(id="smoke", at="05:00..05:05", on=[f"own-{n}" for n in range(3)])
    world["runs"].append(smoke)
    world["run_resources"] += stated
    for said in (
        {"id": "P", "instance_type": "box"},
        {"id": "A", "parent": "P", "at": "00:00..00:40"},
        {"id": "B", "parent": "P", "at": "00:20..00:40"},
        {"id": "C", "pool_key": "gpu|"},
        {"id": "D", "job_key": "gone"},
    ):
        world["runs"].append(make_run(**{"at": "00:00..01:00", "on": [], **said})[0])
    world["artifact_bytes"] += [artifact(id=id_, bytes=size, at=at) for id_, size, at in (("A", 100, "1"), ("B", 50, "1..16.5"))]
    world["artifact_bytes"] += [
        artifact(id="m-1", kind="logged_model", bytes=33),
        artifact(id="gone", kind="orphan", bytes=7),
        artifact(id="dump", kind="other", bytes=5),
    ]
    world["trace_costs"] += [
        trace(run="A", cost="0.75", model="big", price_source="genai-prices 1"),
        trace(run="B", cost="0.3"),
        trace(cost="0.25", user="ann"),
    ]
    world["experiments"].append({"tracking_server": "prod", "workspace": "default", "experiment_id": "1", "experiment_name": "exp"})
    return world


def everything() -> World:
    """Make rows for every model: situations that reach most of them, and the extra rows."""
    return merge_worlds({folder.name: read_world(folder) for folder in CASES if folder.name in SITUATIONS} | {"": extras()})


@pytest.fixture(scope="module")
def world() -> World:
    """Cases and random situations in one build, because the time of a query hardly depends on the number of rows."""
    worlds = {folder.name: read_world(folder) for folder in FOLDERS} | random_worlds() | {"extras": extras()}
    # built without a prefix: a tag names a job without the prefix of its world, and the number of a job is a number
    worlds[""] = read_world(Path(__file__).parent / "cost_allocations" / "job_runs_of_one_number_in_two_workspaces")
    return merge_worlds(worlds)


@pytest.fixture(scope="module")
def tables(world: World) -> dict[str, pa.Table]:
    """The input tables of the world."""
    return input_tables(world)


@pytest.mark.parametrize("settings", [SETTINGS, SAID], ids=("default", "settings_of_cases"))
def test_every_case_gives_the_same_rows_on_both_engines(
    settings: Settings, world: World, tables: dict[str, pa.Table], reference: GoogleSQL, tmp_path: Path
) -> None:
    """The ledger and `run_costs` of October are the same. No check fails on the reference either."""
    ours = run_on_duckdb(world, tmp_path, settings=settings, names=sorted({m.target for m in LEDGER if m.into is None}))
    theirs = run_on_reference(reference, LEDGER, tables, parameters_of(world, DAY, settings))
    assert_equal(LEDGER, ours, theirs)

    ours = summarize_on_duckdb(tmp_path, settings=settings, names=sorted({m.target for m in SUMMARY if m.into is None}))
    theirs = run_on_reference(reference, SUMMARY, theirs, parameters_of_month(DAY, settings))
    assert_equal(SUMMARY, ours, theirs)

    for name in (*model_order.LEDGER_CHECKS, *model_order.RUN_CHECKS):
        assert query_reference(reference, read_sql(PACKAGE / "checks", name), theirs, {"period": DAY}).rows == [], name


def test_every_model_has_rows(world: World, tables: dict[str, pa.Table], reference: GoogleSQL) -> None:
    """A comparison without rows would prove nothing. `test_estimates.py` covers the models of estimates."""
    counted: Counter[str] = Counter()
    made = run_on_reference(reference, LEDGER, tables, parameters_of(world, DAY, SAID), counted)
    run_on_reference(reference, SUMMARY, made, parameters_of_month(DAY, SAID), counted)
    names = {m.name for m in (*LEDGER, *SUMMARY)}
    assert {name for name in names if not counted[name]} == set()
    assert names | {m.name for m in estimate_models()} == sql_files(PACKAGE / "models").keys()


@pytest.mark.torture
def test_models_have_the_right_types_without_rows(reference: GoogleSQL) -> None:
    """Even over tables without rows, a model that fills a table gives its columns in their types, as `create table as` sees them."""
    empty = {name: table.arrow_schema().empty_table() for name, table in TABLES.items()}
    for models, parameters in (
        (LEDGER, parameters_of({name: [] for name in TABLES}, DAY)),
        (SUMMARY, parameters_of_month(DAY)),
        (estimate_models(), estimate_parameters(moment("06:00"))),
    ):
        found = run_on_reference(reference, models, empty, parameters)
        assert all(found[m.target].num_rows == 0 for m in models if m.into is not None)
