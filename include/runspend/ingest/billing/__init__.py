"""Loads bills: finds, verifies and reads delivered files, normalizes their rows, and decides which version of a period counts.

`load_source` is the entry point. It does not access the warehouse itself. For each billing period, it returns the files and tables that
replace those in place, or the reason why they stay. A format is a module in `ingest/billing/formats/`, in most cases with a SQL file.
"""

from __future__ import annotations

from runspend.ingest.billing.load import load_source
from runspend.ingest.billing.period_results import Load, PeriodLoad
from runspend.ingest.billing.probe import probe_source
from runspend.ingest.billing.split_sources import Read, read_weights

__all__ = ["Load", "PeriodLoad", "Read", "load_source", "probe_source", "read_weights"]
