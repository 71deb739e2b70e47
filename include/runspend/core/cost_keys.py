"""The metrics and tags that hold a cost in MLflow: written by `actions/annotate`, never read back as a fact about a run.

Extraction leaves out Runspend's metrics, by name and step, and these tags, by name. Otherwise a written cost would count as a sign of activity,
a dimension or a copied tag. `docs/annotate.md` lists them.
"""

from __future__ import annotations

import re

STATUS, MATCH, AS_OF = "cost_status", "cost_match", "cost_as_of"
COST_TAGS = (STATUS, MATCH, AS_OF)
RECORD = "runspend.costs"  # JSON of the values that Runspend wrote; a value that differs from it is not Runspend's
# The steps of Runspend's metrics: a metric with one of these names at any other step is not Runspend's. No training reaches these steps, even
# if it counts tokens. Microseconds since 1970 are smaller, nanoseconds are larger, and JavaScript still represents each step exactly.
FIRST_STEP, STEPS_END = 8 * 10**15, 9 * 10**15
NOTE = "mlflow.note.content"  # the tag that MLflow shows as the description of a run
_METRIC = re.compile(r"cost_[a-z]{3}(_estimated)?")
_PART = re.compile(r"cost_[a-z]{3}_(total|month_to_date|training|failed_attempts|storage)")
_RUN_NOTE = re.compile(r"Cost of this run, line by line: \S+/run/[0-9A-Za-z_.-]+")


def cost_key(currency: str, part: str = "") -> str:
    """Return the key of a cost: `cost_usd`, or of a part of one, such as `cost_usd_total`."""
    return f"cost_{currency.lower()}{part and f'_{part}'}"


def estimate_key(currency: str) -> str:
    """Return the key of the metric that a run writes about itself while it trains."""
    return cost_key(currency, "estimated")


def is_cost_metric(key: str, step: int) -> bool:
    """Return whether Runspend wrote the metric's value."""
    return FIRST_STEP <= step < STEPS_END and _METRIC.fullmatch(key) is not None


def may_be_cost(key: str) -> bool:
    """Return whether Runspend may write a metric of this name."""
    return _METRIC.fullmatch(key) is not None


def is_cost_tag(key: str) -> bool:
    """Return whether Runspend writes the tag of a run, an experiment or a model version."""
    return key in COST_TAGS or key == RECORD or _PART.fullmatch(key) is not None


def run_note(site: str, run_id: str) -> str:
    """Return the description for a run that has none."""
    return f"Cost of this run, line by line: {site.rstrip('/')}/run/{run_id}"


def is_run_note(text: str) -> bool:
    """Return whether Runspend wrote this description and it was not changed since."""
    return _RUN_NOTE.fullmatch(text) is not None
