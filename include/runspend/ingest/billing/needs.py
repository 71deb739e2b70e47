"""Writes formats/needs.json: run `python -m runspend.ingest.billing.needs > include/runspend/ingest/billing/formats/needs.json` in the
repository.

Belongs here: which formats have recorded needs. DuckDB shows what each answer of a format's SQL depends on (`distinct.py`), one column at a
time, which takes a second of CPU per load. The result follows from the SQL alone, so it is stored beside the SQL. If the SQL has
changed since, DuckDB is asked instead, and a test fails until the needs are recorded again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from runspend.ingest.billing import format_spec as mapped
from runspend.ingest.billing.formats import aws_cur
from runspend.ingest.billing.staging import Staged

# The SQL of the other formats reads several rows together, which DuckDB's first answer shows.
RECORDED = ((aws_cur.KINDS, {"is_net": False}), (aws_cur.KINDS, {"is_net": True}))


def find_needs() -> dict[str, dict[str, Any]]:
    """Return the content of needs.json: per key of a query, the columns that all answers need and those that each needs in addition."""
    found = {}
    with tempfile.TemporaryDirectory() as workdir, Staged(Path(workdir)) as staged:
        for kinds, variables in RECORDED:
            for kind in kinds:
                key, needs = mapped.needs_of(staged, kind, variables)
                shared = frozenset.intersection(*needs.values())
                found[key] = {"all": sorted(shared), "besides": {name: sorted(needed - shared) for name, needed in needs.items()}}
    return found


def main() -> None:
    sys.stdout.write(json.dumps(find_needs(), indent=1) + "\n")


if __name__ == "__main__":
    main()
