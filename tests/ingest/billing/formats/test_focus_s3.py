"""A FOCUS bill in a real S3 store: the prefix, the manifest, and a store that does not answer."""

from __future__ import annotations

import json
import os
import uuid
from decimal import Decimal
from pathlib import Path

import pytest

from runspend.core.errors import SourceUnreachable
from tests.focus_files import csv_text, nights, only, row
from tests.servers.s3 import S3Server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket. The environment has its key and none of the machine's own AWS settings."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    name = f"b-{uuid.uuid4().hex[:12]}"
    client = s3_server.client()
    client.create_bucket(Bucket=name)
    client.close()
    return name


def put(server: S3Server, bucket: str, objects: dict[str, bytes]) -> None:
    client = server.client()
    for key, data in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=data)
    client.close()


def test_only_the_prefix_is_read(tmp_path: Path, s3_server: S3Server, bucket: str) -> None:
    bill = nights(tmp_path, f"s3://{bucket}/exports/focus", endpoint=s3_server.endpoint, region="us-east-1")
    mine, other = csv_text([row("1.00")]).encode(), csv_text([row("100.00")]).encode()
    put(
        s3_server,
        bucket,
        {"exports/focus/oct.csv": mine, "exports/focus/oct copy #1.csv": mine, "exports/focus2/oct.csv": other, "oct.csv": other},
    )
    outcome = only(bill.load())
    assert (outcome.state, bill.total()) == ("loaded", Decimal(1))
    assert len(outcome.extra["duplicates"]) == 1
    assert only(bill.load()).state == "unchanged"


def test_a_manifest_in_a_bucket_names_its_parts_by_full_key(tmp_path: Path, s3_server: S3Server, bucket: str) -> None:
    data = "exports/ml/data/BILLING_PERIOD=2026-10"
    manifest = {"dataFiles": [f"s3://{bucket}/{data}/ml-00001.csv"]}
    objects = {f"{data}/ml-00001.csv": csv_text([row("1.00"), row("2.00")]).encode(), f"{data}/stray.csv": csv_text([row("9.00")]).encode()}
    put(s3_server, bucket, {**objects, "exports/ml/metadata/BILLING_PERIOD=2026-10/ml-Manifest.json": json.dumps(manifest).encode()})
    bill = nights(tmp_path, f"s3://{bucket}/exports/", delivery="manifest", endpoint=s3_server.endpoint, region="us-east-1")
    bill.load()
    assert bill.total() == Decimal(3)


def test_a_missing_bucket_is_unreachable(tmp_path: Path, s3_server: S3Server, bucket: str) -> None:
    with pytest.raises(SourceUnreachable, match="cannot read s3://"):
        nights(tmp_path, f"s3://{bucket}-gone/x", endpoint=s3_server.endpoint, region="us-east-1").load()
