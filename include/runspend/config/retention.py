"""Defines `retention` and `archive` of runspend.yaml: what a policy may select and do, and limits that apply to every policy.

`actions/archive/` decides what a policy selects. A value that could mean "everything" or "immediately" (empty, zero, negative, "all")
is refused here, before any store is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema, field_validator, model_validator

from runspend.config.types import (
    SELECTOR_SCHEMA,
    Currency,
    Duration,
    Frozen,
    HourPrice,
    Name,
    Uri,
    format_duration,
    parse_duration,
    parse_size,
    resolve_uri,
)
from runspend.core.selectors import RUN_KEYS, RUN_MAPS, parse_patterns, parse_selector
from runspend.schema.tables import DIMENSION_NAMES

KINDS = ("run", "model", "checkpoint", "trace", "orphan", "experiment")
AGES = ("unused_for", "older_than")
AMOUNTS = ("larger_than", "saves_more_than")
SELECT_KEYS = (*RUN_KEYS, *DIMENSION_NAMES)
SHORTEST_GRACE = timedelta(days=7)
SHORTEST_RETENTION = timedelta(days=30)
SHORTEST_MARGIN = timedelta(days=1)
LONGEST_SKEW = timedelta(hours=1)


def _parse_saving(raw: object) -> str:
    """Return money per month in one spelling, "5" or "5 USD". Accepts `5`, `5 USD` and `5 USD / month`."""
    text = str(raw).strip() if isinstance(raw, (str, int, float, Decimal)) and not isinstance(raw, bool) else ""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]{3})?(?:\s*/\s*month)?", text, re.ASCII)
    if match is None or Decimal(match[1]) == 0:
        raise ValueError("money a month above zero is needed, such as 5 USD, or 5 (money in `currency`)")
    return f"{match[1]} {match[2]}" if match[2] else match[1]


def _parse_kinds(raw: object) -> list[str]:
    kinds = parse_patterns("kind", raw)
    if not set(kinds) <= set(KINDS):
        raise ValueError(f"`kind` allows {', '.join(KINDS)}")
    return kinds


def _parse_select(raw: object) -> dict[str, Any]:
    """Return the parsed selector: ages as timedelta, sizes and money as text, everything else as lists.

    Raises ValueError for an unknown key, or if the selector would match everything.
    """
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError("a selector is needed that names what to move; an empty one would mean everything")
    parsed: dict[str, Any] = {}
    for key, value in raw.items():
        if key in AGES:
            parsed[key] = parse_duration(value)
        elif key == "larger_than":
            parse_size(value)
            parsed[key] = str(value).strip()
        elif key == "saves_more_than":
            parsed[key] = _parse_saving(value)
        elif key == "kind":
            parsed[key] = _parse_kinds(value)
        else:
            try:
                parsed[str(key)] = parse_selector({str(key).removeprefix("not_"): value}, SELECT_KEYS, RUN_MAPS).popitem()[1]
            except ValueError as error:
                if "unknown selector key" not in str(error):
                    raise
                allowed = ", ".join((*AGES, *AMOUNTS, "kind", *SELECT_KEYS, *(f"{m}.KEY" for m in RUN_MAPS)))
                raise ValueError(
                    f"unknown selector key {key!r}; allowed keys are {allowed}, and the keys from `tracking` on may start with not_"
                ) from None
    if not narrows(parsed):
        raise ValueError("this would select everything, or everything of a kind. Name an age (`unused_for: 90d`), a size, or some runs")
    return parsed


def narrows(select: Mapping[str, Any]) -> bool:
    """Return whether a parsed `select` excludes anything, by age, size, money, or a pattern other than `*`. A kind alone is not enough."""
    patterns = [value for key, value in select.items() if isinstance(value, list) and key != "kind" and not key.startswith("not_")]
    is_narrow = any(all(p.strip("*?") and p.casefold() != "all" for p in found) for found in patterns)
    return is_narrow or any(not isinstance(value, list) for value in select.values())


def _parse_count(raw: object) -> int:
    if not isinstance(raw, bool) and isinstance(raw, (int, str)) and re.fullmatch(r"[1-9]\d{0,8}", str(raw).strip(), re.ASCII):
        return int(raw)
    raise ValueError("a whole number from 1 to 999999999 is needed, such as 3")


Count = Annotated[int, BeforeValidator(_parse_count), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 999_999_999})]


class RetentionKeep(Frozen):
    """Selected items that a policy does not touch: the best by a metric, and the newest.

    They are chosen among the checkpoints and models of a run, or among the runs of an experiment.
    """

    best: Count | None = None
    by: Annotated[str, Field(min_length=1)] | None = None
    order: Literal["min", "max"] | None = None
    last: Count | None = None

    @model_validator(mode="after")
    def _keeps_something(self) -> RetentionKeep:
        if self.best is None and self.last is None:
            raise ValueError("`keep` would keep nothing. Write `best` with `by` and `order`, or `last`, or both")
        if len({self.best is None, self.by is None, self.order is None}) > 1:
            raise ValueError("`best`, `by` and `order` belong together: {best: 3, by: val_loss, order: min}")
        return self


def _long_enough(shortest: timedelta, why: str) -> BeforeValidator:
    def check(raw: object) -> timedelta:
        duration = parse_duration(raw)
        if duration < shortest:
            raise ValueError(f"a length of time of at least {format_duration(shortest)} is needed, because {why}")
        return duration

    return BeforeValidator(check)


class RetentionPolicy(Frozen):
    """Which artifacts a policy moves, and where. It acts only with `archive apply`, and only when `grace` has passed since its notice.

    `select`: {"unused_for": timedelta, "kind": ["run", …], "larger_than": "2GiB", "not_tag.stage": [glob, …], …}.
    """

    name: Name
    select: Annotated[
        dict[str, Any],
        BeforeValidator(_parse_select),
        PlainSerializer(lambda s: {k: format_duration(v) if isinstance(v, timedelta) else v for k, v in s.items()}),
        SELECTOR_SCHEMA,
    ]
    keep: RetentionKeep | None = None
    action: Literal["tier", "archive", "delete", "prune"]
    to: str | None = None  # tier: a storage class; archive: the URI of a store, by default `archive.to`
    grace: Annotated[Duration, _long_enough(SHORTEST_GRACE, "owners must have time to object")] = timedelta(days=30)

    @field_validator("to")
    @classmethod
    def _folders_count_from_the_file(cls, to: str | None, info: ValidationInfo) -> str | None:
        return to if to is None or info.data.get("action") != "archive" else resolve_uri(to, info)

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of items that the policy acts on. Default: runs."""
        return list(self.select.get("kind", ["run"]))

    @model_validator(mode="after")
    def _says_where(self) -> RetentionPolicy:
        if self.action == "tier" and not (self.to or "").strip():
            raise ValueError("`action: tier` needs `to`, the storage class: GLACIER_IR")
        if self.action == "delete" and self.to is not None:
            raise ValueError("`to` belongs to `tier` and `archive`. `delete` acts on archived copies, after `archive.retention`")
        if self.action == "prune" and (
            self.to is not None or {"larger_than", "saves_more_than"} & set(self.select) or not set(self.kinds) <= {"run", "experiment"}
        ):
            raise ValueError(
                "`action: prune` deletes runs and experiments in MLflow, not files. Leave out `to` and sizes, and write `kind: run` or `kind: experiment`"
            )
        if self.action != "prune" and "experiment" in self.kinds:
            raise ValueError("`kind: experiment` belongs to `action: prune`: the bytes of an experiment are those of its runs and models")
        return self


def _parse_percent(raw: object) -> Decimal:
    """Return the exact decimal 0.2 for `20%`. The sign is required, because 0.5 could also mean half a percent."""
    match = re.fullmatch(r"(\d{1,2}(?:\.\d{1,4})?)\s*%", raw.strip(), re.ASCII) if isinstance(raw, str) else None
    value = raw if isinstance(raw, Decimal) else Decimal(match[1]) / 100 if match else Decimal(0)
    if not 0 < value < 1:
        raise ValueError("a percentage above zero and below 100 with its sign is needed, such as 20%. The cap cannot be switched off")
    return value


def _parse_bytes(raw: object) -> int:
    size = parse_size(raw)
    if size > 10**16:
        raise ValueError("a size of at most 10PB is needed. The cap cannot be switched off")
    return size


Bytes = Annotated[
    int,
    BeforeValidator(_parse_bytes),
    WithJsonSchema({"type": ["string", "integer"], "pattern": r"^\s*\d+(\.\d+)?\s*([kKmMgGtTpP]?[iI]?[bB])?\s*$", "minimum": 1}),
]
Percent = Annotated[
    Decimal,
    BeforeValidator(_parse_percent),
    PlainSerializer(lambda d: f"{(d * 100).normalize():f}%", return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d{1,2}(\.\d{1,4})?\s*%\s*$"}),
]


def _short_skew(raw: object) -> timedelta:
    duration = parse_duration(raw)
    if duration > LONGEST_SKEW:
        raise ValueError("a length of time of at most 1h is needed, because clocks that differ by more make due dates unreliable")
    return duration


def _parse_class(raw: object) -> str:
    if isinstance(raw, str) and re.fullmatch(r"[A-Za-z][A-Za-z_]*", raw.strip(), re.ASCII):
        return raw.strip().upper()
    raise ValueError("a storage class of the archive store is needed: GLACIER_IR (S3), COLDLINE (Google) or COOL (Azure)")


StorageClass = Annotated[str, BeforeValidator(_parse_class), WithJsonSchema({"type": "string", "pattern": r"^\s*[A-Za-z][A-Za-z_]*\s*$"})]
# Objects of these classes can be read only hours after a request, so copies in them could not be verified.
UNREADABLE = {"s3": ("GLACIER", "DEEP_ARCHIVE"), "abfss": ("ARCHIVE",), "wasbs": ("ARCHIVE",)}


def why_no_class(storage_class: str, target: str) -> str | None:
    """Return the reason why copies in this store cannot have that storage class. None if they can."""
    scheme = target.partition("://")[0] if "://" in target else "file"
    if scheme == "file":
        return f"{target} is a folder, which has no storage classes. Leave it out"
    if storage_class in UNREADABLE.get(scheme, ()):
        return f"{storage_class} cannot be read immediately, and Runspend reads every copy back before it deletes the original. Choose one that can: {'GLACIER_IR' if scheme == 's3' else 'COLD'}; the bucket's lifecycle rules may move copies on later"
    return None


class ArchiveSettings(Frozen):
    """Where archives are written, and the limits above which `archive apply` stops before it deletes anything.

    Limits cannot be switched off.
    """

    to: Uri | None = None  # one of `stores`; a policy may name a different one
    storage_class: StorageClass | None = None  # of the copies; default: the bucket's class for new objects
    max_objects: Count = 100_000  # changed by one `apply`
    max_bytes: Bytes = 10**12
    max_percent: Percent = Decimal("0.2")  # of the objects and of the bytes known in a store
    margin: Annotated[Duration, _long_enough(SHORTEST_MARGIN, "files that are still being written must not move")] = timedelta(days=7)
    clock_skew: Annotated[Duration, BeforeValidator(_short_skew)] = timedelta(minutes=5)
    retention: Annotated[Duration, _long_enough(SHORTEST_RETENTION, "people need time to restore from the archive")] = timedelta(days=365)


class StorageRate(Frozen):
    """The price of a provider's storage class. It replaces the built-in list price. A GB has 2^30 bytes."""

    provider: Literal["s3", "gs", "azure"]
    storage_class: Annotated[str, Field(min_length=1)]
    month_per_gb: HourPrice
    minimum_days: Annotated[int, Field(ge=0, le=3650)] = 0  # objects that are removed earlier are charged for this many days
    minimum_object_bytes: Annotated[int, Field(ge=0, le=2**30)] = 0  # smaller objects are charged as if they had this size
    overhead_bytes: Annotated[int, Field(ge=0, le=2**20)] = 0  # charged in addition for every object
    write_per_1000: HourPrice = Decimal(0)
    read_per_1000: HourPrice = Decimal(0)
    retrieve_per_gb: HourPrice = Decimal(0)
    currency: Currency
    source: str | None = None  # the origin of the price, in words
