"""Reads a bill without loading it, for `runspend doctor`."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.config.settings import BillSource
from runspend.core.amounts import EXACT
from runspend.core.errors import SourceRefused
from runspend.ingest.billing.delivered_files import combine, is_data_of, open_bill, recognize, stage_or_note, verify_all
from runspend.ingest.billing.load_context import LoadContext
from runspend.ingest.billing.manifests import Delivery, find_deliveries
from runspend.ingest.billing.measured_power import Drawn
from runspend.ingest.billing.normalize import Rules, normalize_rows, place_unreadable_periods
from runspend.ingest.billing.staging import Staged
from runspend.ingest.billing.totals import REACH, read_evidence, read_fed_periods


def probe_source(
    source: BillSource,
    rules: Rules | None = None,
    now: datetime | None = None,
    drawn: Drawn | None = None,
    *,
    memory: int | None = None,
) -> dict[str, Any]:
    """Return facts about the current files of a bill. Nothing is loaded, and no version is checked.

    `memory`: the number of bytes that reading may use.

    {"format", "version", "periods": [...], "files", "rows", "quarantined", "quarantined_because": the most frequent reason, "billed": {currency: Decimal},
     "covered_until": datetime | None, "problems": [...],
     "usage_rows", "with_resource", "with_run", "with_job": the number of usage rows, and how many of them have a key that finds runs,
     "accounts": {(billing account, sub-account, "2026-10"), ...}, "warnings": {finding of normalizing: count},
     "skip_reasons": {reason why rows charge nothing: number of rows}}
    """
    with tempfile.TemporaryDirectory(prefix="runspend-probe-") as folder:
        workdir = Path(folder)
        context = LoadContext(
            source,
            now or datetime.now(timezone.utc),
            rules or Rules(),
            lambda table, period: None,
            (),
            workdir,
            "probe",
            lambda line: None,
            {},
            "",
        )
        opened = open_bill(source, workdir, context.now, context.progress, drawn or {})
        found = find_deliveries(source, opened, is_data_of(source)).found
        newest: dict[tuple[str | None, str], Delivery] = {}
        for delivery in found:
            if not delivery.problem:
                newest.setdefault((delivery.period, delivery.export), delivery)
        problems = [d.problem for d in found if d.problem]
        wanted = [item for delivery in newest.values() for item in delivery.files]
        with Staged(workdir / "engine", memory) as staged:
            bad: dict[str, SourceRefused] = {}
            files, aside = recognize(context, verify_all(context, opened, wanted, workdir, bad), bad)
            for file in [*aside, *files]:
                stage_or_note(context, staged, file, files, bad)
            place_unreadable_periods(staged, {})
            combine(staged, files)
            warnings = normalize_rows(staged, source.name, context.rules)
            fed_periods = read_fed_periods(staged)
            billed: dict[str, Decimal] = {}
            for part in fed_periods:
                if part.rows:
                    billed[part.currency] = EXACT.add(billed.get(part.currency, Decimal(0)), part.billed)
            [(covered_until, good, bad_rows, bad_because)] = staged.con.execute(
                f"select {REACH}, count(*) filter (reject_reason is null), count(*) filter (reject_reason is not null), mode(reject_reason) from staged"
            ).fetchall()
            evidence = read_evidence(staged)
        shutil.rmtree(workdir / "unpacked", ignore_errors=True)
    return {
        "format": ", ".join(sorted({f.format for f in files})),
        "version": ", ".join(sorted({f.staged.focus_version for f in files if f.staged})),
        "periods": sorted({p.period for p in fed_periods}),
        "files": len(files),
        "rows": good,
        "quarantined": bad_rows,
        "quarantined_because": bad_because,
        "billed": billed,
        "covered_until": covered_until,
        "problems": problems + [str(error) for error in bad.values()],
        "warnings": warnings,
        "skip_reasons": dict(sum((Counter(f.staged.skip_reasons) for f in files if f.staged), Counter())),
        **evidence,
    }
