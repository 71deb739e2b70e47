"""The straight line of one bill: deliveries -> verified files -> staged rows -> one version per period, or a refusal.

Put here the order of the steps and who is refused what. Layouts are in `deliveries.py`, formats in their modules, the
rules of versions in `versions.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.billing import census as counts
from runspend.billing import lines, settle, versions
from runspend.billing.census import FedPeriod
from runspend.billing.deliveries import (
    DATA_NAMES,
    Delivered,
    DeliveredFile,
    Delivery,
    by_export,
    find_deliveries,
    period_of_name,
    together,
)
from runspend.billing.formats import find_format, format_module, offered
from runspend.billing.places import Folder, open_folder
from runspend.billing.settle import Rules
from runspend.billing.splits import Weights
from runspend.billing.staging import Staged, StagedFile, wake
from runspend.billing.texts import read_header
from runspend.billing.verify import VerifiedFile, verify_file
from runspend.billing.versions import Book, FedFile, VersionFacts, plain, version_of
from runspend.config import BillSource, DimensionSettings, KeySettings, Pool, ScopeSettings
from runspend.errors import SourceRefused
from runspend.tables import BILLING_LINES, BILLING_QUARANTINE

if TYPE_CHECKING:
    import pyarrow as pa

Previous = Callable[[str, str], "pa.Table | None"]


@dataclass
class PeriodLoad:
    """One billing period tonight. `tables` replace the units in place; an empty map leaves them.

    `unchanged` may carry `billing_loads` alone (another copy of the same file appeared). `error` means exit code 3 in any
    state: with `loaded` it says that a still newer version was refused.
    """

    period: str
    state: str  # loaded, unchanged or refused
    tables: dict[str, Path | pa.Table] = field(default_factory=dict)
    error: SourceRefused | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Load:
    """What one bill brought. `error` is what was refused without belonging to a period."""

    source: str
    periods: list[PeriodLoad]
    error: SourceRefused | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class _File:
    """One delivered file on this machine, whole; `staged` once its rows are in the engine.

    With `bring` it is not here yet: its stamp says that it holds what it held when it was read, and it is fetched only if its
    rows are needed again.
    """

    index: int
    delivered: DeliveredFile
    verified: VerifiedFile
    path: Path
    format: str = ""
    label: str | None = None  # as the format calls it: files of several labels complement each other
    stands_for: str | None = None  # what its name alone says of what is charged
    copies: list[str] = field(default_factory=list)  # names of byte-identical files
    stamps: dict[str, str] = field(default_factory=dict)  # by name: its own and its copies', of places that vouch for files
    staged: StagedFile | None = None
    bring: Callable[[], tuple[Path, VerifiedFile]] | None = None

    @property
    def name(self) -> str:
        return self.delivered.entry.name

    @property
    def modified_at(self) -> datetime:
        return self.delivered.entry.modified_at

    @property
    def digest(self) -> str:
        """What it adds to a version: its bytes, and as what they are read."""
        return " ".join(text for text in (self.verified.sha256, self.label, self.stands_for) if text)


@dataclass
class _Tonight:
    """The arguments of `load_source`, once."""

    source: BillSource
    now: datetime
    rules: Rules
    previous: Previous
    accept: Collection[str]
    workdir: Path
    load_id: str
    progress: Callable[[str], None]
    books: dict[str, Book]
    settings: str

    def settings_of(self, period: str) -> str:
        """What besides a period's files decides its rows: the settings, and the weights of other sources that reach into it."""
        return "\n".join([self.settings, *(weights.digest_of(period) for weights in self.rules.weights)])

    def book(self, period: str) -> Book:
        if period not in self.books:
            self.books[period] = versions.read_book(self.source.name, period, self.previous("billing_loads", period))
        return self.books[period]


def load_source(
    source: BillSource,
    *,
    now: datetime,
    scope: ScopeSettings | None,
    previous: Previous,
    periods_known: list[str],
    accept: Collection[str],
    workdir: Path,
    load_id: str,
    progress: Callable[[str], None],
    pools: Sequence[Pool] = (),
    dimensions: DimensionSettings | None = None,
    keys: KeySettings | None = None,
    weights: Sequence[Weights] = (),
) -> Load:
    """Read what a bill delivers now. Raises SourceUnreachable, or SourceRefused when no period can be told from it.

    `scope`, `pools`, `dimensions` and `keys` decide what is settled on the lines: where they change, so does the version.
    So do `weights`, by which other sources split lines of machines.

    `previous(table, "2026-10")` gives this source's published rows or None; `periods_known` are the periods it has.
    `accept` holds "SOURCE:YYYY-MM" for refusals a person has looked at.
    """
    rules = Rules(scope, pools, dimensions or DimensionSettings(), keys or KeySettings(), weights, source.delivery == "versions", source.pods)
    tonight = _Tonight(
        source,
        now,
        replace(rules, only=source.only),
        previous,
        accept,
        workdir,
        load_id,
        progress,
        {},
        versions.settings_key(source.format.replace("auto", "focus"), rules, source),
    )
    for period in periods_known:
        tonight.book(period)
    folder = _open(source, workdir, now, progress)
    found = find_deliveries(source, folder, _is_data(source))
    if not found.found and not any(book.current for book in tonight.books.values()):
        what = "no manifest" if source.delivery == "manifest" else "no file of a bill (.csv, .csv.gz, .parquet, .jsonl)"
        raise SourceRefused(
            source.name, f"cannot load bill {source.name}: there is {what} in {source.uri}. Check billing[].uri and delivery."
        )
    load = _load_manifests(tonight, folder, found.found) if found.is_by_manifest else _load_files(tonight, folder, found.found)
    load.periods += _missing_periods(tonight, {p.period for p in load.periods})
    load.periods.sort(key=lambda p: p.period)
    load.extra["ignored_files"] = list(found.ignored)
    return load


# --- delivery: manifest ------------------------------------------------------------------------------------------------


def _load_manifests(tonight: _Tonight, folder: Folder, found: Sequence[Delivery]) -> Load:
    """Per period the newest complete manifest; a refused newer one is recorded and reported."""
    load = Load(tonight.source.name, [])
    for delivery in found:
        if delivery.period is None:
            load.error = load.error or _refused(tonight, delivery.problem or "a manifest names no billing period", None)
    for period in sorted({d.period for d in found if d.period}):
        load.periods.append(_load_manifest_period(tonight, folder, period, by_export([d for d in found if d.period == period])))
    return load


def _load_manifest_period(tonight: _Tonight, folder: Folder, period: str, exports: Sequence[Sequence[Delivery]]) -> PeriodLoad:
    """The newest delivery of every export; of those that are at fault the one before, until all are good or one has no more."""
    book = tonight.book(period)
    in_place = max((row["delivered_at"] for row in book.current), default=None)
    refusal: PeriodLoad | None = None
    at = [0] * len(exports)
    while True:
        tried = [each[i] for each, i in zip(exports, at, strict=True)]
        delivery = together(tried)
        if refusal and in_place is not None and delivery.delivered_at is not None and delivery.delivered_at < in_place:
            return refusal  # older than what stands: nothing to fall back to
        at_fault = {d.export for d in tried if d.problem}
        outcome = _try_manifest(tonight, folder, period, delivery, sum(at), at_fault)
        if outcome.state != "refused":
            if refusal and outcome.state == "unchanged":
                return refusal
            outcome.error = refusal.error if refusal else None
            return outcome
        refusal = refusal or outcome
        tonight.progress(str(outcome.error))
        following = [i + (d.export in at_fault) for d, i in zip(tried, at, strict=True)]
        if not at_fault or any(i == len(each) for i, each in zip(following, exports, strict=True)):
            return refusal
        at = following


def _try_manifest(
    tonight: _Tonight, folder: Folder, period: str, delivery: Delivery, position: int, at_fault: set[str]
) -> PeriodLoad:
    """Load a period from one delivery of each export. Adds the exports whose delivery is at fault to `at_fault`."""
    delivered_at = delivery.delivered_at or tonight.now
    if delivery.problem:
        seen = version_of([*(f"{f.entry.name} {f.entry.bytes}" for f in delivery.files), delivery.problem], tonight.settings_of(period))
        return _record_refusal(
            tonight, period, VersionFacts(seen, [], delivered_at, [], 0, None, tonight.now, tonight.load_id), delivery.problem
        )
    workdir = tonight.workdir / f"{period}-{position}"
    with Staged(workdir) as staged:
        digests: list[str] = []
        bad: dict[str, SourceRefused] = {}
        try:
            files, aside = _recognize(tonight, _verify_all(tonight, folder, delivery.files, workdir, bad), bad)
            digests = [f.digest for f in files]
            if not bad and version_of(digests, tonight.settings_of(period)) == tonight.book(period).version:
                return _unchanged(tonight, period, _fed(files, [], [f.index for f in files], period))
            for file in [*aside, *files]:
                _stage_or_note(tonight, staged, file, files, bad)
            if bad:
                at_fault |= {f.export for f in delivery.files if f.entry.name in bad}
                raise next(iter(bad.values()))
            strays = [p for p in _settle(tonight, staged, files, dict.fromkeys((f.index for f in files), period))[1] if p.period != period]
            if strays:
                at_fault |= {f.delivered.export for f in files if f.index in {p.file_index for p in strays}}
                raise _refused(
                    tonight,
                    f"{next(f.name for f in files if f.index == strays[0].file_index)} holds rows of {strays[0].period} where its manifest is for {period}",
                    period,
                )
            if why := _overlapping_exports(staged, period, files):
                raise _refused(tonight, why, period)
        except SourceRefused as error:
            facts = VersionFacts(
                version_of([*digests, str(error)], tonight.settings_of(period)), [], delivered_at, [], 0, None, tonight.now, tonight.load_id
            )
            return _record_refusal(tonight, period, facts, str(error))
        return _build(tonight, staged, period, files, [f.index for f in files], delivered_at)


def _overlapping_exports(staged: Staged, period: str, files: Sequence[_File]) -> str | None:
    """Two exports of one kind that hold the same account's day hold the same charges: one of a subscription, one of all."""
    for same in _rivals(files):
        exports = {f.index: f.delivered.export for f in same}
        if len(set(exports.values())) > 1 and (pair := counts.find_overlap_of_exports(staged, period, exports)):
            first, second, account, day = pair
            return (
                f"the exports {first} and {second} both hold account {account}, period {period}, with charges of {day}: "
                "they are the same charges twice. Point billing[].uri at one of them"
            )
    return None


def _rivals(files: Sequence[_File]) -> list[list[_File]]:
    """Files apart by label: those of two labels complement each other; one without a label complements none."""
    labels: list[str | None] = [*sorted({f.label for f in files if f.label})] or [None]
    return [[f for f in files if f.label in (label, None)] for label in labels]


# --- delivery: parts and versions --------------------------------------------------------------------------------------


def _load_files(tonight: _Tonight, folder: Folder, found: Sequence[Delivery]) -> Load:
    """All data files below the uri. Files whose periods stand unchanged are not read again, only verified."""
    load = Load(tonight.source.name, [])
    if not found:
        return load
    workdir = tonight.workdir / "files"
    bad: dict[str, SourceRefused] = {}
    files, aside = _recognize(tonight, _verify_all(tonight, folder, found[0].files, workdir, bad), bad)
    if aside and not files and not bad and not any(book.current for book in tonight.books.values()):
        names = ", ".join(file.name for file in aside)
        raise _refused(tonight, f"{names} is looked up for charges, and there is no file of charges beside it. Put the usage there", None)
    with Staged(workdir) as staged:
        for file in aside:
            _stage_or_note(tonight, staged, file, files, bad)
        known = _known_periods(tonight, files)
        for file in [f for f in files if f.index not in known]:
            _stage_or_note(tonight, staged, file, files, bad)
        touched = counts.read_periods(staged) | _stale_periods(tonight, files, known)
        left = [f for f in files if f.index in known]
        while again := [f for f in left if known[f.index] & touched]:
            for file in again:
                _stage_or_note(tonight, staged, file, files, bad)
                touched |= known[file.index]  # it brings rows of all its periods: they need all of their files
            left = [f for f in left if f not in again]
        files = [f for f in files if f.name not in bad]
        named = {f.index: p for f in files if (p := period_of_name(f.name))}
        warnings, census = _settle(tonight, staged, files, named)
        load.extra["warnings"] = warnings
        spoiled = _spoiled_periods(tonight, bad, {p.period for p in census})
        load.periods += [_refused_period(tonight, period, error) for period, error in sorted(spoiled.items())]
        touched |= {p.period for p in census} | {p for f in files if f.staged and not f.staged.rows and (p := named.get(f.index))}
        for period in sorted(touched - set(spoiled)):
            outcome = _load_period(tonight, staged, period, files, known, census)
            load.periods += [outcome] if outcome else []
        for period in sorted({p for ps in known.values() for p in ps} - touched - set(spoiled)):
            load.periods.append(_unchanged(tonight, period, _fed_again(tonight, period, files)))
        empty = [f.name for f in files if f.staged and not f.staged.rows and f.index not in named]
        if empty:
            load.extra["files_without_rows"] = empty
        load.extra["dropped_columns"] = sorted({c for f in files if f.staged for c in f.staged.dropped_columns})
    return load


def _load_period(
    tonight: _Tonight,
    staged: Staged,
    period: str,
    files: Sequence[_File],
    known: dict[int, set[str]],
    census: Sequence[FedPeriod],
) -> PeriodLoad | None:
    feeding = sorted({p.file_index for p in census if p.period == period})
    by_index = {f.index: f for f in files}
    feeding = feeding or [f.index for f in files if f.staged and not f.staged.rows and period_of_name(f.name) == period]
    if not feeding:
        return None  # what fed it is gone: `_missing_periods` says so
    chosen = _choose(tonight, [by_index[i] for i in feeding])
    delivered_at = max(by_index[i].modified_at for i in chosen)
    is_told = "delivery" in tonight.source.model_fields_set
    if len(chosen) > 1 and not is_told and (why := _overlap(staged, period, chosen, by_index, census)):
        facts = VersionFacts(
            version_of((by_index[i].digest for i in chosen), tonight.settings_of(period)),
            _fed(files, census, feeding, period, chosen),
            delivered_at,
            counts.read_totals(staged, period, chosen),
            sum(p.quarantined for p in census if p.period == period and p.file_index in chosen),
            None,
            tonight.now,
            tonight.load_id,
        )
        return _record_refusal(tonight, period, facts, why)
    return _build(tonight, staged, period, files, chosen, delivered_at, feeding, census)


def _choose(tonight: _Tonight, feeding: Sequence[_File]) -> list[int]:
    """The files whose rows count: all of them, or for `versions` the newest (of each label that complements others)."""
    if tonight.source.delivery == "versions":
        return sorted({max(same, key=lambda f: (f.modified_at, f.name)).index for same in _rivals(feeding)})
    return [f.index for f in feeding]


def _overlap(staged: Staged, period: str, chosen: Sequence[int], by_index: dict[int, _File], census: Sequence[FedPeriod]) -> str | None:
    """Two files may be parts of a bill or the same bill twice; nobody but the user can tell."""
    rivals = _rivals([by_index[i] for i in chosen])
    pair = next((pair for same in rivals if (pair := counts.find_overlap(staged, period, [f.index for f in same]))), None)
    if pair is None:
        return None
    first, second, account, day = pair
    sums = [
        " + ".join(
            f"{plain(p.billed)} {p.currency}"
            for p in census
            if p.file_index == i and p.period == period and p.account == account and p.rows
        )
        for i in (first, second)
    ]
    return (
        f"{by_index[first].name} ({sums[0]}) and {by_index[second].name} ({sums[1]}) both hold billing account {account or '(none)'}, period {period}, "
        f"with charges of {day}: they may be parts of one bill, or the same bill twice. "
        "Write delivery: parts (all files add up) or delivery: versions (the newest file counts) into billing[]"
    )


def _known_periods(tonight: _Tonight, files: Sequence[_File]) -> dict[int, set[str]]:
    """Files (by their bytes) that feed the versions in place -> the periods they feed. A file that is part of a refused
    version is read again each night, so that its refusal is told each night."""
    periods: dict[str, set[str]] = {}
    refused: set[str] = set()
    for book in tonight.books.values():
        for fed in book.files:
            periods.setdefault(fed.sha256, set()).add(book.period)
        refused |= book.refused_digests
    return {f.index: periods[f.verified.sha256] for f in files if f.verified.sha256 in periods and f.verified.sha256 not in refused}


def _stale_periods(tonight: _Tonight, files: Sequence[_File], known: dict[int, set[str]]) -> set[str]:
    """Periods in place that the files there now would make otherwise: a file has gone, or the settings have changed."""
    stale = set()
    for period, book in tonight.books.items():
        feeding = [f for f in files if period in known.get(f.index, ())]
        if book.current and feeding:
            chosen = set(_choose(tonight, feeding))
            if version_of((f.digest for f in feeding if f.index in chosen), tonight.settings_of(period)) != book.version:
                stale.add(period)
    return stale


def _stage_or_note(tonight: _Tonight, staged: Staged, file: _File, beside: Sequence[_File], bad: dict[str, SourceRefused]) -> None:
    try:
        _stage(tonight, staged, file, beside)
    except SourceRefused as error:
        staged.drop(file.index)
        bad[file.name] = error


def _spoiled_periods(tonight: _Tonight, bad: dict[str, SourceRefused], census_periods: Iterable[str]) -> dict[str, SourceRefused]:
    """Periods a bad file would have fed, by its path or by what fed them before. A file that tells neither spoils all."""
    spoiled: dict[str, SourceRefused] = {}
    for name, error in bad.items():
        periods = {book.period for book in tonight.books.values() if any(f.name == name for f in book.files)}
        if named := period_of_name(name):
            periods.add(named)
        if not periods:
            raise error
        spoiled.update(dict.fromkeys(periods, error))
    return spoiled


# --- steps both ways share ---------------------------------------------------------------------------------------------


def _open(source: BillSource, workdir: Path, now: datetime, progress: Callable[[str], None]) -> Folder:
    """Where the bill lies: what its format makes of the address, else a folder or a bucket."""
    if source.format != "auto" and (open_place := offered(format_module(source.format), "open_place")):
        place: Folder | None = open_place(source, workdir, now)
        if place is not None:
            return place
    return open_folder(source, workdir, progress)


def _is_data(source: BillSource) -> Callable[[str], bool]:
    """Which names are those of data files."""
    names: Callable[[str], bool] | None = offered(format_module(source.format), "names") if source.format != "auto" else None
    return lambda name: bool(DATA_NAMES.search(name) or (names and names(name)))


def _verify_all(
    tonight: _Tonight, folder: Folder, delivered: Sequence[DeliveredFile], workdir: Path, bad: dict[str, SourceRefused] | None = None
) -> list[_File]:
    """Every file fetched and read once, but for those whose stamp is known; byte-identical ones count once, unless manifests or
    names call them two kinds. With `bad`, refusals are noted there."""
    by_digest: dict[tuple[str, str | None, str | None], _File] = {}
    seen = _seen_before(tonight)
    with ThreadPoolExecutor(1) as beside:
        waking = beside.submit(wake)
        for index, item in enumerate(delivered):
            entry = item.entry
            bring = partial(_fetch, tonight, folder, item, workdir / "unpacked" / f"{index:06d}.csv")
            file = _File(index, item, VerifiedFile(Path(), "", 0, ""), Path(), bring=bring)
            stamp = _stamp(tonight.source, item)
            try:
                if stamp and (fed := seen.get((entry.name, stamp))):
                    tonight.progress(f"{tonight.source.name}: {entry.name} is as it was loaded before, and is not fetched")
                    file.verified = VerifiedFile(Path(), "", fed.bytes, fed.sha256)
                    file.format, file.label = fed.format or tonight.source.format, fed.label
                else:
                    file.path, file.verified = bring()
                    file.bring = None
            except SourceRefused as error:
                if bad is None:
                    raise
                bad[entry.name] = error
                continue
            key = file.verified.sha256, item.label, _stands_for(tonight.source, tonight.source.format, entry.name)
            if twin := by_digest.get(key):
                twin.copies.append(entry.name)
                tonight.progress(f"{tonight.source.name}: {entry.name} has the same bytes as {twin.name} and is not counted again")
            else:
                twin = by_digest[key] = file
            if stamp:
                twin.stamps[entry.name] = stamp
        waking.result()
    return list(by_digest.values())


def _fetch(tonight: _Tonight, folder: Folder, item: DeliveredFile, unpack_to: Path) -> tuple[Path, VerifiedFile]:
    entry = item.entry
    tonight.progress(f"{tonight.source.name}: verifying {entry.name}" + (f" ({entry.bytes:,} bytes)" if entry.bytes else ""))
    path = folder.fetch(entry)
    return path, verify_file(tonight.source.name, entry.name, path, stated_bytes=item.stated_bytes, unpack_to=unpack_to)


def _stamp(source: BillSource, item: DeliveredFile) -> str | None:
    """What vouches that a file is what it was and is read as it was: its place's stamp and size, the address, its manifest's
    word for it. None where the place vouches for nothing."""
    entry = item.entry
    if entry.stamp is None:
        return None
    return hashlib.sha256(json.dumps([entry.stamp, entry.bytes, source.uri, item.label]).encode()).hexdigest()[:32]


def _seen_before(tonight: _Tonight) -> dict[tuple[str, str | None], FedFile]:
    """Files of the versions in place by name and stamp. Where another format is written now, every file has to be looked at."""
    asked = tonight.source.format
    files = (fed for book in tonight.books.values() for fed in book.files if fed.stamp)
    return {(fed.name, fed.stamp): fed for fed in files if asked in ("auto", fed.format)}


def _stands_for(source: BillSource, format_name: str, name: str) -> str | None:
    """What the name of a file says of what is charged, where its format has such names."""
    stands_for = None if format_name == "auto" else offered(format_module(format_name), "stands_for")
    said: str | None = stands_for(source, name) if stands_for else None
    return said


def _recognize(
    tonight: _Tonight, files: Sequence[_File], bad: dict[str, SourceRefused] | None = None
) -> tuple[list[_File], list[_File]]:
    """(files of charges, files of what is looked up for them); the latter become part of every version. With `bad`,
    refusals are noted there."""
    charges: list[_File] = []
    aside: list[_File] = []
    for file in files:
        try:
            is_aside = not file.bring and _recognize_file(tonight, file)
        except SourceRefused as error:
            if bad is None:
                raise
            bad[file.name] = error
            continue
        file.stands_for = _stands_for(tonight.source, file.format, file.name)
        (aside if is_aside else charges).append(file)
    if aside:
        # The settings are JSON on one line: what follows the first line end is of an earlier period's files.
        tonight.settings = "\n".join([tonight.settings.partition("\n")[0], *sorted(f.verified.sha256 for f in aside)])
    return charges, aside


def _recognize_file(tonight: _Tonight, file: _File) -> bool:
    """Find the format of a file that is here, and what that calls it; whether it is one that is looked up for charges."""
    header = read_header(tonight.source.name, file.name, file.verified)
    file.format = find_format(tonight.source, file.name, header)
    if label := offered(format_module(file.format), "label"):
        file.label = label(f"{tonight.source.uri}/{file.name}", file.delivered.label, header)
    is_aside = offered(format_module(file.format), "is_aside")
    return bool(is_aside and is_aside(header))


def _stage(tonight: _Tonight, staged: Staged, file: _File, beside: Sequence[_File]) -> None:
    name = tonight.source.name
    if file.bring:
        file.path, file.verified = file.bring()
        file.bring = None
        _recognize_file(tonight, file)
    tonight.progress(f"{name}: reading {file.name}")
    others = tuple((f.name, f.label) for f in beside)
    delivered = Delivered(tonight.source, file.name, file.verified, file.index, file.label, others)
    file.staged = format_module(file.format).stage(staged, delivered)
    stated = file.delivered.stated_rows
    if stated is not None and file.staged.rows != stated:
        raise _refused(tonight, f"{file.name} holds {file.staged.rows} rows where its manifest states {stated}", None)
    if file.verified.readable == file.path:
        now = file.path.stat()
        is_copy = file.path.is_relative_to(tonight.workdir)
        if now.st_size != file.verified.bytes or (not is_copy and abs(file.modified_at.timestamp() - now.st_mtime) > 0.001):
            raise _refused(tonight, f"{file.name} changed while it was read", None)
    else:
        file.verified.readable.unlink()  # its rows are in the engine; the disk may be small


def _settle(tonight: _Tonight, staged: Staged, files: Sequence[_File], stated: dict[int, str]) -> tuple[dict[str, Any], list[FedPeriod]]:
    """Settle what is staged; the census afterwards. Raises SourceRefused for rows no period can be given to."""
    lost = settle.place_unreadable_periods(staged, stated)
    if lost:
        name = next(f.name for f in files if f.index == lost[0])
        [row] = staged.con.execute("select min(trouble) from staged where file_index = ? and billing_period is null", [lost[0]]).fetchall()
        raise _refused(tonight, f"no row of {name} tells a billing period: {row[0] or 'it has none'}", None)
    warnings, without_rows = _combine(staged, files)
    warnings |= settle.settle_rows(staged, tonight.source.name, tonight.rules)
    for kind, value in warnings.items():
        tonight.progress(f"{tonight.source.name}: {kind.replace('_', ' ')}: {value}")
    return warnings, [*counts.read_census(staged), *without_rows]


def _combine(staged: Staged, files: Sequence[_File]) -> tuple[dict[str, Any], list[FedPeriod]]:
    """Files of several labels beside each other become one bill: what is to be told, and what files gave periods that have no
    row of theirs left. Those are part of the period's version all the same."""
    warnings: dict[str, Any] = {}
    before: list[FedPeriod] = []
    files = [f for f in files if not f.bring]  # of the others no row is staged
    for name in sorted({f.format for f in files if f.label}):
        before = before or counts.read_census(staged)
        warnings |= format_module(name).combine(staged, {f.index: f.label for f in files if f.format == name})
    after = {(p.file_index, p.period) for p in counts.read_census(staged)} if before else set()
    gone = [p for p in before if (p.file_index, p.period) not in after]
    return warnings, [replace(p, rows=0, quarantined=0, billed=Decimal(0)) for p in gone]


def _build(
    tonight: _Tonight,
    staged: Staged,
    period: str,
    files: Sequence[_File],
    chosen: Sequence[int],
    delivered_at: datetime,
    feeding: Sequence[int] | None = None,
    census: Sequence[FedPeriod] | None = None,
) -> PeriodLoad:
    """One period's new version: judged, then written. Nothing is written for a version that is refused or in place."""
    book = tonight.book(period)
    census = counts.read_census(staged) if census is None else census
    version = version_of((f.digest for f in files if f.index in chosen), tonight.settings_of(period))
    fed = _fed(files, census, feeding or chosen, period, chosen)
    if version == book.version:
        return _unchanged(tonight, period, fed)
    totals = counts.read_totals(staged, period, chosen)
    quarantine = counts.read_quarantine(staged, period, chosen)
    shown = sorted({f.staged.focus_version for f in files if f.staged and f.index in chosen})
    facts = VersionFacts(version, fed, delivered_at, totals, len(quarantine), ", ".join(shown), tonight.now, tonight.load_id)
    if why := versions.refusal(tonight.source, book, version, delivered_at, totals, tonight.accept):
        return _record_refusal(tonight, period, facts, why)
    tonight.progress(f"{tonight.source.name}: writing {period}, {sum(t.row_count for t in totals):,} rows")
    path = tonight.workdir / f"billing_lines-{period}.parquet"
    lines.write_lines(staged, tonight.source.name, period, chosen, tonight.load_id, path, is_scoped=tonight.rules.is_scoped)
    number = book.next_number
    changes = versions.add_changes(
        tonight.source.name,
        period,
        tonight.previous("bill_changes", period),
        counts.read_day_sums(staged, period, chosen),
        version,
        number,
        tonight.load_id,
    )
    names = {f.index: f.name for f in files}
    tables: dict[str, Path | pa.Table] = {
        "billing_lines": path,
        "billing_quarantine": _quarantine_table(tonight, period, quarantine, names),
        "billing_loads": versions.loads_table(versions.add_version(book, facts, None)),
        "bill_changes": versions.changes_table(changes),
    }
    extra = {
        "version": version,
        "version_number": number,
        "rows": sum(t.row_count for t in totals),
        "quarantined": len(quarantine),
        "duplicates": [name for f in files if f.index in chosen for name in f.copies],
        "dropped_columns": sorted({c for f in files if f.staged and f.index in chosen for c in f.staged.dropped_columns}),
        "unreadable": _summed(f.staged.unreadable for f in files if f.staged and f.index in chosen),
        "left_out": _summed(f.staged.left_out for f in files if f.staged and f.index in chosen),
        **counts.read_charge_range(staged, period, chosen),
        "bill_digest": counts.read_bill_digest(staged, period, chosen),
    }
    return PeriodLoad(period, "loaded", tables, None, extra)


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts of several files, added up."""
    return dict(sum((Counter(each) for each in counts), Counter()))


def _fed(
    files: Sequence[_File], census: Sequence[FedPeriod], feeding: Sequence[int], period: str, chosen: Sequence[int] | None = None
) -> list[FedFile]:
    """The version's files as `billing_loads.files` lists them, copies and older ones too."""
    listed = []
    for file in files:
        if file.index not in feeding:
            continue
        rows = sum(p.rows + p.quarantined for p in census if p.file_index == file.index and p.period == period)
        state = "read" if chosen is None or file.index in chosen else "older"
        listed += _fed_file(file, rows, state)
    return listed


def _fed_file(file: _File, rows: int, state: str) -> list[FedFile]:
    """A file and its copies as `billing_loads.files` lists them; with a stamp, also as what it was read."""
    listed = []
    for name, its_state in ((file.name, state), *((name, "duplicate") for name in file.copies)):
        stamp = file.stamps.get(name)
        read_as = (file.format, file.label) if stamp else (None, None)
        listed.append(FedFile(name, file.verified.bytes, file.verified.sha256, rows, its_state, stamp, *read_as))
    return listed


def _fed_again(tonight: _Tonight, period: str, files: Sequence[_File]) -> list[FedFile]:
    """The list of the version in place with tonight's names: files may have been renamed or copied since."""
    by_digest = {f.verified.sha256: f for f in files}
    listed = []
    for fed in tonight.book(period).files:
        file = by_digest.get(fed.sha256)
        if fed.state != "duplicate" and file:
            listed += _fed_file(file, fed.rows, fed.state)
    return listed


def _unchanged(tonight: _Tonight, period: str, fed: Sequence[FedFile]) -> PeriodLoad:
    """The version in place stands; its list of files is written anew if copies came or went, or other stamps."""
    book = tonight.book(period)
    tables: dict[str, Path | pa.Table] = {}
    before = {(f.name, f.state) for f in book.files}
    duplicates = [f.name for f in fed if f.state == "duplicate"]
    is_restamped = any(f.stamp for f in fed) and {(f.name, f.stamp) for f in fed} != {(f.name, f.stamp) for f in book.files}
    if is_restamped or {name for name, state in before if state == "duplicate"} != set(duplicates):
        rows_of = {f.sha256: f.rows for f in book.files}
        files = versions.files_json([replace(f, rows=rows_of.get(f.sha256, f.rows)) for f in fed])
        tables["billing_loads"] = versions.loads_table([{**row, "files": files} if row["state"] == "current" else row for row in book.rows])
    return PeriodLoad(period, "unchanged", tables, None, {"version": book.version, "duplicates": duplicates})


def _record_refusal(tonight: _Tonight, period: str, facts: VersionFacts, why: str) -> PeriodLoad:
    """A refused version: the period stays as it was, the book tells of it once."""
    book = tonight.book(period)
    error = _refused(tonight, why, period)
    tables: dict[str, Path | pa.Table] = {}
    if not versions.is_recorded(book, facts.version, why) and facts.version != book.version:
        tables["billing_loads"] = versions.loads_table(versions.add_version(book, facts, why))
    return PeriodLoad(period, "refused", tables, error, {"version": facts.version})


def _refused_period(tonight: _Tonight, period: str, error: SourceRefused) -> PeriodLoad:
    facts = VersionFacts(version_of([str(error)], tonight.settings_of(period)), [], tonight.now, [], 0, None, tonight.now, tonight.load_id)
    return _record_refusal(tonight, period, facts, str(error))


def _missing_periods(tonight: _Tonight, seen: Collection[str]) -> list[PeriodLoad]:
    """Periods that were fed before and are fed by nothing now: kept until somebody accepts that they are gone."""
    outcomes = []
    for period, book in sorted(tonight.books.items()):
        if period in seen or not book.current:
            continue
        key = f"{tonight.source.name}:{period}"
        if not any(row["row_count"] or row["billed_cost"] for row in book.current):
            outcomes.append(PeriodLoad(period, "unchanged", {}, None, {"version": book.version}))
            continue
        totals = " + ".join(f"{plain(r['billed_cost'])} {r['billing_currency']}" for r in book.current)
        facts = VersionFacts(version_of([], tonight.settings_of(period)), [], tonight.now, [], 0, None, tonight.now, tonight.load_id)
        if key not in tonight.accept:
            why = f"{period} was fed before ({totals}) and is fed by nothing now. If that is right, run: runspend load --accept {key}"
            outcomes.append(_record_refusal(tonight, period, facts, why))
            continue
        changes = versions.add_changes(
            tonight.source.name, period, tonight.previous("bill_changes", period), {}, facts.version, book.next_number, tonight.load_id
        )
        tables: dict[str, Path | pa.Table] = {
            "billing_lines": BILLING_LINES.arrow_schema().empty_table(),
            "billing_quarantine": BILLING_QUARANTINE.arrow_schema().empty_table(),
            "billing_loads": versions.loads_table(versions.add_version(book, facts, None)),
            "bill_changes": versions.changes_table(changes),
        }
        outcomes.append(PeriodLoad(period, "loaded", tables, None, {"version": facts.version, "rows": 0}))
    return outcomes


def _quarantine_table(tonight: _Tonight, period: str, rows: Sequence[dict[str, Any]], names: dict[int, str]) -> pa.Table:
    import pyarrow as pa

    first = date.fromisoformat(f"{period}-01")
    full = [
        {**{k: v for k, v in row.items() if k != "file_index"}, "source": tonight.source.name, "billing_period": first,
         "file_name": names[row["file_index"]], "load_id": tonight.load_id}
        for row in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(full, schema=BILLING_QUARANTINE.arrow_schema())


def _refused(tonight: _Tonight, why: str, period: str | None) -> SourceRefused:
    name = tonight.source.name
    if why.startswith("cannot "):
        return SourceRefused(name, why, period=period)
    what = f"{period} of bill {name}" if period else f"bill {name}"
    return SourceRefused(name, f"cannot load {what}: {why}. The period was left as it was.", period=period)


# --- a look without loading --------------------------------------------------------------------------------------------


def probe_source(source: BillSource, keys: KeySettings | None = None) -> dict[str, Any]:
    """What a bill holds, without judging versions: format, FOCUS versions, periods, files, rows, sums, coverage.

    {"format", "version", "periods": [...], "files", "rows", "quarantined", "billed": {currency: Decimal},
     "covered_until": datetime | None, "problems": [...],
     "usage_rows", "with_resource", "with_run", "with_job": rows of usage, and how many carry what runs are found by,
     "accounts": {(billing account, sub-account, "2026-10"), ...}, "warnings": {what settling changed: how often}}
    """
    with tempfile.TemporaryDirectory(prefix="runspend-probe-") as folder:
        workdir = Path(folder)
        tonight = _Tonight(
            source, datetime.now(timezone.utc), Rules(keys=keys or KeySettings()), lambda table, period: None, (), workdir, "probe", lambda line: None, {}, ""
        )
        opened = _open(source, workdir, tonight.now, tonight.progress)
        found = find_deliveries(source, opened, _is_data(source)).found
        newest: dict[tuple[str | None, str], Delivery] = {}
        for delivery in found:
            if not delivery.problem:
                newest.setdefault((delivery.period, delivery.export), delivery)
        problems = [d.problem for d in found if d.problem]
        wanted = [item for delivery in newest.values() for item in delivery.files]
        with Staged(workdir / "engine") as staged:
            bad: dict[str, SourceRefused] = {}
            files, aside = _recognize(tonight, _verify_all(tonight, opened, wanted, workdir, bad), bad)
            for file in [*aside, *files]:
                _stage_or_note(tonight, staged, file, files, bad)
            settle.place_unreadable_periods(staged, {})
            _combine(staged, files)
            warnings = settle.settle_rows(staged, source.name, tonight.rules)
            census = counts.read_census(staged)
            billed: dict[str, Decimal] = {}
            for part in census:
                if part.rows:
                    billed[part.currency] = counts.EXACT.add(billed.get(part.currency, Decimal(0)), part.billed)
            [(covered_until, good, bad_rows)] = staged.con.execute(
                "select max(charge_period_end) filter (trouble is null and charge_category = 'Usage'), count(*) filter (trouble is null), "
                "count(*) filter (trouble is not null) from staged"
            ).fetchall()
            evidence = counts.read_evidence(staged)
        shutil.rmtree(workdir / "unpacked", ignore_errors=True)
    return {
        "format": ", ".join(sorted({f.format for f in files})),
        "version": ", ".join(sorted({f.staged.focus_version for f in files if f.staged})),
        "periods": sorted({p.period for p in census}),
        "files": len(files),
        "rows": good,
        "quarantined": bad_rows,
        "billed": billed,
        "covered_until": covered_until,
        "problems": problems + [str(error) for error in bad.values()],
        "warnings": warnings,
        **evidence,
    }
