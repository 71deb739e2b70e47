"""Make the statement of a team for a month: its direct cost and its part of idle and shared cost, with a number and versions.

`plan.py` reads the warehouse, and `lines.py` distributes the bill. `numbering.py` numbers statements and records each version once.
`render.py` writes the page and the CSV, `files.py` writes both to disk, and `pdf.py` prints the page. `pipeline/statement.py` mails them.
"""

from __future__ import annotations

from runspend.actions.statement.document import Document
from runspend.actions.statement.files import write_files
from runspend.actions.statement.numbering import Issued, issue, issued_teams, outdated
from runspend.actions.statement.pdf import BROWSERS, find_browser, print_pdf
from runspend.actions.statement.plan import Month, plan_month
from runspend.actions.statement.render import describe_part, title_of

__all__ = [
    "BROWSERS",
    "Document",
    "Issued",
    "Month",
    "describe_part",
    "find_browser",
    "issue",
    "issued_teams",
    "outdated",
    "plan_month",
    "print_pdf",
    "title_of",
    "write_files",
]
