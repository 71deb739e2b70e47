"""Write the explanation of a run as an HTML page: the same rows as in the terminal, and a timeline of its machines.

The page uses the style sheet and the frame of the report. It loads the script of live pages from its server, but works without it.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

from jinja2 import Environment
from markupsafe import Markup

from runspend import __version__
from runspend.actions.explain.figures import RunExplanation
from runspend.actions.explain.find import clean
from runspend.actions.explain.layout import currency_views, named_facts, places_of, span_text, time_lines
from runspend.actions.explain.timeline import machine_strip
from runspend.actions.report import render as report
from runspend.core.amounts import change
from runspend.schema.rows import month_after

TEMPLATES = Path(__file__).parent / "templates"


def run_as_page(e: RunExplanation, *, today: date | None = None, by: str = "user", currency: str | None = None) -> str:
    """Return one HTML page, to be served as `run/ID`.

    `today` is the current day: links to past months have an end date. `by` is the dimension by which the linked view of the experiment
    groups its costs. `currency` is the currency to which other pages convert costs.
    """
    style = report.live_style()
    template = _environment().get_template("run.html.j2")
    strips = [machine_strip(e, width, css) for width, css in ((report.WIDE, "chart wide"), (report.NARROW, "chart narrow"))]
    return template.render(
        e=e,
        currency=currency,
        facts=named_facts(e),
        lines=[span_text(e.start_time, e.end_time), *time_lines(e)],
        views=currency_views(e),
        strip=Markup("").join(strips),
        ways=_ways(e, today, by),
        own_experiment=_own_experiment(e),
        style=Markup(style),
        policy=report.live_policy(f"<style>{style}</style></head>"),
        script=f"../{report.live_script()[1]}",
        version=__version__,
    )


def _own_experiment(e: RunExplanation) -> str | None:
    """Return the name of the run's experiment, or None if the name of a person was removed from it: no page has such a name."""
    return e.experiment_name if e.experiment_name and "/…" not in e.experiment_name else None


def _ways(e: RunExplanation, today: date | None, by: str) -> list[tuple[str, str]]:
    """Return (name, query string) of the explorer views that include this run. Their period is the months in which it ran."""
    named = [(d.name, d.value) for d in e.dimensions if d.name in ("team", "project")]
    if own := _own_experiment(e):
        named.append(("experiment", own))
    months = {}
    if e.start_time is not None:
        months["from"] = e.start_time.date().replace(day=1)
        last = None if e.end_time is None else month_after(e.end_time.date(), 1) - timedelta(days=1)
        if last is not None and today is not None and last < today:  # otherwise, the view ends at the newest charge
            months["to"] = last
    return [
        (f"{key} {clean(value)}", urlencode({**months, "by": "experiment" if key != "experiment" else by, key: value}))
        for key, value in named
        if value
    ]


@cache
def _environment() -> Environment:
    made = report.page_templates(TEMPLATES)
    made.globals["quote"] = lambda text: quote(text, safe="")
    made.filters |= {"clean": clean, "change": lambda value: change(value, places_of(value))}
    return made
