"""Explain the cost of a run, a resource or a bill line, down to the charges and the runs that share them.

`find.py` finds the run. `run.py` and `resource_and_line.py` read the tables into the values of `figures.py`. `no_cost.py` finds the
reason for a missing cost. `layout.py` rounds and arranges the values, and `as_text.py`, `as_json.py` and `page.py` write them. This
package does not decide to which run a charge belongs: it reads that from the cost tables.
"""

from __future__ import annotations

from runspend.actions.explain.as_json import explanation_as_json
from runspend.actions.explain.as_text import line_as_text, resource_as_text, run_as_text
from runspend.actions.explain.figures import LineExplanation, ResourceExplanation, RunExplanation
from runspend.actions.explain.find import AmbiguousName, UnknownName
from runspend.actions.explain.page import run_as_page
from runspend.actions.explain.resource_and_line import explain_line, explain_named, explain_resource
from runspend.actions.explain.run import explain_run

__all__ = [
    "AmbiguousName", "LineExplanation", "ResourceExplanation", "RunExplanation", "UnknownName", "explain_line", "explain_named", "explain_resource", "explain_run",
    "explanation_as_json", "line_as_text", "resource_as_text", "run_as_page", "run_as_text",
]  # fmt: skip
