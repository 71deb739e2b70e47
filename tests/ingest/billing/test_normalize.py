"""Normalized values of bill lines: tags, units, machines and selectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runspend.ingest import billing
from runspend.ingest.billing.file_sources import Entry
from runspend.ingest.billing.instance_types import describe_machine, instance_types
from runspend.ingest.billing.manifests import _resolve, period_of_name
from runspend.ingest.billing.normalize import plain_time, select_rows
from runspend.ingest.billing.staging import Staged, currencies, delivered_fields
from runspend.ingest.billing.tags import canonical_tags, json_path

HOUR = 3600 * 10**9


@pytest.mark.parametrize(
    ("unit", "nanoseconds"),
    [
        ("Hours", HOUR), ("hour", HOUR), ("Hrs", HOUR), ("h", HOUR), ("100 Hours", 100 * HOUR), ("1 Hour", HOUR), ("Minutes", HOUR // 60),
        ("Seconds", 10**9), ("Days", 24 * HOUR), ("Hour(s)", HOUR),
        ("GB-Hours", None), ("vCPU-Hours", None), ("GB Hours", None), ("Hours/Month", None), ("M", None), ("m", None), ("Requests", None), ("", None),
        ("-1 Hours", None), ("1.5 Hours", None), ("GiB-Mo", None),
    ],
)  # fmt: skip
def test_only_plain_times_are_times(unit: str, nanoseconds: int | None) -> None:
    assert plain_time(unit) == nanoseconds


flat = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
)


@given(flat)
def test_flat_objects_of_texts_keep_every_key_and_value(tags: dict[str, str]) -> None:
    kept = canonical_tags(json.dumps(tags))
    assert kept is not None
    assert json.loads(kept) == tags


@given(st.text())
def test_any_text_can_be_read_as_tags_without_an_error(text: str) -> None:
    kept = canonical_tags(text)
    assert kept is None or all(v is None or isinstance(v, str) for v in json.loads(kept).values())


@pytest.mark.parametrize(
    "text", ['{"a":"1","a":"1"}', '{"a":{}}', "[" * 100_000, '{"a":"\\u0000"}', "null", '"x"', "{'a':1}", '{"a":1', '{"a":"\\ud800"}']
)
def test_only_a_flat_object_is_read_as_tags(text: str) -> None:
    assert canonical_tags(text) is None


@pytest.mark.parametrize(
    ("details", "kind", "stated", "machine"),
    [
        (None, None, None, (None, None, None, None)),
        ('{"InstanceType":"odd.type"}', None, None, ("odd.type", None, None, None)),
        ('{"InstanceType":"g5.xlarge"}', None, None, ("g5.xlarge", 1, 4, 16.0)),
        ('{"InstanceType":"g5.xlarge","GpuCount":"2"}', None, None, ("g5.xlarge", 2, 4, 16.0)),
        ('{"CoreCount":4,"MemorySize":"7.5"}', None, None, (None, None, 4, 7.5)),
        ("not json", None, "SpotUsage:p3.2xlarge", ("p3.2xlarge", 1, 8, 61.0)),
        (None, None, "m5.large", ("m5.large", 0, 2, 8.0)),
        (None, None, "Standard_ND96asr_v4", ("Standard_ND96asr_v4", 8, 96, 900.0)),
        (None, None, "DataTransfer-Out-Bytes", (None, None, None, None)),
        ('{"InstanceType":"ml.g5.xlarge"}', None, None, ("ml.g5.xlarge", 1, 4, 16.0)),
        ('{"InstanceType":"ml.m5.xlarge-Training"}', None, None, ("ml.m5.xlarge", 0, 4, 16.0)),
        (None, None, "USE1-Train:ml.g5.xlarge", ("ml.g5.xlarge", 1, 4, 16.0)),
        (None, None, "ml.m5.xlarge-Training", ("ml.m5.xlarge", 0, 4, 16.0)),
        (None, None, "Studio:KernelGateway-ml.t3.medium", ("ml.t3.medium", 0, 2, 4.0)),
        (None, None, "EUC1-Host:ml.inf9.24xlarge", ("ml.inf9.24xlarge", None, None, None)),
        (None, None, "USE1-Train:VolumeUsage.gp2", (None, None, None, None)),
        (None, None, "EBS:VolumeUsage.gp3", (None, None, None, None)),
        (None, None, "VM.GPU.A10.2", ("VM.GPU.A10.2", 2, 60, 480.0)),
        (None, "BM.GPU4.8", None, ("BM.GPU4.8", 8, 128, 2048.0)),
        (None, None, "VM.Standard.E5.Flex", ("VM.Standard.E5.Flex", None, None, None)),
        (None, None, "BM.Standard2.52", ("BM.Standard2.52", None, None, None)),
        (None, None, "g2-standard-4", ("g2-standard-4", 1, 4, 16.0)),
        (None, "c4a-highmem-8", None, ("c4a-highmem-8", None, None, None)),
        (None, None, "n2-custom-6-3072", ("n2-custom-6-3072", None, None, None)),
        (None, None, "ct5lp-hightpu-4t", ("ct5lp-hightpu-4t", None, None, None)),
        (None, None, "Standard_NC9as_T9_v9", ("Standard_NC9as_T9_v9", None, None, None)),
        (None, None, "NC6s v3", ("Standard_NC6s_v3", 1, 6, 112.0)),
        (None, None, "Standard_LRS", (None, None, None, None)),
        (None, None, "E10 LRS", (None, None, None, None)),
        (None, "Virtual Machines", None, (None, None, None, None)),
        (None, "bucket-standard", None, (None, None, None, None)),
        (None, "n1-standard-8", None, ("n1-standard-8", 0, 8, 30.0)),
        (None, "Virtual Machine", None, (None, None, None, None)),
        ('{"GpuCount":true,"CoreCount":1e300}', None, None, (None, None, 1, None)),
    ],
)
def test_a_machine_is_described_by_the_line_first(
    details: str | None, kind: str | None, stated: str | None, machine: tuple[Any, ...]
) -> None:
    assert describe_machine(details, kind, stated, instance_types()) == machine


def test_the_lists_next_to_the_code_are_consistent() -> None:
    """Every machine has a size and a unique name. Currencies have three letters, and pseudo currencies are not among them."""
    machines = instance_types()
    assert len(machines) > 150
    assert all(
        cpus and cpus > 0 and memory and memory > 0 and gpus is not None and gpus >= 0 for _, gpus, cpus, memory in machines.values()
    )
    text = (Path(billing.__file__).parent / "instance_types.csv").read_text().lower().splitlines()
    assert len(text) == len(machines) + 1
    codes = currencies()
    assert len(codes) == len(set(codes)) > 150
    assert {"USD", "EUR", "JPY", "NOK", "CNY"} <= set(codes)
    assert not {"MC", "XXX", "XTS", "BTC"} & set(codes)


def test_selectors_match_values_and_never_null(tmp_path: Path) -> None:
    texts = {
        "service_name": "Amazon EC2", "sub_account_id": "1", "billing_account_id": "payer", "region_id": "us-1",
        "resource_id": "/SUBSCRIPTIONS/A", "resource_key": "/subscriptions/a", "charge_category": "Usage", "tags": '{"team":"ml","a.\\"b":"x"}',
        "sku_meter": "Training on A2", "charge_description": "An hour",
    }  # fmt: skip
    with Staged(tmp_path) as staged:
        rows = {field.name: pa.nulls(2, field.type) for field in delivered_fields()}
        rows |= {name: pa.array([text, None]).dictionary_encode() for name, text in texts.items() if name in rows}
        staged.add(0, pa.table(rows))
        staged.set(
            resource_key=pa.array([texts["resource_key"], None]).dictionary_encode(),
            instance_type=pa.array(["Standard_NC6s_v3", None]).dictionary_encode(),
        )
        for selector, named in [
            ({"service": ["Amazon*"]}, 1),
            ({"service": ["amazon*"]}, 0),
            ({"account": ["1"]}, 1),
            ({"account": ["payer"], "region": ["us-?"]}, 1),
            ({"resource": ["/subscriptions/a"]}, 1),
            ({"category": ["Tax", "Usage"]}, 1),
            ({"instance_type": ["m5.large", "standard_nc6S_v3"]}, 1),
            ({"instance_type": ["STANDARD_NC*"], "account": ["1"]}, 1),
            ({"instance_type": ["nc6"]}, 0),
            ({"meter": ["*TRAINING*"]}, 1),
            ({"meter": ["an hour"]}, 1),
            ({"meter": ["*inference*"]}, 0),
            ({"tag.team": ["m*"]}, 1),
            ({'tag.a."b': ["x"]}, 1),
            ({"tag.team": ["nlp"]}, 0),
            ({"source": ["bill"]}, 2),
            ({"source": ["*"]}, 2),
            ({"service": ["it's"]}, 0),
            ({"service": ["*"]}, 1),
        ]:
            found = select_rows(staged, selector, "bill").to_pylist()
            assert found == [named > 0, named > 1], selector


def test_json_paths_take_any_key() -> None:
    assert json_path('a."b\\') == '$."a.\\"b\\\\"'


@pytest.mark.parametrize(
    ("name", "period"),
    [
        ("exports/ml/data/BILLING_PERIOD=2026-10/x.csv", "2026-10"), ("billing_period=2026-01/x", "2026-01"), ("BILLING_PERIOD=2026-13/x", None),
        ("costs/20261001-20261031/202611020300/x.csv", "2026-10"), ("20261001-20261101/x", "2026-10"), ("focus-2026-10.csv", None), ("", None),
    ],
)  # fmt: skip
def test_a_path_may_name_the_billing_period(name: str, period: str | None) -> None:
    assert period_of_name(name) == period


def test_a_part_of_the_same_name_elsewhere_is_not_the_missing_part(tmp_path: Path) -> None:
    from datetime import datetime, timezone

    by_name = {n: Entry(n, 1, datetime(2026, 1, 1, tzinfo=timezone.utc)) for n in ("data/a.csv", "b.csv", "data/odd name#1.csv")}
    stated = [("s3://bucket/prefix/data/a.csv", None, None), ("s3://bucket/prefix/data/b.csv", None, None)]
    files, missing = _resolve(stated, by_name)
    assert ([f.entry.name for f in files], missing) == (["data/a.csv"], ["s3://bucket/prefix/data/b.csv"])
    files, missing = _resolve([("prefix/data/odd name#1.csv", 3, 4)], by_name)
    assert ([(f.entry.name, f.stated_bytes, f.stated_rows) for f in files], missing) == ([("data/odd name#1.csv", 3, 4)], [])
