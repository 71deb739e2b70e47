"""The MLflow plug-in: MLflow asks it for tags whenever a run is created.

`pyproject.toml` registers it as an entry point of the group mlflow.run_context_provider.
"""

from __future__ import annotations

from mlflow.tracking.context.abstract_context import RunContextProvider  # noqa: TID253 (only MLflow imports this module)

from runspend.interfaces.identify.identity import find_identity, is_off
from runspend.interfaces.identify.live_switch import start_live_costs


class MachineContext(RunContextProvider):  # type: ignore[misc]  # MLflow has no types
    """The tags of the machine and the job on which a run runs."""

    def in_context(self) -> bool:
        """Return whether identification is on."""
        return not is_off()

    def tags(self) -> dict[str, str]:
        """Return the tags. Never raises. Waits for the network at most WAIT_SECONDS, and only once per process.

        If RUNSPEND_PRICES is set, the process also starts counting the cost of its runs (`live_costs.py`).
        """
        tags = {found.key: found.value for found in find_identity()}
        start_live_costs()
        return tags
