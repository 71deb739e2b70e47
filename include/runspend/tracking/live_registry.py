"""Which registered versions need a run's or a model's files, asked of the registry right before bytes are deleted.

Put here how it is asked, and how an answer that leaves something out is noticed. What else protects does not belong here.
"""

from __future__ import annotations

from typing import Any

from runspend.errors import SourceUnreachable
from runspend.tracking.client import Client

PAGE_VERSIONS = 1_000


class RegistryQuestions:
    """Every question names `control` as well, a run that some version is known to name: an answer without it is not believed."""

    def __init__(self, client: Client, control: str | None) -> None:
        self._client = client
        self._control = control

    def ask(self, *, run_id: str | None, model_id: str | None, is_run: bool) -> str | None:
        """The first registered version that leans on the run or the model, in words. `is_run`: whether all of the run is asked about, whatever model a version names."""
        found: dict[tuple[str, str], Any] = {}
        if run_id is not None or self._control is not None:
            found |= self._of_runs(run_id)
        for text in (run_id if is_run else None, model_id):
            if text is not None:
                found |= self._search(f"source_path LIKE '%{text}%'")
        labels = [self._label(*key) for key, version in sorted(found.items()) if is_run or _may_be(version, model_id)]
        return min(labels, key=lambda label: (not label.startswith("alias "), label), default=None)

    def _of_runs(self, run_id: str | None) -> dict[tuple[str, str], Any]:
        """Versions registered from the run. MLflow answers an unknown run and a page it lost alike, so another run is asked for with it."""
        wanted = sorted({r for r in (run_id, self._control) if r is not None})
        found = self._search(f"run_id IN ({', '.join(repr(r) for r in wanted)})")
        if self._control is not None and not any(v.run_id == self._control for v in found.values()):
            raise SourceUnreachable(
                self._client.name, f"cannot ask the registry of {self._client.name}: its answer leaves out the versions of run {self._control}, which it had."
            )
        return {key: version for key, version in found.items() if version.run_id == run_id}

    def _search(self, condition: str) -> dict[tuple[str, str], Any]:
        found: dict[tuple[str, str], Any] = {}
        token: str | None = None
        while True:
            page = self._client.ask(lambda: self._client.registry.search_model_versions(condition, PAGE_VERSIONS, None, token))  # noqa: B023 (called at once)
            found |= {(v.name, str(v.version)): v for v in page}
            token = page.token
            if not token:
                return found

    def _label(self, name: str, version: str) -> str:
        """Searches tell no aliases, so the version is asked for them."""
        found = self._client.find(lambda: self._client.registry.get_model_version(name, version))
        aliases = sorted(found.aliases) if found is not None else []
        stage = found.current_stage if found is not None else None
        said = f"alias {', '.join(aliases)} on " if aliases else "registered as "
        return f"{said}{name}/{version}{f' in stage {stage}' if stage in ('Production', 'Staging') else ''}"


def _may_be(version: Any, model_id: str | None) -> bool:
    """Whether a version of the model's run may be of the model: it is not when it names another."""
    source = version.source or ""
    return model_id is None or model_id in source or not source.startswith("models:/m-")
