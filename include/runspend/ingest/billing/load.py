"""Loads one bill: deliveries -> verified files -> staged rows -> one version per period, or a refusal.

Belongs here: which files make up a period (by manifest, or all files together) and which files are refused. Layouts of deliveries are in
`manifests.py`, the handling of a file in `delivered_files.py`, and formats in their modules. The rules of versions are in `versions.py`,
and results in `period_results.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from runspend.config.settings import BillSource
from runspend.core.errors import SourceRefused, bill_named
from runspend.core.step_result import ReadJob
from runspend.core.text import finding
from runspend.ingest.billing import versions
from runspend.ingest.billing.delivered_files import (
    ArrivedFile,
    combine,
    is_data_of,
    open_bill,
    recognize,
    rivals_of,
    stage_alike,
    stage_each,
    stage_or_note,
    verify_all,
)
from runspend.ingest.billing.file_sources import FileSource
from runspend.ingest.billing.load_context import LoadContext, PublishedBill, refused
from runspend.ingest.billing.manifests import (
    DATA_NAMES,
    MANIFEST_NAMES,
    Deliveries,
    Delivery,
    by_export,
    find_deliveries,
    period_of_name,
    together,
)
from runspend.ingest.billing.measured_power import Drawn
from runspend.ingest.billing.normalize import Rules, normalize_rows, place_unreadable_periods
from runspend.ingest.billing.period_results import (
    Load,
    PeriodLoad,
    build_period,
    fed_again,
    fed_by,
    find_covered_until,
    leave_unchanged,
    missing_periods,
    record_refusal,
    refuse_period,
)
from runspend.ingest.billing.staging import Staged
from runspend.ingest.billing.totals import FedPeriod, find_overlap, find_overlap_of_exports, read_fed_periods, read_periods, read_totals
from runspend.ingest.billing.versions import plain, version_of

LIKE_BILLS = re.compile(r"(?i)\.(json|json\.gz|tsv|xlsx?|zip|avro|orc|7z|bz2|zst)$")


def load_source(
    source: BillSource,
    rules: Rules,
    published: PublishedBill,
    job: ReadJob,
    *,
    accept: Collection[str] = (),
    drawn: Drawn | None = None,
    memory: int | None = None,
) -> Load:
    """Load the current files of a bill. Raises SourceUnreachable, or SourceRefused if no period can be read from them.

    `rules` decide which values are written to the lines. If the rules change, the version changes too. `accept` contains
    "SOURCE:YYYY-MM" for each refusal that an operator has accepted. `drawn` is the measured power of machines, for bills that price it.
    `memory` is the number of bytes that loading may use (`memory_budget.py`).
    """
    context = LoadContext(
        source,
        job.now,
        replace(rules, only=source.only),
        published.rows,
        accept,
        job.workdir,
        job.load_id,
        job.progress,
        {},
        versions.settings_key(source.format.replace("auto", "focus"), rules, source),
        memory,
        frozenset(published.damaged),
    )
    for period in published.periods:
        context.history(period)
    folder = open_bill(source, job.workdir, job.now, job.progress, drawn or {})
    found = find_deliveries(source, folder, is_data_of(source))
    if not found.found and not any(history.current for history in context.histories.values()):
        what = "no manifest" if source.delivery == "manifest" else "no file of a bill (.csv, .csv.gz, .parquet, .jsonl)"
        raise SourceRefused(
            source.name, f"cannot load {bill_named(source.name)}: there is {what} in {source.uri}. Check billing[].uri and delivery."
        )
    load = _load_manifests(context, folder, found.found) if found.is_by_manifest else _load_files(context, folder, found.found)
    load.periods += missing_periods(context, {p.period for p in load.periods})
    load.periods.sort(key=lambda p: p.period)
    load.covered_until = find_covered_until(context, load.periods)
    load.extra["ignored_files"] = list(found.ignored)
    if unread := _files_like_bills(found):
        load.extra.setdefault("warnings", {})["files that are not read"] = ", ".join(unread[:3]) + (
            f" and {len(unread) - 3} more" if unread[3:] else ""
        )
    return load


def _files_like_bills(found: Deliveries) -> list[str]:
    """Return the ignored files that a user may expect to be part of the bill.

    These are tables in a file format that Runspend does not read. If manifests decide which files count, they are the data files of months
    without a manifest.
    """
    if not found.is_by_manifest:
        return [name for name in found.ignored if LIKE_BILLS.search(name) and not MANIFEST_NAMES.search(name)]
    listed = {delivery.period for delivery in found.found}
    return [name for name in found.ignored if DATA_NAMES.search(name) and period_of_name(name) not in {None, *listed}]


# --- delivery: manifest ------------------------------------------------------------------------------------------------


def _load_manifests(context: LoadContext, folder: FileSource, found: Sequence[Delivery]) -> Load:
    """Load each period from its newest complete manifest. If a newer manifest is refused, its refusal is recorded and reported."""
    load = Load(context.source.name, [])
    for delivery in found:
        if delivery.period is None:
            load.error = load.error or refused(context, delivery.problem or "a manifest names no billing period", None)
    for period in sorted({d.period for d in found if d.period}):
        load.periods.append(_load_manifest_period(context, folder, period, by_export([d for d in found if d.period == period])))
    return load


def _load_manifest_period(context: LoadContext, folder: FileSource, period: str, exports: Sequence[Sequence[Delivery]]) -> PeriodLoad:
    """Load a period from the newest delivery of every export. If a delivery is at fault, the previous one of the same export is tried.

    `exports`: the deliveries of each export, newest first. Deliveries older than the version in place are not tried.
    """
    history = context.history(period)
    in_place = max((row["delivered_at"] for row in history.current), default=None)
    refusal: PeriodLoad | None = None
    at = [0] * len(exports)
    while True:
        tried = [each[i] for each, i in zip(exports, at, strict=True)]
        delivery = together(tried)
        if refusal and in_place is not None and delivery.delivered_at is not None and delivery.delivered_at < in_place:
            return refusal  # this delivery is older than the version in place, which stays
        at_fault = {d.export for d in tried if d.problem}
        outcome = _try_manifest(context, folder, period, delivery, sum(at), at_fault)
        if outcome.state != "refused":
            if refusal and outcome.state == "unchanged":
                return refusal
            outcome.error = refusal.error if refusal else outcome.error
            return outcome
        refusal = refusal or outcome
        context.progress(str(outcome.error))
        following = [i + (d.export in at_fault) for d, i in zip(tried, at, strict=True)]
        if not at_fault or any(i == len(each) for i, each in zip(following, exports, strict=True)):
            return refusal
        at = following


def _try_manifest(
    context: LoadContext, folder: FileSource, period: str, delivery: Delivery, position: int, at_fault: set[str]
) -> PeriodLoad:
    """Load a period from one delivery of each export. If it is refused, add the exports whose delivery is at fault to `at_fault`."""
    delivered_at = delivery.delivered_at or context.now
    if delivery.problem:
        return refuse_period(context, period, delivery.problem, (f"{f.entry.name} {f.entry.bytes}" for f in delivery.files), delivered_at)
    workdir = context.workdir / f"{period}-{position}"
    with Staged(workdir, context.memory) as staged:
        digests: list[str] = []
        bad: dict[str, SourceRefused] = {}
        try:
            files, aside = recognize(context, verify_all(context, folder, delivery.files, workdir, bad), bad)
            digests = [f.digest for f in files]
            if not bad and version_of(digests, context.settings_of(period)) == context.standing(period):
                return leave_unchanged(context, period, fed_by(files, [], [f.index for f in files], period))
            stage_each(context, staged, aside, files, bad)
            stage_each(context, staged, files, files, bad)
            stage_alike(context, staged, files, bad)
            if bad:
                at_fault |= {f.export for f in delivery.files if f.entry.name in bad}
                raise next(iter(bad.values()))
            strays = [
                p for p in _normalize(context, staged, files, dict.fromkeys((f.index for f in files), period))[1] if p.period != period
            ]
            if strays:
                at_fault |= {f.delivered.export for f in files if f.index in {p.file_index for p in strays}}
                raise refused(
                    context,
                    f"{next(f.name for f in files if f.index == strays[0].file_index)} holds rows of {strays[0].period}, but its manifest is for {period}",
                    period,
                )
            if why := _overlapping_exports(staged, period, files):
                raise refused(context, why, period)
        except SourceRefused as error:
            return refuse_period(context, period, str(error), digests, delivered_at)
        return build_period(context, staged, period, files, [f.index for f in files], delivered_at)


def _overlapping_exports(staged: Staged, period: str, files: Sequence[ArrivedFile]) -> str | None:
    """Return a text on two exports of one kind that overlap, or None. They overlap if both have charges of one account on one day.

    Such charges would count twice. An example is one export of a subscription next to another of all subscriptions.
    """
    for same in rivals_of(files):
        exports = {f.index: f.delivered.export for f in same}
        if len(set(exports.values())) > 1 and (pair := find_overlap_of_exports(staged, period, exports)):
            first, second, account, day = pair
            return (
                f"the exports {first} and {second} both hold account {account}, period {period}, with charges of {day}: "
                "these charges would count twice. Point billing[].uri at one of the exports"
            )
    return None


# --- delivery: parts and versions --------------------------------------------------------------------------------------


def _load_files(context: LoadContext, folder: FileSource, found: Sequence[Delivery]) -> Load:
    """Load all data files below the uri. Files of unchanged periods are verified, but not read again."""
    if not found:
        return Load(context.source.name, [])
    workdir = context.workdir / "files"
    bad: dict[str, SourceRefused] = {}
    files, aside = recognize(context, verify_all(context, folder, found[0].files, workdir, bad), bad)
    if aside and not files and not bad and not any(history.current for history in context.histories.values()):
        names = ", ".join(file.name for file in aside)
        raise refused(context, f"{names} has only prices, and no usage file is next to it. Put the usage file into the same folder", None)
    with Staged(workdir, context.memory) as staged:
        stage_each(context, staged, aside, files, bad)
        known = _known_periods(context, files)
        touched = _stage_changed(context, staged, files, known, bad)
        return _load_staged(context, staged, [f for f in files if f.name not in bad], known, touched, bad)


def _stage_changed(
    context: LoadContext, staged: Staged, files: Sequence[ArrivedFile], known: dict[int, set[str]], bad: dict[str, SourceRefused]
) -> set[str]:
    """Stage new files, and all files of the periods that change. Return the periods that change.

    `known`: file index -> the periods that the file feeds in the versions in place.
    """
    stage_each(context, staged, [f for f in files if f.index not in known], files, bad)
    touched = read_periods(staged) | _stale_periods(context, files, known)
    left = [f for f in files if f.index in known]
    while again := [f for f in left if known[f.index] & touched]:
        for file in again:
            stage_or_note(context, staged, file, files, bad)
            touched |= known[file.index]  # the file has rows of all its periods, so each of these periods needs all of its files
        left = [f for f in left if f not in again]
    stage_alike(context, staged, [f for f in files if f.name not in bad], bad)
    return touched


def _load_staged(
    context: LoadContext,
    staged: Staged,
    files: Sequence[ArrivedFile],
    known: dict[int, set[str]],
    touched: set[str],
    bad: dict[str, SourceRefused],
) -> Load:
    """Build the result of every period: periods of staged rows, unchanged periods, and periods of bad files, which are refused."""
    named = {f.index: p for f in files if (p := period_of_name(f.name))}
    warnings, fed_periods = _normalize(context, staged, files, named)
    spoiled = _spoiled_periods(context, bad)
    load = Load(context.source.name, [refuse_period(context, period, str(error)) for period, error in sorted(spoiled.items())])
    empty = [f for f in files if f.staged and not f.staged.rows]
    touched = touched | {p.period for p in fed_periods} | {named[f.index] for f in empty if f.index in named}
    for period in sorted(touched - set(spoiled)):
        outcome = _load_period(context, staged, period, files, fed_periods)
        load.periods += [outcome] if outcome else []
    for period in sorted({p for ps in known.values() for p in ps} - touched - set(spoiled)):
        load.periods.append(leave_unchanged(context, period, fed_again(context, period, files)))
    load.extra["warnings"] = warnings
    if without_rows := [f.name for f in empty if f.index not in named]:
        load.extra["files_without_rows"] = without_rows
    load.extra["dropped_columns"] = sorted({c for f in files if f.staged for c in f.staged.dropped_columns})
    return load


def _load_period(
    context: LoadContext,
    staged: Staged,
    period: str,
    files: Sequence[ArrivedFile],
    fed_periods: Sequence[FedPeriod],
) -> PeriodLoad | None:
    feeding = sorted({p.file_index for p in fed_periods if p.period == period})
    by_index = {f.index: f for f in files}
    feeding = feeding or [f.index for f in files if f.staged and not f.staged.rows and period_of_name(f.name) == period]
    if not feeding:
        return None  # the files of the period are gone, which `missing_periods` reports
    chosen = _choose(context, [by_index[i] for i in feeding])
    delivered_at = max(by_index[i].modified_at for i in chosen)
    has_delivery = "delivery" in context.source.model_fields_set
    if len(chosen) > 1 and not has_delivery and (why := _overlap(staged, period, chosen, by_index, fed_periods)):
        facts = replace(
            context.version_facts(period, (by_index[i].digest for i in chosen), delivered_at),
            files=fed_by(files, fed_periods, feeding, period, chosen),
            totals=read_totals(staged, period, chosen),
            quarantined=sum(p.quarantined for p in fed_periods if p.period == period and p.file_index in chosen),
        )
        return record_refusal(context, period, facts, why)
    return build_period(context, staged, period, files, chosen, delivered_at, feeding, fed_periods)


def _choose(context: LoadContext, feeding: Sequence[ArrivedFile]) -> list[int]:
    """Return the indexes of the files whose rows count: all of them, or with `delivery: versions` only the newest of each label."""
    if context.source.delivery == "versions":
        return sorted({max(same, key=lambda f: (f.modified_at, f.name)).index for same in rivals_of(feeding)})
    return [f.index for f in feeding]


def _overlap(
    staged: Staged, period: str, chosen: Sequence[int], by_index: dict[int, ArrivedFile], fed_periods: Sequence[FedPeriod]
) -> str | None:
    """Return a text on two files that overlap, or None. They may be parts of one bill, or the same bill twice: only the user knows."""
    rivals = rivals_of([by_index[i] for i in chosen])
    pair = next((pair for same in rivals if (pair := find_overlap(staged, period, [f.index for f in same]))), None)
    if pair is None:
        return None
    first, second, account, day = pair
    sums = [
        " + ".join(
            f"{plain(p.billed)} {p.currency}"
            for p in fed_periods
            if p.file_index == i and p.period == period and p.account == account and p.rows
        )
        for i in (first, second)
    ]
    return (
        f"{by_index[first].name} ({sums[0]}) and {by_index[second].name} ({sums[1]}) both hold billing account {account or '(none)'}, period {period}, "
        f"with charges of {day}: they may be parts of one bill, or the same bill twice. "
        "Write delivery: parts (all files add up) or delivery: versions (the newest file counts) into billing[]"
    )


def _known_periods(context: LoadContext, files: Sequence[ArrivedFile]) -> dict[int, set[str]]:
    """Return the files whose bytes feed versions in place: file index -> the periods that the file feeds.

    Files of a refused version are left out. They are read again at each load, so that each load reports the refusal.
    """
    periods: dict[str, set[str]] = {}
    refused: set[str] = set()
    for history in context.histories.values():
        for fed in history.files:
            periods.setdefault(fed.sha256, set()).add(history.period)
        refused |= history.refused_digests
    return {f.index: periods[f.verified.sha256] for f in files if f.verified.sha256 in periods and f.verified.sha256 not in refused}


def _stale_periods(context: LoadContext, files: Sequence[ArrivedFile], known: dict[int, set[str]]) -> set[str]:
    """Return the periods whose version would change although no file is new: a file is gone, or the settings have changed."""
    stale = set()
    for period, history in context.histories.items():
        feeding = [f for f in files if period in known.get(f.index, ())]
        if history.current and feeding:
            chosen = set(_choose(context, feeding))
            if version_of((f.digest for f in feeding if f.index in chosen), context.settings_of(period)) != context.standing(period):
                stale.add(period)
    return stale


def _spoiled_periods(context: LoadContext, bad: dict[str, SourceRefused]) -> dict[str, SourceRefused]:
    """Return the periods that bad files belong to, with the error of the file.

    The path of a file or its rows in earlier loads show its periods. Raises the error of a file whose periods are unknown.
    """
    spoiled: dict[str, SourceRefused] = {}
    for name, error in bad.items():
        periods = {history.period for history in context.histories.values() if any(f.name == name for f in history.files)}
        if named := period_of_name(name):
            periods.add(named)
        if not periods:
            raise error
        spoiled.update(dict.fromkeys(periods, error))
    return spoiled


# --- steps that all deliveries share -----------------------------------------------------------------------------------


def _normalize(
    context: LoadContext, staged: Staged, files: Sequence[ArrivedFile], stated: dict[int, str]
) -> tuple[dict[str, Any], list[FedPeriod]]:
    """Normalize the staged rows. Return the warnings, and the periods that each file feeds.

    `stated`: file index -> the period that the file's manifest or name states. Raises SourceRefused if rows have no billing period.
    """
    lost = place_unreadable_periods(staged, stated)
    if lost:
        name = next(f.name for f in files if f.index == lost[0])
        [row] = staged.con.execute(
            "select min(reject_reason) from staged where file_index = ? and billing_period is null", [lost[0]]
        ).fetchall()
        raise refused(context, f"no row of {name} states a billing period: {row[0] or 'it has none'}", None)
    warnings, without_rows = combine(staged, files)
    warnings |= normalize_rows(staged, context.source.name, context.rules)
    for kind, value in warnings.items():
        context.progress(f"{context.source.name}: {finding(kind, value)}")
    return warnings, [*read_fed_periods(staged), *without_rows]
