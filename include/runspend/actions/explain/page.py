"""Write a run's explanation as a page: the same rows as in the terminal, and a timeline of its machines.

Style sheet, frame and Content-Security-Policy are the report's. The page makes no network request.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runspend import __version__
from runspend.actions.explain.figures import RunExplanation
from runspend.actions.explain.find import clean
from runspend.actions.explain.layout import currency_views, header_lines, places_of
from runspend.actions.explain.timeline import machine_strip
from runspend.actions.report import render as report
from runspend.core.amounts import change, money, size

TEMPLATES = Path(__file__).parent / "templates"


def run_as_page(e: RunExplanation) -> str:
    """Return one self-contained HTML page."""
    style = (report.TEMPLATES / "report.css").read_text(encoding="utf-8")
    template = _environment().get_template("run.html.j2")
    strips = [machine_strip(e, width, css) for width, css in ((report.WIDE, "chart wide"), (report.NARROW, "chart narrow"))]
    return template.render(
        e=e,
        header=header_lines(e),
        views=currency_views(e),
        strip=Markup("").join(strips),
        style=Markup(style),
        policy=report.content_policy(f"<style>{style}</style></head>"),
        version=__version__,
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader([TEMPLATES, report.TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"clean": clean, "size": size, "money": money, "change": lambda value: change(value, places_of(value))}
    return made
