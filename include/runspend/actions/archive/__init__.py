"""Old artifacts: what retention policies would move, who is told, what is due, and how it is moved.

    select.py      a policy's `select` as SQL
    plan.py        every folder a policy selects and what protects it: plan.sql, held_*.sql
    money.py       what moving saves and costs: at the bill's rates (storage_rates) or those of storage_rates.csv
    notices.py     who was told of what, and when a mail server took it
    keeps.py       objections, with the day they end
    states.py      the plan with what became of it: planned, announced, due, kept, archived
    due.py         the items that may be acted on now
    why.py         what keeps a run's bytes where they are
    items.py       one folder of one store
    engine.py …    moving them: see there

Mail is written and sent by whoever joins this with `actions/alert`: nothing here knows it.
"""

from runspend.actions.archive.plan import plan_items, plan_notes

__all__ = ["PROTECTION_KEYS", "plan_items", "plan_notes"]

# Tags that protect. The extract must copy them out of MLflow whenever there are policies, whatever `copy` says.
PROTECTION_KEYS = ("tag.runspend.keep", "tag.runspend.hold", "tag.stage", "experiment_tag.runspend.keep", "experiment_tag.runspend.hold", "experiment_tag.stage")
