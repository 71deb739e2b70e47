"""Runs from MLflow, two ways with the same rows: through its API (`api.py`) or straight from its database (`database.py`).

`extract.py` is the order of one extract, `rows.py` with its SQL files what a row means, `dimension_sources.py` what the configuration adds
to it, `raw.py` what both ways hand over, `revisions.py` the database schemas they know. `links.py` reads what keeps artifacts where they
are. None of that writes to MLflow, and nothing here knows where tables are kept.
"""

from runspend.ingest.tracking.extract import Extract, choose_months, extract_server, probe_server
from runspend.ingest.tracking.links import KINDS, find_links

__all__ = ["LINK_TABLES", "Extract", "choose_months", "extract_server", "find_links", "probe_server"]

LINK_TABLES = (*KINDS, "tracking_reads")
