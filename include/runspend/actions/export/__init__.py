"""Exports the ledger for other tools: FOCUS Cost and Usage with its Allocated columns, Tableau extracts, sources for dbt, and a dashboard for Superset. Changes nothing but its files."""

from __future__ import annotations

from runspend.actions.export.focus import Exported, Total, export_focus, focus_view

__all__ = ["Exported", "Total", "export_focus", "focus_view"]
