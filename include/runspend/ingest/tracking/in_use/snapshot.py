"""The data for the checks right before bytes are deleted: the owner to check, and the facts known from the last extract.

Belongs here: only these data types. `server.py` has the checks. `actions/archive/protection.py` reads the known facts from the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from runspend.ingest.tracking.mlflow_writer import TaggedOwner


class Owner(TaggedOwner, Protocol):
    """The owner of artifacts to check, for example an item of the archive."""

    @property
    def action(self) -> str: ...
    @property
    def artifact_uri(self) -> str | None: ...


@dataclass(frozen=True)
class LastExtract:
    """The facts about one server at the last extract.

    The checks find changes by comparing with these facts. An answer that lacks a known fact counts as incomplete.
    """

    read_at: datetime
    deleted_runs: frozenset[str] = frozenset()
    purged_runs: frozenset[str] = frozenset()  # runs that were already gone from MLflow at the last extract
    deleted_experiments: frozenset[str] = frozenset()
    children_of: Callable[[str], frozenset[str]] = lambda run_id: frozenset()
    users_of: Callable[[Collection[str]], frozenset[str]] = lambda model_ids: frozenset()  # runs that used any of the models
    made_by: Callable[[Collection[str]], frozenset[str]] = lambda run_ids: frozenset()  # models that any of the runs logged
    # The following are by workspace.
    open_runs: Mapping[str, frozenset[str]] = field(default_factory=dict)  # runs that had not ended
    newest_run: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # the run that started last, and its start in epoch ms
    registered_run: Mapping[str, str] = field(default_factory=dict)  # a run that some registered version names
    loose_versions: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)  # label and source of versions that name no run
