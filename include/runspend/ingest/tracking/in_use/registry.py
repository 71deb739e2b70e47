"""Find the registered versions that need the files of a run or a model, right before bytes are deleted.

Belongs here: the queries of the registry, and the detection of incomplete answers. Other protection does not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from runspend.core.errors import SourceUnreachable
from runspend.ingest.tracking.client import Client
from runspend.ingest.tracking.registry import OF_MODEL

PAGE_VERSIONS = 1_000
IDS_ASKED = 100  # ids per request; the request's URL contains them
_IDS = re.compile(r"m-[0-9a-f]{32}|[0-9a-f]{32}")
CLOCKS = timedelta(hours=1)  # the server's clock may be behind this machine's clock by this much


class RegistryQuestions:
    """Search the registry for versions that depend on a run or a model.

    Older versions (registered before `since`) that name a run are searched by run. Older versions that do not name a run are given in
    `loose`, as (label, source). Newer versions are all listed. `control` is a run for which a version is known to exist. Each search by run
    includes it, and an answer without its versions counts as incomplete.
    """

    def __init__(self, client: Client, since: datetime, control: str | None, loose: Sequence[tuple[str, str]]) -> None:
        self._client = client
        self._since_ms = int((since - CLOCKS).timestamp() * 1000)
        self._control = control
        self._loose = loose

    def ask(self, *, run_id: str | None, model_id: str | None, is_run: bool) -> str | None:
        """Return the label of a registered version that depends on the run or the model, or None. Versions with an alias come first.

        `is_run`: whether every version of the run counts, even a version that names another model.
        """
        ids = [text for text in (run_id if is_run else None, model_id) if text is not None]
        found = [v for v in self._of_runs([] if run_id is None else [run_id]) if is_run or _may_be(v, model_id)]
        found += [v for v in self._registered_since() if any(text in (v.source or "") for text in ids)]
        return self._first(found, [label for label, source in self._loose if any(text in source for text in ids)])

    def ask_any(self, run_ids: Collection[str], model_ids: Collection[str]) -> str | None:
        """Return the label of a registered version that names any of the runs or models, or whose source contains their id, or None.

        Versions with an alias come first.
        """
        ids = {*run_ids, *model_ids}
        found = self._of_runs(run_ids)
        found += [v for v in self._registered_since() if v.run_id in ids or not ids.isdisjoint(_IDS.findall(v.source or ""))]
        return self._first(found, [label for label, source in self._loose if not ids.isdisjoint(_IDS.findall(source))])

    def _first(self, found: Sequence[Any], labels: list[str]) -> str | None:
        labels = labels + [self._label(*key) for key in sorted({(v.name, str(v.version)) for v in found})]
        return min(labels, key=lambda label: (not label.startswith("alias "), label), default=None)

    def _of_runs(self, run_ids: Collection[str]) -> list[Any]:
        """Return the versions registered from the runs. Raises SourceUnreachable if an answer lacks the versions of the control run.

        Without the control run, an answer that lost a page would look the same as the answer for runs without versions.
        """
        asked, versions = sorted(run_ids), list[Any]()
        for start in range(0, max(len(asked), 1), IDS_ASKED):
            part = set(asked[start : start + IDS_ASKED])
            wanted = sorted(part | ({self._control} if self._control is not None else set()))
            if not wanted:
                return []
            listed = ", ".join(f"'{r}'" for r in wanted)
            found = list(
                self._client.list_items(
                    lambda token: self._client.registry.search_model_versions(
                        f"run_id IN ({listed})",  # noqa: B023 (called at once)
                        PAGE_VERSIONS,
                        None,
                        token,
                    )
                )
            )
            if self._control is not None and not any(v.run_id == self._control for v in found):
                raise SourceUnreachable(
                    self._client.name,
                    f"cannot ask the registry of {self._client.name}: its answer leaves out the versions of run {self._control}, which it had before.",
                )
            versions += [version for version in found if version.run_id in part]
        return versions

    def _registered_since(self) -> Iterator[Any]:
        """Yield the versions registered since the last extract, newest first.

        Raises SourceUnreachable if the server lists no version although one is known to exist.
        """
        is_empty = True
        for version in self._client.list_items(
            lambda token: self._client.registry.search_model_versions(None, PAGE_VERSIONS, ["creation_timestamp DESC"], token)
        ):
            is_empty = False
            if (version.creation_timestamp or 0) < self._since_ms:
                return
            yield version
        if is_empty and self._control is not None:
            raise SourceUnreachable(
                self._client.name, f"cannot ask the registry of {self._client.name}: it lists no version at all, but had some before."
            )

    def _label(self, name: str, version: str) -> str:
        """Return a version's label with its aliases and stage. Search results do not contain aliases, so the version is requested again."""
        found = self._client.find(lambda: self._client.registry.get_model_version(name, version))
        aliases = sorted(found.aliases) if found is not None else []
        stage = found.current_stage if found is not None else None
        prefix = f"alias {', '.join(aliases)} on " if aliases else "registered as "
        return f"{prefix}{name}/{version}{f' in stage {stage}' if stage in ('Production', 'Staging') else ''}"


def _may_be(version: Any, model_id: str | None) -> bool:
    """Return whether a version of the model's run may belong to the model. A version that names another model does not."""
    source = version.source or ""
    return model_id is None or model_id in source or OF_MODEL.fullmatch(source) is None
