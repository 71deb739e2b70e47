"""Why a figure is what it is: a run, a resource or a bill line, down to the charges and who shared them.

`find.py` tells which run is meant, `plan.py` and `things.py` read the tables into the values of `figures.py`, `no_cost.py` says
why there is nothing, `layout.py` rounds and arranges, `text.py`, `as_json.py` and `page.py` write. Nothing here decides what
a charge belongs to; the cost tables say.
"""

from __future__ import annotations

from runspend.explain.as_json import explanation_as_json
from runspend.explain.figures import LineExplanation, ResourceExplanation, RunExplanation
from runspend.explain.find import AmbiguousName, UnknownName
from runspend.explain.page import run_as_page
from runspend.explain.plan import explain_run
from runspend.explain.text import line_as_text, resource_as_text, run_as_text
from runspend.explain.things import explain_line, explain_named, explain_resource

__all__ = [
    "AmbiguousName", "LineExplanation", "ResourceExplanation", "RunExplanation", "UnknownName", "explain_line", "explain_named", "explain_resource", "explain_run",
    "explanation_as_json", "line_as_text", "resource_as_text", "run_as_page", "run_as_text",
]  # fmt: skip
