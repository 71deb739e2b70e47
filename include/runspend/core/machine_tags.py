"""The tags that state where a run was: written by the MLflow plug-in (`interfaces/identify`), read by extraction.

Values that people state themselves take precedence over all of them. `docs/identify.md` lists them.
"""

from __future__ import annotations

import hashlib

ID = "runspend.machine.id"
TYPE = "runspend.machine.type"
ACCOUNT = "runspend.machine.account"
REGION = "runspend.machine.region"
ZONE = "runspend.machine.zone"
PURCHASE_OPTION = "runspend.machine.purchase_option"
GPU_COUNT = "runspend.machine.gpu_count"
GPU_TYPE = "runspend.machine.gpu_type"
CORES = "runspend.machine.cores"
MEMORY = "runspend.machine.memory"

# A run on several machines has one tag for each further one, under a key of the machine's own: no two machines write the same tag.
# SEVERAL marks such runs, so that Runspend searches a database for these keys only if a run has them.
SEVERAL = "runspend.machine.several"
FURTHER = "runspend.machine.further."


def further_key(machine: str) -> str:
    """Return the key for the id of a run's further machine."""
    return f"{FURTHER}{hashlib.sha256(machine.encode()).hexdigest()[:16]}"
