"""Tag a run that already exists: a resumed run, a run that a client created, or a run to which several nodes log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from runspend.core import machine_tags
from runspend.interfaces.identify.identity import find_identity, is_off
from runspend.interfaces.identify.live_switch import start_live_costs

if TYPE_CHECKING:
    from mlflow import MlflowClient


log = logging.getLogger(__name__)


def identify_run(run_id: str | None = None, client: MlflowClient | None = None) -> dict[str, str]:
    """Tag a run with the machine and the job of this process, and return the added tags.

    Without `run_id`, the active run is tagged. Every node of a run can call this function: each node adds its machine and keeps those of
    the others. Failures are logged, not raised.
    """
    if is_off():
        return {}
    try:
        return _identify(run_id, client)
    except Exception as error:  # noqa: BLE001 (a training job runs here)
        log.warning("cannot tag run %s with its machine: %s", run_id or "", error)
        return {}
    finally:
        start_live_costs()


def _identify(run_id: str | None, client: MlflowClient | None) -> dict[str, str]:
    import mlflow

    if run_id is None:
        active = mlflow.active_run()
        if active is None:
            raise ValueError("no run is active. Pass its run_id")
        run_id = str(active.info.run_id)
    client = client or mlflow.MlflowClient()
    tags = client.get_run(run_id).data.tags
    added = missing_tags({found.key: found.value for found in find_identity()}, tags)
    for key, value in added.items():
        client.set_tag(run_id, key, value)
    return added


def missing_tags(own: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of `own` to add to a run with the tags `there`. Existing tags are not replaced.

    A machine that differs from the run's first machine gets its own key.
    """
    added = {key: value for key, value in own.items() if key not in there and key != machine_tags.ID}
    machine = own.get(machine_tags.ID)
    if machine is not None and machine != there.get(machine_tags.ID):
        further = {machine_tags.further_key(machine): machine, machine_tags.SEVERAL: "true"}
        added |= {key: value for key, value in further.items() if key not in there}
    return added
