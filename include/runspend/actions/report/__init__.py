"""The monthly report: figures from the warehouse, a self-contained page with its CSVs, and a summary for the terminal.

`plan.py` reads and sums the values that `figures.py` describes. `render.py` writes the page, `csv_files.py` the CSVs, and
`terminal_summary.py` the terminal summary. Nothing here allocates charges: the cost tables already have the result.
"""

from __future__ import annotations

from runspend.actions.report.figures import ReportFigures
from runspend.actions.report.plan import plan_report
from runspend.actions.report.render import write_report
from runspend.actions.report.terminal_summary import PipelineRun, render_summary, summary_lines

__all__ = ["PipelineRun", "ReportFigures", "plan_report", "render_summary", "summary_lines", "write_report"]
