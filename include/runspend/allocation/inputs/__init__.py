"""Computes digests of the inputs of each build. A unit is built again only if a digest differs from that of its last build.

`pipeline/allocate.py` uses this module. It also defines how units are named in `builds.inputs`. Building does not belong here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from runspend.allocation.adjacent_months import RUN_COLUMNS, read_beside
from runspend.allocation.rows_digest import rows_digest
from runspend.config.settings import Settings
from runspend.schema.rows import first_day
from runspend.warehouse.base import Reader, Unit, UnitState, Warehouse
from runspend.warehouse.sql_files import read_every_sql, read_sql, without_comments

# A run without an end time counts as running if its last sign of activity is at most this long before the end of the billed hours.
ALIVE_HOURS = 6
# A run without an end time and without any sign of activity counts as ended this long after its start.
SILENT_HOURS = 24

HERE = Path(__file__).parent
SQL_FOLDERS = tuple(HERE.parent / name for name in ("models", "checks"))
CHARGED = read_sql(HERE, "charged")
FRONTIERS = read_sql(HERE, "frontiers")
REACHED = read_sql(HERE, "reached")
ARTIFACT_RUNS = read_sql(HERE, "artifact_runs")
OLDER_RELATIVES = read_sql(HERE, "older_relatives")
RUNS_OF_TAGS = read_sql(HERE, "tagged_runs").format(run_columns=RUN_COLUMNS)

# Names of inputs that are not units. After the last three, the name of a bill or tracking server follows.
FINAL_BILLS = "final bills"
BILL = "bill of "
BILLED_UNTIL = "billed until: "
TAGGED_RUNS = "tagged runs of "

# Settings that influence matching. Settings for locations or recipients do not.
MATCHING = ("tracking", "billing", "stores", "scope", "shared", "pools", "dimensions", "sharing")


def allocation_inputs(warehouse: Warehouse, period: str, given: Mapping[str, Any]) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Return the digests of all inputs of a billing period by name, and the time window of its charges as model parameters.

    `given`: other inputs, such as settings.
    """
    bills = {u: s for u, s in warehouse.states("billing_lines").items() if u.period == period}
    with warehouse.reader() as reader:
        charged = reader.query(CHARGED, {"period": first_day(period)}).to_pylist()[0]
        first, last = charged["first"] or _instant(period), charged["last"] or _instant(period)
        window = {"window_start": month_start(first), "window_end": _month_end(last)}
        reach, beside = read_beside(reader, first_day(period), window)
        window |= reach
        # Artifact bytes split the storage lines of the bill. Trace costs split the charges of LLM providers, which may be for other months.
        bills |= {
            u: s for u, s in warehouse.states("artifact_bytes", "artifact_owners", "experiments").items() if u.period in (period, "all")
        }
        bills |= {
            u: s for u, s in warehouse.states("trace_costs").items() if window["window_start"] <= _instant(u.period) < window["window_end"]
        }
        inputs = common_inputs(bills, given)
        inputs |= {unit_name(u): s.digest for u, s in needed_runs(warehouse, window, reader).items()}
        lying = _ask_once(warehouse, ARTIFACT_RUNS, warehouse.states("runs", "artifact_bytes"), reader)
        stored = {(f"{row['start_month']:%Y-%m}", row["tracking_server"]) for row in lying if row["month"] == first_day(period)}
        inputs |= {unit_name(u): s.digest for u, s in warehouse.states("runs").items() if (u.period, u.writer) in stored}
        frontiers = reader.query(FRONTIERS, {"period": first_day(period), "alive_hours": ALIVE_HOURS, "window_end": window["window_end"]})
        reached: dict[str, list[str]] = {}
        for row in frontiers.to_pylist():
            reached.setdefault(row["source"], []).append(f"{row['lines_of']} {row['billed_until'].isoformat()}")
        inputs |= {f"{BILLED_UNTIL}{source}": ", ".join(until) for source, until in reached.items()}
        inputs |= {name: digest(rows) for name, rows in beside.items()}
        if charged["tagged"]:
            inputs |= _tagged_runs(reader, period)
    return inputs, window


def _tagged_runs(reader: Reader, period: str) -> dict[str, str]:
    """Return a digest of the runs that tags of a period's bill lines name, per tracking server."""
    import pyarrow.compute as pc

    runs = reader.query(RUNS_OF_TAGS, {"period": first_day(period)})
    servers = runs["tracking_server"]
    return {
        f"{TAGGED_RUNS}{server}": rows_digest(runs.filter(pc.equal(servers, server)).to_batches())
        for server in servers.unique().to_pylist()
    }


def summary_inputs(warehouse: Warehouse, month: str, reached: Mapping[str, set[str]], given: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the digests of all inputs of `run_costs` for one start month.

    These are the runs of the month, their descendants of any month, and the billing periods with their costs.
    `reached`: the result of `reached_months`.
    """
    later = {
        (f"{row['start_month']:%Y-%m}", row["tracking_server"])
        for row in _ask_once(warehouse, OLDER_RELATIVES, warehouse.states("runs"), None)
        if row["older_month"] == first_day(month)
    }
    family = {u: s for u, s in warehouse.states("runs").items() if u.period == month or (u.period, u.writer) in later}
    periods = {period for u in family for period in reached.get(u.period, ())}
    daily = {u: s for u, s in warehouse.states("run_costs_daily", "run_bill_dimensions").items() if u.period in periods}
    return common_inputs(daily | family, given)


def reached_months(warehouse: Warehouse) -> dict[str, set[str]]:
    """Return the billing periods that contain costs of its runs, for each start month."""
    with warehouse.reader() as reader:
        rows = reader.query(REACHED).to_pylist()
    reached: dict[str, set[str]] = {}
    for row in rows:
        reached.setdefault(f"{row['start_month']:%Y-%m}", set()).add(f"{row['billing_period']:%Y-%m}")
    return reached


def read_builds(warehouse: Warehouse) -> dict[tuple[str, str], dict[str, Any]]:
    """Return {(step, period): {"build_id", "inputs"}} of the current builds in the warehouse."""
    with warehouse.reader() as reader:
        rows = reader.query("select step, month, build_id, inputs from builds").to_pylist()
    return {(row["step"], f"{row['month']:%Y-%m}"): {"build_id": row["build_id"], "inputs": json.loads(row["inputs"])} for row in rows}


def configuration_digest(settings: Settings) -> str:
    """Return a digest of the settings that influence matching. If it is the same, the same runs and charges are matched in the same way."""
    matching = settings.model_dump(mode="json", include=set(MATCHING))
    places = {
        key: [{k: v for k, v in source.items() if k in ("name", "uri")} for source in matching[key]]
        for key in ("tracking", "billing", "stores")
    }
    return digest({**matching, **places})


def unit_name(unit: Unit) -> str:
    """Return the name of a unit in `builds.inputs`: table/period/writer."""
    return "/".join(unit)


def parse_unit(name: str) -> Unit:
    """Return the unit named `table/period/writer`."""
    table, period, writer = name.split("/", 2)
    return Unit(table, period, writer)


def digest(value: Any) -> str:
    """Return 32 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()[:32]


def json_text(value: Any) -> str:
    """Return canonical JSON: sorted keys, no spaces. Values of types that JSON does not have become text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def month_start(moment: datetime) -> datetime:
    """Return the first instant of the moment's month, UTC."""
    return moment.astimezone(timezone.utc).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _month_end(moment: datetime) -> datetime:
    """Return the end of the month that contains the instant before `moment`."""
    return month_start(month_start(moment - timedelta(microseconds=1)) + timedelta(days=32))


def _instant(period: str) -> datetime:
    return datetime.combine(first_day(period), datetime.min.time(), tzinfo=timezone.utc)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def common_inputs(units: Mapping[Unit, UnitState], given: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the inputs that every build has: digests of the units by name, of the models, and of the given values."""
    inputs: dict[str, str | None] = {unit_name(u): s.digest for u, s in sorted(units.items())}
    return inputs | {"models": models_digest(), "settings": digest(dict(given))}


def needed_runs(warehouse: Warehouse, window: Mapping[str, datetime], reader: Reader | None = None) -> dict[Unit, UnitState]:
    """Return the units of `runs` and `run_resources` with runs that may overlap the window, and the units with their ancestors.

    `reader`: an open reader. Without one, a reader is opened if a query is needed.
    """
    states = warehouse.states("runs", "run_resources")
    window_start, window_end = window["window_start"], window["window_end"]
    months = {
        (u.period, u.writer)
        for u, s in states.items()
        if u.table == "runs"
        and (_time(s.extra.get("first_start")) or _instant(u.period)) < window_end
        and (_time(s.extra.get("last_end")) or window_start) >= window_start
    }
    older: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for row in _ask_once(warehouse, OLDER_RELATIVES, warehouse.states("runs"), reader):
        older.setdefault((f"{row['start_month']:%Y-%m}", row["tracking_server"]), set()).add(
            (f"{row['older_month']:%Y-%m}", row["tracking_server"])
        )
    months |= {relative for month in months for relative in older.get(month, ())}
    return {u: s for u, s in states.items() if (u.period, u.writer) in months}


# Query -> the digest of all units that it reads, and its rows. A pipeline run examines every month, but sends the query only once.
_answers: dict[str, tuple[str, list[dict[str, Any]]]] = {}


def _ask_once(warehouse: Warehouse, sql: str, read: Mapping[Unit, UnitState], reader: Reader | None) -> list[dict[str, Any]]:
    """Return the rows of a query over all months. The query is sent again only if one of the units that it reads (`read`) has changed."""
    asked_of = digest(sorted((*unit, state.digest) for unit, state in read.items()))
    if sql not in _answers or _answers[sql][0] != asked_of:
        with warehouse.reader() if reader is None else nullcontext(reader) as asked:
            _answers[sql] = (asked_of, asked.query(sql).to_pylist())
    return _answers[sql][1]


def models_digest(folders: Sequence[Path] = SQL_FOLDERS) -> str:
    """Return a digest of the models and checks. Every period is rebuilt if it changes. Comments in the SQL do not count."""
    return digest(sorted((f"{name}.sql", without_comments(text)) for folder in folders for name, text in read_every_sql(folder).items()))
