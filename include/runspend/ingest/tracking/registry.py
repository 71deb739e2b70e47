"""Read registered model versions through MLflow's client, from the server's own registry or from a separate one.

Belongs here: how versions and their aliases are listed. What they protect does not belong here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from runspend.core.errors import SourceUnreachable
from runspend.ingest.tracking import raw
from runspend.ingest.tracking.client import DEFAULT_WORKSPACE, Client, pages

if TYPE_CHECKING:
    import pyarrow as pa

PAGE_VERSIONS = 10_000
PAGE_MODELS = 1_000
READINGS = 3
OF_MODEL = re.compile(r"models:/m-[^/@]+")  # a logged model; models:/m-fraud/1 is not one, but a version of a registered model


def read_versions(client: Client, workspaces: Sequence[str | None]) -> pa.Table:
    """Return all versions in the registry as rows of `raw.version_schema`.

    Raises SourceError if the registry cannot be read, or if it changes every time it is read.
    """
    rows: list[tuple[Any, ...]] = []
    for workspace in workspaces:
        with client.in_workspace(workspace):
            rows += _settled(client, workspace or DEFAULT_WORKSPACE)
    return raw.rows_to_table(sorted(set(rows)), raw.version_schema())


def _settled(client: Client, workspace: str) -> list[tuple[Any, ...]]:
    """Return the versions of one workspace.

    MLflow's page tokens are offsets, so a removed version shifts all later ones. A list with several pages is therefore read again until
    two readings agree.
    """
    before, count = _read_once(client, workspace)
    for _ in range(READINGS if count > 2 else 0):
        found, _ = _read_once(client, workspace)
        if found == before:
            return found
        before = found
    if count <= 2:
        return before
    raise SourceUnreachable(
        client.name, f"cannot read the registered models of {client.name}: they changed during each of {READINGS} readings. Try again."
    )


def _read_once(client: Client, workspace: str) -> tuple[list[tuple[Any, ...]], int]:
    versions, version_pages = _pages(client, lambda token: client.registry.search_model_versions(None, PAGE_VERSIONS, ["name ASC"], token))
    models, model_pages = _pages(client, lambda token: client.registry.search_registered_models(None, PAGE_MODELS, ["name ASC"], token))
    aliases: dict[tuple[str, int], list[str]] = {}
    for model in models:
        for alias, version in model.aliases.items():
            aliases.setdefault((model.name, int(version)), []).append(alias)
    rows = [_row(client, workspace, version, aliases.get((version.name, int(version.version)), [])) for version in versions]
    return sorted(set(rows)), version_pages + model_pages


def _pages(client: Client, ask: Any) -> tuple[list[Any], int]:
    read = list(pages(client.name, lambda token: client.ask(lambda: ask(token))))
    return [item for page in read for item in page], len(read)


def _row(client: Client, workspace: str, version: Any, aliases: Iterable[str]) -> tuple[Any, ...]:
    source = version.source or ""
    storage = ""
    if source.startswith("models:/") and not OF_MODEL.fullmatch(source):
        storage = client.ask(lambda: client.registry.get_model_version_download_uri(version.name, version.version)) or ""
    listed = json.dumps(sorted(aliases, key=str.encode), ensure_ascii=False)
    stage = version.current_stage or "None"
    return (
        workspace,
        version.name,
        version.run_id or "",
        source,
        storage,
        stage,
        listed,
        version.status or "",
        int(version.version),
        version.creation_timestamp or 0,
    )
