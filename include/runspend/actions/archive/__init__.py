"""Retention of old artifacts: plan which folders to move, announce the moves, move the folders and bring them back.

    selection.py   a policy's `select` as SQL
    plan.py        every folder that a policy selects, and what protects it: plan.sql, held_*.sql
    savings.py     savings and cost of a move, at the bill's rates (storage_rates) or those of storage_rates.csv
    notices.py     notices: who was notified of which items, and when a mail server accepted the mail
    holds.py       objections, each with its end date
    states.py      the plan with the state of each item: planned, announced, due, kept, archived
    due.py         the items that may be acted on now
    why.py         where a run's files are, and why
    items.py       one folder of one artifact store
    run.py         acts on due items, with move.py, tier.py and delete.py
    restore.py     brings archives back
    verify.py      compares archives with their manifests

Nothing here writes or sends mail. The callers that connect this package with `actions/alert` do.
"""

from runspend.actions.archive.plan import plan_items, plan_notes

__all__ = ["PROTECTION_KEYS", "plan_items", "plan_notes"]

# Tags that protect. When there are policies, the extract must copy these tags from MLflow, even if `copy` does not list them.
PROTECTION_KEYS = (
    "tag.runspend.keep",
    "tag.runspend.hold",
    "tag.stage",
    "experiment_tag.runspend.keep",
    "experiment_tag.runspend.hold",
    "experiment_tag.stage",
)
