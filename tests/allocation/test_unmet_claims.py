"""What users read about runs that state where they ran and got no machine's cost."""

from __future__ import annotations

from pathlib import Path

from runspend.allocation.diagnostics import unmet_claims
from runspend.warehouse.factory import open_warehouse
from tests.allocation.chain import DAY, read_world, run_on_duckdb

CASE = Path(__file__).parent / "unmet_claims" / "runs_that_find_nothing"


def test_claims_are_counted_by_rule_and_reason_most_hours_first(tmp_path: Path) -> None:
    """Each sentence has the number of runs, their hours, and an example to look for."""
    run_on_duckdb(read_world(CASE), tmp_path / "warehouse")
    with open_warehouse(str(tmp_path / "warehouse")).reader() as reader:
        found = [claims.words for claims in unmet_claims(reader, DAY)]
    assert found == [
        "6 runs (29.0 h) state a machine, such as m10: no bill has it at that time and place",
        "2 runs (3.0 h) state an instance type, such as g5.xlarge, spot, eu-west-1b, account account: no bill has it at that time and place",
        "2 runs (2.0 h) state a job, such as gone: no bill has it at that time and place",
        "2 runs (2.0 h) state a machine, such as m7: scope excludes it",
        "2 runs (1.5 h) state a machine, such as n1: the bill gives its cost to its pods. State the pod (docs/identify.md#kubernetes), or set `pods: whole` on the bill",
        "1 run (1.0 h) states an instance type, such as y4: `shared` declares it as cost of the platform",
        "1 run (1.0 h) states an instance type, such as g5.xlarge: other runs used all of its hours",
        "1 run (1.0 h) states a job, such as arn:aws:sagemaker:eu-west-1:222222222222:training-job/t: scope excludes it",
        "1 run (1.0 h) states a job, such as train-1: other runs used all of its hours",
        "1 run (1.0 h) states a machine, such as m5: other runs used all of its hours",
        "1 run (0.5 h) belongs to a pool, such as lagging: its hours are not billed yet",
        "1 run (0.5 h) states a machine, such as m1: its hours are not billed yet",
    ]
