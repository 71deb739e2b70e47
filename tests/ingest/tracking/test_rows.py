"""The values of a run's row: months, machines, dimensions, requests, copied tags and params, and odd text."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import DimensionSettings
from runspend.core import machine_tags
from runspend.core.cost_keys import FIRST_STEP, STEPS_END
from runspend.schema.tables import TABLES
from tests.ingest.tracking.tracking_world import World, at


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def machines(world: World, run_id: str) -> list[tuple[Any, ...]]:
    rows = world.night().rows("run_resources")
    return [(r["resource_id"], r["resource_key"], r["used_ordinal"], r["used_from"], r["used_to"]) for r in rows if r["run_id"] == run_id]


def test_files_have_the_columns_and_order_of_the_tables(world: World) -> None:
    for run_id in ("b", "a", "c"):
        world.add_run(run_id)
    night = world.night()
    for (table, _), rows in night.tables.items():
        assert rows.schema.remove_metadata().equals(TABLES[table].arrow_schema())
    assert [r["run_id"] for r in night.rows("runs")] == ["a", "b", "c"]


def test_every_start_has_a_month(world: World) -> None:
    cases: dict[str, tuple[int | None, str, datetime | None]] = {
        "0": (at("2026-10-31T23:59:59.999"), "2026-10", utc("2026-10-31T23:59:59.999")),
        "1": (at("2026-11-01"), "2026-11", utc("2026-11-01")),
        "2": (at("2106-02-07T06:28:15"), "2106-02", utc("2106-02-07T06:28:15")),
        "3": (1_793_880_000, "1970-01", utc("1970-01-21T18:18:00")),
        "4": (None, "1970-01", None),
        "5": (0, "1970-01", None),
        "6": (-5, "1970-01", None),
        "7": (1_793_880_000_000_000_000, "1970-01", None),
    }
    for run_id, (start, _, _) in cases.items():
        world.add_run(run_id, start, None)
    night = world.night()
    for run_id, (_, month, start_time) in cases.items():
        run = night.run(run_id, month)
        assert (run["start_month"], run["start_time"]) == (date.fromisoformat(f"{month}-01"), start_time)
    months = {month for _, month, _ in cases.values()}
    assert {period for table, period in night.tables if table == "runs"} == months
    assert world.night(months=["2106-02"]).rows("runs", "2106-02") == night.rows("runs", "2106-02")


def test_tags_of_the_plug_in_count_only_where_the_run_states_nothing_else(world: World) -> None:
    detected = {
        machine_tags.ID: "m0", machine_tags.SEVERAL: "true", machine_tags.further_key("m1"): "m1", machine_tags.further_key("m2"): " m2 ",
        machine_tags.TYPE: "p4d.24xlarge", machine_tags.REGION: "us-east-1", machine_tags.ZONE: "us-east-1c", machine_tags.ACCOUNT: "123456789012",
        machine_tags.PURCHASE_OPTION: "spot", machine_tags.GPU_COUNT: "8", machine_tags.GPU_TYPE: "A100", machine_tags.CORES: "2.5", machine_tags.MEMORY: "17179869184",
    }  # fmt: skip
    stated = {"instance_type": "g5.xlarge", "region": "eu-west-1", "gpu_count": "1", "cpu_request": "1", "memory_request": "1Gi"}
    world.add_run("detected", tags=detected)
    world.add_run("stated", tags={**detected, "instance_id": "mine"}, params=stated)
    world.add_run("listed", tags={**detected, "runspend.resource_ids": "a,b"})
    world.add_run("second only", tags={machine_tags.further_key("m9"): "m9"})
    names = ("resource_ids", "instance_type", "region_id", "purchase_option", "gpu_count", "cpu_request", "memory_request_gb")
    for options in ({}, {"server": {"copy": {"tags": "all"}}}):
        night = world.night(**options)
        found = {run_id: tuple(night.run(run_id)[name] for name in names) for run_id in ("detected", "stated", "listed", "second only")}
        assert found == {
            "detected": (["m0", "m1", "m2"], "p4d.24xlarge", "us-east-1", "spot", 8.0, 2.5, 16.0),
            "stated": (["mine"], "g5.xlarge", "eu-west-1", "spot", 1.0, 1.0, 1.0),
            "listed": (["a", "b"], "p4d.24xlarge", "us-east-1", "spot", 8.0, 2.5, 16.0),
            "second only": (["m9"], None, None, None, None, None, None),
        }
    assert machines(world, "detected") == [(m, m, 0, None, None) for m in ("m0", "m1", "m2")]


def test_a_run_without_an_end_shows_its_newest_metric(world: World) -> None:
    world.add_run("open", end=None)
    world.add_run("ended")
    for run_id in ("open", "ended"):
        world.do("insert into latest_metrics (key, value, timestamp, run_uuid) values ('loss', 1, ?, ?)", at("2026-11-03"), run_id)
        world.do("insert into latest_metrics (key, value, timestamp, run_uuid) values ('acc', 1, ?, ?)", at("2026-11-04"), run_id)
    night = world.night()
    assert night.run("open")["last_sign_at"] == utc("2026-11-04")
    assert night.run("ended")["last_sign_at"] is None
    assert {k: v for k, v in night.extract.extras[("runs", "2026-11")].items() if k != "settings"} == {
        "first_start": "2026-11-02T00:00:00+00:00",
        "last_end": "2026-11-04T00:00:00+00:00",
        "has_open_runs": True,
        "runs": 2,
    }


def test_metrics_that_runspend_wrote_are_not_a_sign_of_life_and_other_metrics_are(world: World) -> None:
    insert = "insert into latest_metrics (key, value, timestamp, run_uuid, step) values (?, 1, ?, ?, ?)"
    for run_id, step in (
        ("ours", FIRST_STEP),
        ("tokens", 3_000_000_000),
        ("beyond", STEPS_END),
        ("nanoseconds", 1_793_000_000_000_000_000),
    ):
        world.add_run(run_id, end=None)
        world.do(insert, "loss", at("2026-11-03"), run_id, 1)
        world.do(insert, "cost_val", at("2026-11-04"), run_id, step)
    night = world.night()
    signs = {run_id: night.run(run_id)["last_sign_at"] for run_id in ("ours", "tokens", "beyond", "nanoseconds")}
    assert signs == {"ours": utc("2026-11-03"), **dict.fromkeys(("tokens", "beyond", "nanoseconds"), utc("2026-11-04"))}


def test_only_tags_with_costs_that_runspend_wrote_are_not_copied(world: World) -> None:
    theirs = {"cost_gpu_training": "mine", "cost_usd_total": "7", "team": "x"}
    world.add_run("r", tags={**theirs, "cost_status": "final", "runspend.costs": "{}"})
    record = json.dumps({"by": ["prod", "0" * 16], "cost_usd_total": ["5.00"], "cost_as_of": ["2026-11-29T06:00Z"]})
    ours = {"cost_usd_total": "5.00", "cost_as_of": "2026-11-29T06:00Z", "runspend.costs": record}
    world.add_experiment(2, "annotated", **{**ours, "cost_gpu_training": "mine", "by": "ann"})
    world.add_experiment(3, "theirs", **theirs)
    world.add_experiment(4, "odd", **{"cost_usd_total": "7", "runspend.costs": "not a record"})
    night = world.night(server={"copy": {"tags": "all"}})
    assert json.loads(night.run("r")["tags"]) == theirs
    tags = {row["experiment_name"]: json.loads(row["tags"]) for row in night.rows("experiments", "all")}
    assert tags["annotated"] == {"cost_gpu_training": "mine", "by": "ann"}
    assert (tags["theirs"], tags["odd"]) == (theirs, {"cost_usd_total": "7"})


def test_a_silent_run_may_have_used_machines_for_a_month(world: World) -> None:
    world.add_run("silent", end=None)
    assert world.night().extract.extras[("runs", "2026-11")]["last_end"] == "2026-12-03T00:00:00+00:00"


def test_a_run_may_state_machines_with_their_own_times(world: World) -> None:
    stated = [
        {"id": "arn:aws:ec2:us-east-1:1:instance/i-1", "from": "2026-11-02T00:10:00+01:00", "to": "2026-11-02T01:00:00Z"},
        {"id": "i-2", "to": at("2026-11-02T00:30")},
        {"id": "i-2", "from": "2026-11-02 00:40:00"},
        {"id": " i-2 ", "from": "2026-11-02 00:40:00"},
        "i-3",
        {"name": "no id"},
        17,
        None,
        {"id": ""},
    ]
    world.add_run("r", tags={"runspend.resources": json.dumps(stated), "instance_id": "i-not-this"})
    assert machines(world, "r") == [
        ("arn:aws:ec2:us-east-1:1:instance/i-1", "i-1", 0, utc("2026-11-01T23:10"), utc("2026-11-02T01:00")),
        ("i-2", "i-2", 0, None, utc("2026-11-02T00:30")),
        ("i-2", "i-2", 1, utc("2026-11-02T00:40"), None),
        ("i-3", "i-3", 0, None, None),
    ]


def test_the_first_key_that_states_a_machine_counts(world: World) -> None:
    cases: list[tuple[dict[str, str], dict[str, str], list[str]]] = [
        ({"runspend.resource_ids": '["b", "a", "b"]'}, {}, ["a", "b"]),
        ({"runspend.resource_ids": " b, a ,,b"}, {}, ["a", "b"]),
        ({}, {"runspend.resource_ids": "a"}, ["a"]),
        ({"instance_id": "tag"}, {"runspend.instance_id": "param"}, ["param"]),
        ({"instance_id": "tag"}, {"instance_id": "param"}, ["tag"]),
        ({"instance_id": "  "}, {"instance_id": "param"}, ["param"]),
        ({"cloud.instance_id": "c", "mlflow.databricks.cluster.id": "d"}, {}, ["c"]),
        ({"mlflow.databricks.cluster.id": "0923-x"}, {}, ["0923-x"]),
        ({"mlflow.databricks.notebookID": "77", "mlflow.databricks.cluster.id": "0923-x"}, {}, ["0923-x"]),
        ({"mlflow.databricks.notebookID": "77"}, {}, ["77"]),
        ({"runspend.resources": "[broken", "resource_id": "vm"}, {}, ["vm"]),
        ({"runspend.resources": '{"id": "a map"}', "resource_id": "vm"}, {}, ["vm"]),
        ({"runspend.resource_ids": "[broken", "resource_id": "vm"}, {}, ["vm"]),
        ({"runspend.resources": "[]"}, {}, []),
        ({}, {}, []),
    ]
    for number, (tags, params, _) in enumerate(cases):
        world.add_run(f"{number}", tags=tags, params=params)
    night = world.night()
    assert [(tags, params, night.run(f"{number}")["resource_ids"]) for number, (tags, params, _) in enumerate(cases)] == cases


def test_lists_and_times_that_cannot_be_read_are_counted(world: World) -> None:
    world.add_run("r", tags={"runspend.resources": "[broken"})
    world.add_run("s", tags={"runspend.resources": '[{"id": "i-1", "from": "yesterday"}]'})
    world.add_run("t", 10**18)
    assert world.night().extract.warnings == [
        "prod: 1 runs state runspend.resources or runspend.resource_ids that are not a JSON list; they were ignored.",
        "prod: 1 runs have a start or end that is not a time; it was ignored.",
        "prod: 1 machines are stated with a `from` or `to` that is not a time; the run's start or end was used.",
    ]


def test_tags_and_params_become_requested_resources(world: World) -> None:
    cases: list[tuple[str, str, str, Any]] = [
        ("instance_type", " p4d.24xlarge ", "instance_type", "p4d.24xlarge"),
        ("num_workers", "4", "num_nodes", 4),
        ("num_nodes", "8.0", "num_nodes", 8),
        ("num_nodes", "many", "num_nodes", None),
        ("gpu_type", "A100", "gpu_type", "A100"),
        ("gpu_count", "0.5", "gpu_count", 0.5),
        ("gpu_count", "0", "gpu_count", 0.0),
        ("gpu_count", "two", "gpu_count", None),
        ("gpu_count", "nan", "gpu_count", None),
        ("gpu_count", "-1", "gpu_count", None),
        ("gpu_count", "inf", "gpu_count", None),
        ("gpu_memory", "40Gi", "gpu_memory_gb", 40.0),
        ("cpu_request", "500m", "cpu_request", 0.5),
        ("cpu_limit", "2", "cpu_request", 2.0),
        ("cpu_cores", "all of them", "cpu_request", None),
        ("memory_request", "16Gi", "memory_request_gb", 16.0),
        ("memory_request", "16", "memory_request_gb", 16.0),
        ("memory_request", "17179869184", "memory_request_gb", 16.0),
        ("memory_request", "512 MiB", "memory_request_gb", 0.5),
        ("memory_limit", "64GB", "memory_request_gb", 64e9 / 2**30),
        ("memory_limit", "64 parsecs", "memory_request_gb", None),
        ("max_retries", "3", "max_retries", 3),
        ("timeout_seconds", "3600", "timeout_seconds", 3600.0),
        ("early_stopping_rounds", "10", "early_stopping_rounds", 10),
    ]
    for number, (key, value, _, _) in enumerate(cases):
        world.add_run(f"tag {number}", tags={key: value})
        world.add_run(f"param {number}", params={key: value})
    night = world.night()
    for kind in ("tag", "param"):
        found = [(key, value, column, night.run(f"{kind} {number}")[column]) for number, (key, value, column, _) in enumerate(cases)]
        assert found == cases


@pytest.mark.parametrize(("stated", "expected"), [("2", 2.0), ("0", 0.0), ("auto", 4.0), ("-1", 4.0), ("", 4.0)])
def test_gpus_that_the_process_saw_count_where_none_are_stated(world: World, stated: str, expected: float) -> None:
    """A negative number or a word counts as not stated."""
    world.add_run("r", tags={"runspend.machine.gpu_count": "4"}, params={"gpu_count": stated})
    assert world.night().run("r")["gpu_count"] == expected


@pytest.mark.parametrize(
    ("given", "seen", "expected"),
    [
        ({"gpu_type": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "gpu_count": "1"}, {}, 1 / 7),
        ({"gpu_type": "nvidia.com/mig-3g.40gb", "gpu_count": "2"}, {}, 6 / 7),
        ({"gpu_type": "MIG 1c.2g.20gb"}, {}, 1 / 7),
        ({"gpu_type": "4g.24gb"}, {}, 1.0),  # a slice of an A30
        ({"gpu_type": "nvidia.com/mig-2g.12gb", "gpu_count": "1"}, {}, 0.5),
        ({"gpu_type": "NVIDIA RTX PRO 6000 Blackwell MIG 1g.24gb"}, {}, 0.25),
        ({"gpu_type": "1g.10gb", "gpu_count": "0.0005"}, {}, 0.0005),
        ({"gpu_type": "1g.6gb of an A30", "gpu_count": "2"}, {}, 0.5),
        ({"gpu_type": "1g.10gb", "gpu_count": "0.1429"}, {}, 1 / 7),  # this is a fraction of a GPU, not a number of slices
        ({}, {"runspend.machine.gpu_count": "0.4286", "runspend.machine.gpu_type": "NVIDIA A100 MIG 3g.20gb"}, 3 / 7),
        ({}, {"runspend.machine.gpu_count": "1", "runspend.machine.gpu_type": "NVIDIA A100 MIG 3g.20gb, NVIDIA A100 MIG 1g.5gb"}, 1.0),
        ({"gpu_type": "1g.10gb"}, {"runspend.machine.gpu_count": "0.2857"}, 2 / 7),
        ({"gpu_count": "0.14"}, {}, 0.14),
        ({"gpu_type": "RTX 5g.x, 24gb", "gpu_count": "2"}, {}, 2.0),
    ],
)
def test_a_slice_of_a_gpu_is_a_part_of_one(world: World, given: dict[str, str], seen: dict[str, str], expected: float) -> None:
    """People count slices. The plug-in adds up fractions of GPUs, rounded to four digits."""
    world.add_run("r", tags=seen, params=given)
    assert world.night().run("r")["gpu_count"] == expected


PLACES = ("sub_account_id", "region_id", "availability_zone", "purchase_option")
GUID = "0a1b2c3d-0000-4444-8888-ffffffffffff"


STATED_MACHINES: list[tuple[dict[str, str], tuple[str | None, ...]]] = [
    ({"use_spot_instances": "True"}, (None, None, None, "spot")),
    ({"use_spot_instances": "0"}, (None, None, None, "on_demand")),
    ({"capacity_type": "ON_DEMAND"}, (None, None, None, "on_demand")),
    ({"capacity_type": "Spot"}, (None, None, None, "spot")),
    ({"spot": "detected in sector 7", "vm_priority": "Low"}, (None, None, None, "spot")),
    ({"runspend.purchase_option": "on-demand", "spot": "true"}, (None, None, None, "on_demand")),
    ({"low_priority": "false"}, (None, None, None, "on_demand")),
    ({"cloud.region": " US-East-1 "}, (None, "us-east-1", None, None)),
    ({"azure_location": "West Europe"}, (None, "westeurope", None, None)),
    ({"region": "europe-west4"}, (None, "europe-west4", None, None)),
    ({"region": "us-gov-west-1"}, (None, "us-gov-west-1", None, None)),
    ({"region": "north"}, (None, None, None, None)),
    ({"zone": "us-east-1a"}, (None, "us-east-1", "us-east-1a", None)),
    ({"zone": "europe-west4-a"}, (None, "europe-west4", "europe-west4-a", None)),
    ({"zone": "penalty"}, (None, None, None, None)),
    ({"availability_zone": "us-west-2-lax-1a"}, (None, "us-west-2", "us-west-2-lax-1a", None)),
    ({"availability_zone": "1", "azure_region": "westeurope"}, (None, "westeurope", "1", None)),
    ({"aws_account_id": "1111-2222-3333"}, ("111122223333", None, None, None)),
    ({"account": "111122223333"}, ("111122223333", None, None, None)),
    ({"account": "Sales EMEA"}, (None, None, None, None)),
    ({"azure_subscription_id": f"/subscriptions/{GUID.upper()}"}, (GUID, None, None, None)),
    ({"subscription_id": GUID}, (GUID, None, None, None)),
    ({"gcp_project": "Acme-ML"}, ("acme-ml", None, None, None)),
    ({"GOOGLE_CLOUD_PROJECT": "projects/123456789"}, (None, None, None, None)),
    ({"account": "", "region": " ", "zone": "", "spot": ""}, (None, None, None, None)),
]


def test_a_run_states_where_its_machines_were_and_how_they_were_bought(world: World) -> None:
    """A run states them as tags or params, and the row spells them as bills do.

    A key as plain as `region` counts only if its value looks like a cloud's.
    """
    for number, (given, _) in enumerate(STATED_MACHINES):
        world.add_run(f"tag-{number:02d}", tags=given)
        world.add_run(f"param-{number:02d}", params=given)
    rows = {r["run_id"]: tuple(r[column] for column in PLACES) for r in world.night().rows("runs")}
    expected = {f"{kind}-{number:02d}": places for kind in ("tag", "param") for number, (_, places) in enumerate(STATED_MACHINES)}
    assert rows == expected


@pytest.mark.parametrize(
    ("given", "nodes"),
    [
        ({"num_nodes": "2", "num_workers": "8"}, 2),
        ({"num_nodes": "many", "num_workers": "8"}, 8),
        ({"num_workers": "4", "mlflow.databricks.cluster.id": "1009-152321-abcd"}, 5),
        ({"num_workers": "0", "mlflow.databricks.jobRunID": "77"}, 1),
        ({"num_nodes": "4", "mlflow.databricks.cluster.id": "1009-152321-abcd"}, 4),
    ],
)
def test_nodes_come_before_workers_and_workers_of_databricks_have_a_driver(world: World, given: dict[str, str], nodes: int) -> None:
    """Workers of a data loader are not machines."""
    world.add_run("r", tags=given)
    assert world.night().run("r")["num_nodes"] == nodes


def test_dimensions_come_from_the_first_source_that_has_a_value(world: World, tmp_path: Path) -> None:
    (tmp_path / "teams.csv").write_text("user,team\nada,analytics\nroot,infra\n")
    world.add_experiment(2, "nlp", team="language", cost_center="4711")
    dims = DimensionSettings.model_validate(
        {
            "team": ["run.tag.team", "experiment.tag.team", "line.tag.team", {"user": str(tmp_path / "teams.csv")}],
            "project": ["run.param.proj/ect"],
            "owner": ["run.user"],
        }
    )
    world.add_run("tagged", tags={"team": "research", "mlflow.user": "ada"}, experiment=2)
    world.add_run("blank", tags={"team": " ", "mlflow.user": "ada"}, params={"proj/ect": "x"}, experiment=2)
    world.add_run("by user", tags={"mlflow.user": "ada"})
    world.add_run("root", tags={"mlflow.user": "root"})
    night = world.night(dims=dims)
    found = {
        r["run_id"]: [r[c] for c in ("team", "team_from", "project", "project_from", "cost_center", "owner", "owner_from", "user_name")]
        for r in night.rows("runs")
    }
    assert found == {
        "tagged": ["research", "run.tag.team", None, None, "4711", "ada", "run.user", "ada"],
        "blank": ["language", "experiment.tag.team", "x", "run.param.proj/ect", "4711", "ada", "run.user", "ada"],
        "by user": ["analytics", "user:teams.csv", None, None, None, "ada", "run.user", "ada"],
        "root": ["infra", "user:teams.csv", None, None, None, None, None, None],
    }


def test_only_needed_and_allowed_keys_are_copied(world: World) -> None:
    world.add_experiment(2, "nlp", team="language", model="bert", note="private")
    world.add_run(
        "r",
        tags={"team": "a", "note": "canary", "instance_id": "i-1", "model": "m", "mlflow.user": "ada", "pooled": "yes"},
        params={"lr": "0.1", "dataset": "d"},
        experiment=2,
    )
    night = world.night(server={"copy": {"tags": ["model"], "params": ["dataset"]}}, selector_keys=["tag.pooled", "experiment_tag.note"])
    run = night.run("r")
    assert json.loads(run["tags"]) == {"instance_id": "i-1", "model": "m", "pooled": "yes", "team": "a"}
    assert json.loads(run["params"]) == {"dataset": "d"}
    [experiment] = [e for e in night.rows("experiments", "all") if e["experiment_id"] == "2"]
    assert json.loads(experiment["tags"]) == {"model": "bert", "note": "private", "team": "language"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("db_password", "canary"),
        ("AWS_SECRET", "canary"),
        ("hf-token", "canary"),
        ("OPENAI_API_KEY", "canary"),
        ("url", "postgres://u:canary@h/d"),
        ("note", "AKIAIOSFODNN7EXAMPLE"),
        ("key", "-----BEGIN RSA PRIVATE KEY-----"),
        ("x", "ghp_0123456789abcdefghij"),
        ("jwt", "eyJhbGciOiJIUzI1NiJ9.e30.abc"),
        ("link", "https://h/?sig=canary99"),
    ],
)
def test_copying_all_leaves_out_everything_that_looks_like_a_secret(world: World, key: str, value: str) -> None:
    world.add_run("r", tags={key: value, "b": "2", "a": "1"}, params={key: value, "max_tokens_": "5", "epochs": "3"})
    run = world.night(server={"copy": {"tags": "all", "params": "all"}}).run("r")
    assert run["tags"] == '{"a":"1","b":"2"}'
    assert json.loads(run["params"])["epochs"] == "3"
    assert value not in run["params"]


def test_numbers_are_copied_as_text(world: World) -> None:
    world.add_run("r", params={"gpu_count": 2, "lr": 1.50})
    run = world.night(server={"copy": {"params": "all"}}).run("r")
    assert json.loads(run["params"]) == {"gpu_count": "2", "lr": "1.5"}


def test_equal_params_have_equal_digests(world: World) -> None:
    world.add_run("a", params={"x": "1", "y": "2"})
    world.add_run("b", params={"y": "2", "x": "1"})
    world.add_run("c", params={"x": "1", "y": "3"})
    world.add_run("none")
    night = world.night()
    digests = {r["run_id"]: r["params_digest"] for r in night.rows("runs")}
    assert digests["a"] == digests["b"] != digests["c"]
    assert digests["none"] is None


ODD = ["a\0b", "日本語 🚀", "'); DROP TABLE runs; --", "‮rtl", "\\ud800", 'quote " back\\slash', "line\nbreak", "x" * 8000, "🚀" * 8000]


@pytest.mark.parametrize("text", ODD)
def test_any_text_survives(world: World, text: str) -> None:
    world.add_run("r", tags={"team": f"<{text}>", "any": text}, params={"any": text})
    world.do("update runs set name = ?", text)
    run = world.night(server={"copy": {"tags": "all", "params": "all"}}).run("r")
    assert (run["run_name"], run["team"]) == (text, f"<{text}>")
    assert json.loads(run["tags"]) == {"any": text, "team": f"<{text}>"}
    assert json.loads(run["params"]) == {"any": text}


def test_bytes_that_are_not_text_are_replaced_and_counted(world: World) -> None:
    world.add_run("r", tags={"mlflow.user": "ada"})
    world.do("update runs set name = cast(x'41eda0804280' as text)")
    world.do("insert into tags values ('team', cast(x'ff41' as text), 'r')")
    world.do("insert into params values ('blob', x'00ff', 'r')")
    night = world.night(server={"copy": {"tags": "all", "params": "all"}})
    run = night.run("r")
    assert run["run_name"] == "A\ufffd\ufffd\ufffdB\ufffd"
    assert run["team"] == "\ufffdA"
    assert json.loads(run["params"]) == {"blob": "\0\ufffd"}
    assert night.extract.warnings == ["prod: 3 values are not UTF-8; invalid characters became U+FFFD."]


def test_a_run_may_have_a_hundred_thousand_tags(world: World) -> None:
    world.add_run("r", tags={f"k{i}": "v" for i in range(100_000)} | {"team": "a"})
    assert world.night().run("r")["team"] == "a"


def test_logged_models_and_traces_are_owners_of_artifacts(world: World) -> None:
    world.do("insert into logged_models values ('m-1', 1, 's3://b/1/models/m-1/artifacts', 'active')")
    world.do("insert into logged_models values ('m-2', 1, '', 'active')")
    world.do("insert into trace_info (request_id, experiment_id) values ('tr-1', 1)")
    world.do("insert into trace_info (request_id, experiment_id) values ('tr-2', 1)")
    world.do("insert into trace_tags values ('mlflow.artifactLocation', 's3://b/1/traces/tr-1/artifacts', 'tr-1')")
    owners = world.night().rows("artifact_owners", "all")
    assert [(o["owner_kind"], o["owner_id"], o["workspace"], o["experiment_id"], o["uri"]) for o in owners] == [
        ("logged_model", "m-1", "default", "1", "s3://b/1/models/m-1/artifacts"),
        ("trace", "tr-1", "default", "1", "s3://b/1/traces/tr-1/artifacts"),
    ]
