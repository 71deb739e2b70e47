"""Runs, models and traces whose artifact URI is a folder around the folders of others. Nothing inside such a folder is archived.

One wrong URI, for example of a whole bucket, protects everything in it. That is correct, because the owner of a folder owns its
content. But people need to know which owner it is, and what to do. `plan.sql` and `shared_folders.py` decide what is protected; this
module reads their reasons.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runspend.warehouse.base import Reader

MOST = 20  # owners to describe; each needs a query
_AROUND = re.compile(r"(?:^|; |\n)is inside the folder of (run|logged model|trace) ([^\s;]+)")
_OF_RUN = "select tracking_server, run_name as name, experiment_name, artifact_uri as uri from runs where run_id = @id order by tracking_server limit 1"
_OF_OTHER = (
    "select o.tracking_server, cast(null as string) as name, e.experiment_name, o.uri from artifact_owners o"
    " left join experiments e on e.tracking_server = o.tracking_server and e.workspace = o.workspace and e.experiment_id = o.experiment_id"
    " where o.owner_id = @id order by o.tracking_server limit 1"
)


@dataclass(frozen=True)
class Enclosing:
    """An owner whose folder contains the folders of others. `items` is the number of items of the plan that stay because of it."""

    kind: str  # run, logged model or trace
    id: str
    items: int
    tracking_server: str = ""
    name: str | None = None
    experiment: str | None = None
    uri: str | None = None

    @property
    def who(self) -> str:
        """The owner in words: run 3f1c… ('resnet', experiment 'vision' of prod, artifact URI s3://bucket)."""
        named = [repr(self.name)] if self.name else []
        named += (
            [f"experiment {self.experiment!r}" + (f" of {self.tracking_server}" if self.tracking_server else "")] if self.experiment else []
        )
        named += [f"artifact URI {self.uri}"] if self.uri else []
        return f"{self.kind} {self.id}" + (f" ({', '.join(named)})" if named else "")

    @property
    def sentence(self) -> str:
        """The problem and what to do about it."""
        return (
            f"{self.who} owns a folder that contains {self.items:,} selected items. They are not archived. If its URI is wrong, correct it in MLflow's database; if it is right, move its"
            f" files to a folder of their own. Do not remove {self.who} with `mlflow gc`: it deletes everything in that folder"
        )


def find_enclosing(reader: Reader, reasons: Iterable[str]) -> list[Enclosing]:
    """Return the owners of folders around items of the plan, most items first, at most MOST. `reasons` has the reasons of each item."""
    counts = Counter(found for reason in reasons for found in set(_AROUND.findall(reason)))
    return [
        _describe(reader, kind, owner_id, items)
        for (kind, owner_id), items in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST]
    ]


def _describe(reader: Reader, kind: str, owner_id: str, items: int) -> Enclosing:
    rows: list[Mapping[str, Any]] = reader.query(_OF_RUN if kind == "run" else _OF_OTHER, {"id": owner_id}).to_pylist()
    if not rows:
        return Enclosing(kind, owner_id, items)
    return Enclosing(kind, owner_id, items, rows[0]["tracking_server"], rows[0]["name"], rows[0]["experiment_name"], rows[0]["uri"])
