"""Write the costs of runs, experiments and model versions to MLflow, so that people see them next to their runs. See `docs/annotate.md`."""

from runspend.actions.annotate.write import Written, remove_costs, write_costs

__all__ = ["Written", "remove_costs", "write_costs"]
