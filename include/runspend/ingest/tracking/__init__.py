"""Read runs from MLflow in two ways that give the same rows: through its API (`api.py`) or from its database (`database.py`).

`extract.py` runs the steps of one extract. `rows.py` and its SQL files define what a row means, and `dimension_sources.py` adds the
settings. `raw.py` defines the rows of both readers, and `revisions.py` the supported database schemas. `links.py` reads the facts that
protect artifacts. None of these modules writes to MLflow; only `mlflow_writer.py` and `cost_annotations.py` do. No module knows where
tables are stored.
"""

from runspend.ingest.tracking.extract import Extract, PublishedRuns, choose_months, extract_server, probe_server
from runspend.ingest.tracking.links import KINDS, find_links
from runspend.ingest.tracking.settings import RowSettings

__all__ = ["LINK_TABLES", "Extract", "PublishedRuns", "RowSettings", "choose_months", "extract_server", "find_links", "probe_server"]

LINK_TABLES = (*KINDS, "tracking_reads")
