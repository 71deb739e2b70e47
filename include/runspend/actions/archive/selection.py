"""The selection of a retention policy, as an SQL condition on folders, runs and experiments.

This module translates `select` to SQL and does not read tables. `plan.sql` finds what protects folders; `savings.py` computes savings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from runspend.config.retention import SELECT_KEYS, narrows
from runspend.config.settings import RetentionPolicy, Settings
from runspend.config.types import parse_duration, parse_size
from runspend.core.errors import ConfigError
from runspend.core.selectors import RUN_MAPS, Selector, glob_to_regex, parse_selector

COLUMNS = {
    "tracking": "k.tracking_server", "workspace": "k.workspace", "experiment": "k.experiment", "user": "k.user_name", "status": "k.run_status",
    "team": "k.team", "project": "k.project", "cost_center": "k.cost_center", "owner": "k.owner",
}  # fmt: skip
MAP_COLUMNS = {"tag": "k.tags", "param": "k.params", "experiment_tag": "k.experiment_tags"}
KIND_CONDITIONS = {
    "run": "o.owner_kind = 'run'",
    "model": "o.owner_kind = 'logged_model'",
    "checkpoint": "o.is_checkpoint",
    "trace": "o.owner_kind = 'trace'",
    "orphan": "o.owner_kind = 'orphan'",
    "experiment": "o.owner_kind = 'experiment'",
}


@dataclass(frozen=True)
class Selection:
    """The parsed `select` of a policy."""

    kinds: Sequence[str]
    must: Selector
    must_not: Selector
    unused_for: timedelta | None
    older_than: timedelta | None
    larger_than: int | None  # bytes
    saves_more_than: Decimal | None  # per month, in `currency`

    @property
    def kinds_sql(self) -> str:
        """SQL condition on `owned o` of `plan.sql`: the kinds of owners on which the policy acts."""
        return f"({' or '.join(KIND_CONDITIONS[kind] for kind in self.kinds)})"


def parse_select(policy: RetentionPolicy) -> Selection:
    """Return the parsed conditions of a policy.

    Raises ConfigError with the name of the policy for an invalid condition. Settings refuse such conditions as well; this is a second
    check.
    """
    given = policy.select
    try:
        if not narrows(given):
            raise ValueError("it selects everything. Give `select` a condition")
        selectors = {
            str(key): value
            for key, value in given.items()
            if key not in ("unused_for", "older_than", "larger_than", "saves_more_than", "kind")
        }
        must = {key: value for key, value in selectors.items() if not key.startswith("not_")}
        must_not = {key.removeprefix("not_"): value for key, value in selectors.items() if key.startswith("not_")}
        saving = str(given["saves_more_than"]).split(" ")[0] if "saves_more_than" in given else None
        return Selection(
            policy.kinds,
            parse_selector(must, SELECT_KEYS, RUN_MAPS) if must else {},
            parse_selector(must_not, SELECT_KEYS, RUN_MAPS) if must_not else {},
            parse_duration(given["unused_for"]) if "unused_for" in given else None,
            parse_duration(given["older_than"]) if "older_than" in given else None,
            parse_size(given["larger_than"]) if "larger_than" in given else None,
            Decimal(saving) if saving is not None else None,
        )
    except ValueError as error:
        raise ConfigError(f"cannot use retention policy {policy.name!r}: {error}. Nothing was planned.") from error


def selection_sql(selection: Selection, now: datetime) -> tuple[str, dict[str, Any]]:
    """Return the conditions on `known k` of `plan.sql` as GoogleSQL, and their parameters.

    Rows whose age, size or last use is unknown are selected as well. `plan.sql` then shows them as protected.
    """
    parameters: dict[str, Any] = {}

    def bind(value: object) -> str:
        name = f"p{len(parameters)}"
        parameters[name] = value
        return f"@{name}"

    parts = [_condition(key, patterns, bind) for key, patterns in selection.must.items()]
    parts += [f"not coalesce({_condition(key, patterns, bind)}, false)" for key, patterns in selection.must_not.items()]
    if selection.unused_for is not None:
        parts.append(f"coalesce(k.used_at <= {bind(now - selection.unused_for)}, true)")
    if selection.older_than is not None:
        parts.append(f"coalesce(k.began_at <= {bind(now - selection.older_than)}, true)")
    if selection.larger_than is not None:
        parts.append(f"coalesce(k.bytes > {bind(selection.larger_than)}, true)")
    return " and ".join(parts) or "true", parameters


def _condition(key: str, patterns: Sequence[str], bind: Callable[[object], str]) -> str:
    column = COLUMNS.get(key)
    if column is None:
        kind, _, rest = key.partition(".")
        if '"' in rest or "\\" in rest:
            raise ConfigError(f"cannot select by {key!r}: a key with a quote or backslash has no JSON path. Leave it out.")
        column = f"json_value({MAP_COLUMNS[kind]}, {bind(f'$.{chr(34)}{rest}{chr(34)}')})"
    tests = [
        f"regexp_contains({column}, {bind(glob_to_regex(pattern))})" if "*" in pattern or "?" in pattern else f"{column} = {bind(pattern)}"
        for pattern in patterns
    ]
    return f"({' or '.join(tests)})"


def policy_digest(policy: RetentionPolicy, settings: Settings) -> str:
    """Return a digest of all settings that decide what a policy does. A notice with another digest is not valid for the policy."""
    decides = (
        f"{policy.model_dump_json(exclude={'name'})}|{settings.archive.to if policy.action == 'archive' and policy.to is None else ''}"
    )
    if policy.action == "archive" and settings.archive.storage_class is not None:
        decides += f"|{settings.archive.storage_class}"
    return hashlib.sha256(decides.encode("utf-8", "surrogatepass")).hexdigest()[:16]
