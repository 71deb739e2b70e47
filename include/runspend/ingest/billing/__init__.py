"""Bills: what was delivered, verified, read, settled, and which version of a period stands.

`load_source` is the way in; it never touches the warehouse: it hands back, per billing period, the files and tables that
replace the ones in place, or why they stay. A format is one module and one SQL file in `ingest/billing/formats/`.
"""

from __future__ import annotations

from runspend.ingest.billing.load import load_source
from runspend.ingest.billing.period_results import Load, PeriodLoad
from runspend.ingest.billing.probe import probe_source
from runspend.ingest.billing.split_sources import Read, read_weights

__all__ = ["Load", "PeriodLoad", "Read", "load_source", "probe_source", "read_weights"]
