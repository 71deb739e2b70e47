"""Fetches delivered files, verifies them, finds their format, and stages their rows. Known files are not fetched again.

Belongs here: what happens to a file before its rows have a period. `load.py` decides which files count for a period.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from runspend.config.settings import BillSource
from runspend.core.errors import SourceRefused
from runspend.core.text import counted
from runspend.ingest.billing.file_sources import FileSource, open_folder
from runspend.ingest.billing.formats import find_format, format_module, offered
from runspend.ingest.billing.load_context import LoadContext, refused
from runspend.ingest.billing.manifests import DATA_NAMES, Delivered, DeliveredFile
from runspend.ingest.billing.measured_power import Drawn
from runspend.ingest.billing.staging import Staged, StagedFile, warm_imports
from runspend.ingest.billing.texts import read_header
from runspend.ingest.billing.totals import FedPeriod, read_fed_periods
from runspend.ingest.billing.verify import VerifiedFile, verify_file
from runspend.ingest.billing.versions import FedFile

VERIFIED_AT_ONCE = 2


@dataclass
class ArrivedFile:
    """One complete delivered file. `staged` is set when its rows are in the engine.

    If `bring` is set, the file is not on this machine yet. Its stamp proves that it has not changed since an earlier load. `bring` fetches
    the file if its rows are needed again.
    """

    index: int
    delivered: DeliveredFile
    verified: VerifiedFile
    path: Path
    format: str = ""
    label: str | None = None  # the format's name for this kind of file; files of different labels complement each other
    stands_for: str | None = None  # facts about the charges that only the file's name states
    copies: list[str] = field(default_factory=list)  # names of byte-identical files
    stamps: dict[str, str] = field(default_factory=dict)  # name of the file or a copy -> its stamp, if the store gives one
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
        """The file's part of the version: the hash of its bytes, its label, and the facts that its name states."""
        return " ".join(text for text in (self.verified.sha256, self.label, self.stands_for) if text)


def rivals_of(files: Sequence[ArrivedFile]) -> list[list[ArrivedFile]]:
    """Return one list of files per label. Only files in the same list can have the same charges.

    Files of different labels complement each other. A file without a label complements no other file, so it is in every list.
    """
    labels: list[str | None] = [*sorted({f.label for f in files if f.label})] or [None]
    return [[f for f in files if f.label in (label, None)] for label in labels]


def stage_each(
    context: LoadContext, staged: Staged, files: Sequence[ArrivedFile], beside: Sequence[ArrivedFile], bad: dict[str, SourceRefused]
) -> None:
    """Stage files one after the other, and add refusals to `bad`. While one file is staged, the next of the same format may be read."""
    for file, following in pairwise(files):
        if not following.bring and following.format == file.format:
            staged.following[file.index] = _delivered(context, following, ())
    for file in files:
        stage_or_note(context, staged, file, beside, bad)
    staged.let_go()  # discards batches read ahead: a file that is staged again later may have changed


def stage_or_note(
    context: LoadContext,
    staged: Staged,
    file: ArrivedFile,
    beside: Sequence[ArrivedFile],
    bad: dict[str, SourceRefused],
    way: str = "stage",
) -> None:
    """Stage a file with the function `way` of its format's module. If the file is refused, drop its rows and add the error to `bad`."""
    try:
        _stage(context, staged, file, beside, way)
    except SourceRefused as error:
        staged.drop(file.index)
        bad[file.name] = error
    except FileNotFoundError:
        staged.drop(file.index)
        bad[file.name] = _gone(context, file)


def _gone(context: LoadContext, file: ArrivedFile) -> SourceRefused:
    return refused(context, f"{file.name} disappeared while it was read. Run the load again", None)


def stage_alike(context: LoadContext, staged: Staged, files: Sequence[ArrivedFile], bad: dict[str, SourceRefused]) -> None:
    """Stage files again if the other files of the load change how their format reads them. `read_again` of the format returns them.

    Called when all files are staged. Refusals are added to `bad`.
    """
    for name in sorted({f.format for f in files if f.staged}):
        by_index = {f.index: f for f in files if f.staged and f.format == name}
        read_again = offered(format_module(name), "read_again")
        for index in read_again(staged, {i: f.staged for i, f in by_index.items()}) if read_again else ():
            file = by_index[index]
            if not file.verified.readable.exists():
                stated, unpack_to = file.delivered.stated_bytes, file.verified.readable
                file.verified = verify_file(context.source.name, file.name, file.path, stated_bytes=stated, unpack_to=unpack_to)
            stage_or_note(context, staged, file, files, bad, "stage_again")


def open_bill(source: BillSource, workdir: Path, now: datetime, progress: Callable[[str], None], drawn: Drawn) -> FileSource:
    """Open the source of the bill's files: with `open_place` of its format, or as a folder or bucket.

    `drawn`: the measured power of machines.
    """
    if source.format != "auto" and (open_place := offered(format_module(source.format), "open_place")):
        place: FileSource | None = open_place(source, workdir, now, **({"drawn": drawn} if drawn else {}))
        if place is not None:
            return place
    return open_folder(source, workdir, progress)


def is_data_of(source: BillSource) -> Callable[[str], bool]:
    """Return a function that returns whether a file name is that of a data file."""
    names: Callable[[str], bool] | None = offered(format_module(source.format), "names") if source.format != "auto" else None
    return lambda name: bool(DATA_NAMES.search(name) or (names and names(name)))


def verify_all(
    context: LoadContext, folder: FileSource, delivered: Sequence[DeliveredFile], workdir: Path, bad: dict[str, SourceRefused]
) -> list[ArrivedFile]:
    """Fetch and verify every file, except files with a known stamp. Byte-identical files count once.

    Files with equal bytes count as two if their labels or their names differ in meaning, or if one manifest lists both. Refusals are added
    to `bad`.
    """
    by_digest: dict[tuple[str, str | None, str | None], list[ArrivedFile]] = {}
    seen = _seen_before(context)
    with ThreadPoolExecutor(VERIFIED_AT_ONCE) as beside:
        waking = beside.submit(warm_imports)
        # While a file is fetched, up to two earlier files are verified at once, because unpacking releases the interpreter lock.
        arriving = [_bring(context, folder, index, item, workdir, seen, beside) for index, item in enumerate(delivered)]
        for file, verifying in arriving:
            try:
                if verifying is not None:
                    file.verified = verifying.result()
            except SourceRefused as error:
                bad[file.name] = error
                continue
            key = file.verified.sha256, file.delivered.label, _stands_for(context.source, context.source.format, file.name)
            same = by_digest.setdefault(key, [])
            if twin := next((f for f in same if not _are_two_parts(f.delivered, file.delivered)), None):
                twin.copies.append(file.name)
                context.progress(f"{context.source.name}: {file.name} has the same bytes as {twin.name} and is not counted again")
            else:
                same.append(twin := file)
            if stamp := _stamp(context.source, file.delivered):
                twin.stamps[file.name] = stamp
        waking.result()
    return sorted((file for same in by_digest.values() for file in same), key=lambda file: file.index)


def _are_two_parts(one: DeliveredFile, other: DeliveredFile) -> bool:
    """Return whether two files with the same bytes count as two: one manifest lists both, so each part has its own charges."""
    return one.manifest is not None and one.manifest == other.manifest and one.entry.name != other.entry.name


def _bring(
    context: LoadContext,
    folder: FileSource,
    index: int,
    item: DeliveredFile,
    workdir: Path,
    seen: Mapping[tuple[str, str | None], FedFile],
    beside: Executor,
) -> tuple[ArrivedFile, Future[VerifiedFile] | None]:
    """Fetch a file and start to verify it. Return the file and its running verification, or None instead of it for a known file."""
    name, unpack_to = item.entry.name, workdir / "unpacked" / f"{index:06d}.csv"
    file = ArrivedFile(index, item, VerifiedFile(Path(), "", 0, ""), Path())
    stamp = _stamp(context.source, item)
    if stamp and (fed := seen.get((name, stamp))):
        context.progress(f"{context.source.name}: {name} has not changed since its last load, and is not fetched")
        file.bring = partial(_fetch_late, context, folder, item, unpack_to)
        file.verified = VerifiedFile(Path(), "", fed.bytes, fed.sha256)
        file.format, file.label = fed.format or context.source.format, fed.label
        return file, None
    context.progress(f"{context.source.name}: verifying {name}" + (f" ({item.entry.bytes:,} bytes)" if item.entry.bytes else ""))
    try:
        file.path = folder.fetch(item.entry)
    except SourceRefused as error:
        refusal: Future[VerifiedFile] = Future()
        refusal.set_exception(error)
        return file, refusal
    return file, beside.submit(verify_file, context.source.name, name, file.path, stated_bytes=item.stated_bytes, unpack_to=unpack_to)


def _fetch_late(context: LoadContext, folder: FileSource, item: DeliveredFile, unpack_to: Path) -> tuple[Path, VerifiedFile]:
    """Fetch and verify a known file whose rows turned out to be needed."""
    path = folder.fetch(item.entry)
    return path, verify_file(context.source.name, item.entry.name, path, stated_bytes=item.stated_bytes, unpack_to=unpack_to)


def _stamp(source: BillSource, item: DeliveredFile) -> str | None:
    """Return a text that stays the same as long as a file is unchanged and read in the same way. None if the store gives no stamp.

    It is a hash of the store's stamp, the size, the uri of the bill, and the label in the file's manifest.
    """
    entry = item.entry
    if entry.stamp is None:
        return None
    return hashlib.sha256(json.dumps([entry.stamp, entry.bytes, source.uri, item.label]).encode()).hexdigest()[:32]


def _seen_before(context: LoadContext) -> dict[tuple[str, str | None], FedFile]:
    """Return the files of the versions in place by (name, stamp), except files of another format than the configured one."""
    asked = context.source.format
    files = (fed for history in context.histories.values() for fed in history.files if fed.stamp)
    return {(fed.name, fed.stamp): fed for fed in files if asked in ("auto", fed.format)}


def _stands_for(source: BillSource, format_name: str, name: str) -> str | None:
    """Return the facts that a file's name states about its charges, or None if its format has no such names."""
    stands_for = None if format_name == "auto" else offered(format_module(format_name), "stands_for")
    replaced: str | None = stands_for(source, name) if stands_for else None
    return replaced


def recognize(
    context: LoadContext, files: Sequence[ArrivedFile], bad: dict[str, SourceRefused]
) -> tuple[list[ArrivedFile], list[ArrivedFile]]:
    """Find the format of each file. Return (files of charges, lookup files), and add refusals to `bad`.

    Lookup files become part of the version of every period, through `context.settings`.
    """
    charges: list[ArrivedFile] = []
    aside: list[ArrivedFile] = []
    for file in files:
        try:
            is_aside = not file.bring and _recognize_file(context, file)
        except SourceRefused as error:
            bad[file.name] = error
            continue
        except FileNotFoundError:
            bad[file.name] = _gone(context, file)
            continue
        file.stands_for = _stands_for(context.source, file.format, file.name)
        (aside if is_aside else charges).append(file)
    if aside:
        # The settings are JSON on one line. The text after the first line comes from the lookup files of an earlier period.
        context.settings = "\n".join([context.settings.partition("\n")[0], *sorted(f.verified.sha256 for f in aside)])
    return charges, aside


def _recognize_file(context: LoadContext, file: ArrivedFile) -> bool:
    """Set the format and the label of a file on this machine. Return whether it is a lookup file."""
    header = read_header(context.source.name, file.name, file.verified)
    file.format = find_format(context.source, file.name, header)
    if label := offered(format_module(file.format), "label"):
        file.label = label(f"{context.source.uri}/{file.name}", file.delivered.label, header)
    is_aside = offered(format_module(file.format), "is_aside")
    return bool(is_aside and is_aside(header))


def _stage(context: LoadContext, staged: Staged, file: ArrivedFile, beside: Sequence[ArrivedFile], way: str) -> None:
    name = context.source.name
    if file.bring:
        file.path, file.verified = file.bring()
        file.bring = None
        _recognize_file(context, file)
    context.progress(f"{name}: reading {file.name}")
    others = tuple((f.name, f.label) for f in beside)
    delivered = _delivered(context, file, others)
    file.staged = getattr(format_module(file.format), way)(staged, delivered)
    stated = file.delivered.stated_rows
    if stated is not None and file.staged.rows != stated:
        raise refused(context, f"{file.name} holds {counted(file.staged.rows, 'row')}, but its manifest states {stated}", None)
    if file.verified.readable == file.path:
        now = file.path.stat()
        is_copy = file.path.is_relative_to(context.workdir)
        if now.st_size != file.verified.bytes or (not is_copy and abs(file.modified_at.timestamp() - now.st_mtime) > 0.001):
            raise refused(context, f"{file.name} changed while it was read", None)
    else:
        file.verified.readable.unlink()  # the unpacked copy is no longer needed, and the disk may be small


def _delivered(context: LoadContext, file: ArrivedFile, beside: tuple[tuple[str, str | None], ...]) -> Delivered:
    return Delivered(context.source, file.name, file.verified, file.index, file.label, beside)


def combine(staged: Staged, files: Sequence[ArrivedFile]) -> tuple[dict[str, Any], list[FedPeriod]]:
    """Combine files of several labels into one bill. Return (warnings, periods of files that have no rows left).

    Files without rows are still part of the period's version.
    """
    warnings: dict[str, Any] = {}
    before: list[FedPeriod] = []
    files = [f for f in files if not f.bring]  # the other files have no staged rows
    for name in sorted({f.format for f in files if f.label}):
        before = before or read_fed_periods(staged)
        warnings |= format_module(name).combine(staged, {f.index: f.label for f in files if f.format == name})
    after = {(p.file_index, p.period) for p in read_fed_periods(staged)} if before else set()
    gone = [p for p in before if (p.file_index, p.period) not in after]
    return warnings, [replace(p, rows=0, quarantined=0, billed=Decimal(0)) for p in gone]
