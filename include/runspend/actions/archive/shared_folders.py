"""Find the other owners of a folder whose URIs are spelled irregularly. `plan.sql` compares URIs with regular spellings.

`ingest/tracking/artifact_folders.py` decides which folders a spelling may mean.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

from runspend.actions.archive.local_links import LocalLinks
from runspend.ingest.tracking.artifact_folders import find_folders

# Locations that may be in a configured store. If one is spelled irregularly, `plan.sql` cannot compare it, and this module does.
STORED = r"^(?i:(?:s3[an]?|gs|abfss?|wasbs?|https|file):|[^:/]*(?:/|$))"


class OddFolders:
    """Owners and registered versions with irregular URIs, by the folders that the URIs may mean.

    `rows` has tracking_server, owner_kind ('version' for a registered version), owner_id, label and uri of each. `behind` has the
    artifact root of each server, which `mlflow-artifacts:` means. `links` has other paths into folders of local stores.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], behind: Mapping[str, str | None], links: LocalLinks | None = None) -> None:
        self.links = links or LocalLinks({}, [])
        self._at: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            for folder in find_folders(row["uri"], behind.get(row["tracking_server"])):
                self._at.setdefault(folder, []).append(row)
        self._folders = sorted(self._at)

    def reasons(self, row: Mapping[str, Any], folder: str) -> list[str]:
        """Return why a plan row with this folder must stay in its place, each reason once, with the wording of `plan.sql`."""
        if not self._at:
            return []
        found: dict[str, None] = {}
        for place in sorted(find_folders(folder)):
            found |= dict.fromkeys(_say("shares its folder with {}", c) for c in self._at.get(place, ()) if not _is_own(c, row))
            found |= dict.fromkeys(_say("{} is inside its folder", c) for c in self._first_inside(place))
            parts = place.split("/")
            above = (c for depth in range(1, len(parts)) for c in self._at.get("/".join(parts[:depth]), ()))
            found |= dict.fromkeys(_say("is inside the folder of {}", c) for c in above if not _is_its_run(c, row))
        return list(found)

    def _first_inside(self, place: str) -> list[Mapping[str, Any]]:
        at = bisect_left(self._folders, f"{place}/")
        is_inside = at < len(self._folders) and self._folders[at].startswith(f"{place}/")
        return self._at[self._folders[at]][:1] if is_inside else []


def _say(words: str, claim: Mapping[str, Any]) -> str:
    return str(claim["label"]) if claim["owner_kind"] == "version" else words.format(claim["label"])


def _is_own(claim: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return (claim["owner_kind"], claim["owner_id"], claim["tracking_server"]) == (
        row["owner_kind"],
        row["owner_id"],
        row["tracking_server"] or "",
    )


def _is_its_run(claim: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return (claim["owner_kind"], claim["owner_id"], claim["tracking_server"]) == ("run", row["run_id"], row["tracking_server"])
