"""The MLflow plug-in: MLflow asks it for tags whenever a run is created. Named in `pyproject.toml`, group mlflow.run_context_provider."""

from __future__ import annotations

from mlflow.tracking.context.abstract_context import RunContextProvider  # noqa: TID253 (only MLflow imports this module)

from runspend.interfaces.identify.identity import find_identity, is_off
from runspend.interfaces.identify.live_switch import start_live_costs


class MachineContext(RunContextProvider):  # type: ignore[misc]  # MLflow has no types
    """Tags of the machine and the job that a run is on."""

    def in_context(self) -> bool:
        """Return whether identification is on."""
        return not is_off()

    def tags(self) -> dict[str, str]:
        """Return the tags. Never raises, and waits for the network for at most WAIT_SECONDS, once per process.

        If RUNSPEND_PRICES names a price list, the process begins to count what its runs cost (`live_costs.py`).
        """
        tags = {found.key: found.value for found in find_identity()}
        start_live_costs()
        return tags
