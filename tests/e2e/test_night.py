"""A whole pipeline run over the demo world, as a user starts it. Every cent is checked against the files and a brute force, twice."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from email import message_from_bytes, policy
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from runspend.warehouse.factory import open_warehouse
from tests.allocation.chain import total
from tests.allocation.truth import UTC, World, true_costs
from tests.conftest import ROOT
from tests.e2e.conftest import NOW, Runspend
from tests.notebooks import code_cells, read_notebook, run_cells, shown


@pytest.fixture(scope="module")
def night(made_night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a world after one pipeline run, as from cron. Tests that change it use `own_night`."""
    return shutil.copytree(made_night.parent, tmp_path_factory.mktemp("night"), dirs_exist_ok=True) / "runspend.yaml"


@pytest.fixture
def own_night(night: Path, tmp_path: Path) -> Iterator[Path]:
    """The same world for tests that change it. It is restored afterwards."""
    kept = shutil.copytree(night.parent, tmp_path / "kept")
    yield night
    shutil.rmtree(night.parent)
    shutil.copytree(kept, night.parent)


def bill_rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of the world's bills, read only with the csv module."""
    rows = []
    for path in sorted(folder.glob("bills/*/*")):
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
        rows += [{"source": path.parent.name, **row} for row in csv.DictReader(text.splitlines())]
    return rows


def digests(config: Path) -> dict[Any, str]:
    """Return the content digest of every unit in the warehouse."""
    return {unit: state.digest for unit, state in open_warehouse(str(config.parent / "warehouse")).states().items()}


def test_the_notebook_shows_what_its_cells_give(night: Path) -> None:
    """Every output in `docs/costs.ipynb` is what its cell returns over the demo. To renew them, run `python -m tests.notebooks`."""
    cells = code_cells(read_notebook(ROOT / "docs" / "costs.ipynb"))
    assert len(cells) >= 8
    for cell, outputs in zip(cells, run_cells(cells, night.parent), strict=True):
        assert shown(cell["outputs"]) == shown(outputs), "".join(cell["source"])


def test_the_ledger_is_the_bill_and_every_run_pays_its_true_share(night: Path, made_world: Path) -> None:
    """The ledger equals the files in all four measures. Each run's cost equals a brute force in fractions, to 1e-6."""
    rows = bill_rows(night.parent)
    with open_warehouse(str(night.parent / "warehouse")).reader() as reader:
        for measure, column in (
            ("effective_cost", "EffectiveCost"),
            ("billed_cost", "BilledCost"),
            ("list_cost", "ListCost"),
            ("contracted_cost", "ContractedCost"),
        ):
            for source in ("aws", "gcp"):
                found = reader.query(f"select sum({measure}) as total from cost_allocations where source = @source", {"source": source})
                assert found["total"][0].as_py() == total(Decimal(r[column]) for r in rows if r["source"] == source), (measure, source)
        costs = {
            r["run_id"]: Fraction(r["effective_cost"]) for r in reader.query("select run_id, effective_cost from run_costs").to_pylist()
        }
        guesses = """
            select run_id, confidence, sum(effective_cost) as cost from cost_allocations
            where allocated_to = 'run' and (match_method = 'instance_type_time' or match_method = 'attached' and confidence <> 'high')
            group by run_id, confidence
        """
        use = {r["run_id"]: r["mean_use_percent"] for r in reader.query("select run_id, mean_use_percent from runs").to_pylist()}
        # machine time that no run states, and its disks, go to runs that requested its type, never with high confidence
        for guess in reader.query(guesses).to_pylist():
            assert guess["confidence"] == "low"
            costs[guess["run_id"]] -= Fraction(guess["cost"])
    truth: dict[str, Fraction] = defaultdict(Fraction)
    disks = disks_of(rows)
    billed_until = max(r["ChargePeriodEnd"] for r in rows if "/i-" in r["ResourceId"] or "/instances/" in r["ResourceId"])
    earlier: list[dict[str, Any]] = []  # a late credit is split by the time that the bill of its month has
    for period in ("2026-10", "2026-11"):
        world = raw_world(rows, made_world, period) | {"earlier_lines": earlier}
        world["runs"] = [run | {"mean_use_percent": use.get(run["run_id"])} for run in world["runs"]]
        # the latest hour is that of all bills, not only of the month's
        world["billed_until"] = dt.datetime.fromisoformat(billed_until)
        of_lines = true_costs(world)
        earlier = world["billing_lines"]
        for (line_id, target), cost in of_lines.items():
            truth[target] += cost + cost / Fraction(rows[int(line_id)]["EffectiveCost"]) * disk_cost(disks, rows[int(line_id)])
    assert len(costs) >= 400
    assert sum(1 for run_id in costs if truth[run_id]) > 300
    for run_id, cost in costs.items():
        assert abs(cost - truth[run_id]) <= max(Fraction(1, 10**9), abs(truth[run_id]) / 10**6), run_id


def disk_cost(disks: dict[tuple[str, str], list[dict[str, str]]], row: dict[str, str]) -> Fraction:
    """Return the cost of the disks attached to this line's machine in its hour, split as the machine is.

    Disks with a run's id in a tag already belong to that run.
    """
    machine = row["ResourceId"].rpartition("/")[2]
    if ":instance/" not in row["ResourceId"] or row["ChargeClass"] or "mlflow_run_id" in row["Tags"]:
        return Fraction(0)
    return sum((Fraction(r["EffectiveCost"]) for r in disks.get((machine, row["ChargePeriodStart"]), [])), Fraction(0))


def disks_of(rows: list[dict[str, str]]) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Return the lines of a machine's disks by (machine, hour)."""
    found: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if ":volume/" in row["ResourceId"]:
            found[json.loads(row["Tags"])["instance_id"], row["ChargePeriodStart"]].append(row)
    return found


def raw_world(rows: list[dict[str, str]], made_world: Path, period: str) -> World:
    """Return the bill and the runs of a period for the brute force, read without Runspend's code."""
    lines = []
    for number, row in enumerate(rows):
        if not row["BillingPeriodStart"].startswith(period):
            continue
        resource = (
            row["ResourceId"].rpartition("/")[2]
            if ":instance/" in row["ResourceId"] or "/instances/" in row["ResourceId"]
            else row["ResourceId"]
        )
        details = json.loads(row.get("SkuPriceDetails") or "{}")
        hours = row["ConsumedQuantity"] if row["ConsumedUnit"] == "Hours" else None
        lines.append(
            {
                "line_id": str(number),
                "effective_cost": Decimal(row["EffectiveCost"]),
                "resource_key": resource or None,
                "charge_period_start": dt.datetime.fromisoformat(row["ChargePeriodStart"]),
                "charge_period_end": dt.datetime.fromisoformat(row["ChargePeriodEnd"]),
                "charge_category": "Tax" if "Support" in row["ServiceName"] or not row["ResourceId"] else row["ChargeCategory"],
                "charge_class": row["ChargeClass"] or None,
                "commitment_discount_status": None,
                "run_tag": json.loads(row["Tags"]).get("mlflow_run_id"),
                "scope": "include" if row["ServiceCategory"] == "AI and Machine Learning" or not row["ResourceId"] else None,
                "sku_id": row["SkuId"],
                "sub_account_id": "ml",
                "billed_nanoseconds": None if not hours else int((Decimal(hours) * 3_600_000_000_000).to_integral_value()),
                "machine_gpus": details.get("GpuCount"),
                "machine_cpus": details.get("CoreCount"),
                "machine_memory_gb": None,
            }
        )
    runs, resources = [], []
    for server in ("prod", "research"):
        with sqlite3.connect(f"file:{made_world / server / 'mlflow.db'}?mode=ro", uri=True) as store:
            tags = defaultdict(dict)
            for key, value, run_id in store.execute("select key, value, run_uuid from tags"):
                tags[run_id][key] = value
            params = dict(store.execute("select run_uuid, value from params where key = 'gpu_count'"))
            signs = dict(store.execute("select run_uuid, max(timestamp) from latest_metrics group by run_uuid"))
            for run_id, start, end in store.execute("select run_uuid, start_time, end_time from runs"):
                runs.append(
                    {
                        "run_id": run_id,
                        "start_time": instant(start),
                        "end_time": instant(end) if end else None,
                        "last_sign_at": instant(signs[run_id]) if not end else None,
                        "parent_run_id": tags[run_id].get("mlflow.parentRunId"),
                        "gpu_count": float(params[run_id]) if run_id in params else None,
                    }
                )
                stated = [m["id"] for m in json.loads(tags[run_id].get("runspend.resources", "[]"))] + [
                    v for k, v in tags[run_id].items() if k == "runspend.instance_id"
                ]
                resources += [{"run_id": run_id, "resource_key": m, "used_from": None, "used_to": None} for m in stated]
    return {"billing_lines": lines, "billing_loads": [], "runs": runs, "run_resources": resources}


def instant(millis: int) -> dt.datetime:
    """Convert MLflow's milliseconds."""
    return dt.datetime.fromtimestamp(millis / 1000, tz=UTC)


def test_a_repeated_pipeline_run_changes_nothing(night: Path, runspend: Runspend) -> None:
    """Every content digest stays, no mail is written a second time, and nothing is rebuilt."""
    before, mails = digests(night), sorted((night.parent / "mail").glob("*.eml"))
    stamps = [m.stat().st_mtime_ns for m in mails]
    again = runspend("nightly", "--config", str(night), *NOW)
    assert digests(night) == before
    assert sorted((night.parent / "mail").glob("*.eml")) == mails
    assert [m.stat().st_mtime_ns for m in mails] == stamps
    assert "rebuilt" not in again.stdout or "rebuilt=\n" in again.stdout


def test_an_exceeded_budget_is_mailed_once(night: Path) -> None:
    """vision exceeded its budget, and nlp reached 80%. The budgets' recipients get two mails, with the figures of the tables."""
    mails = [message_from_bytes(p.read_bytes(), policy=policy.default) for p in sorted((night.parent / "mail").glob("*.eml"))]
    assert [m["To"] for m in mails] == ["nlp-leads@acme.example", "vision-leads@acme.example"]
    over = mails[1]
    assert over["Subject"].startswith("[runspend] Budget vision: ")
    with open_warehouse(str(night.parent / "warehouse")).reader() as reader:
        spent = reader.query("select sum(effective_cost) as c from cost_daily where team = 'vision' and charge_date >= date '2026-11-01'")[
            "c"
        ][0].as_py()
    assert f"{spent:,.2f}" in over.get_body(("plain",)).get_content()


def test_a_dead_source_does_not_stop_the_pipeline_run(own_night: Path, runspend: Runspend) -> None:
    """A bill file is broken and a server is down. The exit code is 3, their good data stay, operators get a mail, and the rest continues."""
    before = digests(own_night)
    broken = own_night.parent / "bills" / "aws" / "focus-2026-11.csv.gz"
    broken.write_bytes(broken.read_bytes()[:-9])
    own_night.write_text(own_night.read_text().replace('mlflow.db"}', 'gone.db"}'))
    done = runspend("nightly", "--config", str(own_night), *NOW, code=3)
    after = digests(own_night)
    noted = ("sources", "billing_loads")  # tables that record refused sources
    assert {u: d for u, d in after.items() if u.table not in noted} == {u: d for u, d in before.items() if u.table not in noted}
    assert "focus-2026-11.csv.gz" in done.stdout + done.stderr
    subjects = [
        message_from_bytes(p.read_bytes(), policy=policy.default)["Subject"] for p in (own_night.parent / "mail").glob("operators*.eml")
    ]
    assert len(subjects) == 2
    status = runspend("status", "--config", str(own_night), *NOW, code=3)
    assert status.stdout.startswith("PROBLEM 2 of 6 sources · ")


def test_questions_have_answers(night: Path, runspend: Runspend) -> None:
    """costs, sql, sql --tables, status and check give real answers with the documented exit codes."""
    by_team = json.loads(runspend("costs", "--by", "team", "--json", "--config", str(night)).stdout)
    whole = json.loads(
        runspend(
            "sql",
            "select sum(effective_cost) as c from cost_daily where charge_date >= date '2026-11-01'",
            "--json",
            "--config",
            str(night),
        ).stdout
    )
    assert total(Decimal(r["effective_cost"]) for r in by_team) == Decimal(whole[0]["c"])
    assert "run_costs" in runspend("sql", "--tables").stdout
    assert "effective_cost" in runspend("sql", "run_costs", "--tables").stdout
    assert runspend("status", "--config", str(night), *NOW).stdout.startswith("OK 6 sources")
    runspend("check", "--config", str(night), *NOW)
    assert "Did you mean 'team'" in runspend("costs", "--by", "teem", "--config", str(night), code=2).stderr
    assert runspend("sql", "delete from runs", "--config", str(night), code=2).stderr.startswith("config")
