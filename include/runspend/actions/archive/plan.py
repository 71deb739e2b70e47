"""Which runs' artifacts a retention policy would move: pure functions of a policy, what is known of a run, and now.

Put here what decides. Reading tables (`__init__.py`) does not belong here, and nothing here or there touches a byte.
Whatever is unknown protects: unknown bytes, a run MLflow no longer shows, an experiment that is not known, a condition that
cannot be decided yet. The tags a policy and the protections ask for are copied out of MLflow whatever `copy` says.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any
from urllib.parse import urlsplit

from runspend.config import RetentionPolicy, parse_duration
from runspend.errors import ConfigError
from runspend.selectors import RUN_KEYS, RUN_MAPS, Selector, glob_to_regex, parse_selector

EXACT = Context(prec=76)
TICK = Decimal("1E-22")  # what a money column holds
RUN_COLUMNS = {
    "tracking": "r.tracking_server",
    "workspace": "r.workspace",
    "experiment": "r.experiment_name",
    "user": "r.user_name",
    "status": "r.run_status",
}
MAP_COLUMNS = {"tag": "r.tags", "param": "r.params", "experiment_tag": "e.tags"}

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?i?b)?", re.ASCII | re.IGNORECASE)
_UNITS = {"b": 1, **{f"{p}b": 1000**n for n, p in enumerate("kmgtp", 1)}, **{f"{p}ib": 1024**n for n, p in enumerate("kmgtp", 1)}}


@dataclass(frozen=True)
class Selection:
    """A policy's `select`, taken apart. `undecidable` says why no run of it can be planned yet."""

    must: Selector
    must_not: Selector
    unused_for: timedelta | None
    older_than: timedelta | None
    larger_than: int | None
    undecidable: str | None


@dataclass(frozen=True)
class Rates:
    """Effective cost of a byte a month, by (bucket) and by storage class, in one currency."""

    by_bucket: Mapping[str, Decimal]
    by_class: Mapping[str, Decimal]
    currency: str


@dataclass(frozen=True)
class Verdict:
    """planned or protected, and why in words."""

    state: str
    reason: str


def parse_select(policy: RetentionPolicy) -> Selection:
    """The conditions of a policy; raises ConfigError that names the key and what is allowed."""
    must, must_not = dict[str, Any](), dict[str, Any]()
    ages = dict[str, timedelta]()
    larger_than: int | None = None
    waits = [f"keep (best {policy.keep.best} by {policy.keep.by}) needs metrics that are not read yet"] if policy.keep else []
    for key, value in policy.select.items():
        if key in ("unused_for", "older_than"):
            ages[key] = _duration(policy.name, key, value)
        elif key == "larger_than":
            larger_than = _size(policy.name, value)
        elif key == "kind":
            kinds = value if isinstance(value, list) else [value]
            if kinds != ["run"]:
                waits.append(f"which artifacts are of kind {', '.join(map(str, kinds))} is not known yet")
        elif key.startswith("not_"):
            must_not[key.removeprefix("not_")] = value
        else:
            must[key] = value
    try:
        positive = parse_selector(must, RUN_KEYS, RUN_MAPS) if must else {}
        negative = parse_selector(must_not, RUN_KEYS, RUN_MAPS) if must_not else {}
    except ValueError as error:
        raise ConfigError(
            f"cannot use retention policy {policy.name!r}: {error}; also unused_for, older_than, larger_than, kind, and any key with not_ before it. Change its `select`."
        ) from error
    if not (positive or negative or ages or larger_than):
        raise ConfigError(
            f"cannot use retention policy {policy.name!r}: it selects every run. Give `select` a condition. Nothing was planned."
        )
    return Selection(positive, negative, ages.get("unused_for"), ages.get("older_than"), larger_than, "; ".join(waits) or None)


def selection_sql(selection: Selection) -> tuple[str, dict[str, str]]:
    """The selector keys as a GoogleSQL condition over runs r and experiments e, and its parameters."""
    parameters: dict[str, str] = {}

    def bind(value: str) -> str:
        name = f"p{len(parameters)}"
        parameters[name] = value
        return f"@{name}"

    def condition(key: str, patterns: Sequence[str]) -> str:
        column = RUN_COLUMNS.get(key)
        if column is None:
            kind, _, rest = key.partition(".")
            if '"' in rest or "\\" in rest:
                raise ConfigError(f"cannot select by {key!r}: a key with a quote or backslash has no JSON path. Leave it out.")
            column = f"json_value({MAP_COLUMNS[kind]}, {bind(f'$.{chr(34)}{rest}{chr(34)}')})"
        has_glob = [("*" in p or "?" in p) for p in patterns]
        tests = [
            f"regexp_contains({column}, {bind(glob_to_regex(p))})" if glob else f"{column} = {bind(p)}"
            for p, glob in zip(patterns, has_glob, strict=True)
        ]
        return f"({' or '.join(tests)})"

    parts = [condition(key, patterns) for key, patterns in selection.must.items()]
    parts += [f"not coalesce({condition(key, patterns)}, false)" for key, patterns in selection.must_not.items()]
    return " and ".join(parts) or "true", parameters


def last_use(run: Mapping[str, Any]) -> datetime | None:
    """The latest sign of use: end, newest metric, newest object; the start where there is no end."""
    signs = [run["end_time"], run["last_sign_at"], run["newest_at"], run["start_time"]]
    return max((sign for sign in signs if sign is not None), default=None)


def judge_run(selection: Selection, run: Mapping[str, Any], now: datetime) -> Verdict | None:
    """planned, protected, or None where the policy does not select the run after all. The first protection is named."""
    used_at = last_use(run)
    size = run["bytes"]
    if selection.larger_than is not None and size is not None and size <= selection.larger_than:
        return None
    if run["end_time"] is None or run["run_status"] in ("RUNNING", "SCHEDULED"):
        return Verdict("protected", "it is running, or never said that it ended")
    if run["purged_at"] is not None:
        return Verdict("protected", "MLflow no longer shows the run: it may only be hidden")
    for what in ("keep_tag", "experiment_keep_tag"):
        if run[what] is not None and run[what].strip().lower() not in ("false", "no", "0"):
            return Verdict("protected", f"{_whose(what)} tag runspend.keep")
    for what in ("stage_tag", "experiment_stage_tag"):
        if run[what] is not None and run[what].strip().lower() == "production":
            return Verdict("protected", f"{_whose(what)} tag stage is production")
    if run["is_experiment_unknown"]:
        return Verdict("protected", "its experiment, which may protect it, is not known")
    if size is None:
        return Verdict("protected", "its bytes are unknown: the listing did not finish")
    if used_at is None:
        return Verdict("protected", "when it was last used is unknown")
    if selection.unused_for is not None and now - used_at < selection.unused_for:
        return Verdict("protected", f"used {_days(now - used_at)} ago, less than {_days(selection.unused_for)}")
    if selection.older_than is not None and (run["start_time"] is None or now - run["start_time"] < selection.older_than):
        return Verdict("protected", f"started less than {_days(selection.older_than)} ago, or nobody knows when")
    if selection.undecidable:
        return Verdict("protected", f"not decidable yet: {selection.undecidable}")
    reasons = [f"unused for {_days(now - used_at)}"]
    if selection.larger_than is not None:
        reasons.append(f"larger than {selection.larger_than} bytes")
    return Verdict("planned", ", ".join(reasons))


def monthly_saving(policy: RetentionPolicy, run: Mapping[str, Any], rates: Rates) -> Decimal | None:
    """Money a month, at the bill's own rates: all of it for delete, the difference for tier and archive; None if a rate is unknown."""
    if run["bytes"] is None or run["store_count"] != 1:
        return None
    here = rates.by_bucket.get(bucket_of(run["store"]) or "")
    if policy.action == "delete":
        there: Decimal | None = Decimal(0)
    elif policy.action == "tier":
        there = rates.by_class.get(policy.to or "")
    else:
        there = rates.by_bucket.get(bucket_of(policy.to or "") or "")
    if here is None or there is None:
        return None
    return EXACT.multiply(EXACT.subtract(here, there), Decimal(run["bytes"])).quantize(TICK, context=EXACT)


def rates_of(costs: Sequence[Mapping[str, Any]], stored: Sequence[Mapping[str, Any]], currency: str, now: datetime) -> Rates:
    """What a byte costs a month: a whole bucket's storage lines over its mean bytes, in its newest full month if there is one.

    A store that is only a folder of its bucket has no rate: the bill is for the whole bucket. A storage class has the
    rate of the buckets that hold nothing else.
    """
    by_month: dict[tuple[str, date], dict[str, float | None]] = {}
    for row in stored:
        bucket = bucket_of(row["store"])
        if bucket is not None:
            by_month.setdefault((bucket, row["month"]), {})[row["storage_class"]] = row["mean_bytes"]
    newest_first = sorted(costs, key=lambda row: (row["billing_period"] < now.date().replace(day=1), row["billing_period"]), reverse=True)
    by_bucket: dict[str, Decimal] = {}
    by_class: dict[str, list[Decimal]] = {}
    for row in newest_first:
        bucket = _resource_bucket(row["resource_key"])
        if bucket in by_bucket or row["billing_currency"] != currency or row["effective_cost"] is None:
            continue
        months = sorted((month for name, month in by_month if name == bucket), key=lambda month: abs((month - row["billing_period"]).days))
        classes = by_month[bucket, months[0]] if months else {}
        total = Decimal(0)
        for mean in classes.values():
            total = total + Decimal(round(mean)) if mean is not None else Decimal("NaN")  # one unknown class: no rate
        cost = _month_of(row)
        if not total.is_nan() and total > 0 and cost > 0:
            by_bucket[bucket] = EXACT.divide(cost, total)
            if len(classes) == 1:
                by_class.setdefault(next(iter(classes)), []).append(by_bucket[bucket])
    return Rates(by_bucket, {name: min(found) for name, found in by_class.items()}, currency)


def bucket_of(store: str) -> str | None:
    """The bucket a root URI is all of; None for folders, and for roots inside a bucket."""
    parts = urlsplit(store)
    return parts.netloc if parts.scheme in ("s3", "gs") and parts.netloc and parts.path in ("", "/") else None


def _resource_bucket(resource_key: str) -> str:
    """arn:aws:s3:::name, //storage.googleapis.com/…/name or name."""
    return resource_key.rpartition(":::")[2].rpartition("/")[2]


def _month_of(row: Mapping[str, Any]) -> Decimal:
    """The cost of a whole month; lines of at most a day tell over how many days it was billed."""
    days = calendar.monthrange(row["billing_period"].year, row["billing_period"].month)[1]
    cost: Decimal = row["effective_cost"]
    if row["longest_microseconds"] is None or row["longest_microseconds"] > 86_400_000_000:
        return cost
    return EXACT.divide(EXACT.multiply(cost, Decimal(days)), Decimal(row["day_count"]))


def _duration(policy: str, key: str, value: Any) -> timedelta:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ConfigError(f"cannot use retention policy {policy!r}: {key}: {error}. Nothing was planned.") from error


def _size(policy: str, value: Any) -> int:
    match = _SIZE.fullmatch(str(value).strip())
    size = int(Decimal(match.group(1)) * _UNITS[(match.group(2) or "b").lower()]) if match else 0
    if size <= 0:
        raise ConfigError(
            f"cannot use retention policy {policy!r}: larger_than is {value!r}. Write bytes above zero, like 500MB. Nothing was planned."
        )
    return size


def _whose(column: str) -> str:
    return "its experiment's" if column.startswith("experiment") else "its"


def _days(span: timedelta) -> str:
    days = span // timedelta(days=1)
    return f"{days} day{'' if days == 1 else 's'}" if days else f"{span // timedelta(hours=1)} h"
