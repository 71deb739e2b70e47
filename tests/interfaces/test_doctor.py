"""`runspend doctor`: what it finds, how it prints it, and that it changes nothing."""

from __future__ import annotations

import socket
import sqlite3
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import duckdb
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from runspend.config.settings import Settings
from runspend.core.errors import SourceRefused, SourceUnreachable
from runspend.interfaces import doctor
from runspend.interfaces.doctor import Finding, check_home, check_mail, diagnose, exit_code, file_system, render
from tests.focus_files import row, write_csv
from tests.mlflow_store import make_schema
from tests.settings_builder import read_settings

NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)
BILL = {
    "format": "focus",
    "version": "1.2",
    "periods": ["2026-10", "2026-09", "2026-11"],
    "files": 3,
    "rows": 4100000,
    "quarantined": 0,
    "billed": {"USD": Decimal("20.52022672899"), "EUR": Decimal("1")},
    "covered_until": datetime(2026, 11, 22, 23, tzinfo=timezone.utc),
    "problems": [],
    "usage_rows": 4000000,
    "with_resource": 3900000,
    "with_run": 12,
    "with_job": 0,
    "accounts": {("111", "222", "2026-10"), ("111", "222", "2026-11")},
    "warnings": {},
    "skip_reasons": {},
}
SERVER = {"version": "3.17.2", "experiments": 9, "runs": 18204, "database_ok": True, "revision": "ab12", "warnings": [], "error": None}


def load(folder: Path, text: str) -> Settings:
    return read_settings(folder, text, {"SECRET": "canary-secret"})


def answer(monkeypatch: pytest.MonkeyPatch, what: str, reply: Any) -> None:
    """Make a probe return or raise this, without contacting anything."""

    def probe(*_: Any, **__: Any) -> Any:
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(what, probe)


def of(findings: list[Finding], section: str) -> list[tuple[str, str]]:
    return [(f.level, f.text) for f in findings if f.section == section]


# --- this machine --------------------------------------------------------------------------------------------------------


def test_doctor_leaves_nothing_behind(tmp_path: Path) -> None:
    """It tests folders without creating them, and does not keep its test files."""
    (tmp_path / "state").mkdir(mode=0o700)
    settings = load(tmp_path, "home: state\nwarehouse: {uri: new/warehouse}\n")
    before = sorted(tmp_path.rglob("*"))
    levels = {f.name: f.level for f in diagnose(settings, now=NOW) if f.section == "config"}
    assert levels == {"file": "ok", "home": "ok", "warehouse": "ok"}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_home_that_is_a_file_is_found(tmp_path: Path) -> None:
    """The file may also be in place of a parent folder."""
    (tmp_path / "file").write_text("x")
    settings = load(tmp_path, "home: file/state\n")
    assert [(f.level, "is not a folder" in f.text) for f in check_home(settings) if f.name == "home"] == [("FAIL", True)]


def test_a_home_where_no_file_can_be_made_is_found(tmp_path: Path) -> None:
    """/proc is a real folder that refuses new files, even for root."""
    findings = [f for f in check_home(load(tmp_path, "home: /proc\n")) if f.name == "home"]
    assert [f.level for f in findings] == ["FAIL"]
    assert "cannot write and lock files in" in findings[0].text


def test_a_folder_where_locks_fail_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network folders accept files but refuse locks, which publishing needs."""

    def refuse(*_: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".runspend").mkdir()
    texts = [f.text for f in check_home(load(tmp_path, "")) if f.level == "FAIL"]
    assert len(texts) == 1
    assert texts[0].startswith("cannot write and lock files in ") and ": Operation not supported. Change" in texts[0]


def test_a_bigquery_warehouse_that_cannot_be_opened_is_found(tmp_path: Path) -> None:
    """It is reported before the first pipeline run, not during it."""
    settings = load(tmp_path, "warehouse: {uri: bigquery://p/d}\n")
    findings = diagnose(settings, now=NOW)
    assert [f.level for f in findings if f.name == "warehouse"] == ["FAIL"]
    assert exit_code(findings) == 3  # because there is no tracking server either
    assert exit_code([f for f in findings if f.section == "config"]) == 2


@pytest.mark.parametrize(
    ("executor", "kind", "warned"),
    [
        ("CeleryExecutor", "ext4", True),
        ("KubernetesExecutor", "overlay", True),
        ("CeleryExecutor", "nfs4", False),
        ("LocalExecutor", "ext4", False),
        ("", "ext4", False),
    ],
)
def test_a_home_that_other_workers_cannot_see_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str, kind: str, warned: bool
) -> None:
    """Files in `home` decide what may happen only once, so all workers must see the same ones."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    monkeypatch.setattr(doctor, "file_system", lambda *_: kind)
    found = [f for f in check_home(load(tmp_path, "")) if f.level == "WARN"]
    assert bool(found) is warned
    assert not warned or "is on this machine only" in found[0].text


def test_the_file_system_is_that_of_the_longest_mount(tmp_path: Path) -> None:
    """/proc/mounts lists mounts with escaped blanks. Without such a list, the file system is unknown."""
    mounts = tmp_path / "mounts"
    mounts.write_text("overlay / overlay rw 0 0\nnas:/x /srv nfs4 rw 0 0\n/dev/sda1 /srv/my\\040disk ext4 rw 0 0\n")
    assert [file_system(Path(p), mounts) for p in ("/var", "/srv/a", "/srv/my disk/a", "/srvx")] == ["overlay", "nfs4", "ext4", "overlay"]
    assert file_system(Path("/var"), tmp_path / "gone") is None


# --- sources -------------------------------------------------------------------------------------------------------------

FILE = "tracking: [{name: prod, uri: http://m}]\nbilling: [{name: aws, uri: bills, late_after: 36h}]\nstores: [{uri: s3://b}]\nmail: {operators: [a@b.c]}\n"


def test_each_passed_check_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines show version, counts, periods, sums per currency, and the age of the bill."""
    answer(monkeypatch, "runspend.ingest.tracking.probe_server", SERVER)
    answer(monkeypatch, "runspend.ingest.billing.load_process.probe_bill", BILL)
    answer(monkeypatch, "runspend.ingest.artifacts.probe_store", "bucket b answers")
    findings = diagnose(load(tmp_path, FILE), now=NOW)
    assert of(findings, "mlflow") == [
        ("ok", "MLflow 3.17.2, 9 experiments, 18,204 runs, database read-only, revision ab12 known"),
        ("ok", "costs are not written to MLflow (`annotate` is off)"),
    ]
    assert of(findings, "bill") == [
        (
            "ok",
            "focus 1.2, 2026-09 … 2026-11, 3 files, 4,100,000 charges, 1.00 EUR billed, 20.52 USD billed, complete to 22 Nov 23:00 UTC (31 h ago)",
        )
    ]
    assert of(findings, "artifacts") == [("ok", "s3://b: bucket b answers")]
    assert exit_code(findings) == 0
    assert render(findings).splitlines()[-1] == "0 warnings, 0 errors. Nothing was changed."


def test_failed_checks_are_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failures are a late bill, unreadable rows, a broken delivery, a server's warning, and a store that does not answer."""
    answer(monkeypatch, "runspend.ingest.tracking.probe_server", {**SERVER, "database_ok": None, "warnings": ["sees 61 of 64 experiments"]})
    answer(
        monkeypatch,
        "runspend.ingest.billing.load_process.probe_bill",
        {**BILL, "quarantined": 1, "problems": ["part 3 of 5 is missing"], "covered_until": NOW - timedelta(hours=37)},
    )
    answer(
        monkeypatch,
        "runspend.ingest.artifacts.probe_store",
        SourceUnreachable("s3://b", "cannot list s3://b: no answer. Check the endpoint."),
    )
    findings = diagnose(load(tmp_path, FILE), now=NOW)
    assert of(findings, "mlflow")[1:] == [
        ("WARN", "sees 61 of 64 experiments"),
        ("ok", "costs are not written to MLflow (`annotate` is off)"),
    ]
    assert of(findings, "bill")[1:] == [
        ("WARN", "no new data for 37 h (limit 36 h)."),
        ("WARN", "1 row cannot be read. The pipeline sets such rows aside in the table `billing_quarantine`."),
        ("FAIL", "part 3 of 5 is missing"),
    ]
    assert of(findings, "artifacts") == [("FAIL", "cannot list s3://b: no answer. Check the endpoint.")]
    assert exit_code(findings) == 3
    nothing = {**BILL, "rows": 0, "quarantined": 5, "quarantined_because": "BilledCost is missing"}
    answer(monkeypatch, "runspend.ingest.billing.load_process.probe_bill", nothing)
    found = of(diagnose(load(tmp_path, FILE), now=NOW), "bill")
    assert found == [("FAIL", "none of its 5 rows can be read: BilledCost is missing. Check the columns of the export, and `format`.")]


def test_missing_bill_columns_that_find_runs_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bill has no resources, few resources, or no tags of runs."""
    text = FILE.replace("tracking: [{name: prod, uri: http://m}]\n", "").replace("stores: [{uri: s3://b}]\n", "")

    def reported(**facts: Any) -> list[str]:
        answer(monkeypatch, "runspend.ingest.billing.load_process.probe_bill", {**BILL, **facts})
        return [text for level, text in of(diagnose(load(tmp_path, text), now=NOW), "bill") if level == "WARN"]

    assert reported() == []
    assert reported(usage_rows=0, with_resource=0, with_run=0) == []
    assert [t.split(".")[0] for t in reported(with_resource=0)] == [
        "no usage charge names a resource, so charges match runs only by pools and instance types"
    ]
    assert [t.split(".")[0] for t in reported(with_resource=1000000)] == ["only 25% of usage charges name a resource"]
    assert [t.split(".")[0] for t in reported(with_run=0)] == ["no charge has the tag mlflow_run_id"]
    assert reported(with_run=0, with_job=1) == []
    assert reported(warnings={"unreadable_tags": 3}) == ["unreadable tags: 3"]
    answer(monkeypatch, "runspend.ingest.billing.load_process.probe_bill", {**BILL, "skip_reasons": {"negation": 24}})
    found = of(diagnose(load(tmp_path, text), now=NOW), "bill")
    assert found[1:] == [("ok", "24 rows without a charge: negation")]


def test_a_bill_of_own_machines_needs_no_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "runspend.ingest.billing.load_process.probe_bill", {**BILL, "with_run": 0})
    text = "billing: [{name: box, format: machines, machines: [{resource_id: a, from: 2026-01-01, per_hour: 1}]}]\n"
    assert [level for level, _ in of(diagnose(load(tmp_path, text), now=NOW), "bill")] == ["ok"]


def test_one_account_under_two_bills_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error needs the same month of the same sub-account, because sibling subscriptions may have separate bills."""
    answer(monkeypatch, "runspend.ingest.billing.load_process.probe_bill", BILL)
    text = FILE.replace("billing: [", "billing: [{name: whole, uri: all}, ")
    assert [
        (f.name, f.text.partition(".")[0]) for f in diagnose(load(tmp_path, text), now=NOW) if f.section == "bill" and f.level == "FAIL"
    ] == [("whole", "it has charges of account 111, sub-account 222 in 2026-10, and so does aws")]
    held = {"a": {("111", "222", "2026-10")}, "b": {("111", "333", "2026-10"), ("111", "222", "2026-11")}}
    assert list(doctor.check_accounts_once(held)) == []


def test_two_slurm_bills_of_one_account_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline compares their jobs."""
    answer(monkeypatch, "runspend.ingest.billing.load_process.probe_bill", {**BILL, "format": "slurm"})
    text = FILE.replace("billing: [", "billing: [{name: later, uri: new}, ")
    assert [f.text for f in diagnose(load(tmp_path, text), now=NOW) if f.section == "bill" and f.level == "FAIL"] == []


def test_a_server_that_answers_with_an_error_does_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doctor checks each source separately, and hides passwords in their messages."""
    answer(
        monkeypatch,
        "runspend.ingest.tracking.probe_server",
        {**SERVER, "error": "cannot reach postgresql://u:canary-secret@db/m: no answer"},
    )
    answer(monkeypatch, "runspend.ingest.billing.load_process.probe_bill", SourceRefused("aws", "token canary-secret was not accepted"))
    answer(monkeypatch, "runspend.ingest.artifacts.probe_store", "fine")
    text = FILE.replace("uri: http://m", "uri: http://m, database: 'postgresql://u:${SECRET}@db/m'")
    findings = diagnose(load(tmp_path, text), now=NOW)
    assert of(findings, "mlflow") == [("FAIL", "cannot reach postgresql://u:***@db/m: no answer")]
    assert of(findings, "bill") == [("FAIL", "token *** was not accepted")]
    assert of(findings, "artifacts") == [("ok", "s3://b: fine")]


def test_connections_are_left_to_airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a task can read connections. Doctor never sends the name of a connection as a password."""
    answer(monkeypatch, "runspend.ingest.tracking.probe_server", AssertionError("must not be tried"))
    findings = diagnose(load(tmp_path, "tracking: [{name: prod, uri: http://m, token: 'connection:mlflow'}]\n"), now=NOW)
    assert of(findings, "mlflow") == [("WARN", "not checked: token is an Airflow connection, which only a task can read.")]


def test_an_empty_configuration_lists_missing_sources(tmp_path: Path) -> None:
    """A missing server is an error. A missing bill and a missing store are warnings."""
    findings = diagnose(load(tmp_path, ""), now=NOW)
    assert [level for section in ("mlflow", "bill", "artifacts") for level, _ in of(findings, section)] == ["FAIL", "WARN", "WARN"]


@pytest.mark.parametrize(
    ("bills", "reported"),
    [
        ("{name: dbu, format: databricks, uri: x}", ["dbu"]),
        ("{name: dbu, format: databricks, uri: x, vms: none}", []),
        ("{name: dbu, format: databricks, uri: x}, {name: azure, format: azure, uri: y}", []),
        ("{name: azure, format: azure, uri: y}", []),
    ],
)
def test_the_machines_of_databricks_clusters_need_a_bill_of_their_own(tmp_path: Path, bills: str, reported: list[str]) -> None:
    """Alternatively, `vms: none` states that they have none."""
    findings = doctor.check_machines_of_clusters(load(tmp_path, f"billing: [{bills}]\n"))
    assert [f.name for f in findings if f.level == "WARN" and "`vms: none`" in f.text] == reported


@pytest.mark.parametrize(
    ("drawn", "level", "says"),
    [
        (None, "ok", "box: its power is known after the first pipeline run. Until then, every hour has `idle_watts`, 90 W"),
        (
            {},
            "WARN",
            "box: no run on it logged system/gpu_*_power_usage_watts, so all of its last 558 hours have `idle_watts`, 90 W. Install nvidia-ml-py next to MLflow",
        ),
        ({"box": {datetime(2026, 10, 31, 23, tzinfo=timezone.utc): (800_000, 3_600_000)}}, "WARN", "box: no run on it logged"),
        (
            {
                "box": {
                    datetime(2026, 11, 2, hour, tzinfo=timezone.utc): found
                    for hour, found in ((8, (900_000, 3_600_000)), (9, (600_000, 1_800_000)))
                }
            },
            "ok",
            "box: its power was measured in 2 of its last 558 hours (1.5 h), 800.0 W on average. Time without a measurement has `idle_watts`, 90 W",
        ),
    ],
    ids=["before the first night", "nothing", "before it was there", "measured"],
)
def test_measured_power_of_a_machine_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: Any, level: str, says: str
) -> None:
    """Doctor shows the measured hours, the mean watts and the default. If no run logs the metric, it explains how to."""
    monkeypatch.setattr(doctor, "_read_drawn", lambda settings: drawn)
    machines = "[{resource_id: box, from: 2026-11-01, power: {per_kwh: 0.3, watts: measured, idle_watts: 90}}, {resource_id: old, from: 2026-11-01, per_month: 3}]"
    found = of(
        diagnose(load(tmp_path, f"billing: [{{name: lab, format: machines, currency: EUR, machines: {machines}}}]\n"), now=NOW), "bill"
    )
    [(reported, text)] = [(reported, text) for reported, text in found if text.startswith("box")]
    assert reported == level and says in text
    assert not any(text.startswith("old") for _, text in found)


def test_a_server_that_shows_costs_is_asked_with_the_login_that_writes_them(tmp_path: Path) -> None:
    """Doctor also finds an installation id that Runspend did not make, and creates none itself."""
    make_schema(tmp_path / "mlflow.db")
    server = "{name: a, uri: 'sqlite:///mlflow.db', write_token: anonymous, annotate: true}"
    settings = load(tmp_path, f"tracking: [{server}]\n")
    assert of(diagnose(settings, now=NOW), "mlflow")[-1] == (
        "ok",
        "costs are written to MLflow after each pipeline run: `write_token` logs in; nothing was written now",
    )
    assert not (settings.home / "installation").exists()
    settings.home.mkdir(exist_ok=True)
    (settings.home / "installation").write_text("", encoding="utf-8")
    level, text = of(diagnose(settings, now=NOW), "mlflow")[-1]
    assert level == "FAIL" and text.endswith("If there is none, delete the file.")


@pytest.mark.parametrize(("secret", "level"), [("ann:right", "ok"), ("ann:wrong", "FAIL")])
def test_a_login_that_cannot_write_costs_is_found(tmp_path: Path, secret: str, level: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer()

        def answer(self) -> None:
            is_right = self.headers["Authorization"] == f"Basic {b64encode(b'ann:right').decode()}"
            body = b"{}" if is_right else b'{"error_code": "PERMISSION_DENIED", "message": "no"}'
            self.send_response(200 if is_right or self.path == "/version" else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as stub:
        Thread(target=stub.serve_forever, args=(0.01,), daemon=True).start()
        uri = f"http://127.0.0.1:{stub.server_port}"
        settings = load(tmp_path, f"tracking: [{{name: a, uri: '{uri}', write_token: '{secret}', annotate: true}}]\n")
        found = of(diagnose(settings, now=NOW), "mlflow")[-1]
        stub.shutdown()
    assert found[0] == level
    assert level == "ok" or found[1].startswith(f"cannot log in to a to write costs: {uri} refused the credentials")


def test_real_sources_are_read(tmp_path: Path) -> None:
    """The sources are a folder of artifacts, a missing bill, and a database that is not MLflow's. No exception escapes."""
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "model.bin").write_bytes(b"x")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table unrelated (a int)")
    settings = load(
        tmp_path, "tracking: [{name: a, uri: 'sqlite:///mlflow.db'}]\nbilling: [{name: b, uri: bills}]\nstores: [{uri: art}, {uri: gone}]\n"
    )
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    findings = diagnose(settings, now=NOW)
    assert [level for level, _ in of(findings, "mlflow")] == ["FAIL"]
    assert [level for level, _ in of(findings, "bill")] == ["FAIL"]
    assert [level for level, _ in of(findings, "artifacts")] == ["ok", "FAIL"]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_shared_lines_that_scope_leaves_out_are_reported(tmp_path: Path) -> None:
    """The message contains the entry as written. It omits an entry if one of its charges is in scope."""
    write_csv(tmp_path / "oct.csv", [row("5.00", ServiceName="AmazonEC2"), row("4.00", ServiceName="AmazonRDS")])
    settings = load(
        tmp_path,
        "billing: [{name: b, uri: oct.csv, late_after: 3650d}]\nscope: {include: [{service: AmazonEC2}]}\nshared: {lines: [{service: '*RDS'}, {service: 'Amazon*'}]}\n",
    )
    warned = [text for level, text in of(diagnose(settings, now=NOW), "bill") if level == "WARN" and "shared.lines" in text]
    assert warned == [
        'entries of shared.lines whose charges are all out of scope: {service: "*RDS"}. Include them in `scope`, or remove them'
    ]


# --- mail ----------------------------------------------------------------------------------------------------------------


class Inbox:
    """An SMTP server's handler that counts messages."""

    def __init__(self) -> None:
        self.messages = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.messages += 1
        return "250 OK"


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, int]]:
    """A real SMTP server on loopback that requires a login."""
    handler = Inbox()

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.password == b"canary-secret", handled=False)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(handler, hostname="127.0.0.1", port=port, authenticator=check, auth_require_tls=False)
    controller.start()
    try:
        yield handler, port
    finally:
        controller.stop()


def mail_file(port: int, password: str = "${SECRET}", tls: str = "none") -> str:
    return f"mail: {{backend: smtp, host: 127.0.0.1, port: {port}, tls: {tls}, username: u, password: '{password}', operators: [a@b.c]}}\n"


def test_the_mail_server_is_contacted_but_gets_no_mail(tmp_path: Path, inbox: tuple[Inbox, int]) -> None:
    """Doctor only connects and logs in."""
    handler, port = inbox
    assert [(f.level, f.text) for f in check_mail(load(tmp_path, mail_file(port)))] == [
        ("ok", f"127.0.0.1:{port}, no TLS, login accepted, nothing sent. To test: runspend alert --test-mail ADDRESS")
    ]
    assert handler.messages == 0


def test_a_login_that_is_refused_is_found(tmp_path: Path, inbox: tuple[Inbox, int]) -> None:
    """The finding has the server's own message and not the password."""
    findings = list(check_mail(load(tmp_path, mail_file(inbox[1], "wrong-canary"))))
    assert [f.level for f in findings] == ["FAIL"]
    assert "Authentication" in findings[0].text
    assert "wrong-canary" not in findings[0].text


def test_a_server_without_tls_is_found(tmp_path: Path, inbox: tuple[Inbox, int]) -> None:
    """Doctor never skips `starttls` silently, because the password would be readable."""
    findings = list(check_mail(load(tmp_path, mail_file(inbox[1], tls="starttls"))))
    assert [f.level for f in findings] == ["FAIL"]
    assert "no TLS with 127.0.0.1" in findings[0].text


def test_a_webhook_and_a_heartbeat_are_listed_and_not_called(tmp_path: Path) -> None:
    """No server listens at these addresses, so a call would fail. The addresses are secrets."""
    text = (
        "mail: {webhook: {url: 'http://127.0.0.1:1/canary-one', kind: teams}, heartbeat: 'http://127.0.0.1:1/canary-two', "
        "channels: [{kind: pagerduty, key: canary-three}, {name: own, url: 'http://127.0.0.1:1/canary-four', about: []}]}\n"
    )
    findings = list(check_mail(load(tmp_path, text)))
    assert [(f.name, f.level) for f in findings] == [
        (name, "ok") for name in ("webhook", "channel:pagerduty", "channel:own", "file", "heartbeat")
    ]
    assert [f.text.partition(";")[0] for f in findings[:3]] == [
        "teams, about budgets",
        "pagerduty, about exceeded and operators",
        "slack, for budgets that name it",
    ]
    assert "canary" not in "".join(f.text for f in findings)


def test_a_mail_server_that_is_not_there_is_found(tmp_path: Path) -> None:
    """The test uses port 1 of this machine."""
    assert [f.level for f in check_mail(load(tmp_path, mail_file(1)))] == ["FAIL"]


@pytest.mark.parametrize(
    ("mail", "expected"),
    [
        ("{}", ["ok", "WARN"]),
        ("{operators: [a@b.c]}", ["ok"]),
        ("{backend: none}", ["WARN"]),
        ("{backend: smtp, connection: smtp_default, operators: [a@b.c]}", ["WARN"]),
        ("{backend: smtp, host: m, username: u, password: 'connection:smtp', operators: [a@b.c]}", ["WARN"]),
    ],
)
def test_mail_without_recipients_is_found(tmp_path: Path, mail: str, expected: list[str]) -> None:
    """Doctor reports missing operators, no backend although a budget needs one, and connections that only a task can read."""
    settings = load(tmp_path, f"mail: {mail}\nbudgets: [{{name: a, amount: 1, notify: [a@b.c]}}]\n")
    assert [f.level for f in check_mail(settings)] == expected


# --- output ----------------------------------------------------------------------------------------------------------------


def test_doctor_prints_findings_in_columns_and_counts_them() -> None:
    """It prints each section once, aligns names, indents further lines, and ends with the count."""
    findings = [
        Finding("mlflow", "prod", "ok", "MLflow 3.17.2"),
        Finding("mlflow", "prod", "WARN", "token sees 61 of 64\nits artifacts are protected"),
        Finding("bill", "azure", "FAIL", "nothing there"),
    ]
    assert render(findings).splitlines() == [
        "mlflow     prod   ok    MLflow 3.17.2",
        "           prod   WARN  token sees 61 of 64",
        "                        its artifacts are protected",
        "bill       azure  FAIL  nothing there",
        "1 warning, 1 error. Nothing was changed.",
    ]


def test_targets_of_publish_are_checked(tmp_path: Path) -> None:
    """The targets are a missing file, a foreign file, a file with a forged build, and a server that does not answer."""
    (tmp_path / "mine.duckdb").write_bytes(b"mine")
    with duckdb.connect(tmp_path / "forged.duckdb") as connection:
        connection.execute(
            "create table runspend_builds as select 'all' as table_name, $1 as build_id, now() as published_at", ["x\nmail ok\u202e" * 99]
        )
    settings = read_settings(
        tmp_path,
        """
        publish:
          - {name: laptop, kind: duckdb, file: costs.duckdb}
          - {name: other, kind: duckdb, file: mine.duckdb}
          - {name: forged, kind: duckdb, file: forged.duckdb}
          - {name: grafana, kind: postgres, uri: "postgresql://u:canary@127.0.0.1:9/costs"}
        """,
    )
    found = {f.name: f for f in diagnose(settings, now=NOW) if f.section == "publish"}
    assert found["laptop"] == Finding("publish", "laptop", "ok", "duckdb, may be written, nothing published yet")
    assert found["other"].level == "FAIL" and "is not a file that `runspend publish` wrote" in found["other"].text
    assert found["forged"].text.isprintable() and len(found["forged"].text) < 200
    assert found["grafana"].level == "FAIL" and "refused" in found["grafana"].text and "canary" not in found["grafana"].text
