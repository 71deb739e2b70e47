"""Every surface that is fuzzed, by name: its function, how its inputs mutate, its seeds, and how it may end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from runspend.core.errors import RunspendError
from tests import databricks_files
from tests.fuzz import bills, questions, records, settings, tracking

Errors = tuple[type[Exception], ...]
BAD_VALUE: Errors = (RunspendError, ValueError)  # the documented exception of what is read beneath the settings


@dataclass(frozen=True)
class Target:
    """One surface. `run(data, work)` reads one input in an empty folder."""

    run: Callable[[bytes, Path], None]
    mutations: str  # one of mutations.KINDS
    seeds: Callable[[], Iterable[bytes]]
    expected: Errors = (RunspendError,)
    seconds: float = 10.0  # for one input, on a busy machine
    megabytes: int = 400
    largest: int = 20_000  # bytes of an input
    prepare: Callable[[], object] = lambda: None  # what all its inputs share, made outside of their folders


def _with_folder(seed: Callable[[Path], bytes]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return seed(Path(folder))


def _bills() -> dict[str, Target]:
    focus, databricks = bills.focus_rows, bills.databricks_rows
    prices = [databricks_files.list_price()]
    slurm = {"format": "slurm", "currency": "EUR", "slurm": {"prices": {"gpu": "1.20", "cpu": "0.02", "mem_gb": "0.002"}}}
    return {
        "focus-csv": Target(bills.focus_csv, "csv", lambda: [bills.csv_of(focus())]),
        "focus-json": Target(bills.bill("bill.jsonl", format="focus"), "json", lambda: [bills.jsonl_of(focus())]),
        "focus-parquet": Target(bills.bill("bill.parquet"), "bytes", lambda: [bills.parquet_of(focus()[:1])]),
        "focus-parquet-types": Target(bills.typed_parquet("auto"), "json", lambda: [json.dumps(focus()[:2]).encode()]),
        "focus-gzip": Target(bills.bill("bill.csv.gz"), "bytes", lambda: [bills.gzip_of(bills.csv_of(focus()[:1]))]),
        "auto-csv": Target(bills.bill("bill.csv"), "csv", lambda: [bills.csv_of(bills.AZURE_ROWS), bills.csv_of(bills.CUR_ROWS[:1])]),
        "aws-cur-csv": Target(bills.bill("cur.csv", format="aws-cur"), "csv", lambda: [bills.csv_of(bills.CUR_ROWS)]),
        "aws-cur-parquet-types": Target(bills.typed_parquet("aws-cur"), "json", lambda: [json.dumps(bills.CUR_ROWS[:2]).encode()]),
        "azure-csv": Target(bills.bill("part_0_0001.csv", format="azure"), "csv", lambda: [bills.csv_of(bills.AZURE_ROWS)]),
        "gcp-csv": Target(bills.bill("gcp.csv", format="gcp"), "csv", lambda: [bills.gcp_csv()]),
        "gcp-json": Target(bills.bill("gcp.jsonl", format="gcp"), "json", lambda: [bills.jsonl_of(bills.gcp_rows())]),
        "gcp-focus-csv": Target(bills.bill("gcp.csv", format="gcp-focus"), "csv", lambda: [bills.csv_of(focus())]),
        "databricks-csv": Target(bills.bill("usage.csv", format="databricks", prices={"discount": "10%"}), "csv", lambda: [bills.databricks_csv(databricks())]),
        "databricks-json": Target(bills.bill("usage.jsonl", format="databricks"), "json", lambda: [bills.jsonl_of(databricks()), bills.jsonl_of(prices)]),
        "slurm": Target(bills.bill("jobs.txt", **slurm), "csv", lambda: [bills.sacct()]),
        "opencost-json": Target(bills.weights("allocations.json"), "json", lambda: [bills.allocations()]),
        "opencost-csv": Target(bills.weights("allocations.csv"), "csv", lambda: [bills.opencost_csv()]),
        "own-machines": Target(bills.own_machines, "json", lambda: [json.dumps(bills.MACHINES).encode()], expected=BAD_VALUE),
        "manifest-aws": Target(bills.manifest("x/metadata/BILLING_PERIOD=2026-10/x-Manifest.json"), "json", lambda: [bills.aws_manifest()]),
        "manifest-azure": Target(bills.manifest("x/20261001-20261031/manifest.json"), "json", lambda: [bills.azure_manifest()]),
        "manifest-anywhere": Target(bills.manifest("x/manifest.json"), "json", lambda: [bills.azure_manifest(), bills.aws_manifest()]),
        "manifest-load": Target(bills.delivered("focus"), "json", lambda: [bills.aws_manifest()]),
        "inventory-manifest": Target(bills.inventory, "json", lambda: [bills.inventory_manifest()]),
        "inventory-csv": Target(bills.inventory_rows, "csv", lambda: [bills.inventory_csv()]),
    }  # fmt: skip


def _settings() -> dict[str, Target]:
    rates = b"from,to,rate,date,inverse\nEUR,USD,1.1,2026-01-01,true\nGBP,USD,1.3,2026-01-01,\n"
    ids = (
        b"i-0123456789abcdef0",
        b"arn:aws:ec2:us-east-1:1:instance/i-0123456789abcdef0",
        b"/subscriptions/A/resourceGroups/b",
        b"arn:aws:sagemaker:us-east-1:1:training-job/X",
        b"gs://b/x",
        b"k8s://c/ns/pod",
    )
    uris = (
        b"s3://b/art/1/2",
        b"abfss://c@acc.dfs.core.windows.net/x",
        b"https://acc.blob.core.windows.net/c/x",
        b"file:///srv/art/x",
        b"mlflow-artifacts:/1/2",
        b"gs://b/x",
    )
    return {
        "yaml": Target(settings.yaml, "text", settings.yaml_seeds),
        "settings": Target(settings.settings_in_json, "json", lambda: [json.dumps(settings.SETTINGS).encode()]),
        "csv-rows": Target(settings.csv_rows, "csv", lambda: [rates], expected=BAD_VALUE),
        "rates-csv": Target(settings.rates_csv, "csv", lambda: [rates]),
        "selectors": Target(settings.selectors, "json", lambda: [b'{"team": "vision", "tag.a": ["x*", "b?"], "user": 1}'], expected=BAD_VALUE),
        "globs": Target(settings.selector_words, "text", lambda: [b"*a*b*?\naaaaaaaaaaaaaaaaaaaaaaaaab", b"*" * 30 + b"x\n" + b"a" * 60], seconds=3),
        "resource-keys": Target(settings.resource_keys, "text", lambda: ids),
        "artifact-uris": Target(settings.artifact_uris, "text", lambda: uris),
        "addresses": Target(settings.addresses, "text", lambda: [b"Ana <ana@example.com>\nhello", "b\u00fccher@b\u00fccher.example\nx".encode()]),
        "values": Target(settings.values, "text", lambda: [b"1d 12h", b"2 GiB", b"http://u:secret-pass@h/x?token=abcdef12"]),
    }  # fmt: skip


def _records() -> dict[str, Target]:
    dumps = lambda value: json.dumps(value).encode()  # noqa: E731
    manifest = records.manifest_seed()
    kinds = {
        "archive_lease": records.LEASE,
        "notices": records.NOTICE,
        "outbox": records.SENT,
        "webhooks": {"since": None},
        "alerts": records.NOTICE,
        "digests": {**records.NOTICE, "recipient": "ana@example.com", "members": ["<a@b>"]},
    }
    return {
        "journal": Target(records.bookkeeping("journal.json"), "json", lambda: [dumps(records.STAGED)]),
        "schema-version": Target(records.bookkeeping("schema.json"), "json", lambda: [_with_folder(records.schema)]),
        "unit-state": Target(records.bookkeeping(f"units/{records.TABLE}/all/lab.json"), "json", lambda: [_with_folder(records.unit_state)]),
        "record-file": Target(records.raw_record, "json", lambda: [b'{"key": "a", "value": {"x": 1}, "nonce": "n"}']),
        **{f"record-{kind.replace('_', '-')}": Target(records.record(kind), "json", lambda value=value: [dumps(value)]) for kind, value in kinds.items()},
        "archive-manifest": Target(records.archive_manifest, "json", lambda: [manifest]),
        "archive-manifest-signed": Target(records.archive_manifest_signed, "json", lambda: [manifest[: manifest.rstrip().rindex(b"\n") + 1]]),
    }  # fmt: skip


def _questions() -> dict[str, Target]:
    return {
        "googlesql": Target(questions.googlesql, "sql", lambda: [s.encode() for s in questions.STATEMENTS], largest=4_000),
        "sql": Target(questions.sql, "sql", lambda: [s.encode() for s in questions.STATEMENTS], largest=2_000, prepare=questions.home),
        "native-sql": Target(questions.native_sql, "sql", lambda: [s.encode() for s in questions.NATIVE], largest=2_000, prepare=questions.home),
        "run-name": Target(questions.run_name, "text", lambda: [n.encode() for n in questions.NAMES], largest=4_000, prepare=questions.home),
        "page": Target(questions.page, "text", lambda: [r.encode() for r in questions.REQUESTS], largest=8_000, prepare=questions.home),
        "command-line": Target(questions.command_line, "json", lambda: [json.dumps(c).encode() for c in questions.COMMAND_LINES], largest=4_000, prepare=questions.home),
        "mlflow-answers": Target(tracking.answers, "json", lambda: [json.dumps(tracking.SEED).encode()], seconds=20, prepare=tracking.prepare),
    }  # fmt: skip


TARGETS: dict[str, Target] = {**_bills(), **_settings(), **_records(), **_questions()}
