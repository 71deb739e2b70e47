"""Turn the settings for a run's dimensions, job and pool into SQL expressions that are inserted into `runs.sql`.

Belongs here: how a setting becomes a column. User text is not inserted into the SQL. It is passed in variables of the connection, and the
expressions refer to its position there. Only pool names are inserted, because their characters are restricted. Nothing here reads a bill:
values that a run got from a charge must not be used to match the run to charges.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path

from runspend.config.settings import Pool, TrackingServer
from runspend.core.errors import ConfigError
from runspend.core.resource_keys import (
    AZURE_JOB_KEYS,
    AZURE_WORKSPACE_KEYS,
    DATABRICKS_JOB_KEYS,
    DATABRICKS_WORKSPACE_KEYS,
    JOB_PLACE_KEYS,
    SLURM_CLUSTER_KEYS,
    SLURM_JOB_KEYS,
    cluster_job_sql,
    job_key_sql,
    pool_key_sql,
    principal_key_sql,
    resource_key_sql,
    workspace_job_sql,
)
from runspend.core.secret_shapes import macros_sql
from runspend.core.selectors import glob_to_regex, matches
from runspend.ingest.tracking.settings import RowSettings
from runspend.ingest.tracking.token_prices import price_source
from runspend.schema.tables import DIMENSION_NAMES

# Columns of `runs.sql` by the name that selectors use. The selector `tracking` has no column: it selects the server.
SELECTED = {"workspace": "workspace_name", "experiment": "experiment_name", "user": "user_name", "status": "status"}


@dataclass(frozen=True)
class UserLine:
    """One line of a users file. It is valid from `valid_from` (inclusive) to `valid_to` (exclusive); None means no limit."""

    file: int
    person: str
    value: str
    valid_from: datetime | None
    valid_to: datetime | None


def is_of_line(source: str | Mapping[str, str]) -> bool:
    """Return whether a source of a dimension applies to bill lines: a tag of the line, or a file that maps its IAM principal to a value."""
    return source.startswith("line.") if isinstance(source, str) else "principal" in source


class DimensionSources:
    """The sources from which dimensions and selectors get a run's values.

    These are run tags, run params, experiment tags, users files, and the run's user. Each source is listed once.
    """

    def __init__(self, settings: RowSettings) -> None:
        dims = settings.dimensions
        sources = {d: [s for s in getattr(dims, d) if not is_of_line(s)] for d in DIMENSION_NAMES}
        texts = [s for d in DIMENSION_NAMES for s in sources[d] if isinstance(s, str)]
        selected = {key for pool in settings.pools for key in pool.runs}
        self.tags = sort_keys(keys_of(texts, "run.tag.") | keys_of(selected, "tag."))
        self.params = sort_keys(keys_of(texts, "run.param.") | keys_of(selected, "param."))
        self.experiment_tags = sort_keys(keys_of(texts, "experiment.tag.") | keys_of(selected, "experiment_tag."))
        self.files = sort_keys({s["user"] for d in DIMENSION_NAMES for s in sources[d] if isinstance(s, dict)})
        self.user_lines = [line for i, file in enumerate(self.files) for line in _read_users(i + 1, Path(file))]
        self._keys = [
            *(f"run.tag.{k}" for k in self.tags),
            *(f"run.param.{k}" for k in self.params),
            *(f"experiment.tag.{k}" for k in self.experiment_tags),
            *(f"file {f}" for f in self.files),
            "run.user",
        ]
        # The names stored in `team_from` and similar columns. A file is stored by its name, without its local path.
        self.names = [f"user:{Path(k.removeprefix('file ')).name}" if k.startswith("file ") else k for k in self._keys]
        self._of_dimension = {
            dimension: [self._keys.index(s if isinstance(s, str) else f"file {s['user']}") for s in wanted]
            for dimension, wanted in sources.items()
        }

    def dimension_columns(self, tags: Sequence[str], params: Sequence[str]) -> dict[str, str]:
        """Return SQL of the columns `team`, `team_from` and so on. `tags` and `params` are the keys of the elements of `t` and `p`."""
        expressions = [
            *(tag_sql(tags, k) for k in self.tags),
            *(param_sql(params, k) for k in self.params),
            *(self.experiment_tag_sql(k) for k in self.experiment_tags),
            *(f"trimmed(value_at(periods, {i + 1}, instant(start_ms)))" for i in range(len(self.files))),
            "user_name",
        ]
        columns: dict[str, str] = {}
        for dimension, wanted in self._of_dimension.items():
            values = ", ".join(["null::varchar", *(expressions[i] for i in wanted)])
            froms = " ".join(f"when {expressions[i]} is not null then getvariable('places')[{i + 1}]" for i in wanted)
            columns |= {dimension: f"coalesce({values})", f"{dimension}_from": f"case {froms} end" if froms else "null::varchar"}
        return columns

    def experiment_tag_sql(self, key: str) -> str:
        return f"trimmed(dimension_values[{self.experiment_tags.index(key) + 1}])"


def tag_sql(tags: Sequence[str], key: str) -> str:
    return f"trimmed(t[{tags.index(key) + 1}])" if key in tags else "null::varchar"


def param_sql(params: Sequence[str], key: str) -> str:
    return f"trimmed(p[{params.index(key) + 1}])" if key in params else "null::varchar"


_KEY_READ = re.compile(r"\b(stated|tag_value)\('([^']+)'\)")


def resolve_keys(sql: str, tags: Sequence[str], params: Sequence[str]) -> str:
    """Return the SQL with each `stated('key')` and `tag_value('key')` replaced by the key's element of the lists `t` and `p`.

    If no run has the key, the replacement is null, so the key costs nothing, not even planning. `tag_value` is the tag. `stated` is the
    tag, or the param if the tag is blank or missing; blank text counts as not stated.
    """

    def value(found: re.Match[str]) -> str:
        macro, key = found.groups()
        if macro == "stated":
            return f"coalesce({tag_sql(tags, key)}, {param_sql(params, key)})"
        return f"t[{tags.index(key) + 1}]" if key in tags else "null::varchar"

    return _KEY_READ.sub(value, sql)


def copied_sql(values: str, labels: str, places: Iterable[int]) -> str:
    """Return SQL of a JSON object with the values at these positions of the list `values`.

    The names of the keys come from the variable `labels`. This is five times as fast as a JSON object made from a map.
    """
    parts = "".join(f", getvariable('{labels}')[{i + 1}] || cast(to_json({values}[{i + 1}]) as varchar)" for i in places)
    return f"'{{' || concat_ws(','{parts}) || '}}'" if parts else "'{}'"


class PoolColumns:
    """Build the SQL that finds the pool of a run: the first pool, in the configured order, whose `runs` selector matches the run."""

    def __init__(self, pools: Sequence[Pool], places: DimensionSources, server: str) -> None:
        # All runs come from this server, so pools that select only other servers are left out.
        self._pools = [
            pool for pool in pools if all(any(matches(p, server) for p in texts) for key, texts in pool.runs.items() if key == "tracking")
        ]
        self._places = places
        self.texts: list[str] = []  # the patterns of the selectors, for the variable `pool_texts`

    def columns(self, tags: Sequence[str], params: Sequence[str]) -> dict[str, str]:
        """Return SQL of `pool_number` and of `pool_key`, which is null if the run lacks a value of a dimension in `equal`.

        `pool_key` uses the dimensions, so it must be computed after them.
        """
        self.texts = []
        numbers = [f"when {self._condition(pool, tags, params)} then {i}" for i, pool in enumerate(self._pools)]
        keys = [f"when {i} then {pool_key_sql(pool.name, [(d, d) for d in pool.equal])}" for i, pool in enumerate(self._pools)]
        return {
            "pool_number": f"case {' '.join(numbers)} end" if numbers else "null::integer",
            "pool_key": f"case pool_number {' '.join(keys)} end" if keys else "null::varchar",
        }

    def _condition(self, pool: Pool, tags: Sequence[str], params: Sequence[str]) -> str:
        parts = ["true"]
        for key, patterns in pool.runs.items():
            kind, _, name = key.partition(".")
            if key == "tracking":
                continue
            column = {"tag": tag_sql(tags, name), "param": param_sql(params, name)}.get(kind) if name else SELECTED[key]
            column = column or self._places.experiment_tag_sql(name)
            parts.append("(" + " or ".join(self._matching(column, pattern) for pattern in patterns) + ")")
        return " and ".join(parts)

    def _matching(self, column: str, pattern: str) -> str:
        if "*" in pattern or "?" in pattern:
            return f"coalesce(regexp_matches({column}, {self._text(glob_to_regex(pattern))}), false)"
        return f"coalesce({column} = {self._text(pattern)}, false)"

    def _text(self, text: str) -> str:
        self.texts.append(text)
        return f"getvariable('pool_texts')[{len(self.texts)}]"


def job_columns(keys: Sequence[str], tags: Sequence[str], params: Sequence[str]) -> dict[str, str]:
    """Return SQL of a run's job id in three forms: `stated_job`, `job_form` and `stated_job_key`.

    `stated_job` is the value of the first stated job key; a tag counts before a param of the same name. `job_form` is the same id as bills
    write it. `stated_job_key` adds the cluster to a SLURM job, and the workspace to a Databricks job run or an Azure ML job, if the run
    states them. `job_form` reads the column `stated_job`, and `stated_job_key` reads both.
    """
    stated = [sql for key in keys for sql in (tag_sql(tags, key), param_sql(params, key)) if not sql.startswith("null")]

    def place(names: Sequence[str]) -> str:
        return f"coalesce({', '.join([sql(known, name) for name in names for sql, known in ((tag_sql, tags), (param_sql, params))])})"

    number = [key for key in keys if key in (*SLURM_JOB_KEYS, "runspend.job_id")]
    databricks = [key for key in keys if key in DATABRICKS_JOB_KEYS]
    azure = [key for key in keys if key in AZURE_JOB_KEYS]
    subscription, group, workspace = (place([key]) for key in AZURE_WORKSPACE_KEYS)
    path = f"('/subscriptions/' || {subscription} || '/resourceGroups/' || {group} || '/providers/Microsoft.MachineLearningServices/workspaces/' || {workspace})"
    forms = (
        (databricks, cluster_job_sql("job_form", place(DATABRICKS_WORKSPACE_KEYS))),
        (number, cluster_job_sql("job_form", place(SLURM_CLUSTER_KEYS))),
        (azure, workspace_job_sql("job_form", path)),
    )
    cases = [f"when stated_job = {place(names)} then {form}" for names, form in forms if names]
    job_text = f"coalesce({', '.join([*stated, 'null::varchar'])})"
    job_key = f"case {' '.join(cases)} else job_form end" if cases else "job_form"
    return {"stated_job": job_text, "job_form": job_key_sql("stated_job"), "stated_job_key": job_key}


def digest_settings(server: TrackingServer, settings: RowSettings, places: DimensionSources, place_rules: Iterable[str]) -> str:
    """Return a digest of all settings and rules that run rows depend on. If it changes, every month is read from MLflow again."""
    rules = [
        file.read_text(encoding="utf-8")
        for file in sorted(resources.files("runspend.ingest.tracking").iterdir(), key=lambda f: f.name)
        if file.name.endswith(".sql")
    ]
    digested = {
        "copy": server.copy_.model_dump(mode="json"),
        "dimensions": {
            d: [s if isinstance(s, str) else {"user": Path(s["user"]).name} for s in getattr(settings.dimensions, d) if not is_of_line(s)]
            for d in DIMENSION_NAMES
        },
        "not_a_person": settings.dimensions.not_a_person,
        "users": [[line.file, line.person, line.value, str(line.valid_from), str(line.valid_to)] for line in places.user_lines],
        "pools": [[pool.name, pool.runs, pool.equal] for pool in settings.pools],
        "job_keys": list(settings.job_keys),
        "selector_keys": sorted(settings.selector_keys),
        "rules": [
            *rules,
            macros_sql(),
            resolve_keys("stated('key') tag_value('key')", ["key"], ["key"]),
            resource_key_sql("resource_id"),
            principal_key_sql("stated_principal"),
            *job_columns(settings.job_keys, [*settings.job_keys, *JOB_PLACE_KEYS], []).values(),
            *place_rules,
        ],
        **({"token_prices": price_source()} if server.token_prices else {}),
        "measured": [settings.measured.resource_ids, settings.measured.of_pool],
        "links": [settings.links.kinds, settings.links.metrics, *([settings.links.only_last] if settings.links.only_last else [])],
    }
    return hashlib.sha256(json.dumps(digested, sort_keys=True).encode()).hexdigest()[:16]


def _read_users(number: int, path: Path) -> list[UserLine]:
    """Return the lines of a users file: a CSV file with a header and the columns user, value and, optionally, `from` and `to`.

    The first line of a user that is valid at a run's start counts. Raises ConfigError if the file cannot be used.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(reader.line_num, line) for reader in [csv.reader(file)] for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read {path} of `dimensions`: {error}. Give a CSV file with the columns user and value.") from error
    if not lines or any(len(line) < 2 for _, line in lines):
        raise ConfigError(f"cannot use {path} of `dimensions`: it needs a header and two columns, user and value.")
    header = [name.strip().casefold() for name in lines[0][1]]
    found = []
    for line_number, line in lines[1:]:
        by_name = dict(zip(header[2:], line[2:], strict=False))
        first, after = (_read_day(path, line_number, name, by_name.get(name, "")) for name in ("from", "to"))
        if first is not None and after is not None and first >= after:
            raise ConfigError(
                f"cannot use {path} of `dimensions`, line {line_number}: `from` is not before `to`. `to` is exclusive. Correct the dates."
            )
        found.append(UserLine(number, line[0].strip(), line[1].strip(), first, after))
    return found


def _read_day(path: Path, line: int, name: str, text: str) -> datetime | None:
    if not text.strip():
        return None
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise ConfigError(
            f"cannot use {path} of `dimensions`, line {line}: {name} {text.strip()!r} is not a date. Write it as 2026-11-01."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def keys_of(names: Iterable[str], prefix: str) -> set[str]:
    """Return the keys of the names that start with `prefix`: "K" for the name "tag.K" and the prefix "tag."."""
    return {n[len(prefix) :] for n in names if n.startswith(prefix) and len(n) > len(prefix)}


def sort_keys(keys: Iterable[str]) -> list[str]:
    return sorted(set(keys), key=str.encode)
