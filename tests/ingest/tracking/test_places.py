"""Jobs, pools, teams of users by date, measured use, and months that Runspend reads again because the configuration changed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import DimensionSettings, Pool
from runspend.core.errors import ConfigError
from runspend.ingest.tracking import extract
from runspend.ingest.tracking.raw import USE_POINTS
from tests.ingest.tracking.tracking_world import NOW, Night, World, at


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def pool(name: str, runs: dict[str, Any], **more: Any) -> Pool:
    return Pool.model_validate({"name": name, "runs": runs, "lines": {"resource": "x"}, **more})


def columns(night: Night, *names: str, period: str = "2026-11") -> dict[str, tuple[Any, ...]]:
    return {r["run_id"]: tuple(r[n] for n in names) for r in night.rows("runs", period)}


def test_the_first_key_that_states_a_job_counts_and_a_tag_before_a_param(world: World) -> None:
    arn = "arn:aws:sagemaker:us-east-1:111122223333:training-job/Train-7"
    world.add_run("arn", tags={"sagemaker.training_job_name": arn})
    world.add_run("name", params={"sagemaker.training_job_name": " Train-7 "})
    world.add_run("both", tags={"SLURM_JOB_ID": "17"}, params={"runspend.job_id": "J-1", "SLURM_JOB_ID": "18"})
    world.add_run("tag wins", tags={"SLURM_JOB_ID": "17"}, params={"SLURM_JOB_ID": "18"})
    world.add_run("none", tags={"SLURM_JOB_ID": "  "})
    night = world.night()
    assert columns(night, "job_id", "job_key") == {
        "arn": (arn, arn.lower()),
        "name": ("Train-7", "train-7"),
        "both": ("J-1", "j-1"),
        "tag wins": ("17", "17"),
        "none": (None, None),
    }
    other = world.night(job_keys=["SLURM_JOB_ID"])
    assert columns(other, "job_id")["both"] == ("17",)


def test_a_job_is_one_of_its_cluster_or_workspace(world: World) -> None:
    """Several clusters or Databricks workspaces may use the same number, so it has their name as a prefix.

    An Azure job has its workspace as a prefix. If the run states neither, there is no prefix.
    """
    on_databricks = {"mlflow.databricks.jobRunID": "17", "mlflow.databricks.workspaceID": "4242"}
    azure = {"AZUREML_ARM_SUBSCRIPTION": "S", "AZUREML_ARM_RESOURCEGROUP": "ML", "AZUREML_ARM_WORKSPACE_NAME": "W1"}
    world.add_run("slurm", tags={"SLURM_JOB_ID": "17", "SLURM_CLUSTER_NAME": "Hydra"})
    world.add_run("own key", tags={"runspend.job_id": "17_3"}, params={"slurm_cluster_name": "hydra"})
    world.add_run("no number", tags={"runspend.job_id": "train", "SLURM_CLUSTER_NAME": "hydra"})
    world.add_run("databricks", tags={"mlflow.databricks.jobRunID": "17", "SLURM_CLUSTER_NAME": "hydra"})
    world.add_run("in a workspace", tags=on_databricks)
    world.add_run("the same number", tags=on_databricks, params={"runspend.job_id": "17"})
    world.add_run("another job", tags={**on_databricks, "SLURM_CLUSTER_NAME": "hydra", "runspend.job_id": "18"})
    world.add_run("alone", tags={"SLURM_JOB_ID": "17"})
    world.add_run("azure", tags={"AZUREML_RUN_ID": "Mango", **azure})
    world.add_run("half azure", tags={"AZUREML_RUN_ID": "Mango", "AZUREML_ARM_WORKSPACE_NAME": "W1"})
    found = {run: key for run, (key,) in columns(world.night(), "job_key").items()}
    assert found == {
        "slurm": "hydra/17", "own key": "hydra/17_3", "no number": "train", "databricks": "17", "alone": "17", "half azure": "mango",
        "in a workspace": "4242/17", "the same number": "4242/17", "another job": "hydra/18",
        "azure": "/subscriptions/s/resourcegroups/ml/providers/microsoft.machinelearningservices/workspaces/w1/jobs/mango",
    }  # fmt: skip


def test_a_run_is_in_the_first_pool_whose_selector_names_it(world: World) -> None:
    world.add_experiment(2, "vision/det", tier="gold")
    world.add_run("a", tags={"stage": "prod-1", "mlflow.user": "ada"}, params={"size": "xl"}, experiment=2)
    world.add_run("b", tags={"stage": "dev", "mlflow.user": "bob"}, experiment=2)
    world.add_run("c", tags={"mlflow.user": "ada"})
    world.add_run("d", end=None)
    pools = [
        pool("elsewhere", {"tracking": "other"}),
        pool("all-of-it", {"tag.stage": "prod-*", "param.size": ["xs", "xl"], "tracking": "pr*"}),
        pool("gold", {"experiment_tag.tier": "gold", "experiment": "vision/*", "workspace": "default"}),
        pool("ada", {"user": "ada", "status": "FINISHED"}),
        pool("rest", {"tracking": "prod"}),
    ]
    assert columns(world.night(pools=pools), "pool_key") == {"a": ("all-of-it",), "b": ("gold",), "c": ("ada",), "d": ("rest",)}
    assert columns(world.night(), "pool_key") == dict.fromkeys("abcd", (None,))


def test_a_pattern_is_a_glob_and_nothing_else(world: World) -> None:
    for run_id, value in {"dot": "a.c", "letter": "abc", "two lines": "a.c\nx", "percent": "a%c", "quote": "it's"}.items():
        world.add_run(run_id, tags={"k": value})
    for pattern, expected in {
        "a.c": {"dot"},
        "a?c": {"dot", "letter", "percent"},
        "a*": {"dot", "letter", "two lines", "percent"},
        "it's": {"quote"},
        "A.C": set(),
    }.items():
        night = world.night(pools=[pool("p", {"tag.k": pattern})])
        assert {run_id for run_id, (key,) in columns(night, "pool_key").items() if key} == expected, pattern


def test_values_of_equal_are_part_of_the_pool_key_and_without_one_there_is_no_pool(world: World) -> None:
    world.add_run("both", tags={"team": " vision ", "project": "p|1"})
    world.add_run("no team", tags={"project": "p|1"})
    pools = [pool("gpu", {"tracking": "*"}, equal=["team", "project"]), pool("later", {"tracking": "*"})]
    assert columns(world.night(pools=pools), "pool_key") == {"both": ("gpu|team=vision|project=p|1",), "no team": (None,)}


def test_a_user_is_in_the_team_of_the_day_the_run_started(world: World, tmp_path: Path) -> None:
    (tmp_path / "teams.csv").write_text(
        "user,team,from,to\n"
        "ada,research,,2026-11-02\n"
        "ada,vision,2026-11-02,2026-11-09T12:00:00+01:00\n"
        "ada,late,2026-11-09T11:00:00Z,\n"
        "ada,never: an earlier line holds,2026-11-20,\n"
        "bob,speech\n"
    )
    dims = DimensionSettings.model_validate({"team": [{"user": str(tmp_path / "teams.csv")}, "run.tag.team"]})
    starts = {"1": "2026-11-01T23:59:59.999", "2": "2026-11-02", "3": "2026-11-09T10:59:59.999", "4": "2026-11-09T11:00", "5": "2026-11-25"}
    for run_id, start in starts.items():
        world.add_run(run_id, at(start), None, tags={"mlflow.user": "ada", "team": "tag"})
    world.add_run("bob", tags={"mlflow.user": "bob", "team": "tag"})
    world.add_run("eve", tags={"mlflow.user": "eve", "team": "tag"})
    world.add_run("no start", None, None, tags={"mlflow.user": "ada", "team": "tag"})
    night = world.night(dims=dims)
    found = columns(night, "team", "team_from")
    assert [found[n][0] for n in "12345"] == ["research", "vision", "vision", "late", "late"]
    assert found["bob"] == ("speech", "user:teams.csv")
    assert found["eve"] == ("tag", "run.tag.team")
    assert columns(night, "team", period="1970-01") == {"no start": ("tag",)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ada,x,soon,", "line 2: from 'soon' is not a date"),
        ("ada,x,2026-11-02,2026-11-02", "line 2: `from` is not before `to`"),
        ("ada", "it needs a header and two columns"),
    ],
)
def test_a_users_file_that_cannot_be_read_names_the_line(world: World, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "teams.csv").write_text(f"user,team,from,to\n{line}\n")
    with pytest.raises(ConfigError, match=message):
        world.night(dims=DimensionSettings.model_validate({"team": [{"user": str(tmp_path / "teams.csv")}]}))


def add_metric(world: World, run_id: str, key: str, values: list[float]) -> None:
    with world.open() as db:
        db.executemany(
            "insert into metrics (key, value, timestamp, run_uuid, step) values (?, ?, 0, ?, ?)",
            [(key, v, run_id, i) for i, v in enumerate(values)],
        )
        db.execute(
            "insert into latest_metrics (key, value, timestamp, run_uuid, step) values (?, ?, 0, ?, ?)",
            (key, values[-1], run_id, len(values) - 1),
        )
    db.close()


def test_measured_use_is_that_of_gpus_or_else_of_cpus(world: World) -> None:
    for run_id in ("gpus", "nodes", "cpu", "other", "plain", "odd"):
        world.add_run(run_id)
    add_metric(world, "gpus", "system/gpu_0_utilization_percentage", [80.0, 90.0, 100.0])
    add_metric(world, "gpus", "system/gpu_1_utilization_percentage", [10.0])
    add_metric(world, "gpus", "system/cpu_utilization_percentage", [1.0])
    add_metric(world, "nodes", "system/node-0/gpu_0_utilization_percentage", [50.0])
    add_metric(world, "nodes", "system/rack 1/node/gpu_0_utilization_percentage", [25.0])
    add_metric(world, "cpu", "system/a/cpu_utilization_percentage", [12.5, 13.5])
    add_metric(world, "other", "system/gpu_0_memory_usage_percentage", [99.0])
    add_metric(world, "plain", "loss", [1.0])
    add_metric(world, "odd", "system/cpu_utilization_percentage", [40.0, -1.0, 1e9])
    assert columns(world.night(), "mean_use_percent") == {
        "gpus": (50.0,),
        "nodes": (37.5,),
        "cpu": (13.0,),
        "other": (None,),
        "plain": (None,),
        "odd": (40.0,),
    }


def test_evenly_spread_points_of_a_long_series_are_read(world: World) -> None:
    world.add_run("long")
    values = [100.0 if step % 16 == 0 else 0.0 for step in range(16 * USE_POINTS)]
    add_metric(world, "long", "system/cpu_utilization_percentage", values)
    assert columns(world.night(), "mean_use_percent") == {"long": (100.0,)}


def test_the_use_of_an_ended_run_is_read_once(world: World) -> None:
    world.add_run("ended")
    world.add_run("open", end=None)
    for run_id in ("ended", "open"):
        add_metric(world, run_id, "system/cpu_utilization_percentage", [20.0])
    first = world.night()
    world.do("update metrics set value = 60")
    assert columns(world.night(first), "mean_use_percent") == {"ended": (20.0,), "open": (60.0,)}
    assert columns(world.night(), "mean_use_percent") == {"ended": (60.0,), "open": (60.0,)}
    world.do("update runs set end_time = end_time + 1 where run_uuid = 'ended'")
    assert columns(world.night(first), "mean_use_percent")["ended"] == (60.0,)


def test_a_database_without_the_index_on_metrics_gives_no_use(world: World) -> None:
    world.add_run("r")
    add_metric(world, "r", "system/cpu_utilization_percentage", [20.0])
    world.do("update alembic_version set version_num = 'c3d6457b6d8a'")
    world.do("drop table metrics")
    assert columns(world.night(), "mean_use_percent") == {"r": (None,)}


def settings_of(world: World, **options: Any) -> str:
    return str(world.night(**options).extract.extras[("runs", "2026-11")]["settings"])


def test_a_change_of_settings_that_rows_depend_on_is_noticed(world: World, tmp_path: Path) -> None:
    world.add_run("r")
    (tmp_path / "teams.csv").write_text("user,team\nada,x\n")
    teams = DimensionSettings.model_validate({"team": [{"user": str(tmp_path / "teams.csv")}]})
    found = [
        settings_of(world),
        settings_of(world, server={"copy": {"tags": ["a"]}}),
        settings_of(world, server={"copy": {"params": "all"}}),
        settings_of(world, dims=DimensionSettings(not_a_person=["root"])),
        settings_of(world, dims=teams),
        settings_of(world, pools=[pool("p", {"user": "a"})]),
        settings_of(world, pools=[pool("p", {"user": "b"})]),
        settings_of(world, pools=[pool("p", {"user": "b"}, equal=["team"])]),
        settings_of(world, job_keys=["x"]),
        settings_of(world, selector_keys=["tag.x"]),
    ]
    (tmp_path / "teams.csv").write_text("user,team\nada,y\n")
    found.append(settings_of(world, dims=teams))
    assert len(set(found)) == len(found)
    assert settings_of(world) == found[0]


def test_months_written_under_other_settings_are_read_again_through_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def list_months(self) -> list[str]:
            return ["2024-01", "2024-02", "2026-11"]

    chosen = [
        extract._months_to_read(
            Api(), None, ["2024-01", "2024-02", "2026-11"], lambda: {"2024-02"}, lambda table, period: None, NOW + timedelta(days=i)
        )  # type: ignore[arg-type]
        for i in range(7)
    ]
    assert all("2024-02" in months for months in chosen if months is not None)
    assert not all("2024-01" in months for months in chosen if months is not None)


def add_trace(
    world: World,
    trace_id: str,
    when: str,
    cost: float | None,
    *,
    spans: tuple[tuple[Any, ...], ...] = (),
    tokens: tuple[int | None, int | None] = (None, None),
    **stated: str,
) -> None:
    world.do("insert into trace_info values (?, 1, ?, ?, ?, ?)", trace_id, at(when), *tokens, cost)
    for key, value in stated.items():
        world.do("insert into trace_request_metadata values (?, ?, ?)", key.replace("__", "."), value, trace_id)
    for span_id, parent, model, price, *provider in spans:
        world.do("insert into spans values (?, ?, ?, ?, ?, ?)", trace_id, span_id, parent, model, provider[0] if provider else None, price)


def llm(night: Night, period: str = "2026-11") -> list[tuple[Any, ...]]:
    return [
        (
            str(r["charge_date"]),
            r["run_id"],
            r["user_name"],
            r["model"],
            r["traces"],
            r["input_tokens"],
            r["output_tokens"],
            str(r["list_cost"].normalize()),
        )
        for r in night.rows("trace_costs", period)
    ]


def test_the_cost_of_traces_by_day_run_user_and_model(world: World) -> None:
    add_trace(
        world,
        "t1",
        "2026-11-02T23:59:59",
        0.3,
        tokens=(10, 20),
        mlflow__sourceRun="r1",
        mlflow__trace__user="ada",
        mlflow__user="svc",
        spans=(("a", None, "gpt", 0.1), ("b", "a", None, None), ("c", None, "gpt", 0.2)),
    )
    add_trace(
        world, "t2", "2026-11-02", 0.3, tokens=(1, None), mlflow__sourceRun="r1", mlflow__user="ada", spans=(("a", None, "gpt", 0.3),)
    )
    # A parent's cost includes that of its descendants, and spans next to it count. The tokens go to the more expensive model.
    add_trace(
        world,
        "t3",
        "2026-11-03",
        0.75,
        tokens=(7, 7),
        mlflow__user="root",
        spans=(
            ("p", None, None, None),
            ("q", "p", "opus", 0.5),
            ("r", "q", None, None),
            ("s", "r", "opus", 0.5),
            ("t", "p", "haiku", 0.25),
        ),
    )
    add_trace(world, "t4", "2026-11-03", 1.5e-05)
    add_trace(world, "unpriced", "2026-11-03", None, tokens=(9, 9))
    add_trace(world, "october", "2026-10-31T23:59:59.999", 1.0)
    night = world.night()
    assert llm(night) == [
        ("2026-11-02", "r1", "ada", "gpt", 2, 11, 20, "0.6"),
        ("2026-11-03", "", "", "", 1, None, None, "0.000015"),
        ("2026-11-03", "", "", "haiku", 1, None, None, "0.25"),
        ("2026-11-03", "", "", "opus", 1, 7, 7, "0.5"),
    ]
    assert [row[-1] for row in llm(night, "2026-10")] == ["1"]
    assert all(row["currency"] == "USD" for row in night.rows("trace_costs"))


def test_calls_of_one_model_by_two_providers_have_a_row_each(world: World) -> None:
    spans = (("a", None, "gpt-4o", 0.25, "azure"), ("b", None, "gpt-4o", 0.5, "openai"), ("c", None, "gpt-4o", 0.125, "azure"))
    add_trace(world, "t1", "2026-11-02", 0.875, tokens=(8, 4), mlflow__sourceRun="r1", spans=spans)
    rows = world.night().rows("trace_costs", "2026-11")
    assert [(r["model"], r["provider"], r["traces"], r["input_tokens"], float(r["list_cost"])) for r in rows] == [
        ("gpt-4o", "azure", 1, None, 0.375),
        ("gpt-4o", "openai", 1, 8, 0.5),
    ]


def test_money_stays_spent_when_mlflow_deletes_the_traces(world: World) -> None:
    for i, run_id in enumerate(("r1", "r1", "r2")):
        add_trace(world, f"t{i}", "2026-11-02", 1.0, mlflow__sourceRun=run_id)
    first = world.night()
    world.do("delete from trace_info where request_id in ('t0', 't2')")
    add_trace(world, "new", "2026-11-03", 5.0)
    second = world.night(first, known_trace_months=["2026-11"])
    assert [(row[0], row[1], row[-1]) for row in llm(second)] == [
        ("2026-11-02", "r1", "2"),
        ("2026-11-02", "r2", "1"),
        ("2026-11-03", "", "5"),
    ]
    world.do("delete from trace_info")
    assert llm(world.night(second, known_trace_months=["2026-11"])) == llm(second)


def test_a_server_without_traces_writes_none(world: World) -> None:
    world.add_run("r")
    assert not [unit for unit in world.night().tables if unit[0] == "trace_costs"]


def test_times_of_users_files_are_utc() -> None:
    from runspend.ingest.tracking.dimension_sources import _read_day

    assert _read_day(Path("x"), 2, "from", "2026-11-02") == datetime(2026, 11, 2, tzinfo=timezone.utc)
