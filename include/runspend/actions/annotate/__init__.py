"""Write what runs, experiments and model versions cost to MLflow, where the people who train look. See `docs/annotate.md`."""

from runspend.actions.annotate.write import Written, remove_costs, write_costs

__all__ = ["Written", "remove_costs", "write_costs"]
