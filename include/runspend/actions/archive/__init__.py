"""Retention of old artifacts: plan which folders to move, announce the moves, move the folders, and restore them.

Plan:

    items.py            one folder of one artifact store
    selection.py        a policy's `select` as SQL
    plan.py             every folder that a policy selects, and what protects it (plan.sql, held_*.sql)
    shared_folders.py   folders of several owners whose URIs spell them differently
    enclosing.py        folders inside the folder of another run, model or trace
    local_links.py      local folders with a second path, through a link or a mount
    savings.py          savings and cost of a move, at the bill's rates or at those of storage_rates.csv
    notices.py          who was notified of which items, and when a mail server accepted the mail
    holds.py            runs and experiments that users exclude from retention until a date
    states.py           the plan with the state of each item: planned, announced, due, kept, archived
    why.py              where a run's files are, and why

Act:

    run.py              acts on due items, with move.py, tier.py and delete.py
    context.py          the stores, protection, time and threads of one archive run
    lease.py            one archiver at a time
    protection.py       asks MLflow again right before a delete; protection_watch.py repeats that for each change
    manifest.py         the manifest next to the copies
    archive_records.py  the records under home; states.py builds the tables `archives` and `archive_objects` from them
    mlflow_tags.py      tags in MLflow for archived and restored artifacts, and pruned runs

Afterwards:

    find.py             archives, found in the stores themselves
    restore.py          restores archives; returned.py marks them as restored
    verify.py           compares archives with their manifests

Nothing here writes or sends mail. The callers that connect this package with `actions/alert` do.
"""

from runspend.actions.archive.plan import plan_items, plan_notes

__all__ = ["PROTECTION_KEYS", "plan_items", "plan_notes"]

# Tags that protect artifacts. If there are policies, the extract must copy these tags from MLflow, even if `copy` does not list them.
PROTECTION_KEYS = (
    "tag.runspend.keep",
    "tag.runspend.hold",
    "tag.stage",
    "experiment_tag.runspend.keep",
    "experiment_tag.runspend.hold",
    "experiment_tag.stage",
)
