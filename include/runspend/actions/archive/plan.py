"""The archive plan: every folder that retention policies select, its protection, and the savings and cost of a move.

This module changes nothing. `plan_items` depends only on tables, settings and `now`: the same inputs give the same rows.
`plan.sql` selects folders and finds what protects them. This module assembles that query and adds savings and costs.
`states.py` adds what was announced and what is due.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.actions.archive.items import Item
from runspend.actions.archive.local_links import LocalLinks, find_local_links
from runspend.actions.archive.savings import ClassTotal, Rates, price_item, read_rates
from runspend.actions.archive.selection import Selection, parse_select, policy_digest, selection_sql
from runspend.actions.archive.shared_folders import STORED, OddFolders
from runspend.config.settings import RetentionPolicy, Settings
from runspend.core.text import counted
from runspend.ingest.tracking.artifact_folders import REGULAR, main_folder
from runspend.schema.tables import ARCHIVE_PLAN
from runspend.storage.objects import KEEPS_VERSIONS
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

if TYPE_CHECKING:
    import pyarrow as pa

# Rows that are converted to Python values at a time. A policy may select a million folders.
BATCH_ROWS = 20_000
HERE = Path(__file__).parent
HELD = {"tier": "held_stored", "archive": "held_stored", "delete": "held_archived", "prune": "held_in_mlflow"}
# Noncurrent objects show that a bucket keeps old versions. For a bucket without any, `tier.py` asks the store before it moves anything.
UNFIT_TO_TIER = f"""case
        when s.only_class = 'LOCAL' then 'a folder of a file system has no storage classes'
        when s.store in (select store from artifact_bytes where valid_to is null and noncurrent_objects > 0) then '{KEEPS_VERSIONS}'
      end"""
_OWNERS = """
select tracking_server, label, owner_id, uri
from (
  select tracking_server, concat('run ', run_id) as label, run_id as owner_id, artifact_uri as uri from runs
  union all
  select tracking_server, concat(replace(owner_kind, '_', ' '), ' ', owner_id), owner_id, uri from artifact_owners
  union all
  select tracking_server, concat('registered model ', model_name), concat('registered ', model_name), source_uri from model_versions
) as owners
"""
_PLACE = itemgetter("store", "prefix", "owner_kind", "owner_id")


def plan_items(reader: Reader, settings: Settings, now: datetime) -> pa.Table:
    """Return the rows of `archive_plan` for the month of `now`. Their state is planned or protected.

    Raises ConfigError for a policy that cannot be parsed.
    """
    import pyarrow as pa

    schema = ARCHIVE_PLAN.arrow_schema()
    selections = [(policy, parse_select(policy)) for policy in settings.retention]
    if not selections:
        return schema.empty_table()
    rates, odd = read_rates(reader, settings, now), read_odd_folders(reader, settings)
    batches, taken = [], dict[tuple[str, str], str]()
    for policy, selection in selections:
        rows = _rows(policy, selection, read_candidates(reader, policy, selection, settings, now, odd), rates, settings, now, taken)
        while batch := [row for row, _ in zip(rows, range(BATCH_ROWS), strict=False)]:
            batches.append(pa.Table.from_pylist(batch, schema=schema))
    return pa.concat_tables(batches).sort_by([(name, "ascending") for name in ARCHIVE_PLAN.sort]) if batches else schema.empty_table()


def policy_rows(
    reader: Reader, settings: Settings, policy: RetentionPolicy, selection: Selection, now: datetime, *, run_id: str
) -> list[dict[str, Any]]:
    """Return the rows of `archive_plan` of one policy, limited to one run and its models."""
    candidates = read_candidates(reader, policy, selection, settings, now, read_odd_folders(reader, settings), run_id)
    return list(_rows(policy, selection, candidates, read_rates(reader, settings, now), settings, now, {}))


def read_candidates(
    reader: Reader,
    policy: RetentionPolicy,
    selection: Selection,
    settings: Settings,
    now: datetime,
    odd: OddFolders,
    run_id: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the folders that a policy selects, one row per folder and storage class.

    `reasons` has everything that protects the folder, one reason per line. `run_id` limits the rows to one run and its models.
    """
    sql, parameters = plan_sql(policy, selection, settings, now, run_id=run_id)
    for batch in reader.batches(sql, parameters, rows=BATCH_ROWS):
        for row in batch.to_pylist():
            shared = odd.reasons(row, f"{row['store'].rstrip('/')}/{row['prefix']}") if policy.action != "prune" else []
            shared += odd.links.reasons(row) if policy.action in ("archive", "tier") else []
            yield {**row, "reasons": "\n".join(filter(None, [row["reasons"], *shared]))}


def read_odd_folders(reader: Reader, settings: Settings) -> OddFolders:
    """Return the owners whose location is spelled irregularly, which `plan.sql` cannot compare. Most servers have none."""
    pieces, parameters = _locations(settings)
    sql = _fill("odd_folders", pieces | {"version_label": read_sql(HERE, "version_label").rstrip()})
    rows = reader.query(sql, _used(sql, parameters | {"stored": STORED, "regular": REGULAR})).to_pylist()
    return OddFolders(rows, {server.name: server.artifacts for server in settings.tracking}, _read_local_links(reader, settings))


def _read_local_links(reader: Reader, settings: Settings) -> LocalLinks:
    """Return the links into folders of local stores.

    The owners are read only if there is a local store and a policy that moves files (archive or tier).
    """
    moves = any(policy.action in ("archive", "tier") for policy in settings.retention)
    if not moves or all(re.match(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:", store.uri) for store in settings.stores):
        return find_local_links(settings.model_copy(update={"stores": []}), [])
    served = " or starts_with(uri, 'mlflow-artifacts:')" if any(server.artifacts for server in settings.tracking) else ""
    owners = reader.query(f"{_OWNERS} where starts_with(uri, '/') or starts_with(uri, 'file:'){served}").to_pylist()
    return find_local_links(settings, owners)


def plan_sql(
    policy: RetentionPolicy, selection: Selection, settings: Settings, now: datetime, *, run_id: str | None
) -> tuple[str, dict[str, Any]]:
    """Return the query of a policy, and its parameters. The query finds the folders that the policy selects, and what protects each.

    `run_id` limits it to one run and its models.
    """
    condition, parameters = selection_sql(selection, now)
    if run_id is not None:
        condition, parameters["run"] = f"k.run_id = @run and {condition}", run_id
    keep = policy.keep
    parameters |= {
        "now": now, "today": now.date(), "margin": now - settings.archive.margin,
        "metric": keep.by if keep and keep.by else "", "sign": -1 if keep and keep.order == "max" else 1,
        "best": keep.best if keep and keep.best else 0, "last": keep.last if keep and keep.last else 0,
    }  # fmt: skip
    unfit = "cast(null as string)"
    if policy.action == "delete":
        parameters["archived_before"] = now - settings.archive.retention
    elif policy.action == "tier":
        parameters["target"] = policy.to
        condition += " and coalesce(k.only_class <> @target, true)"
        unfit = UNFIT_TO_TIER
    elif policy.action == "archive":
        parameters["target"] = (policy.to or settings.archive.to or "").rstrip("/")
        condition += " and rtrim(k.store, '/') <> @target"
    stores = {f"store{i}": store.uri for i, store in enumerate(settings.stores)}
    locations, places = _locations(settings)
    parameters |= stores | places
    pieces = locations | {
        "held": read_sql(HERE, HELD[policy.action]).rstrip(),
        "kinds": selection.kinds_sql,
        "selector": condition,
        "stores": "true" if policy.action == "prune" else f"s.store in ({', '.join(f'@{name}' for name in stores)})" if stores else "false",
        "unfit": unfit,
        "version_label": read_sql(HERE, "version_label").rstrip(),
    }  # fmt: skip
    sql = _fill("plan", pieces)
    return sql, _used(sql, parameters)


def _locations(settings: Settings) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the SQL expressions for the locations of folders, runs, owners and model versions, by placeholder, and their parameters."""
    servers = {server.name: server.artifacts for server in settings.tracking if server.artifacts}
    tops = {store.uri: main_folder(store.uri) for store in settings.stores}
    parameters = {f"server{i}": name for i, name in enumerate(servers)} | {
        f"behind{i}": main_folder(uri) for i, uri in enumerate(servers.values()) if uri
    }
    parameters |= {f"kept{i}": uri for i, uri in enumerate(tops)} | {f"top{i}": top for i, top in enumerate(tops.values())}
    top = (
        f"case o.store {' '.join(f'when @kept{i} then @top{i}' for i in range(len(tops)))} else rtrim(o.store, '/') end"
        if tops
        else "rtrim(o.store, '/')"
    )
    behind = " ".join(f"when @server{i} then @behind{i}" for i in range(len(servers)))
    pieces = {name: _location_sql(uri, behind) for name, uri in (("run", "artifact_uri"), ("owner", "uri"), ("version", "source_uri"))}
    return {"folder_location": f"concat({top}, '/', o.prefix)"} | {f"{name}_location": piece for name, piece in pieces.items()}, parameters


def _location_sql(uri: str, behind: str) -> str:
    """Return SQL that normalizes a location. Regularly spelled locations of one folder become equal strings.

    It replaces `mlflow-artifacts:` by the server's artifact root, and removes `file://` and trailing slashes.
    """
    if behind:
        path = f"regexp_replace({uri}, '^mlflow-artifacts:(?://[^/]*)?/*', '/')"
        uri = f"if(starts_with({uri}, 'mlflow-artifacts:'), concat(case tracking_server {behind} end, {path}), {uri})"
    return f"regexp_replace(regexp_replace({uri}, '^file:(?://)?', ''), '/+$', '')"


def _fill(name: str, pieces: Mapping[str, str]) -> str:
    sql = read_sql(HERE, name)
    for piece, text in pieces.items():
        sql = sql.replace(f"{{{piece}}}", text)
    return sql


def _used(sql: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if f"@{name}" in sql}


def _rows(
    policy: RetentionPolicy, selection: Selection, candidates: Iterator[dict[str, Any]], rates: Rates, settings: Settings, now: datetime, taken: dict[tuple[str, str], str],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield one row of `archive_plan` per folder. `candidates` has one row for each storage class of a folder.

    If several policies select a folder, only the first of them acts on it. `taken` maps the folders to that policy.
    """
    digest = policy_digest(policy, settings)
    target = (policy.to or settings.archive.to) if policy.action == "archive" else policy.to
    for _, found in groupby(candidates, _PLACE):
        classes = list(found)
        first = classes[0]
        reasons = split_reasons(first["reasons"])
        place = (first["store"], first["prefix"])
        if not reasons and place in taken:
            reasons = [f"policy {taken[place]} acts on it first"]
        money = None
        if not reasons and policy.action == "prune":  # moves no bytes, so it has no savings
            taken[place] = policy.name
        elif not reasons:
            parts = [ClassTotal(c["storage_class"], c["class_objects"], c["class_bytes"], c["class_newest_at"]) for c in classes]
            money = price_item(policy.action, target, first["store"], parts, rates, now)
            if selection.saves_more_than is not None and (
                money.monthly_saving is None or money.monthly_saving <= selection.saves_more_than
            ):
                continue
            taken[place] = policy.name
        row = {
            **{c.name: first[c.name] for c in ARCHIVE_PLAN.columns if c.name in first},
            "month": now.date().replace(day=1),
            "policy": policy.name,
            "policy_digest": digest,
            "action": policy.action,
            "target": target,
            "storage_class": first["only_class"],
            "owner": first["owner"] or first["user_name"],
            "state": "protected" if reasons else "planned",
            "reason": "; ".join(reasons) or _why(first["unused_days"], first["bytes"], selection),
            "monthly_saving": money and money.monthly_saving,
            "action_cost": money and money.action_cost,
            "payback_months": money and money.payback_months,
            "rates_from": money and money.rates_from,
            "currency": rates.currency if money and (money.monthly_saving is not None or money.action_cost is not None) else None,
            "planned_at": now,
        }
        yield row | {"item_key": item_of({**first, **row}).key}


def split_reasons(text: str) -> list[str]:
    """Return the lines of `text` as a list of reasons. A reason that is also the end of an earlier one is left out."""
    reasons: list[str] = []
    for reason in text.split("\n") if text else []:
        if not any(earlier.endswith(reason) for earlier in reasons):
            reasons.append(reason)
    return reasons


def _why(unused_days: int, size: int, selection: Selection) -> str:
    days = f"unused for {counted(unused_days, 'day')}"
    return days if selection.larger_than is None else f"{days}, {size:,} bytes"


def item_of(row: Mapping[str, Any]) -> Item:
    """Return the item that a row of `archive_plan` describes."""
    return Item(
        row["policy"], row["policy_digest"], row["action"], row["target"], row["tracking_server"] or "", row["workspace"] or "", row["owner_kind"], row["owner_id"],
        row["experiment_id"], row["run_id"], row["artifact_uri"], row["store"], row["prefix"], row["storage_class"], row["objects"], row["bytes"],
    )  # fmt: skip


def plan_notes(settings: Settings) -> list[str]:
    """Return notes on the plan for the summary, one sentence each."""
    notes = []
    if settings.retention and settings.mail.backend != "smtp":
        notes.append("archive: mail.backend sends no mail, so no grace period begins and nothing becomes due")
    return notes
