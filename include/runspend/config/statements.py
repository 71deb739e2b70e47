"""`statements` of runspend.yaml: what a team's monthly statement has in addition to its direct cost, and when it is issued.

This module defines the keys. `actions/statement/` applies them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runspend.config.types import CostMeasure, Frozen

# `spread`: over all teams by their direct cost. `separate`: on the statement of no team.
Sharing = Literal["spread", "separate"]


class StatementSettings(Frozen):
    """The policy of all statements. It is printed on each of them.

    `kind`: whether the statement informs a team or is booked to it. `issue_when`: the state that all bills of the month must have before
    a statement gets a number.
    """

    kind: Literal["showback", "chargeback"] = "showback"
    measure: CostMeasure = "effective_cost"
    idle: Sharing = "spread"
    shared: Sharing = "spread"
    unallocated: Sharing = "separate"
    issue_when: Literal["closed", "final"] = "closed"
    number_prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,19})?$")] = ""
