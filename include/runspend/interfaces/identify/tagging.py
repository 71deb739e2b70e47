"""Tags a run that exists already: one that was resumed, that a client created, or that several nodes log to."""

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
    """Tag a run with the machine and the job of this process; return the tags that were added.

    run_id: by default the active run's. Every node of a run can call this: each adds its machine, and none replaces another's.
    Failures are logged, not raised.
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
    """Return the tags to add to a run: this machine under its own key if it is not the first one, and all other tags that the run does not
    state.
    """
    added = {key: value for key, value in own.items() if key not in there and key != machine_tags.ID}
    machine = own.get(machine_tags.ID)
    if machine is not None and machine != there.get(machine_tags.ID):
        further = {machine_tags.further_key(machine): machine, machine_tags.SEVERAL: "true"}
        added |= {key: value for key, value in further.items() if key not in there}
    return added
