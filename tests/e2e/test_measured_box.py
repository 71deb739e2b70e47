"""The machine under a desk with `watts: measured`: MLflow's own store with power metrics, pipeline runs, and the month's bill."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from mlflow.entities import Metric

from tests.e2e.test_one_box import BEGIN, EXAMPLE, ask, runspend
from tests.mlflow_store import make_schema
from tests.servers.mlflow_client import mlflow_client

# User, start and end in minutes of November, and watts of the first of four GPUs. The others draw 1, 2 and 3 W more.
EARLY = [("ana", 600, 720, 200.0), ("ben", 660, 810, 210.0)]
LATE = [("cai", 1200, 1230, 0.1)]
NIGHT = "2026-12-01T07:00"


def log(folder: Path, runs: list[tuple[str, int, int, float]]) -> None:
    """Create runs that log the watts of their four GPUs once a minute, as MLflow's client writes them."""
    with mlflow_client(f"sqlite:///{folder / 'mlflow.db'}") as client:
        found = client.get_experiment_by_name("vit")
        experiment = found.experiment_id if found else client.create_experiment("vit", artifact_location=(folder / "artifacts").as_uri())
        for user, start, end, watts in runs:
            run = client.create_run(experiment, start_time=BEGIN + start * 60_000, tags={"mlflow.user": user}).info.run_id
            points = [(step, BEGIN + (start + step + 1) * 60_000) for step in range(end - start)]
            for at in range(0, len(points), 100):
                metrics = [
                    Metric(f"system/gpu_{gpu}_power_usage_watts", watts + gpu, when, step)
                    for step, when in points[at : at + 100]
                    for gpu in range(4)
                ]
                client.log_batch(run, metrics=metrics)
            client.set_terminated(run, end_time=BEGIN + end * 60_000)


def power(*runs: tuple[str, int, int, float]) -> Fraction:
    """Return the cost of November's power minute by minute, with the GPUs' mean over the runs of the hour, or 120 W."""
    cost = Fraction(0)
    for hour in range(720):
        minutes = [minute for minute in range(hour * 60, hour * 60 + 60) if any(start <= minute < end for _, start, end, _ in runs)]
        weights = [(max(0, min(end, hour * 60 + 60) - max(start, hour * 60)), watts) for _, start, end, watts in runs]
        held = sum(weight for weight, _ in weights)
        each = sum(weight * Fraction(str(watts)) for weight, watts in weights) / held if held else Fraction(0)
        gpus = sum(Fraction(int((each + gpu) * 1000 + Fraction(1, 2)), 1000) for gpu in range(4))
        cost += (gpus * len(minutes) + 120 * (60 - len(minutes))) / 60
    return cost * Fraction("0.31") / 1000


def total(folder: Path) -> Decimal:
    [row] = ask(folder, "select sum(billed_cost) as billed from billing_lines where billing_period = '2026-11-01'")
    return Decimal(row["billed"])


def exactly(cost: Fraction) -> Decimal:
    return Decimal(int(cost * 10**10)) / 10**10


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page's file with measured power, and two runs that overlap, and run the pipeline on 1 December."""
    folder = tmp_path_factory.mktemp("measured-box")
    make_schema(folder / "mlflow.db")
    log(folder, EARLY)
    text = EXAMPLE.read_text(encoding="utf-8")
    for old, new in (
        ("sqlite:////srv/mlflow/mlflow.db", "sqlite:///mlflow.db"),
        ("from: 2026-01-01", "from: 2026-11-01"),
        ("watts: 650", "watts: measured, idle_watts: 120"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "runspend.yaml").write_text(text, encoding="utf-8")
    (folder / "before.txt").write_text(runspend(folder, "doctor", "--config", "runspend.yaml"), encoding="utf-8")
    (folder / "first.txt").write_text(night(folder), encoding="utf-8")
    return folder


def night(folder: Path) -> str:
    return runspend(folder, "nightly", "--config", "runspend.yaml", "--now", NIGHT)


def facts(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_november_is_what_the_box_drew(box: Path) -> None:
    """The bill is 800 + 210 plus each hour's power, measured or at 120 W. Every hour belongs to a run or is idle, and the month is final."""
    expected = exactly(1010 + power(*EARLY))
    assert total(box) == expected
    first = facts((box / "first.txt").read_text())
    assert (Decimal(first["2026-11.EUR.bill"]), first["2026-11.EUR.equals_loaded_bill"], first["exit"]) == (expected, "true", "0")
    assert Decimal(first["2026-11.EUR.allocated_to_runs"]) + Decimal(first["2026-11.EUR.idle"]) == expected
    rows = ask(
        box,
        "select charge_period_start, sku_price_details from billing_lines where sku_price_details like '%Measured%' and billing_period = '2026-11-01' order by 1",
    )
    details = [json.loads(row["sku_price_details"], parse_float=Decimal) for row in rows]
    assert [(d["x_MeasuredWatts"], d["x_MeasuredSeconds"], d.get("x_IdleSeconds")) for d in details] == [
        (806, 3600, None),
        (826, 3600, None),
        (846, 3600, None),
        (846, 1800, 1800),
    ]
    [state] = ask(box, "select state from period_states where billing_period = '2026-11-01'")
    assert state["state"] == "final"


def test_the_doctor_says_what_is_measured(box: Path) -> None:
    """Before the first pipeline run, the power is unknown. Afterwards, doctor reports measured hours, watts and the rest."""
    assert (
        "gpubox: its power is known after the first pipeline run. Until then, every hour has `idle_watts`, 120 W"
        in (box / "before.txt").read_text()
    )
    found = runspend(box, "doctor", "--config", "runspend.yaml", "--now", NIGHT)
    # (806 + 826 + 846 + 846 / 2) / 3.5
    assert (
        "gpubox: its power was measured in 4 of its last 720 hours (3.5 h), 828.9 W on average. Time without a measurement has `idle_watts`, 120 W"
        in found
    )


def test_a_repeated_pipeline_run_changes_nothing(box: Path) -> None:
    """There are no new measurements, so no byte changes."""
    again = facts(night(box))
    assert (again["rebuilt"], again["exit"]) == ("", "0")


def test_through_the_api_the_bill_is_the_same(box: Path) -> None:
    """Reading MLflow through the API into another warehouse gives the same bill."""
    text = (box / "runspend.yaml").read_text(encoding="utf-8").replace('mlflow.db"}', 'mlflow.db", via: api}')
    assert "via: api" in text
    (box / "api.yaml").write_text(f"home: .api\nwarehouse: {{uri: .api/warehouse}}\n{text}", encoding="utf-8")
    for step in ("extract", "load"):
        runspend(box, step, "--config", "api.yaml", "--now", NIGHT)
    question = "select * from {} order by 1, 2, 3, 4, 5, 6"
    for table in ("machine_power", "billing_lines"):
        ours, theirs = (
            json.loads(runspend(box, "sql", "--config", config, "--json", question.format(table)))
            for config in ("runspend.yaml", "api.yaml")
        )
        assert len(ours) > 10
        assert ours == theirs, table


def test_late_measurements_restate_the_month(box: Path) -> None:
    """A run of half an hour at very few watts appears late. November gets a second version, which states by how much it is lower."""
    before = total(box)
    log(box, LATE)
    found = facts(night(box))
    assert "2026-11" in found["rebuilt"]
    assert total(box) == exactly(1010 + power(*EARLY, *LATE)) < before
    [change] = ask(box, "select sum(billed_cost) as billed from bill_changes where billing_period = '2026-11-01' and version_number = 2")
    assert Decimal(change["billed"]) == total(box) - before
