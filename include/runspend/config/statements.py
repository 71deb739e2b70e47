"""Defines `statements` of runspend.yaml: what a team's monthly statement includes in addition to direct cost, and when it is issued.

`actions/statement/` applies these settings.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runspend.config.types import CostMeasure, Frozen

# `spread`: the cost is spread over all teams by their direct cost. `separate`: it is on no team's statement.
Sharing = Literal["spread", "separate"]


class StatementSettings(Frozen):
    """The rules for all statements. They are printed on each statement.

    `kind`: whether a statement only informs the team (showback) or is booked to it (chargeback). `issue_when`: the state that all bills of
    the month must have before a statement gets a number.
    """

    kind: Literal["showback", "chargeback"] = "showback"
    measure: CostMeasure = "effective_cost"
    idle: Sharing = "spread"
    shared: Sharing = "spread"
    unallocated: Sharing = "separate"
    issue_when: Literal["closed", "final"] = "closed"
    number_prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,19})?$")] = ""
