"""The report of a month: figures read from the warehouse, a self-contained page with its CSVs, a summary for the terminal.

`plan.py` reads and adds up what `figures.py` describes, `render.py` writes the page, `csv_files.py` the CSVs, `night_summary.py` the terminal's words. Nothing
here decides what a charge belongs to; the cost tables say.
"""

from __future__ import annotations

from runspend.actions.report.figures import ReportFigures
from runspend.actions.report.night_summary import Night, render_summary, summary_lines
from runspend.actions.report.plan import plan_report
from runspend.actions.report.render import write_report

__all__ = ["Night", "ReportFigures", "plan_report", "render_summary", "summary_lines", "write_report"]
