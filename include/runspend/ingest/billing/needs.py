"""Writes formats/needs.json: run `python -m runspend.ingest.billing.needs > include/runspend/ingest/billing/formats/needs.json` in the repository.

Put here whose needs are recorded. DuckDB tells what each answer of a format's SQL depends on (`distinct.py`), a column at a time: a
second of a processor a load. It follows from the SQL alone, so it is kept beside the SQL; of SQL that was changed since, DuckDB is
asked, and a test says that it should be recorded.
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

# Of the other formats SQL looks at several rows at once, which DuckDB's first answer tells.
RECORDED = ((aws_cur.KINDS, {"is_net": False}), (aws_cur.KINDS, {"is_net": True}))


def find_needs() -> dict[str, dict[str, Any]]:
    """What `distinct.py` reads: by the key of a question what all of its columns need, and what each needs besides."""
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
