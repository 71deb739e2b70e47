"""The window in which a period's runs count. Lines that are split by time define it, in whichever way they name their machine."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from runspend.allocation.inputs import allocation_inputs
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import World, line, make_run, parameters_of, put_world
from tests.allocation.pooled_chain import trace

JOB = {"on": None, "job_key": "train-7"}
TYPE = {"on": None, "instance_type": "p4d.24xlarge"}
TRAFFIC = {"on": None, "service_category": "Networking", "group_keys": ["account|group|gpu"]}
CALLS = {"on": None, "service_category": "AI and Machine Learning", "service_subcategory": "Generative AI"}


@pytest.mark.parametrize(
    ("rows", "months"),
    [
        ([TYPE], ("2026-10", "2026-11")),
        ([{"on": None}], ("2026-10", "2026-10")),
        ([{}, TYPE | {"at": "2026-08-31T23:00:00..2026-09-01T00:00:00"}], ("2026-08", "2026-11")),
        ([{}, TYPE | {"at": "2026-08-31T23:00:00..2026-09-01T00:00:00", "charge_class": "Correction"}], ("2026-10", "2026-11")),
        ([{}, {"on": None, "pool_key": "gpu", "at": "2026-10-31T23:30:00..2026-11-01T00:30:00"}], ("2026-10", "2026-12")),
        ([{}, CALLS | {"at": "2026-09-30T23:00:00..2026-10-01T00:00:00"}], ("2026-09", "2026-11")),
        ([{}, TRAFFIC | {"at": "2026-08-31T23:00:00..2026-09-01T00:00:00"}], ("2026-08", "2026-11")),
        ([TRAFFIC], ("2026-10", "2026-10")),
        ([{}, {"at": "2026-10-01T00:00:00..2027-10-01T00:00:00"}], ("2026-10", "2026-11")),
        ([{"at": "2026-10-01T00:00:00..2026-11-01T00:00:00"}], ("2026-10", "2026-11")),
        ([{"at": "2026-09-01T00:00:00..2026-10-01T00:00:00"}], ("2026-09", "2026-10")),
        ([{"at": "2026-09-01T00:00:00..2026-10-01T00:00:00", "charge_category": "Credit"}], ("2026-10", "2026-10")),
        (
            [
                JOB | {"at": "2026-10-31T23:00:00..2026-11-01T00:00:00"},
                JOB | {"at": "2026-11-01T12:00:00..2026-11-01T13:00:00", "period": "2026-11"},
            ],
            ("2026-10", "2026-11"),
        ),
    ],
    ids=[
        "a type",
        "no machine",
        "a type of another month",
        "a correction that names none",
        "a pool over the month's end",
        "calls of another month",
        "a group's traffic of another month",
        "a group's traffic",
        "a year",
        "a month",
        "another month",
        "a refund",
        "a job over the month's end",
    ],
)
def test_the_window_covers_the_months_of_lines_split_by_time(
    rows: list[dict[str, object]], months: tuple[str, str], tmp_path: Path
) -> None:
    """The window covers the months of these lines. The tests of the models pass the same window."""
    world: World = {
        "billing_lines": [line(number, **row) for number, row in enumerate(rows)],
        "billing_loads": [],
        "runs": [],
        "run_resources": [],
    }
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, world)
        assert step.publish()
    _, window = allocation_inputs(warehouse, "2026-10", {})
    assert (f"{window['window_start']:%Y-%m}", f"{window['window_end']:%Y-%m}") == months
    told = parameters_of(world, world["billing_lines"][0]["billing_period"])
    assert {name: told[name] for name in window} == window


def inputs_of(folder: Path, rows: list[dict[str, object]], runs: list[dict[str, object]]) -> dict[str, str | None]:
    """Return the digests of the inputs of October's ledger. The rows that differ are not on October's bill."""
    made = [make_run(**{"on": [], **run}) for run in runs]
    world: World = {
        "billing_lines": [line(number, **row) for number, row in enumerate(rows)],
        "billing_loads": [],
        "runs": [run for run, _ in made],
        "run_resources": [],
    }
    warehouse = ParquetWarehouse(folder)
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, world)
        assert step.publish()
    return allocation_inputs(warehouse, "2026-10", {})[0]


def test_hours_and_runs_of_a_job_after_the_month_are_an_input(tmp_path: Path) -> None:
    """October is built again for further hours of its job and for runs in them, but not for other jobs or later runs."""
    october = JOB | {"at": "2026-10-31T23:00:00..2026-11-01T00:00:00"}
    hours = [JOB | {"at": f"2026-11-01T0{hour}:00:00..2026-11-01T0{hour + 1}:00:00", "period": "2026-11"} for hour in range(2)]
    run = {"id": "A", "at": "2026-11-01T01:00:00..2026-11-01T01:30:00", "job_key": "train-7"}
    later = {"id": "B", "at": "2026-11-02T01:00:00..2026-11-02T01:30:00", "job_key": "train-7"}
    worlds = {
        "alone": ([october], [run]),
        "another job": ([october, hours[0] | {"job_key": "other"}], [run]),
        "an hour": ([october, hours[0]], [run]),
        "two hours": ([october, *hours], []),
        "a run": ([october, *hours], [run]),
        "a run later": ([october, *hours], [run, later]),
    }
    found = {name: inputs_of(tmp_path / name, *world) for name, world in worlds.items()}
    assert found["alone"] == found["another job"]
    assert found["a run"] == found["a run later"]
    differing = [found[name] for name in ("alone", "an hour", "two hours", "a run")]
    assert all(one != other for number, one in enumerate(differing) for other in differing[:number])


def test_traces_of_the_months_of_calls_are_an_input(tmp_path: Path) -> None:
    """October is built again for traces of September only if its bill has calls of September."""
    late = CALLS | {"at": "2026-09-30T10:00:00..2026-09-30T11:00:00"}
    for name, rows, expected in (("october", [CALLS], ["2026-10"]), ("late", [CALLS, late], ["2026-09", "2026-10"])):
        warehouse = ParquetWarehouse(tmp_path / name)
        months = [dt.date(2026, month, 1) for month in (8, 9, 10, 11)]
        world: World = {
            "billing_lines": [line(number, **row) for number, row in enumerate(rows)],
            "trace_costs": [trace(run="A", cost="1") | {"month": month, "charge_date": month} for month in months],
        }
        with warehouse.step("inputs", "inputs") as step:
            put_world(step, world)
            assert step.publish()
        inputs = allocation_inputs(warehouse, "2026-10", {})[0]
        assert sorted(unit.split("/")[1] for unit in inputs if unit.startswith("trace_costs/")) == expected


def test_the_size_and_time_of_a_corrected_machine_are_inputs(tmp_path: Path) -> None:
    """Only the size and time of the machine in its month count, not the rest of that month's bill."""
    month = {"at": "2026-09-03T00:00:00..2026-09-03T01:00:00", "period": "2026-09", "machine_gpus": 8}
    late = {"at": "2026-09-03T00:00:00..2026-09-03T01:00:00", "charge_class": "Correction"}
    worlds: dict[str, list[dict[str, object]]] = {
        "eight": [late, month],
        "eight for more": [late, month | {"cost": 99}],
        "four": [late, month | {"machine_gpus": 4}],
        "unknown": [late, month | {"machine_gpus": None}],
        "a quarter": [late, month | {"hours": 0.25}],
        "a half": [late, month | {"hours": 0.5}],
        "a half, and a further line": [late, month | {"hours": 0.5}, month | {"hours": 0.5, "charge_category": "Credit"}],
    }
    found = {name: inputs_of(tmp_path / name, rows, []) for name, rows in worlds.items()}
    assert found["eight"] == found["eight for more"]
    assert found["a half"] == found["a half, and a further line"]
    differing = [found[name] for name in ("eight", "four", "unknown", "a quarter", "a half")]
    assert all(one != other for number, one in enumerate(differing) for other in differing[:number])


def test_the_type_and_region_of_a_refunded_machine_at_that_time_are_inputs(tmp_path: Path) -> None:
    """Properties of other hours do not count where the earlier bill has the refunded hour."""
    at: dict[str, object] = {"at": "2026-09-03T00:00:00..2026-09-03T01:00:00"}
    late = at | {"charge_class": "Correction", "region_id": None}
    month = at | {"period": "2026-09", "hours": 1, "instance_type": "g5.xlarge", "region_id": "eu"}
    next_day = {"at": "2026-09-04T00:00:00..2026-09-04T01:00:00"}
    worlds: dict[str, list[dict[str, object]]] = {
        "a type": [late, month],
        "another type a day later": [late, month, month | next_day | {"instance_type": "p3.2xlarge"}],
        "another type": [late, month | {"instance_type": "p3.2xlarge"}],
        "another region": [late, month | {"region_id": "us"}],
        "spot": [late, month | {"pricing_category": "Dynamic"}],
    }
    found = {name: inputs_of(tmp_path / name, rows, []) for name, rows in worlds.items()}
    properties = {name: inputs["properties of machines in earlier months"] for name, inputs in found.items()}
    assert properties.pop("another type a day later") == properties["a type"]
    assert len(set(properties.values())) == len(properties)


def test_names_on_earlier_bills_that_end_like_a_late_lines_name_are_inputs(tmp_path: Path) -> None:
    """A second machine or job of that name makes it ambiguous. Names with another end, and cost, do not count."""
    at: dict[str, object] = {"at": "2026-09-03T00:00:00..2026-09-03T01:00:00"}
    name, other_place = "cluster-1/default/train-7", "cluster-2/default/train-7"
    month = at | {"on": name, "period": "2026-09", "hours": 1}
    job = month | {"on": None, "job_key": name}
    worlds: dict[str, list[dict[str, object]]] = {
        "one": [month],
        "one for more": [month | {"cost": 99}],
        "another end": [month, month | {"on": "cluster-2/default/train-8"}],
        "two": [month, month | {"on": other_place}],
        "another account": [month, month | {"sub_account_id": "other"}],
        "a job": [month, job],
    }
    found = {
        kind: {world: inputs_of(tmp_path / kind / world, [late, *rows], [])["names on earlier bills"] for world, rows in worlds.items()}
        for kind, late in (
            ("machine", at | {"on": name, "charge_class": "Correction"}),
            ("job", at | {"on": None, "job_key": name, "charge_class": "Correction"}),
        )
    }
    machine, of_job = found["machine"], found["job"]
    assert machine["one"] == machine["one for more"] == machine["another end"] == machine["a job"]
    assert len({machine["one"], machine["two"], machine["another account"]}) == 3
    assert of_job["one"] == of_job["two"] != of_job["a job"]


def test_the_machines_of_a_late_lines_group_are_inputs(tmp_path: Path) -> None:
    """Only the group's machines in that time count, not their cost and not those of other groups."""
    late = TRAFFIC | {"on": "lb", "at": "2026-09-03T00:00:00..2026-09-03T01:00:00", "charge_class": "Correction"}
    month = {"at": "2026-09-03T00:00:00..2026-09-03T01:00:00", "period": "2026-09", "hours": 1, "group_keys": ["account|group|gpu"]}
    worlds: dict[str, list[dict[str, object]]] = {
        "a machine": [late, month],
        "a machine for more": [late, month | {"cost": 99}],
        "another group": [late, month, month | {"on": "m2", "group_keys": ["account|group|cpu"]}],
        "another week": [late, month, month | {"on": "m2", "at": "2026-09-13T00:00:00..2026-09-13T01:00:00"}],
        "half an hour": [late, month | {"hours": 0.5}],
        "two machines": [late, month, month | {"on": "m2"}],
        "another region": [late, month | {"region_id": "eu"}],
    }
    found = {name: inputs_of(tmp_path / name, rows, []) for name, rows in worlds.items()}
    assert found["a machine"] == found["a machine for more"] == found["another group"] == found["another week"]
    differing = [found[name] for name in ("a machine", "half an hour", "two machines", "another region")]
    assert all(one != other for number, one in enumerate(differing) for other in differing[:number])


def test_the_job_and_machines_of_a_late_line_of_its_cluster_are_inputs(tmp_path: Path) -> None:
    """A correction of a cluster's machine goes by the charges of the cluster's job and the time of its machines on the earlier bill."""
    hour = {"at": "2026-09-13T00:00:00..2026-09-13T01:00:00"}
    late = hour | {"on": "i-1", "attached_to": "c1", "charge_class": "Correction"}
    job = hour | {"on": "c1", "job_key": "815", "period": "2026-09"}
    machine = hour | {"on": "i-1", "attached_to": "c1", "hours": 1, "period": "2026-09"}
    worlds: dict[str, list[dict[str, object]]] = {
        "a job": [late, job, machine],
        "another cluster": [late, job, machine, job | {"on": "c2", "job_key": "816", "at": "2026-09-20T00:00:00..2026-09-20T01:00:00"}],
        "no job": [late, machine],
        "two hours": [late, job, job | {"at": "2026-09-13T01:00:00..2026-09-13T02:00:00"}, machine],
        "a part of the hour": [late, job, machine | {"hours": 0.2}],
    }
    found = {name: inputs_of(tmp_path / name, rows, []) for name, rows in worlds.items()}
    assert found["a job"] == found["another cluster"]
    differing = [found[name] for name in ("a job", "no job", "two hours", "a part of the hour")]
    assert all(one != other for number, one in enumerate(differing) for other in differing[:number])


@pytest.mark.parametrize("machines_bill", ["2026-09", "2026-11"])
def test_the_time_of_a_clusters_machines_on_another_bill_is_an_input(tmp_path: Path, machines_bill: str) -> None:
    """Only machines that name the cluster count, in the hours that the period charges. Without them, the other bill does not count."""
    day = "2026-09-13" if machines_bill == "2026-09" else "2026-10-13"
    hour = {"at": f"{day}T00:00:00..{day}T01:00:00"}
    cluster = hour | {"on": "c1"}
    machine = hour | {"on": "i-1", "attached_to": "c1", "hours": 1, "period": machines_bill}
    later = {"at": f"{day}T01:00:00..{day}T02:00:00"}
    worlds: dict[str, list[dict[str, object]]] = {
        "none": [cluster],
        "another cluster": [cluster, machine | {"attached_to": "c2"}],
        "another hour": [cluster, machine | later],
        "no cluster": [cluster, machine | {"attached_to": None}],
        "a disk": [cluster, machine | {"service_category": "Storage"}],
        "an hour": [cluster, machine],
        "an hour for more": [cluster, machine | {"cost": 99}],
        "a part of the hour": [cluster, machine | {"hours": 0.2}],
        "two machines": [cluster, machine, machine | {"on": "i-2"}],
        "its own time": [cluster | {"hours": 0.5}],
        "its own time and an hour": [cluster | {"hours": 0.5}, machine],
    }
    found = {name: inputs_of(tmp_path / name, rows, []) for name, rows in worlds.items()}
    for names in (("none", "another cluster", "another hour", "no cluster", "a disk"), ("an hour", "an hour for more")):
        assert all(found[name] == found[names[0]] for name in names)
    assert found["its own time"] == found["its own time and an hour"]
    differing = [found[name] for name in ("none", "an hour", "a part of the hour", "two machines")]
    assert all(one != other for number, one in enumerate(differing) for other in differing[:number])
