"""Bills your own machines by `billing[].machines`. It makes one FOCUS file per month, with a line per machine and hour.

No files are delivered. `open_place` writes them, from the month in which the first machine starts to the last full hour. They are FOCUS
1.4 files and are read as such. A past month has the same bytes on every load, until the configuration changes or more measured power
arrives for it. The amount of each cost is computed here; `machines.sql` spreads it over the hours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.config.settings import BillSource, Machine, Purchase
from runspend.core.errors import ConfigError, SourceRefused, bill_named
from runspend.core.sql_quoting import sql_text
from runspend.ingest.billing.file_sources import Entry, FileSource
from runspend.ingest.billing.formats import focus
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.measured_power import Drawn
from runspend.ingest.billing.staging import Staged, StagedFile, open_engine
from runspend.schema.rows import midnight

if TYPE_CHECKING:
    import duckdb

HOUR = timedelta(hours=1)
UNITS = 10**10  # until they are written, costs are integers in ten-billionths of the currency, so sums and bounds are exact

TABLES = """
create table machines (
  number integer, present_from timestamptz, present_until timestamptz, resource_id varchar, account varchar, region varchar,
  sku_price_details varchar, tags varchar
);
create table rents (number integer, rent_start timestamptz, rent_end timestamptz, units hugeint);
create table hour_details (number integer, hour_start timestamptz, sku_price_details varchar);
"""
HOUR_MILLISECONDS = 3_600_000
KILOWATT_HOUR = 10**6 * HOUR_MILLISECONDS  # in milliwatts x milliseconds


@dataclass(frozen=True)
class Rent:
    """A cost that is spread evenly over a time, in ten-billionths of the currency. Only hours in which the machine exists are charged."""

    start: datetime
    end: datetime
    units: int


@dataclass(frozen=True)
class Hour:
    """The power cost of one hour of a measured machine, with its mean measured power and the measured time."""

    rent: Rent
    milliwatts: int
    milliseconds: int


def matches(header: Sequence[str]) -> bool:
    """Return False, because Runspend makes these files itself. A delivered file is never of this format."""
    return False


def stage(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the rows of one month. The file is a FOCUS file."""
    return focus.stage(staged, delivered)


def open_place(source: BillSource, workdir: Path, now: datetime, drawn: Drawn | None = None) -> FileSource:
    """Return the months of the machines as files in the work folder, up to the last full hour. `drawn`: measured power of machines.

    Raises ConfigError if the bill has no currency.
    """
    if source.currency is None:
        raise ConfigError(
            f"cannot load {bill_named(source.name)}: it has no currency. Set billing[].currency, or `currency` of the whole file."
        )
    return Months(source, workdir / "machines", now.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0), drawn or {})


@dataclass
class Months:
    """A `FileSource` with one file per month. All files are written when `entries` is called."""

    source: BillSource
    folder: Path
    until: datetime
    drawn: Drawn

    def entries(self) -> list[Entry]:
        first = min(machine.from_ for machine in self.source.machines)
        months = list(_months(first, self.until))
        self._write([month for month in months if any(_presence(m, *month, self.until) for m in self.source.machines)])
        written = sorted(self.folder.glob("*.csv"))
        if not written:
            raise SourceRefused(
                self.source.name,
                f"cannot load {bill_named(self.source.name)}: none of its machines has run for an hour yet; the first begins on {first}. Check `from`.",
            )
        return [Entry(path.name, path.stat().st_size, self.until) for path in written]

    def fetch(self, entry: Entry) -> Path:
        return self.folder / entry.name

    def _write(self, months: Sequence[tuple[datetime, datetime]]) -> None:
        query = files("runspend.ingest.billing.formats").joinpath("machines.sql").read_text(encoding="utf-8")
        with open_engine(self.folder) as con:
            con.execute(TABLES)
            for start, end in months:
                self._fill(con, start, end)
                for variable, value in {
                    "bill": self.source.name,
                    "currency": self.source.currency,
                    "month_start": start,
                    "month_end": end,
                }.items():
                    con.execute(f"set variable {variable} = ?", [value])
                con.execute(f"copy ({query}) to {sql_text(str(self.folder / f'{start:%Y-%m}.csv'))} (format csv, header true)")

    def _fill(self, con: duckdb.DuckDBPyConnection, start: datetime, end: datetime) -> None:
        """Fill the tables that `machines.sql` reads with the data of one month."""
        con.execute("delete from machines; delete from rents; delete from hour_details")
        for number, machine in enumerate(self.source.machines):
            if present := _presence(machine, start, end, self.until):
                con.execute("insert into machines values (?, ?, ?, ?, ?, ?, ?, ?)", [number, *present, *_described(machine)])
                hours = measured_hours(machine, *present, self.drawn.get(machine.resource_id, {})) if machine.is_measured else []
                _insert_rents(con, number, [*rents(machine, start, end), *(hour.rent for hour in hours)])
                details = [_details(machine, hour) for hour in hours]
                con.execute(
                    "insert into hour_details select ?, unnest(?), unnest(?)", [number, [hour.rent.start for hour in hours], details]
                )


def rents(machine: Machine, start: datetime, end: datetime) -> list[Rent]:
    """Return a machine's costs in one calendar month: months of its purchase that overlap it, the monthly cost, and the hourly cost."""
    found = [] if machine.purchase is None else _paid_off(machine.purchase, machine.purchase.from_ or machine.from_, start, end)
    if machine.per_month is not None:
        found.append(Rent(start, end, _units(Fraction(machine.per_month))))
    hourly = Fraction(machine.per_hour or 0)
    if machine.power is not None and isinstance(machine.power.watts, Decimal):
        hourly += Fraction(machine.power.watts) * Fraction(machine.power.per_kwh) / 1000
    if hourly:
        found.append(Rent(start, end, _units(hourly * ((end - start) // HOUR))))
    return found


def measured_hours(machine: Machine, start: datetime, end: datetime, drawn: Mapping[datetime, tuple[int, int]]) -> list[Hour]:
    """Return the power cost of each hour of a machine: the measured power for the measured time, and `idle_watts` for the rest.

    The cost of an hour is the total spent by its end minus the total spent by its start. So all hours add up to the exact total.
    """
    assert machine.power is not None and machine.power.idle_watts is not None  # the settings require both for measured machines
    price, idle = Fraction(machine.power.per_kwh), Fraction(machine.power.idle_watts) * 1000
    # All hours use integers and one divisor. A Fraction per hour would take more time than everything else.
    times, divisor = price.numerator * UNITS, price.denominator * idle.denominator * KILOWATT_HOUR
    energy, spent = 0, 0
    found = []
    for hour_start in (start + HOUR * n for n in range((end - start) // HOUR)):
        milliwatts, milliseconds = drawn.get(hour_start, (0, 0))
        energy += milliwatts * milliseconds * idle.denominator + idle.numerator * (HOUR_MILLISECONDS - milliseconds)
        before, spent = spent, energy * times // divisor
        found.append(Hour(Rent(hour_start, hour_start + HOUR, spent - before), milliwatts, milliseconds))
    return found


def _insert_rents(con: duckdb.DuckDBPyConnection, number: int, found: Sequence[Rent]) -> None:
    columns = [[rent.start for rent in found], [rent.end for rent in found], [str(rent.units) for rent in found]]
    con.execute("insert into rents select ?, unnest(?), unnest(?), cast(unnest(?) as hugeint)", [number, *columns])


def _paid_off(purchase: Purchase, since: date, start: datetime, end: datetime) -> list[Rent]:
    """Return the months of a purchase that overlap a time, with the part of the price that each one pays.

    The n-th month ends n calendar months after the first day. By then, n of `purchase.months` equal parts of the price are paid. So all
    parts add up to the exact price.
    """
    first = (start.year - since.year) * 12 + start.month - since.month - 1
    found = []
    for n in range(max(first, 0), min(first + 3, purchase.months)):
        paid_before, paid = (_units(Fraction(purchase.amount) * parts / purchase.months) for parts in (n, n + 1))
        rent = Rent(midnight(_add_months(since, n)), midnight(_add_months(since, n + 1)), paid - paid_before)
        if rent.start < end and rent.end > start:
            found.append(rent)
    return found


def _units(amount: Fraction) -> int:
    return int(amount * UNITS)


def _presence(machine: Machine, start: datetime, end: datetime, until: datetime) -> tuple[datetime, datetime] | None:
    """Return (start, end) of the time in a month in which a machine exists, up to `until`. Return None if there is no such time."""
    gone = end if machine.to is None or machine.to >= end.date() else midnight(machine.to) + timedelta(days=1)
    present = max(midnight(machine.from_), start), min(gone, end, until)
    return present if present[0] < present[1] else None


def _details(machine: Machine, hour: Hour | None = None) -> str | None:
    """Return SkuPriceDetails of FOCUS as JSON, or None: the hardware of a machine.

    For an hour of a measured machine, they also state the measured and idle watts, and the seconds for which each of them is billed.
    """
    details: dict[str, Any] = {
        "InstanceType": machine.instance_type,
        "GpuCount": machine.gpus,
        "CoreCount": machine.cpus,
        "MemorySize": None if machine.memory_gb is None else float(machine.memory_gb),
    }
    if hour is not None and hour.milliseconds:
        details |= {"x_MeasuredWatts": hour.milliwatts / 1000, "x_MeasuredSeconds": hour.milliseconds / 1000}
    if hour is not None and hour.milliseconds < HOUR_MILLISECONDS and machine.power is not None and machine.power.idle_watts is not None:
        details |= {"x_IdleWatts": float(machine.power.idle_watts), "x_IdleSeconds": (HOUR_MILLISECONDS - hour.milliseconds) / 1000}
    known = {key: value for key, value in details.items() if value is not None}
    return json.dumps(known) if known else None


def _described(machine: Machine) -> list[Any]:
    """Return the attributes of a machine that its lines state, in the order of the table `machines`."""
    return [
        machine.resource_id,
        machine.account,
        machine.region,
        _details(machine),
        json.dumps(machine.tags) if machine.tags else None,
    ]


def _months(first: date, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield (start, end) of every calendar month from that of the first day to the current one."""
    start = first.replace(day=1)
    while midnight(start) < until:
        following = _add_months(start, 1)
        yield midnight(start), midnight(following)
        start = following


def _add_months(day: date, months: int) -> date:
    """Return the same day of a later month, or the last day of that month if it has no such day."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    last = (date(year + (month + 1) // 12, (month + 1) % 12 + 1, 1) - timedelta(days=1)).day
    return date(year, month + 1, min(day.day, last))
