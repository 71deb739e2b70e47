"""The power that a machine drew in an hour, as the warehouse computes it from what runs measured.

Overlapping runs are averaged, and GPUs are added up. Both engines give the same rows.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.config.settings import Settings
from runspend.ingest.billing.measured_power import MACHINE_HOURS, is_measured, read_drawn
from runspend.ingest.tracking.measured_power import find_measured
from runspend.schema.tables import TABLES
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.reference import GoogleSQL, exact_rows
from tests.sql_lint import lint

NINE = datetime(2026, 11, 2, 9, tzinfo=timezone.utc)
SCHEMA = TABLES["machine_power"].arrow_schema()


def row(
    run: str,
    gpu: int,
    first: float,
    last: float,
    watts: float,
    *,
    machine: str = "gpubox",
    hour: datetime = NINE,
    server: str = "prod",
    node: str = "",
) -> dict[str, Any]:
    """Return what one run measured on one GPU between two minutes of the hour."""
    milliseconds = round((last - first) * 60_000)
    return {
        "tracking_server": server, "workspace": "default", "run_id": run, "start_month": hour.date().replace(day=1), "metric": f"system/{node}gpu_{gpu}_power_usage_watts",
        "hour_start": hour, "resource_id": machine, "gpu": gpu, "measured_from": hour + timedelta(minutes=first), "measured_to": hour + timedelta(minutes=last),
        "measured_milliseconds": milliseconds, "energy_microjoules": round(watts * 1000) * milliseconds, "last_step": 9, "step_stride": 1, "load_id": "load",
    }  # fmt: skip


def asked(folder: Path, rows: list[dict[str, Any]]) -> dict[str, dict[datetime, tuple[int, int]]]:
    warehouse = ParquetWarehouse(folder)
    with warehouse.step("extract", "load") as step:
        for server in sorted({r["tracking_server"] for r in rows}):
            step.put(
                "machine_power", "2026-11", server, pa.Table.from_pylist([r for r in rows if r["tracking_server"] == server], schema=SCHEMA)
            )
        step.publish()
    with warehouse.reader() as reader:
        return {machine: dict(hours) for machine, hours in read_drawn(reader).items()}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a", 0, 0, 60, 300)], (300_000, 60)),
        ([row("a", 0, 0, 60, 300), row("a", 1, 0, 60, 250.5)], (550_500, 60)),
        ([row("a", 0, 0, 60, 300), row("b", 0, 0, 60, 310)], (305_000, 60)),
        ([row("a", 0, 0, 60, 300), row("b", 0, 0, 60, 310, server="other")], (305_000, 60)),
        ([row("a", 0, 0, 60, 300), row("a", 0, 0, 60, 310, node="rank 1/")], (305_000, 60)),
        ([row("a", 0, 0, 50, 300), row("b", 0, 50, 60, 120)], (270_000, 60)),
        ([row("a", 0, 0, 10, 300), row("b", 0, 40, 60, 330)], (320_000, 30)),
        ([row("a", 0, 5, 40, 300), row("b", 0, 10, 20, 300), row("c", 0, 30, 45, 300)], (300_000, 40)),
        ([row("a", 0, 0, 0.0001, 0.001), row("b", 0, 0, 0.0001, 0.002)], (2, 0.0001)),
        ([row("a", 0, 0, 60, 0)], (0, 60)),
    ],
    ids=["one", "GPUs add up", "runs do not", "nor servers", "nor processes", "one after the other", "a gap", "within each other", "half a milliwatt", "nothing drawn"],
)  # fmt: skip
def test_an_hour_has_its_mean_power_and_measured_minutes(tmp_path: Path, rows: list[dict[str, Any]], expected: tuple[int, float]) -> None:
    """The mean is in milliwatts, and time is the part of the hour that runs measured."""
    assert asked(tmp_path, rows) == {"gpubox": {NINE: (expected[0], round(expected[1] * 60_000))}}


def test_each_machine_and_hour_has_its_own_power(tmp_path: Path) -> None:
    later = NINE + timedelta(hours=1)
    rows = [row("a", 0, 0, 60, 300), row("a", 0, 0, 30, 200, hour=later), row("b", 0, 0, 60, 100, machine="second")]
    assert asked(tmp_path, rows) == {
        "gpubox": {NINE: (300_000, 3_600_000), later: (200_000, 1_800_000)},
        "second": {NINE: (100_000, 3_600_000)},
    }


def test_both_engines_compute_the_same_power(tmp_path: Path) -> None:
    """DuckDB and Google's reference implementation give the same rows, and a count by minutes in Python agrees."""
    assert lint(MACHINE_HOURS) == []
    dice = random.Random(20261125)
    rows = []
    for number in range(300):
        first, last = sorted(dice.sample(range(61), 2))
        hour = NINE + timedelta(hours=dice.randrange(3))
        rows.append(
            row(
                f"r{number}",
                dice.randrange(4),
                first,
                last,
                dice.randrange(600_000) / 1000,
                machine=dice.choice(["gpubox", "second"]),
                hour=hour,
            )
        )
    rows = [r for r in rows if dice.random() < 0.2 or r["measured_milliseconds"] < 900_000]
    found = asked(tmp_path, rows)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    theirs = GoogleSQL().query(MACHINE_HOURS, {"machine_power": table}).to_pylist()
    ours = [
        {"resource_id": m, "hour_start": h, "milliwatts": w, "milliseconds": ms}
        for m, hours in found.items()
        for h, (w, ms) in hours.items()
    ]
    assert exact_rows(ours) == exact_rows(theirs)
    for machine, hours in found.items():
        for hour, (milliwatts, milliseconds) in hours.items():
            here = [r for r in rows if (r["resource_id"], r["hour_start"]) == (machine, hour)]
            covered = {
                m
                for r in here
                for m in range(
                    round((r["measured_from"] - hour).total_seconds() / 60), round((r["measured_to"] - hour).total_seconds() / 60)
                )
            }
            mean = 0
            for gpu in {r["gpu"] for r in here}:
                energy, held = (sum(r[c] for r in here if r["gpu"] == gpu) for c in ("energy_microjoules", "measured_milliseconds"))
                mean += (2 * energy + held) // (2 * held)
            assert (milliwatts, milliseconds) == (mean, len(covered) * 60_000)


def settings(pools: list[dict[str, Any]], *watts: str | int, more: dict[str, Any] | None = None) -> Settings:
    machines = [
        {"resource_id": f"box{n}", "from": "2026-01-01", "tags": {"lab": "a"}, "account": "physics", "instance_type": "dgx-A100", "power": {"per_kwh": 1, "watts": w, **({"idle_watts": 9} if w == "measured" else {})}}
        for n, w in enumerate(watts)
    ]  # fmt: skip
    bills = [{"name": "own", "format": "machines", "currency": "EUR", "machines": machines}, *([more] if more else [])]
    made = [{"name": f"p{n}", "runs": {"tracking": "prod"}, "lines": lines} for n, lines in enumerate(pools)]
    return Settings.model_validate({"tracking": [{"name": "prod", "uri": "http://mlflow"}], "billing": bills, "pools": made})


@pytest.mark.parametrize(
    ("lines", "machines"),
    [
        ({"resource": "box0"}, ("box0",)),
        ({"resource": "box*"}, ("box0", "box1")),
        ({"resource": "box1"}, None),
        ({"source": "own"}, ("box0", "box1")),
        ({"source": "own", "tag.lab": "a", "account": "physics", "category": "Usage", "service": "Own machines"}, ("box0", "box1")),
        ({"resource": "box0", "tag.lab": "b"}, None),
        ({"source": "own", "instance_type": "DGX-*"}, ("box0", "box1")),
        ({"source": "own", "instance_type": "a100"}, None),
        ({"resource": "box0", "region": "*"}, None),
        ({"account": "physics"}, None),
    ],
)
def test_a_pool_counts_only_if_its_lines_name_measured_machines(lines: dict[str, str], machines: tuple[str, ...] | None) -> None:
    """A pool counts if its lines can name only this bill's machines and at least one of them is measured."""
    found = find_measured(settings([lines], "measured", 650))
    assert (found.resource_ids, found.of_pool) == (("box0",), (("p0", machines),) if machines else ())


def test_a_machine_with_configured_watts_is_not_measured() -> None:
    """If the power is configured in watts, nothing has to be measured."""
    fixed = settings([{"resource": "box0"}], 650)
    assert (find_measured(fixed).resource_ids, find_measured(fixed).of_pool, is_measured(fixed.billing[0])) == ((), (), False)
    assert is_measured(settings([], 650, "measured").billing[0])
