"""What people write by hand: runspend.yaml, the CSV files it names, selectors, addresses, identifiers, artifact URIs, secrets in text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import duckdb

from runspend.actions.alert.message import as_bytes
from runspend.actions.alert.render import Envelope, Facts, MailTable, Paragraph, make_mail
from runspend.config.csv_rows import read_csv_rows
from runspend.config.settings import ArtifactStore, load_settings, redact, show_settings
from runspend.config.types import address_of, format_duration, parse_duration, parse_size
from runspend.core import resource_keys as identifiers
from runspend.core.redaction import redact_uri, redact_values, uri_secrets
from runspend.core.selectors import BUDGET_KEYS, RUN_MAPS, glob_to_regex, matches, parse_selector
from runspend.storage.uris import Root, allowed, folder_within, is_ambiguous, resolve_artifact_uri, store_slug
from tests.focus_files import NOW
from tests.fuzz.guard import Finding

SECRET = "canary-7f3a"
EXAMPLES = Path(__file__).parents[1] / "config" / "examples"


def yaml(data: bytes, work: Path) -> None:
    """A configuration: settings that can be shown again, or one message without the secret of the environment."""
    path = work / "runspend.yaml"
    path.write_bytes(data)
    (work / "rates.csv").write_text("from,to,rate,date\nEUR,USD,1.1,2026-01-01\n")
    try:
        settings = load_settings(path, {"TOKEN": SECRET, "HOME": str(work)})
    except Exception as error:
        if SECRET in str(error) and SECRET.encode() not in data:
            raise Finding(f"a secret is shown: {error}") from error
        raise
    if SECRET in redact(repr(show_settings(settings)), settings) and SECRET.encode() not in data:
        raise Finding("a secret is shown")


def settings_in_json(data: bytes, work: Path) -> None:
    """The same from a JSON document, which is YAML: its values mutate one by one."""
    yaml(data, work)


def csv_rows(data: bytes, work: Path) -> None:
    """A small CSV file that a setting names; a ValueError is a mistake reported with its line."""
    path = work / "rows.csv"
    path.write_bytes(data)
    for line, row in read_csv_rows(path, ("from", "to", "rate", "date"), ("inverse",)):
        if line < 2 or not {"from", "to", "rate", "date"} <= row.keys():
            raise Finding(f"line {line} is {row}")


def rates_csv(data: bytes, work: Path) -> None:
    """The same file behind `rates.exchange`."""
    (work / "rates.csv").write_bytes(data)
    path = work / "runspend.yaml"
    path.write_text("tracking: [{name: a, uri: /tmp/x}]\nrates: {exchange: rates.csv}\n")
    load_settings(path, {})


def selectors(data: bytes, work: Path) -> None:
    """A selector; its globs match themselves where they have no wildcard, in DuckDB too."""
    selector = parse_selector(json.loads(data), BUDGET_KEYS, RUN_MAPS)
    for patterns in selector.values():
        for pattern in patterns[:20]:
            is_plain = not set(pattern) & set("*?")
            if is_plain and not matches(pattern, pattern):
                raise Finding(f"{pattern!r} does not match itself")
            pattern.encode("utf-8", "strict")
            [(found,)] = _CONNECTION.execute("select regexp_full_match($1, $2)", [pattern, glob_to_regex(pattern)]).fetchall()
            if is_plain and not found:
                raise Finding(f"{pattern!r} does not match itself in DuckDB")


def selector_words(data: bytes, work: Path) -> None:
    """A pattern and a string: quick, however many wildcards."""
    pattern, _, text = data.decode("utf-8", "replace").partition("\n")
    matches(pattern, text)


def resource_keys(data: bytes, work: Path) -> None:
    """An id of a bill or a run in the form in which they are compared: blanks around it change nothing, and it is never empty."""
    text = data.decode("utf-8", "replace").replace("\x00", "")
    forms = (
        identifiers.resource_key_sql("t"),
        identifiers.job_key_sql("t"),
        identifiers.storage_key_sql("t", "t"),
        identifiers.storage_class_sql("t"),
    )
    rows = _CONNECTION.execute(f"select {', '.join(forms)} from (select unnest([$1, $2])::varchar as t)", [text, f"  {text} "]).fetchall()
    if rows[0][:3] != rows[1][:3] or "" in rows[0]:
        raise Finding(f"{text!r} is {rows[0]}, with blanks around it {rows[1]}")


def artifact_uris(data: bytes, work: Path) -> None:
    """A URI is in a store or outside: what is inside has no second reading."""
    uri = data.decode("utf-8", "replace")
    store_slug(uri)
    for root in (Root("s3", "b", "art"), Root("azure", "c@acc.core.windows.net", ""), Root("file", "", "srv/art"), Root("gs", "b", "")):
        is_ambiguous(uri, root.scheme)
        folder = folder_within(uri, root)
        if folder is not None and (set(unquote(folder).split("/")) & {"..", "."} or "\\" in folder or folder.startswith("/")):
            raise Finding(f"{uri!r} is inside {root}, as {folder!r}")
    resolved = resolve_artifact_uri(uri, "s3://b/art")
    store = allowed(resolved, [ArtifactStore(uri="s3://b/art/"), ArtifactStore(uri=str(work / "art"))])
    if store is not None and store.uri.startswith("s3") and not str(resolved).startswith("s3://b/art"):
        raise Finding(f"{uri!r} is allowed in {store.uri}")


def addresses(data: bytes, work: Path) -> None:
    """Names and addresses in mail: one mail that can be written, no header but its own."""
    text = data.decode("utf-8", "replace")
    name, _, rest = text.partition("\n")
    found = address_of(name)
    if found is not None and (not found.isascii() or re.search(r"[\s<>,;]", found)):
        raise Finding(f"{name!r} is taken for the address {found!r}")
    envelope = Envelope("Runspend <runspend@example.com>", "alerts", "alert", name)
    blocks = [Paragraph(rest), Facts(name, ((name, rest), ("link", name))), MailTable(name, ("a", name), "lr", ((rest, name),))]
    mail = make_mail(envelope, local_id="fuzz.1", recipients=[name, "ana@example.com"], subject=text, blocks=blocks, now=NOW)
    head = as_bytes(mail).partition(b"\n\n")[0]
    if re.search(rb"(?im)^(bcc|x-fuzz)\s*:", head):
        raise Finding(f"a header was added: {head!r}")


def values(data: bytes, work: Path) -> None:
    """Lengths of time, sizes, and URIs with secrets. A ValueError is the documented answer."""
    text = data.decode("utf-8", "replace")
    redact_uri(text)
    secrets = uri_secrets(text)
    if any(len(s) >= 8 and s in redact_values(text, secrets) for s in secrets if s.isalnum()):
        raise Finding(f"a secret of {text!r} is shown")
    for parse in (parse_duration, parse_size):
        try:
            parsed = parse(text)
        except ValueError:
            continue
        if parse is parse_duration:
            format_duration(parsed)  # type: ignore[arg-type]


_CONNECTION = duckdb.connect()


def yaml_seeds() -> list[bytes]:
    """The examples of the tests and a short file with every section."""
    found = [p.read_bytes() for p in sorted(EXAMPLES.glob("*.yaml"))[:6]]
    return [
        *found,
        json.dumps(SETTINGS).encode(),
        b"tracking:\n  - name: a\n    uri: http://u:${TOKEN}@h/\n# x\nbilling:\n  - {name: b, uri: ./bill}\n",
    ]


SETTINGS = {
    "tracking": [{"name": "prod", "uri": "https://mlflow.example.com", "token": "${TOKEN}"}],
    "billing": [{"name": "aws", "uri": "s3://b/x/", "format": "aws-cur", "max_drop": "50%", "late_after": "48h", "only": {"tag.team": ["a*", "b"]}}],
    "stores": [{"uri": "s3://b/art/", "inventory": "/tmp/inv"}],
    "rates": {"exchange": "rates.csv", "prices": [{"instance_type": "p4d", "price": "3.2", "currency": "USD"}]},
    "budgets": [{"name": "vision", "for": {"team": "vision"}, "amount": 5000, "actual": ["80%", "500"], "notify": ["owner", "Ana <ana@example.com>"]}],
    "pools": [{"name": "p", "lines": {"service": "Amazon EKS"}, "runs": {"tag.pool": "eks"}}],
    "retention": [{"name": "old", "select": {"unused_for": "90d", "experiment": "tmp/*"}, "action": "archive", "to": "s3://b/art/"}],
    "mail": {"backend": "smtp", "host": "localhost", "from": "a@b.example", "operators": ["ops@example.com"]},
    "currency": "USD", "memory": "600MB",
}  # fmt: skip
