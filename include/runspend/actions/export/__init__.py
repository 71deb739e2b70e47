"""Export the ledger for other tools: FOCUS files with the Allocated columns, Tableau extracts, dbt sources, and a Superset dashboard.

Exports write only their own files.
"""

from __future__ import annotations

from runspend.actions.export.focus import Exported, Total, export_focus, focus_view

__all__ = ["Exported", "Total", "export_focus", "focus_view"]
