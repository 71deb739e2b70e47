"""The tags that tell where a run was: written by the MLflow plug-in (`interfaces/identify`), read by extraction.

All of them yield to what people state themselves. `docs/identify.md` lists them.
"""

from __future__ import annotations

__all__ = ["ID", "MACHINE_KEYS", "NODES", "NODE_KEYS", "node_key"]

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

MACHINE_KEYS = (ID, TYPE, ACCOUNT, REGION, ZONE, PURCHASE_OPTION, GPU_COUNT, GPU_TYPE, CORES, MEMORY)

# A run on several nodes has one tag per further node, because MLflow would overwrite a shared one. Databases look each key up in an
# index, so there is an end to them.
NODES = 1024


def node_key(number: int) -> str:
    """Return the tag for the id of a run's further machine, from 1 to NODES - 1."""
    return f"runspend.machine.{number}.id"


NODE_KEYS = tuple(node_key(number) for number in range(1, NODES))
