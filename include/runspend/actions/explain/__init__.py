"""Why a figure is what it is: a run, a resource or a bill line, down to the charges and who shared them.

`find.py` tells which run is meant, `run.py` and `resource_and_line.py` read the tables into the values of `figures.py`, `no_cost.py` says
why there is nothing, `layout.py` rounds and arranges, `as_text.py`, `as_json.py` and `page.py` write. Nothing here decides what
a charge belongs to; the cost tables say.
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
