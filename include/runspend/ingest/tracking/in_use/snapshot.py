"""The questions about an owner right before bytes are deleted, and the facts of the last extract.

Belongs here: the data of a question. `server.py` has the questions; `actions/archive/protection.py` reads the known facts from the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from runspend.ingest.tracking.mlflow_writer import TaggedOwner


class Owner(TaggedOwner, Protocol):
    """The owner in question, for example an item of the archive."""

    @property
    def action(self) -> str: ...
    @property
    def artifact_uri(self) -> str | None: ...


@dataclass(frozen=True)
class LastExtract:
    """The facts about a server at the last extract: a correct answer must include them, and changes are compared with them."""

    read_at: datetime
    deleted_runs: frozenset[str] = frozenset()
    purged_runs: frozenset[str] = frozenset()  # no longer in MLflow at the last extract
    deleted_experiments: frozenset[str] = frozenset()
    children_of: Callable[[str], frozenset[str]] = lambda run_id: frozenset()
    users_of: Callable[[Collection[str]], frozenset[str]] = lambda model_ids: frozenset()  # runs that used any of the models
    made_by: Callable[[Collection[str]], frozenset[str]] = lambda run_ids: frozenset()  # models that any of the runs logged
    # by workspace:
    open_runs: Mapping[str, frozenset[str]] = field(default_factory=dict)  # runs that had not ended
    newest_run: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # the run that started last, and when, in epoch milliseconds
    registered_run: Mapping[str, str] = field(default_factory=dict)  # a run that some registered version names
    loose_versions: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)  # label and source of versions that name no run
