"""Google's own FOCUS, as the view and as the native export: Runspend recognizes both and converts them to plain FOCUS."""

from __future__ import annotations

import json
from calendar import monthrange
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.focus_files import Nights, nights, only, row, write_bytes
from tests.focus_files import write_csv as write_plain
from tests.gcp_files import write_csv

RUN = "0" * 31 + "1"
LABELS = [{"key": "compute.googleapis.com/cores", "value": "8"}, {"key": "compute.googleapis.com/machine_spec", "value": "n1-standard-8"}]


def of_view(
    cost: str = "1.000000000", start: str = "2026-10-05T10:00:00Z", month: str = "2026-10-01T07:00:00Z", **other: Any
) -> dict[str, Any]:
    """Return a row as the view's SQL writes it."""
    tags = [{"key": "mlflow-run-id", "value": RUN, "x_type": "label", "x_inherited": False, "x_namespace": "n/a"}]
    return {
        "AvailabilityZone": "us-central1-a",
        "BilledCost": cost,
        "BillingAccountId": "01A2B3-C4D5E6-F70819",
        "BillingCurrency": "USD",
        "BillingPeriodStart": month,
        "BillingPeriodEnd": f"{month[:8]}{monthrange(int(month[:4]), int(month[5:7]))[1]}{month[10:]}",
        "ChargeCategory": "usage",
        "ChargeClass": None,
        "ChargeDescription": "N1 Predefined Instance Core running in Americas",
        "ChargePeriodStart": start,
        "ChargePeriodEnd": f"{start[:14]}59:59Z",
        "ConsumedQuantity": "7200",
        "ConsumedUnit": "seconds",
        "ContractedCost": "1.500000000",
        "EffectiveCost": cost,
        "ListCost": "2.000000000",
        "PricingCategory": "standard",
        "ProviderName": "Google Cloud",
        "PublisherName": "Google Cloud",
        "RegionId": "us-central1",
        "ResourceId": "//compute.googleapis.com/projects/ml/zones/us-central1-a/instances/4711",
        "ResourceName": "trainer",
        "ServiceCategory": ["GCP", "Compute", "GCE", "VMs On Demand", "Cores: Per Core"],
        "ServiceName": "Compute Engine",
        "SkuId": "2E27-4F75-95CD",
        "SubAccountId": "01A2B3-C4D5E6-F70819",
        "Tags": tags,
        "x_Credits": [{"Name": "a credit", "Amount": "-0.500000000", "FullName": None, "Id": "c", "Type": "PROMOTION"}],
        "x_CostType": "regular",
        "x_CurrencyConversionRate": "1",
        "x_ExportTime": "2026-10-05T15:00:00Z",
        "x_Location": "us-central1",
        "x_Project": {"id": "ml", "number": "1", "name": "ML"},
        "x_ServiceId": "6F81-5844-456A",
        **other,
    }  # fmt: skip


def native(cost: str = "1.00", **other: Any) -> dict[str, Any]:
    """Return a row of the native export. It has a list for each kind of label, months in UTC, and no service category."""
    found = {
        k: v
        for k, v in of_view(cost, month="2026-10-01T00:00:00Z").items()
        if k not in ("Tags", "ServiceCategory", "SubAccountId", "x_Project")
    }
    return {
        **found,
        "ChargeCategory": "Usage",
        "PricingCategory": "Standard",
        "SubAccountId": "ml",
        "SubAccountName": "ML",
        "x_Project": {"Id": "ml", "Number": "1", "Name": "ML"},
        "x_Labels": [{"Key": "mlflow_run_id", "Value": RUN}],
        "x_ProjectLabels": [{"Key": "team", "Value": "vision"}],
        "x_SystemLabels": [{"Key": pair["key"], "Value": pair["value"]} for pair in LABELS],
        "x_Tags": [{"Key": "env", "Value": "prod", "x_Inherited": True, "x_Namespace": "1"}],
        **other,
    }


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write JSON lines with BigQuery's NUMERIC values as strings."""
    return write_bytes(path, "".join(json.dumps(line) + "\n" for line in rows).encode())


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write NUMERIC values as decimals with nine places."""
    table = pa.Table.from_pylist([dict(line) for line in rows])
    for name in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table.column(name).cast(pa.decimal128(38, 9)))
    pq.write_table(table, path)
    return path


FILES = [
    pytest.param(write_csv, "csv", id="csv"),
    pytest.param(write_jsonl, "jsonl", id="json lines"),
    pytest.param(write_parquet, "parquet", id="parquet"),
]


def loaded(
    tmp_path: Path,
    rows: Sequence[Mapping[str, Any]],
    write: Callable[[Path, Sequence[Mapping[str, Any]]], Path] = write_jsonl,
    ending: str = "jsonl",
    **settings: Any,
) -> Nights:
    bill = nights(tmp_path, write(tmp_path / f"bill.{ending}", rows), **settings)
    bill.load()
    return bill


@pytest.mark.parametrize(("write", "ending"), FILES)
@pytest.mark.parametrize("format_name", ["auto", "gcp-focus"])
def test_the_view_becomes_plain_focus(
    tmp_path: Path, write: Callable[[Path, Sequence[Mapping[str, Any]]], Path], ending: str, format_name: str
) -> None:
    bill = loaded(tmp_path, [of_view("0.123456789"), of_view("2.000000001", "2026-10-31T23:00:00Z")], write, ending, format=format_name)
    lines = bill.lines()
    assert (bill.total(), bill.total(column="effective_cost"), bill.total(column="contracted_cost"), bill.total(column="list_cost")) == (
        Decimal("2.123456790"), Decimal("2.123456790"), 3, 4,
    )  # fmt: skip
    values = {name: {line[name] for line in lines} for name in lines[0] if name != "group_keys"}
    assert {(s.isoformat(), e.isoformat()) for s in values["billing_period_start"] for e in values["billing_period_end"]} == {
        ("2026-10-01T00:00:00+00:00", "2026-11-01T00:00:00+00:00")
    }
    assert (values["charge_category"], values["pricing_category"], values["service_category"]) == ({"Usage"}, {"Standard"}, {"Compute"})
    assert (values["sub_account_id"], values["sub_account_name"], values["resource_key"], values["run_tag"]) == (
        {"ml"},
        {"ML"},
        {"projects/ml/zones/us-central1-a/instances/4711"},
        {RUN},
    )
    assert (values["service_provider_name"], values["invoice_issuer_name"]) == ({"Google Cloud"}, {"Google Cloud"})


@pytest.mark.parametrize(("write", "ending"), FILES)
def test_the_native_export_keeps_its_kinds_of_labels_apart(
    tmp_path: Path, write: Callable[[Path, Sequence[Mapping[str, Any]]], Path], ending: str
) -> None:
    [line] = loaded(tmp_path, [native("1.25")], write, ending).lines()
    assert (line["billed_cost"], line["run_tag"], line["sub_account_id"], line["service_category"]) == (
        Decimal("1.25"),
        RUN,
        "ml",
        "Compute",
    )
    assert (line["instance_type"], line["machine_cpus"], line["billed_nanoseconds"]) == ("n1-standard-8", 8, 900_000_000_000)
    assert json.loads(line["tags"])["goog:compute.googleapis.com/cores"] == "8"
    assert {k: v for k, v in json.loads(line["tags"]).items() if ":" not in k} == {"mlflow_run_id": RUN, "env": "prod", "team": "vision"}


def test_plain_focus_stays_plain_focus(tmp_path: Path) -> None:
    bill = nights(tmp_path, write_plain(tmp_path / "bill.csv", [row("3.00", x_CostType="regular")]))
    bill.load()
    assert bill.lines()[0]["sub_account_id"] is None
    assert bill.total() == 3


def test_tags_of_the_view_have_their_order_and_their_quarantine(tmp_path: Path) -> None:
    def tag(key: str, value: str, kind: str) -> dict[str, Any]:
        return {"key": key, "value": value, "x_type": kind, "x_inherited": False, "x_namespace": "n/a"}

    ordered = [tag("a", "google", "system_label"), tag("a", "project", "project_label"), tag("a", "tag", "tag"), tag("a", "label", "label")]
    twice = [tag("a", "1", "label"), tag("a", "2", "label")]
    path = write_jsonl(tmp_path / "bill.jsonl", [of_view("1", Tags=ordered), of_view("2", Tags=twice), of_view("3", Tags=[])])
    bill = nights(tmp_path, path)
    assert bill.load().extra["warnings"]["unreadable_tags"] == 1
    assert {line["billed_cost"]: line["tags"] for line in bill.lines()} == {1: '{"a":"label","goog:a":"google"}', 2: None, 3: None}


@pytest.mark.parametrize(
    ("start", "month", "period", "charge_class"),
    [
        ("2026-10-20T10:00:00Z", "2026-11-01T07:00:00Z", "2026-11", "Correction"),
        ("2026-11-20T10:00:00Z", "2026-11-01T07:00:00Z", "2026-11", None),
        ("2026-12-01T07:30:00Z", "2026-12-01T08:00:00Z", "2026-12", "Correction"),  # still November in Los Angeles
    ],
)
def test_only_changes_of_closed_months_are_corrections(
    tmp_path: Path, start: str, month: str, period: str, charge_class: str | None
) -> None:
    bill = loaded(tmp_path, [of_view("-1", start, month, ChargeCategory="adjustment", ChargeClass="correction")])
    assert [(line["charge_category"], line["charge_class"]) for line in bill.lines(period)] == [("Adjustment", charge_class)]


def test_a_month_that_cannot_be_read_sets_the_row_aside(tmp_path: Path) -> None:
    bill = nights(tmp_path, write_jsonl(tmp_path / "bill.jsonl", [of_view("1"), of_view("2") | {"BillingPeriodStart": "October"}]))
    assert only(bill.load()).extra["quarantined"] == 1
    assert [r["reason"] for r in bill.rows("billing_quarantine")] == [
        "BillingPeriodStart is 'October', which is not a UTC time such as 2026-10-01T00:00:00Z"
    ]


@pytest.mark.parametrize("row_of", [of_view, native])
def test_the_fee_of_a_commitment_is_a_purchase(tmp_path: Path, row_of: Callable[..., dict[str, Any]]) -> None:
    """Both state it as usage by the hour, without a machine."""
    fee = row_of("0.70", ChargeDescription="Commitment v1: A2 Cpu in Americas for 1 Year", ResourceId=None, ResourceName=None)
    [line] = loaded(tmp_path, [fee]).lines()
    columns = ("charge_category", "charge_frequency", "effective_cost", "consumed_quantity", "billed_nanoseconds")
    assert [line[name] for name in columns] == ["Purchase", "Recurring", Decimal("0.70"), None, None]


@pytest.mark.parametrize("row_of", [of_view, native])
def test_calls_of_gemini_are_known_by_their_description(tmp_path: Path, row_of: Callable[..., dict[str, Any]]) -> None:
    calls = row_of(ServiceName="Vertex AI", ChargeDescription="Gemini 2.5 Pro Text Input - Predictions", ResourceId=None, ResourceName=None)
    [line] = loaded(tmp_path, [calls]).lines()
    assert (line["service_category"], line["service_subcategory"]) == ("AI and Machine Learning", "Generative AI")
