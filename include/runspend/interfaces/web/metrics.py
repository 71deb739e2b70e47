"""Return the figures of `/metrics` in the text format of Prometheus.

All metrics are gauges, not counters, because a restated bill can lower a figure. Each gauge answers one question about the state of the
pipeline. Names of budgets and sources are labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from runspend import __version__
from runspend.actions.alert.freshness import all_good_since
from runspend.actions.alert.overview import list_budgets
from runspend.actions.costs.query import Selection, costs_sql, newest_day, read_costs
from runspend.actions.costs.sources import read_sources
from runspend.config.settings import Settings
from runspend.core.amounts import add, plain
from runspend.warehouse.base import Reader
from runspend.warehouse.factory import open_published
from runspend.warehouse.records import Records

EVERY_ROW = 10_000


@dataclass(frozen=True)
class Gauge:
    """One metric: its name without the prefix, its meaning, and its values by labels."""

    name: str
    meaning: str
    values: tuple[tuple[Mapping[str, str], Decimal], ...]


def read_metrics(settings: Settings, now: datetime) -> str:
    """Return all gauges as text. A gauge whose figure is unknown has no sample."""
    records = Records(settings.home)
    good = all_good_since(settings, records)
    with open_published(settings).reader() as reader:
        budgets = list_budgets(reader, settings, records, now)
        sources = read_sources(reader).to_pylist()
        newest = newest_day(reader)
        idle = _idle(reader, newest)
    gauges = [
        Gauge("build_info", "1; the label is the version of Runspend.", (({"version": __version__}, Decimal(1)),)),
        Gauge(
            "budget_percent",
            "Percentage of a budget spent in its current period, at the last alert step. Budgets that were not judged are left out.",
            tuple(({"budget": row["budget"]}, row["percent"]) for row in budgets if row["percent"] is not None),
        ),
        Gauge(
            "bill_lag_days",
            "Days since the time up to which the data of a bill are complete.",
            tuple(
                ({"source": row["source"]}, _days(now - row["covered_until"]))
                for row in sources
                if row["kind"] == "bill" and row["covered_until"] is not None
            ),
        ),
        Gauge("idle_cost", "Effective cost of idle machines on the day of the newest charge, in the label's currency.", idle),
        Gauge(
            "newest_charge_timestamp_seconds",
            "Start (UTC) of the day of the newest charge, in seconds since 1970.",
            () if newest is None else (({}, _seconds(datetime(newest.year, newest.month, newest.day, tzinfo=now.tzinfo))),),
        ),
        Gauge(
            "last_good_run_timestamp_seconds",
            "When all sources had last been read and the cost tables built without errors, in seconds since 1970: the oldest of these times.",
            () if good is None else (({}, _seconds(good)),),
        ),
    ]
    return metrics_text(gauges)


def metrics_text(gauges: Iterable[Gauge]) -> str:
    """Return gauges in version 0.0.4 of the text format. Their names get the prefix `runspend_`."""
    return "".join(f"{line}\n" for gauge in gauges for line in _lines(gauge))


def _lines(gauge: Gauge) -> Iterator[str]:
    name = f"runspend_{gauge.name}"
    yield f"# HELP {name} {_escaped(gauge.meaning)}"
    yield f"# TYPE {name} gauge"
    for labels, value in gauge.values:
        given = ",".join(f'{key}="{_label_text(text)}"' for key, text in labels.items())
        yield f"{name}{f'{{{given}}}' if given else ''} {plain(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _label_text(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _idle(reader: Reader, newest: date | None) -> tuple[tuple[Mapping[str, str], Decimal], ...]:
    """Return the idle cost of a day by currency. It is 0 in a currency that has only other charges that day."""
    if newest is None:
        return ()
    chosen = Selection(since=newest, until=newest + timedelta(days=1))
    rows = read_costs(reader, costs_sql(["allocated_to"], chosen, top=EVERY_ROW, measure="effective")).to_pylist()
    found: dict[str, list[Decimal]] = {}
    for row in rows:
        found.setdefault(row["billing_currency"], []).extend([row["effective_cost"]] if row["allocated_to"] == "idle" else [])
    return tuple(({"currency": currency}, add(costs)) for currency, costs in sorted(found.items()))


def _days(span: timedelta) -> Decimal:
    return round(Decimal(span.total_seconds()) / Decimal(86400), 3)


def _seconds(time: datetime) -> Decimal:
    return Decimal(int(time.timestamp()))
