"""Translate the selectors of budgets to SQL, and read the .sql files of this folder.

User input is passed only as query parameters. The key of a run's tag or param is user input too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from runspend.core.errors import ConfigError
from runspend.core.selectors import glob_to_regex
from runspend.warehouse.sql_files import read_sql

COST_COLUMNS = {
    "experiment": "experiment_name",
    "team": "team",
    "project": "project",
    "cost_center": "cost_center",
    "owner": "owner",
    "user": "user_name",
    "tracking": "tracking_server",
    "workspace": "workspace",
    "cost_kind": "cost_kind",
    "provider": "service_provider_name",
    "source": "source",
    "experiment_id": "experiment_id",  # for budgets in experiment tags; not allowed in runspend.yaml
}
# Keys of bill lines that runs do not have: MLflow does not know on which bill, or of which provider, the cost of a run will be.
LINE_ONLY = ("cost_kind", "provider", "source")
RUN_COLUMNS = {key: f"r.{column}" for key, column in COST_COLUMNS.items() if key not in LINE_ONLY}
# Keys that only runs and their experiments have.
MODEL = "coalesce(json_value({runs}tags, '$.model'), json_value({runs}params, '$.model'))"
MAPS = {"tag": "r.tags", "param": "r.params", "experiment_tag": "x.tags"}


def selector_sql(selector: Mapping[str, Sequence[str]], columns: Mapping[str, str], prefix: str) -> tuple[str, dict[str, str]]:
    """Return a selector as a GoogleSQL condition, and its query parameters. `columns` maps keys to columns. `prefix` begins each parameter.

    Raises ConfigError for a key that is not in `columns`, or that contains a quote or backslash.
    """
    conditions, parameters = [], dict[str, str]()

    def bind(value: str) -> str:
        name = f"{prefix}{len(parameters)}"
        parameters[name] = value
        return f"@{name}"

    for key, patterns in selector.items():
        kind, _, rest = key.partition(".")
        if rest and kind in columns:
            if '"' in rest or "\\" in rest:
                raise ConfigError(f"cannot select by {key!r}: a key with a quote or backslash has no JSON path. Leave it out.")
            column = f"json_value({columns[kind]}, {bind(f'$.{chr(34)}{rest}{chr(34)}')})"
        elif key in columns:
            column = columns[key]
        else:
            raise ConfigError(f"cannot select by {key!r}: budgets can select by {', '.join(sorted(columns))}. Change the key under `for`.")
        choices = []
        for pattern in patterns:
            has_glob = "*" in pattern or "?" in pattern
            choices.append(f"regexp_contains({column}, {bind(glob_to_regex(pattern))})" if has_glob else f"{column} = {bind(pattern)}")
        conditions.append(f"({' or '.join(choices)})")
    return " and ".join(conditions) or "true", parameters


def run_columns(*, own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the columns of runs and experiments by selector key. `own` adds columns of another table for keys that runs do not have."""
    return {**RUN_COLUMNS, **MAPS, "model": MODEL.format(runs="r."), **(own or {})}


def cost_source(budget_is_of_runs: bool) -> tuple[str, dict[str, str]]:
    """Return the SQL that replaces {costs} in a query, and its columns by selector key.

    The rows are the daily costs of runs with their tags if `budget_is_of_runs`, otherwise the daily costs of the whole bill.
    """
    if not budget_is_of_runs:
        return "cost_daily", dict(COST_COLUMNS)
    maps = {"tag": "tags", "param": "params", "experiment_tag": "experiment_tags"}
    columns = {key: column for key, column in COST_COLUMNS.items() if key != "provider"}
    return f"(\n{sql('run_days')})", {**columns, **maps, "model": MODEL.format(runs="")}


def sql(name: str) -> str:
    """Return the text of one of the .sql files in this folder, with {runs} replaced."""
    text = read_sql(Path(__file__).parent, name)
    return text.replace("{runs}", sql("joined_runs")) if "{runs}" in text else text
