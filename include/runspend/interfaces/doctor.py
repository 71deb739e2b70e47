"""Check a configuration for `runspend doctor`: try every connection and report missing parts. Changes nothing and sends nothing.

`diagnose` returns findings, and `render` formats them for the terminal. The probe of a source (`probe_…`) is in that source's package.
"""

from __future__ import annotations

import fcntl
import os
import smtplib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from runspend.config.publish import PublishTarget
from runspend.config.settings import ArtifactStore, BillSource, KeySettings, Machine, MailSettings, Settings, TrackingServer, redact
from runspend.config.types import CONNECTION
from runspend.core.amounts import money
from runspend.core.errors import RunspendError
from runspend.core.text import clean, counted, finding
from runspend.interfaces.identified_runs import read_groups, say_who_is_identified
from runspend.schema.rows import midnight
from runspend.warehouse.bigquery.dry_run import size_words
from runspend.warehouse.factory import open_warehouse

if TYPE_CHECKING:
    from runspend.ingest.billing.measured_power import Drawn
    from runspend.warehouse.base import Warehouse

Level = Literal["ok", "WARN", "FAIL"]
Accounts = set[tuple[str, str, str]]  # billing account, sub-account, billing period
OWN_FORMATS = ("machines", "slurm")  # formats of bills that Runspend makes itself: they have no tags to set or activate
SECTIONS = ("config", "mlflow", "bill", "artifacts", "publish", "mail")
SMTP_SECONDS = 10
MEASURED_DAYS = timedelta(days=30)  # how far back the doctor reads measured power
# File systems that only this machine sees (names as in /proc/mounts).
LOCAL_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs")


@dataclass(frozen=True)
class Finding:
    """The result of one check: its section of the output, the name of what was checked, a level and a text."""

    section: str
    name: str
    level: Level
    text: str


def diagnose(settings: Settings, *, now: datetime) -> list[Finding]:
    """Try every source and target in the settings. Return the findings in the order of SECTIONS.

    A part that cannot be used becomes a finding, not an exception. Secrets are removed from the texts.
    """
    found = list(check_home(settings))
    for server in settings.tracking:
        read = _tried("mlflow", server.name, server, _probe_server)
        found += read
        if server.annotate is not None or any(f.level == "ok" for f in read):
            found += _tried("mlflow", server.name, server, lambda s: _probe_annotation(s, settings.home))
    held: dict[str, Accounts] = {}
    for bill in settings.billing:
        found += _tried("bill", bill.name, bill, lambda b: _probe_bill(b, settings, held, now))
    found += check_accounts_once(held)
    for store in settings.stores:
        found += _tried("artifacts", _kind(store), store, lambda s: _probe_store(s, now))
    for target in settings.publish:
        found += _tried("publish", target.name, target, lambda t: _probe_target(t, settings))
    found += check_identified(settings, now)
    found += [*check_mail(settings), *check_nothing_missing(settings), *check_machines_of_clusters(settings)]
    found.sort(key=lambda f: SECTIONS.index(f.section))
    return [replace(f, text=redact(f.text, settings)) for f in found]


def with_idle_pools(findings: Sequence[Finding], idle_pools: Sequence[str]) -> list[Finding]:
    """Return the findings plus one warning for each pool without runs.

    Only the preview can find such pools, because it reads runs and bills.
    """
    found = [*findings, *(Finding("config", "pools", "WARN", text) for text in idle_pools)]
    return sorted(found, key=lambda f: SECTIONS.index(f.section))


def render(findings: Sequence[Finding]) -> str:
    """Return the findings as text for the terminal, with columns for section, name, level and text.

    A section is named only on its first line. The last line counts warnings and errors.
    """
    width = max((len(f.name) for f in findings), default=0)
    lines, before = [], ""
    for f in findings:
        section = f.section if f.section != before else ""
        first, *rest = f.text.splitlines() or [""]
        lines.append(f"{section:<11}{f.name:<{width}}  {f.level:<5} {first}".rstrip())
        lines += [" " * (19 + width) + line for line in rest]
        before = f.section
    warnings, errors = (sum(f.level == level for f in findings) for level in ("WARN", "FAIL"))
    lines.append(f"{counted(warnings, 'warning')}, {counted(errors, 'error')}. Nothing was changed.")
    return "\n".join(lines)


def can_be_tried(findings: Sequence[Finding]) -> bool:
    """Return whether at least one tracking server and one bill can be used."""
    return {"mlflow", "bill"} <= {f.section for f in findings if f.level == "ok"}


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 0 without errors, 2 if only the section `config` has errors, and 3 if any other section has errors."""
    failed = {f.section for f in findings if f.level == "FAIL"}
    return 0 if not failed else 2 if failed == {"config"} else 3


# --- on this machine -----------------------------------------------------------------------------------------------


def check_home(settings: Settings) -> Iterator[Finding]:
    """Check the configuration file, and whether `home` and the warehouse can be used. Also check file permissions and shared storage."""
    yield Finding("config", "file", "ok", str(settings.path or "settings made in code"))
    yield _check_folder("home", settings.home)
    uri = settings.warehouse.uri.removeprefix("file://")
    if uri.startswith("bigquery://"):
        yield _check_bigquery(settings)
    elif "://" in uri:
        yield _check_bucket(settings)
    else:
        yield _check_folder("warehouse", Path(uri))
    yield from _check_modes(settings)
    yield from _check_shared(settings.home, os.environ.get("AIRFLOW__CORE__EXECUTOR", ""))


def _check_modes(settings: Settings) -> Iterator[Finding]:
    """Warn about files with wider permissions than configured, and about folders where `files.group` has no effect yet.

    Such files were created by older versions or by hand. Their permissions are left unchanged.
    """
    from runspend.config.file_modes import not_handed_down, own_roots, widening, wider_than

    for root in own_roots(settings):
        count, first = wider_than(root, settings)
        if count:
            who = "all users" if settings.files.group is None else f"people outside {settings.files.group}"
            text = f"{count:,} files and folders in {root} are open to {who}, such as {first}. New ones are not.\nRun: {widening(root, settings)}"
            yield Finding("config", "files", "WARN", text)
        elif root in not_handed_down(settings):
            text = f"files.group {settings.files.group} has no effect yet: new files in {root} do not get that group.\nRun: {widening(root, settings)}"
            yield Finding("config", "files", "WARN", text)


def _check_bucket(settings: Settings) -> Finding:
    """Check the bucket by opening the warehouse, which verifies that the bucket exists, is readable and respects conditional puts."""
    try:
        open_warehouse(settings)
    except RunspendError as error:
        return Finding("config", "warehouse", "FAIL", str(error))
    return Finding("config", "warehouse", "ok", f"{settings.warehouse.uri} (opened)")


def _check_bigquery(settings: Settings) -> Finding:
    """Check the BigQuery dataset, and estimate how many bytes a query of `cost_daily`, the most used table, reads. Creates nothing."""
    from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse

    limit = f"limit of a query: {settings.warehouse.maximum_bytes_billed.human_readable()}"
    try:
        warehouse = BigQueryWarehouse(settings.warehouse)
        head = warehouse.head()
        if not head.extra:
            warehouse.cost_of("select 1 as one")
            return Finding("config", "warehouse", "ok", f"{settings.warehouse.uri} (will be created; {limit})")
        size = warehouse.cost_of("select * from cost_daily")
    except RunspendError as error:
        return Finding("config", "warehouse", "FAIL", str(error))
    return Finding(
        "config", "warehouse", "ok", f"{settings.warehouse.uri} ({len(head.units)} units; cost_daily has {size_words(size)}; {limit})"
    )


def _check_folder(name: str, folder: Path) -> Finding:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return Finding("config", name, "FAIL", f"{folder}: {existing} is not a folder. Choose another path.")
    if existing != folder:
        if os.access(existing, os.W_OK | os.X_OK):
            return Finding("config", name, "ok", f"{folder} (will be created)")
        return Finding(
            "config",
            name,
            "FAIL",
            f"{folder} does not exist and cannot be created in {existing}. Create it, or change the permissions of {existing}.",
        )
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # the file has no name, so nothing is left behind
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding(
            "config",
            name,
            "FAIL",
            f"cannot write and lock files in {folder}: {error.strerror}. Change its permissions, or choose another path.",
        )
    return Finding("config", name, "ok", f"{folder} (writable)")


def _check_shared(home: Path, executor: str) -> Iterator[Finding]:
    """Warn if Airflow runs tasks on several machines but `home` is on a local file system.

    The files in `home` record actions that must happen only once, such as mails. So all machines must see the same files.
    """
    if not any(name in executor for name in ("Celery", "Kubernetes", "Edge", "Ecs", "Batch")):
        return
    kind = file_system(home, Path("/proc/self/mounts"))
    if kind in LOCAL_FILE_SYSTEMS:
        yield Finding(
            "config",
            "home",
            "WARN",
            f"{home} is on this machine only ({kind}), but {executor} runs tasks on other machines. Mails could be sent twice. Put `home` on storage that all workers share.",
        )


def file_system(path: Path, mounts: Path) -> str | None:
    """Return the file system type of `path`, such as `ext4`, or None if it is unknown.

    `mounts` is a file in the format of /proc/mounts. The result is None if that file does not exist.
    """
    if not mounts.is_file():
        return None
    best: tuple[str, str | None] = ("", None)
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


# --- settings of the file ------------------------------------------------------------------------------------------------


def check_nothing_missing(settings: Settings) -> Iterator[Finding]:
    """Report each kind of source that is not configured (tracking servers, bills, artifact stores) and what reports lack without it."""
    if not settings.tracking:
        yield Finding("mlflow", "-", "FAIL", "no tracking server is configured. Add one under `tracking`.")
    if not settings.billing:
        yield Finding(
            "bill",
            "-",
            "WARN",
            "no bill is configured: reports will show runs and artifact sizes, but no costs. Add a bill under `billing`.",
        )
    if not settings.stores:
        yield Finding(
            "artifacts", "-", "WARN", "no artifact store is configured: the bytes of artifacts are unknown. Add stores under `stores`."
        )


def check_identified(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Report how many runs name their machine or job. Only runs that the pipeline has already read count."""
    warehouse = _published(settings)
    if warehouse is not None:
        try:
            with warehouse.reader() as reader:
                lines = list(say_who_is_identified(read_groups(reader, now)))
        except RunspendError:  # problems of the warehouse are a separate finding
            return
        if lines:
            yield Finding("mlflow", "identified", "ok", "\n".join(lines))


def check_machines_of_clusters(settings: Settings) -> Iterator[Finding]:
    """Warn if a Databricks bill is configured without the bill of the cloud.

    Databricks bills only DBUs, and the cloud bills the machines. Without the cloud's bill, half of the cost is missing.
    """
    others = [b for b in settings.billing if b.format not in ("databricks", "opencost", "machines", "slurm")]
    for bill in settings.billing:
        if bill.format == "databricks" and bill.vms is None and not others:
            yield Finding(
                "bill",
                bill.name,
                "WARN",
                "its bill has DBUs only. The machines of its clusters are on the bill of the cloud, which is not configured. Add that bill, or write `vms: none` if all usage is serverless.",
            )


# --- outside this machine ---------------------------------------------------------------------------------------------------


def _tried(section: str, name: str, source: Any, probe: Callable[[Any], Iterator[tuple[Level, str]]]) -> list[Finding]:
    """Return the findings of `probe` for one source. A RunspendError becomes a finding with the level FAIL.

    A source that uses an Airflow connection is not probed, because only an Airflow task can read connections.
    """
    waiting = [key for key, value in source.__dict__.items() if _text(value).startswith(CONNECTION)]
    if waiting:
        return [Finding(section, name, "WARN", f"not checked: {', '.join(waiting)} is an Airflow connection, which only a task can read.")]
    try:
        return [Finding(section, name, level, text) for level, text in probe(source)]
    except RunspendError as error:
        return [Finding(section, name, "FAIL", str(error))]


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value if isinstance(value, str) else ""


def _probe_server(server: TrackingServer) -> Iterator[tuple[Level, str]]:
    from runspend.ingest.tracking import probe_server

    with tempfile.TemporaryDirectory(prefix="runspend-doctor-") as folder:
        found = probe_server(server, Path(folder))
    if found.get("error"):
        yield "FAIL", found["error"]
        return
    version = found.get("version")
    parts = [
        f"MLflow {version}" if version and not str(version).startswith("revision") else "MLflow",
        counted(found["experiments"], "experiment"),
        counted(found["runs"], "run"),
    ]
    if found.get("database_ok"):
        parts.append(f"database read-only, revision {found.get('revision')} known")
    yield "ok", ", ".join(parts)
    for warning in found.get("warnings", ()):
        yield "WARN", warning


def _probe_annotation(server: TrackingServer, home: Path) -> Iterator[tuple[Level, str]]:
    """Check the login that writes costs to MLflow, with a read request only. Also check that the installation's id can be read."""
    from runspend.actions.annotate.installation import find_installation_id
    from runspend.ingest.tracking.cost_annotations import CostAnnotations

    if server.annotate is None:
        yield "ok", "costs are not written to MLflow (`annotate` is off)"
        return
    find_installation_id(home)
    CostAnnotations(server, server.annotate.requests_per_second).check_login()
    yield "ok", "costs are written to MLflow after each pipeline run: `write_token` logs in; nothing was written now"


def check_accounts_once(held: Mapping[str, Accounts]) -> Iterator[Finding]:
    """Report each pair of bills that contain the same billing period of the same account.

    Its charges would count twice, so the pipeline's checks would refuse them.
    """
    names = sorted(held)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if same := sorted(held[first] & held[second]):
                account, sub_account, period = same[0]
                whose = f"{account}, sub-account {sub_account}" if sub_account else account
                yield Finding(
                    "bill",
                    second,
                    "FAIL",
                    f"it has charges of account {whose} in {period}, and so does {first}. They would count twice. "
                    "Remove one of the two bills, or leave those charges out of one with `only` or `scope`.",
                )


def _probe_bill(bill: BillSource, settings: Settings, held: dict[str, Accounts], now: datetime) -> Iterator[tuple[Level, str]]:
    from runspend.ingest.billing import load_process as loading
    from runspend.ingest.billing.cost_splits import INFORMATIONAL
    from runspend.ingest.billing.measured_power import is_measured
    from runspend.ingest.billing.normalize import Rules

    if bill.format == "opencost":
        yield from _probe_weights(bill, settings, now)
        return
    drawn = _read_drawn(settings) if is_measured(bill) else {}
    rules = Rules(keys=settings.keys, scope=settings.scope, shared=settings.shared.lines)
    found = loading.probe_bill(settings, bill, rules=rules, now=now, drawn=drawn)
    if found["format"] != "slurm":  # two Slurm bills of one cluster may contain different jobs: only the pipeline compares them
        held[bill.name] = found["accounts"]
    if not found["files"] and not found["problems"]:
        yield "FAIL", f"{bill.uri} has no bill. Check `uri`, or wait for the first export."
        return
    files = counted(found["files"], "file")
    parts = [f"{found['format']} {found['version'] or ''}".strip(), *_spans(found["periods"]), files, counted(found["rows"], "charge")]
    parts += [f"{money(amount)} {currency} billed" for currency, amount in sorted(found["billed"].items())]
    covered: datetime | None = found["covered_until"]
    age = None if covered is None else now - covered
    if covered is not None and age is not None:
        parts.append(f"complete to {covered:%d %b %H:%M} UTC ({_hours(age)} h ago)")
    is_unreadable = found["quarantined"] and not found["rows"]
    if found["rows"] or not (found["problems"] or is_unreadable):
        yield "ok", ", ".join(parts)
    if age is not None and age > bill.late_after:
        yield "WARN", f"no new data for {_hours(age)} h (limit {_hours(bill.late_after)} h)."
    if is_unreadable:
        rows = counted(found["quarantined"], "row")
        yield "FAIL", f"none of its {rows} can be read: {found['quarantined_because']}. Check the columns of the export, and `format`."
    elif found["quarantined"]:
        yield (
            "WARN",
            f"{counted(found['quarantined'], 'row')} cannot be read. The pipeline sets such rows aside in the table `billing_quarantine`.",
        )
    for why, count in found["skip_reasons"].items():
        yield "ok", f"{counted(count, 'row')} without a charge: {why}"
    if bill.format not in OWN_FORMATS:
        yield from _say_what_is_missing(found, settings.keys)
    for what, count in found["warnings"].items():
        yield "ok" if what in INFORMATIONAL else "WARN", finding(what, count)
    for problem in found["problems"]:
        yield "FAIL", problem
    if is_measured(bill):
        yield from _say_what_is_measured(bill.machines, drawn, now)


def _read_drawn(settings: Settings) -> Drawn | None:
    """Return the measured power of machines that the pipeline has read so far.

    None before the first pipeline run, or if the warehouse cannot be read.
    """
    from runspend.ingest.billing.measured_power import read_drawn

    warehouse = _published(settings)
    try:
        if warehouse is None:
            return None
        with warehouse.reader() as reader:
            return read_drawn(reader)
    except RunspendError:  # problems of the warehouse are a separate finding
        return None


def _published(settings: Settings) -> Warehouse | None:
    """Return the warehouse if it contains runs. None if it does not, or if it cannot be opened.

    Problems of the warehouse are a separate finding.
    """
    uri = settings.warehouse.uri.removeprefix("file://")
    if "://" not in uri and not Path(uri).is_dir():
        return None
    try:
        warehouse = open_warehouse(settings)
        return warehouse if warehouse.states("runs") else None
    except RunspendError:
        return None


def _say_what_is_measured(machines: Sequence[Machine], drawn: Drawn | None, now: datetime) -> Iterator[tuple[Level, str]]:
    """Report for each measured machine how many of its last hours have measurements, and its average power in watts.

    Looks back MEASURED_DAYS at most.
    """
    over = now.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)
    for machine in (m for m in machines if m.is_measured):
        name, idle = machine.resource_id, f"`idle_watts`, {machine.power.idle_watts if machine.power else None} W"
        first = max(midnight(machine.from_), over - MEASURED_DAYS)
        until = over if machine.to is None else min(over, midnight(machine.to) + timedelta(days=1))
        hours = (until - first) // timedelta(hours=1)
        measured = [found for hour, found in (drawn or {}).get(name, {}).items() if first <= hour < until]
        if hours <= 0:
            continue
        if drawn is None:
            yield "ok", f"{name}: its power is known after the first pipeline run. Until then, every hour has {idle}"
        elif not measured:
            yield (
                "WARN",
                f"{name}: no run on it logged system/gpu_*_power_usage_watts, so all of its last {counted(hours, 'hour')} have {idle}. Install nvidia-ml-py next to MLflow "
                "and call mlflow.enable_system_metrics_logging() before runs start. Runs must name the machine, or be in its pool.",
            )
        else:
            held = sum(milliseconds for _, milliseconds in measured)
            watts = sum(milliwatts * milliseconds for milliwatts, milliseconds in measured) / held / 1000
            yield (
                "ok",
                f"{name}: its power was measured in {len(measured):,} of its last {counted(hours, 'hour')} ({held / 3_600_000:,.1f} h), {watts:,.1f} W on average. "
                f"Time without a measurement has {idle}",
            )


def _probe_weights(source: BillSource, settings: Settings, now: datetime) -> Iterator[tuple[Level, str]]:
    """Probe an OpenCost source, which splits charges: report its weights, their machines, and until when they are complete."""
    from runspend.ingest.billing import load_process as loading

    with tempfile.TemporaryDirectory(prefix="runspend-doctor-") as folder:
        read = loading.read_weights(settings, source, workdir=Path(folder), progress=lambda line: None)
    where = "the charges that `lines` selects" if source.lines is not None else counted(read.machines, "machine")
    parts = ["opencost", counted(read.files, "file"), f"{counted(read.rows, 'weight')} of pods on {where}"]
    parts += [f"cluster {name}" for name in read.clusters]
    if read.covered_until is not None:
        parts.append(f"complete to {read.covered_until:%d %b %H:%M} UTC ({_hours(now - read.covered_until)} h ago)")
    yield "ok", ", ".join(parts)
    if read.covered_until is None:
        yield "WARN", "its files have no weights: no charge will be split. Check the export of OpenCost."
    elif now - read.covered_until > source.late_after:
        yield "WARN", f"no new data for {_hours(now - read.covered_until)} h (limit {_hours(source.late_after)} h)."
    if read.rows and not read.has_idle and source.idle == "keep":
        yield (
            "WARN",
            "it has no __idle__ allocation: the part of a machine's cost that no pod uses is idle. Ask OpenCost with includeIdle=true and idleByNode=true, "
            "or write `idle: share` to let the pods pay for idle time.",
        )
    for why, count in read.skip_reasons.items():
        yield "WARN", f"{why}: {count}"


def _say_what_is_missing(found: Mapping[str, Any], keys: KeySettings) -> Iterator[tuple[Level, str]]:
    """Warn if charges lack resource ids or run tags, which Runspend needs to find their runs."""
    usage = found["usage_rows"]
    if not usage:
        return
    if not found["with_resource"]:
        yield (
            "WARN",
            "no usage charge names a resource, so charges match runs only by pools and instance types. Include resource ids in the export.",
        )
    elif found["with_resource"] * 2 < usage:
        yield (
            "WARN",
            f"only {found['with_resource'] / usage:.0%} of usage charges name a resource. Check that the export includes resource ids.",
        )
    if not found["with_run"] and not found["with_job"]:
        yield (
            "WARN",
            f"no charge has the tag {keys.run_id[0]}. If you tag the resources of runs, activate the tag for billing (AWS: as a cost allocation tag). Earlier charges stay without it.",
        )


def _probe_store(store: ArtifactStore, now: datetime) -> Iterator[tuple[Level, str]]:
    if store.measure == "none":
        yield "ok", f"{store.uri}: not measured (`measure: none`), so its bytes are unknown"
        return
    from runspend.ingest.artifacts import probe_store

    yield "ok", f"{store.uri}: {probe_store(store, now)}"


def _probe_target(target: PublishTarget, settings: Settings) -> Iterator[tuple[Level, str]]:
    """Check that a target of `publish` can be reached and written, and compare its build with the warehouse's newest build.

    Writes nothing. For an Iceberg target, the right to write is not checked.
    """
    from runspend.pipeline.publish import look_at

    found, newest = look_at(settings, target)
    if found.problem is not None:
        yield "FAIL", f"cannot publish to {target.name}: {found.problem}."
        return
    rights = "reachable; the right to write was not tried" if target.kind == "iceberg" else "may be written"
    if found.build_id is None or found.published_at is None:
        yield "ok", f"{target.kind}, {rights}, nothing published yet"
        return
    there = f"build {clean(found.build_id)} of {found.published_at:%d %b %H:%M} UTC"
    if newest is not None and newest != found.build_id:
        yield (
            "WARN",
            f"{target.kind}, {rights}, has {there}, but the warehouse has {newest}. To copy it now: runspend publish --target {target.name}",
        )
    else:
        yield "ok", f"{target.kind}, {rights}, has the newest {there}"


def _kind(store: ArtifactStore) -> str:
    return store.uri.partition(":")[0] if ":" in store.uri else "folder"


def check_mail(settings: Settings) -> Iterator[Finding]:
    """Check whether mails can be sent. Connects to the SMTP server, but sends no mail and calls no channel or heartbeat."""
    mail = settings.mail
    for name, channel in mail.posts_to.items():
        if channel.kind == "apprise" and find_spec("apprise") is None:
            yield Finding(
                "mail", name, "FAIL", "Apprise is not installed, so nothing is posted. Install it: pip install 'runspend[apprise]'"
            )
            continue
        about = f"about {' and '.join(channel.subjects)}" if channel.subjects else "for budgets that name it"
        yield Finding("mail", name, "ok", f"{channel.kind}, {about}; not called now. To test: runspend alert --test-mail {name}")
    if mail.backend == "none":
        yield Finding(
            "mail",
            "none",
            "WARN" if settings.budget_entries else "ok",
            "`mail.backend` is none: no mail is written or sent, even if a budget is exceeded.",
        )
        return
    if mail.backend == "file":
        yield Finding("mail", "file", "ok", f"written to {settings.home / 'mail'}, not sent")
    elif mail.connection or any(_text(value).startswith(CONNECTION) for value in (mail.host, mail.username, mail.password)):
        yield Finding("mail", "smtp", "WARN", "not checked: it uses an Airflow connection, which only a task can read.")
    else:
        yield from _check_smtp(mail)
    if not mail.operators and not mail.operator_channels:
        yield Finding(
            "mail",
            mail.backend,
            "WARN",
            "`mail.operators` is empty: no one gets a mail about a refused bill or a failed check. Add an address.",
        )
    if mail.heartbeat is not None:
        yield Finding("mail", "heartbeat", "ok", "called after each successful pipeline run; not called now")


def _check_smtp(mail: MailSettings) -> Iterator[Finding]:
    from runspend.actions.alert.smtp import describe, log_on, make_client

    server = make_client(mail, SMTP_SECONDS)
    try:
        with closing(server):
            log_on(server, mail)
            server.quit()
    except (OSError, smtplib.SMTPException) as error:
        why = f"{describe(error, mail)}. Check mail.host, mail.port, mail.tls and the login. Nothing was sent."
        yield Finding("mail", "smtp", "FAIL", f"cannot use {mail.host}:{mail.port}: {why}")
        return
    done = {"implicit": "TLS", "starttls": "STARTTLS", "none": "no TLS"}[mail.tls] + (", login accepted" if mail.username else "")
    yield Finding("mail", "smtp", "ok", f"{mail.host}:{mail.port}, {done}, nothing sent. To test: runspend alert --test-mail ADDRESS")
    if mail.tls == "none" and mail.password is not None and mail.host not in ("localhost", "127.0.0.1", "::1"):
        yield Finding("mail", "smtp", "WARN", "the password crosses the network unencrypted. Use `tls: starttls` or `tls: implicit`.")


# --- text ------------------------------------------------------------------------------------------------------------------


def _spans(periods: Sequence[str]) -> list[str]:
    ordered = sorted(periods)
    return [] if not ordered else [ordered[0]] if len(ordered) == 1 else [f"{ordered[0]} … {ordered[-1]}"]


def _hours(span: timedelta) -> int:
    return span // timedelta(hours=1)
