"""Google Cloud's detailed and standard exports as files: exact sums, credits, months of Los Angeles, labels, machines.

The tests compute sums in decimals from the strings, not from the loader's results. The export read from BigQuery is in
`tests/ingest/billing/remote/test_bigquery.py`, and Google's own FOCUS in `test_gcp_focus.py`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.focus_files import NOW, Nights, nights, only
from tests.gcp_files import SCHEMA, credit, gcp, labels, write_csv, write_jsonl, write_parquet

RUN = "0" * 31 + "1"
Write = Callable[[Path, Sequence[Mapping[str, Any]]], Path]


def as_python(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    return write_csv(path, rows, as_python=True)


FILES = [
    pytest.param(write_csv, "csv", id="csv"),
    pytest.param(as_python, "csv", id="csv with Python lists"),
    pytest.param(write_jsonl, "jsonl", id="json lines"),
    pytest.param(write_parquet, "parquet", id="parquet"),
]


def loaded(tmp_path: Path, rows: Sequence[Mapping[str, Any]], write: Write = write_csv, ending: str = "csv", **settings: Any) -> Nights:
    """Load a bill of these rows once."""
    bill = nights(tmp_path, write(tmp_path / f"bill.{ending}", rows), **settings)
    bill.load()
    return bill


def each_its_own(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, each with its own project."""
    return [{**row, "project": {"id": f"p{n:03}", "name": "ML", "labels": []}} for n, row in enumerate(rows)]


def in_order(bill: Nights, period: str = "2026-10") -> list[dict[str, Any]]:
    """Return the lines of a bill in the order of their projects."""
    return sorted(bill.lines(period), key=lambda line: str(line["sub_account_id"]))


def set_aside(bill: Nights) -> list[dict[str, Any]]:
    """Return the quarantined rows in the order of the file."""
    return sorted(bill.rows("billing_quarantine"), key=lambda row: int(row["row_number"]))


# --- samples -----------------------------------------------------------------------------------------------------------


def test_the_generated_sample_loads_to_its_sum(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, samples / "gcp_export_nise/gcp_detailed_2026-09-01.csv")
    load = bill.load()
    assert [(p.period, p.state, p.extra["quarantined"]) for p in load.periods] == [("2026-09", "loaded", 0)]
    assert (len(bill.lines("2026-09")), bill.total("2026-09")) == (288, Decimal("1.2308356335743839999976"))
    assert bill.total("2026-09", "effective_cost") == bill.total("2026-09", "contracted_cost") == Decimal("1.2308356335743839999976")
    assert {line["list_cost"] for line in bill.lines("2026-09")} == {None}
    assert load.extra["warnings"] == {}


def test_the_sample_with_python_lists_nets_to_exactly_nothing(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, samples / "koku/gcp_202011_2020-11-08_2020-11-11.csv")
    [period] = bill.load().periods
    lines = bill.lines("2020-11")
    assert (period.extra["quarantined"], len(lines)) == (0, 25)
    assert bill.total("2020-11", "contracted_cost") == Decimal("0.000032")
    assert bill.total("2020-11") == bill.total("2020-11", "effective_cost") == 0
    assert sum(line["billed_cost"] != line["contracted_cost"] for line in lines) == 8
    assert {line["tags"] for line in lines} == {
        None, '{"goog-resource-type":"bigquery_dataset"}', '{"goog-resource-type":"bigquery_project"}', '{"goog-resource-type":"bigquery_resource"}',
    }  # fmt: skip


def test_a_repeated_load_of_the_sample_changes_nothing(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, samples / "gcp_export_nise/gcp_detailed_2026-09-01.csv")
    bill.load()
    before = dict(bill.store)
    assert only(bill.load(), "2026-09").state == "unchanged"
    assert bill.store == before


# --- credits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("write", "ending"), FILES)
def test_credits_are_netted_into_their_line_and_multiply_none(tmp_path: Path, write: Write, ending: str) -> None:
    rows = [gcp("10", credits=[credit("-2"), credit("-1", "SUSTAINED_USAGE_DISCOUNT")]), gcp("5", credits=[])]
    bill = loaded(tmp_path, rows, write, ending)
    assert (len(bill.lines()), bill.total(column="contracted_cost"), bill.total(), bill.total(column="effective_cost")) == (2, 15, 12, 12)
    assert bill.total(column="list_cost") == 15


@pytest.mark.parametrize(("write", "ending"), FILES)
def test_amounts_are_decimals_and_never_doubles(tmp_path: Path, write: Write, ending: str) -> None:
    """Doubles would not get 0.1 + 0.2 − 0.3 right."""
    amounts = ["1.7166668039999999e-06", "-0", "0.3", "35.2E-7"]
    rows = [gcp(cost, credits=[credit("-0.1"), credit("-0.2"), credit("-1.7166668039999999e-06")]) for cost in amounts]
    bill = loaded(tmp_path, rows, write, ending)
    taken = Decimal("0.3") + Decimal("0.0000017166668039999999")
    assert sorted(line["billed_cost"] for line in bill.lines()) == sorted(Decimal(a) - taken for a in amounts)
    assert min(abs(line["billed_cost"]) for line in bill.lines()) == Decimal("0.0000017166668039999999")


def test_digits_finer_than_the_warehouse_are_counted_as_rounded(tmp_path: Path) -> None:
    """Very small doubles have 30 decimals. Runspend keeps 22 and reports the rounded rest, also for rows with credits."""
    cost = "1.0000000004e-13"  # 4e-23 does not fit in 22 decimals
    bill = loaded(tmp_path, [gcp(cost)] * 10 + [gcp(cost, credits=[credit("-0.5")])] * 10)
    [load] = bill.rows("billing_loads")
    assert load["rounded_cost"] == 20 * Decimal("4e-23")
    assert bill.total() + load["rounded_cost"] == 20 * Decimal(cost) - 5


SPOILT = [
    "[{'name': 'FreeTrial', 'amount': -5e-06",  # truncated
    "[{'name': 'it\\x27s', 'amount': -5}]",  # JSON does not have this escape
    "[{'amount': nan}]",
    "[{'amount': Decimal('-5')}]",
    "[{'name': 'no amount'}]",
    "[{'amount': 'five'}]",
    "[{'amount': '-1_0'}]",
    "[-5]",
    "{'amount': -5}",
    "-5",
]


def test_unreadable_credits_set_the_row_aside_and_are_never_dropped(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "bill.csv", [gcp("1"), *(gcp("2", credits=[credit("-1")]) for _ in SPOILT)])
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, spoilt in zip(lines[1:], SPOILT, strict=True):
        line["credits"] = spoilt
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    bill = nights(tmp_path, path)
    assert only(bill.load()).extra["quarantined"] == len(SPOILT)
    for number, (row, spoilt) in enumerate(zip(set_aside(bill), SPOILT, strict=True), 2):
        assert row["row_number"] == number and row["reason"].startswith("credits is '") and json.loads(row["raw"])["credits"] == spoilt
    assert bill.total() == 1


def test_names_of_credits_may_hold_quotes_brackets_and_backslashes(tmp_path: Path) -> None:
    names = ["it's", 'so "called"', """both ' and \"""", "a\\b", "[{'amount': -100}]", "zürich ✓"]
    rows = [gcp("10", credits=[{**credit("-1"), "name": name}]) for name in names]
    for bill in (loaded(tmp_path / "p", rows, as_python), loaded(tmp_path / "j", rows, write_csv)):
        assert (len(bill.lines()), bill.total()) == (len(names), 9 * len(names))


def test_credits_of_committed_use_stay_in_the_net_cost_of_their_line(tmp_path: Path) -> None:
    """The fee is a separate line without a machine, and the covered hour costs nothing. Together they equal the invoice."""
    fee = gcp("0.70", sku={"id": "F", "description": "Commitment v1: A2 Core in Americas"}, resource={"name": None, "global_name": None})
    covered = gcp("1.00", credits=[credit("-1.00", "COMMITTED_USAGE_DISCOUNT")], subscription={"instance_id": "cud-1"})
    spend = gcp("1.00", credits=[credit("-0.25", "COMMITTED_USAGE_DISCOUNT_DOLLAR_BASE")])
    plain = gcp("1.00", credits=[credit("-0.10")])
    bill = loaded(tmp_path, [fee, covered, spend, plain])
    assert bill.total() == bill.total(column="effective_cost") == Decimal("2.35")
    reported = {
        (line["contracted_cost"], line["billed_cost"]): (
            line["pricing_category"], line["commitment_discount_category"], line["commitment_discount_id"], line["commitment_discount_status"],
        )
        for line in bill.lines()
    }  # fmt: skip
    assert reported == {
        (Decimal("0.70"), Decimal("0.70")): ("Committed", None, None, None),
        (Decimal("1.00"), Decimal("0.00")): ("Committed", "Usage", "cud-1", "Used"),
        (Decimal("1.00"), Decimal("0.75")): ("Committed", "Spend", None, None),
        (Decimal("1.00"), Decimal("0.90")): ("Standard", None, None, None),
    }


@pytest.mark.parametrize(
    "sku",
    [
        "Commitment v1: A2 Cpu in Americas for 1 Year",
        "Commitment - dollar based v1: GCE for 1 year",
        "Commitment v1: Nvidia A100 GPU in Americas",
    ],
)
def test_the_fee_of_a_commitment_is_a_purchase(tmp_path: Path, sku: str) -> None:
    """Google calls it usage by the hour. A machine's own hour stays usage."""
    hour = {"amount": "345600", "unit": "seconds", "amount_in_pricing_units": "96", "pricing_unit": "hour"}
    fee = gcp("0.70", sku={"id": "F", "description": sku}, usage=hour, resource={"name": None, "global_name": None})
    tax = gcp("0.07", sku={"id": "F", "description": sku}, cost_type="tax")
    machine = gcp("2.00", usage=hour)
    found = {line["billed_cost"]: line for line in loaded(tmp_path, [fee, tax, machine]).lines()}
    columns = ("charge_category", "charge_frequency", "effective_cost", "pricing_quantity", "consumed_quantity", "billed_nanoseconds")
    assert [found[Decimal("0.70")][name] for name in columns] == ["Purchase", "Recurring", Decimal("0.70"), 96, None, None]
    assert (found[Decimal("0.07")]["charge_category"], found[Decimal(2)]["charge_category"]) == ("Tax", "Usage")
    assert found[Decimal(2)]["consumed_quantity"] is not None


def gpu_machine(name: str, gpus: str, hours: str, start: str, machine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of cores and GPUs of a machine in an hour: `gpus` GPU-hours, and `hours` of a machine of 16 cores."""
    place = {"name": name, "global_name": f"//compute.googleapis.com/projects/ml/zones/us-central1-a/instances/{name}"}
    return [
        gcp(start=start, resource=place, sku={"id": sku, "description": text}, usage={"amount_in_pricing_units": amount, "pricing_unit": "hour"}, **machine)
        for sku, text, amount in (
            ("C", "N1 Predefined Instance Core running in Americas", str(16 * Decimal(hours))),
            ("G", "Nvidia Tesla T4 GPU attached to Instance running in Americas", gpus),
        )
    ]  # fmt: skip


def test_attached_gpus_are_counted_by_their_hours(tmp_path: Path) -> None:
    """The type n1-standard-16 has no GPUs. Without labels no line states the machine's hours: then the fullest hour counts."""
    n1 = {"system_labels": [{"key": f"compute.googleapis.com/{k}", "value": v} for k, v in (("machine_spec", "n1-standard-16"), ("cores", "16"), ("memory", "61440"))]}  # fmt: skip
    a2 = {"system_labels": [{"key": f"compute.googleapis.com/{k}", "value": v} for k, v in (("machine_spec", "a2-highgpu-8g"), ("cores", "16"))]}  # fmt: skip
    first, second = "2026-10-05T10:00:00Z", "2026-10-05T11:00:00Z"
    rows = [
        *gpu_machine("1", "1", "0.25", first, n1),  # a quarter of an hour with four GPUs
        *gpu_machine("1", "2", "1", second, n1),  # stopped, and started with two
        *gpu_machine("2", "0.5", "0.125", first, {}),
        *gpu_machine("2", "4", "1", second, {}),
        *gpu_machine("3", "1", "1", first, a2),
    ]
    found = {
        (line["resource_key"][-1], line["charge_period_start"].hour, line["sku_id"]): line["machine_gpus"]
        for line in loaded(tmp_path, rows).lines()
    }
    assert found == {
        ("1", 10, "C"): 0, ("1", 10, "G"): 4, ("1", 11, "C"): 0, ("1", 11, "G"): 2,
        ("2", 10, "C"): None, ("2", 10, "G"): 4, ("2", 11, "C"): None, ("2", 11, "G"): 4,
        ("3", 10, "C"): 8, ("3", 10, "G"): 8,
    }  # fmt: skip


def test_gpus_of_a_whole_cluster_are_not_one_machines(tmp_path: Path) -> None:
    cluster = {"name": "c", "global_name": "//container.googleapis.com/projects/ml/locations/us-central1/clusters/c"}
    pods = gcp(
        resource=cluster,
        sku={"id": "G", "description": "Autopilot NVIDIA T4 GPU Pod"},
        usage={"amount_in_pricing_units": "37", "pricing_unit": "hour"},
    )
    [line] = loaded(tmp_path, [pods]).lines()
    assert (line["consumed_unit"], line["machine_gpus"]) == ("GPU-hour", None)


def test_thousandths_of_a_core_are_no_machine_time(tmp_path: Path) -> None:
    """Eight cores of a cluster's pods are 8,000 mCPU-hours, not 8,000 machines."""
    pods = gcp(
        resource={"name": "c", "global_name": "//container.googleapis.com/projects/ml/locations/us-central1/clusters/c"},
        sku={"id": "C", "description": "Autopilot Pod mCPU Requests (us-central1)"},
        usage={"amount_in_pricing_units": "8000", "pricing_unit": "hour"},
    )
    [line] = loaded(tmp_path, [pods]).lines()
    assert (line["consumed_unit"], line["billed_nanoseconds"]) == ("mCPU-hour", None)


# --- currency and time -------------------------------------------------------------------------------------------------


def test_currencies_are_never_added(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [gcp("100"), gcp("90", currency="EUR"), gcp("7", currency="MC")])
    assert {(load["billing_currency"], load["billed_cost"]) for load in bill.rows("billing_loads")} == {("USD", 100), ("EUR", 90)}
    [row] = bill.rows("billing_quarantine")
    assert row["reason"] == "BillingCurrency is 'MC', which is not an ISO 4217 code such as USD"


def test_the_invoice_states_the_month_and_hours_stay_utc(tmp_path: Path) -> None:
    hours = [
        ("2026-11-01T06:30:00Z", "202610"), ("2026-11-01T07:30:00Z", "202611"), ("2026-12-01T07:30:00Z", "202611"), ("2026-12-01T08:00:00Z", "202612"),
    ]  # fmt: skip
    bill = loaded(tmp_path, [gcp("1.00", start, month) for start, month in hours])
    assert [bill.total(p) for p in ("2026-10", "2026-11", "2026-12")] == [1, 2, 1]
    lines = [line for p in ("2026-10", "2026-11", "2026-12") for line in bill.lines(p)]
    assert sorted(f"{line['charge_date']:%Y-%m}" for line in lines) == ["2026-11", "2026-11", "2026-12", "2026-12"]
    assert {(line["billing_period_start"].isoformat(), line["billing_period_end"].isoformat()) for line in bill.lines("2026-11")} == {
        ("2026-11-01T00:00:00+00:00", "2026-12-01T00:00:00+00:00")
    }
    assert {line["charge_class"] for line in lines} == {None}


KINDS = [
    # row, category, class
    (gcp("-5", "2026-10-20T10:00:00Z", "202611", cost_type="adjustment"), "Adjustment", "Correction"),
    (gcp("-5", "2026-11-20T10:00:00Z", "202611", cost_type="adjustment"), "Adjustment", None),
    # 23:30 on 31 October in Los Angeles, and 00:30 on 1 November.
    (gcp("-5", "2026-11-01T06:30:00Z", "202611", cost_type="adjustment"), "Adjustment", "Correction"),
    (gcp("-5", "2026-11-01T07:30:00Z", "202611", cost_type="adjustment"), "Adjustment", None),
    (gcp("-5", "2026-10-20T10:00:00Z", "202611", adjustment_info={"type": "USAGE_CORRECTION"}), "Usage", "Correction"),
    (gcp("-5", "2026-11-20T10:00:00Z", "202611", cost_type="adjustment", adjustment_info={"type": "GOODWILL"}), "Credit", None),
    (gcp("5", "2026-10-20T10:00:00Z", "202611"), "Usage", None),  # late usage is not a correction
    (gcp("5", "2026-11-20T10:00:00Z", "202611", cost_type="tax"), "Tax", None),
    (gcp("0.01", "2026-11-20T10:00:00Z", "202611", cost_type="rounding_error"), "Adjustment", None),
]


def test_a_line_has_its_category_and_may_correct_a_closed_month(tmp_path: Path) -> None:
    bill = loaded(tmp_path, each_its_own([row for row, _, _ in KINDS]))
    found = [(line["charge_category"], line["charge_class"], line["billed_cost"]) for line in in_order(bill, "2026-11")]
    assert found == [(category, charge_class, Decimal(row["cost"])) for row, category, charge_class in KINDS]


MISPLACED = [
    ({"invoice": {"month": "202613"}}, "invoice.month is '202613', which is not a month such as 202610"),
    ({"invoice": {"month": "2026-10"}}, "invoice.month is '2026-10', which is not a month such as 202610"),
    ({"cost_type": "gift"}, "cost_type is 'gift', which is not regular, tax, adjustment or rounding_error"),
    ({"cost": "$1.00"}, "BilledCost is '$1.00', which is not a plain decimal number"),
    ({"usage_end_time": "T30:00:00Z"}, "ChargePeriodEnd is 'T30:00:00Z', which is not a UTC time such as 2026-10-01T00:00:00Z"),
]


def test_a_row_that_cannot_be_placed_is_set_aside_with_its_reason(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [gcp("1"), *(gcp("2") | changed for changed, _ in MISPLACED)])
    assert [row["reason"] for row in set_aside(bill)] == [reason for _, reason in MISPLACED]
    assert bill.total() == 1


# --- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("write", "ending"), FILES)
def test_a_label_names_the_run(tmp_path: Path, write: Write, ending: str) -> None:
    named = [{"mlflow-run-id": RUN}, {"mlflow_run_id": "0" * 32}, {"team": "vision"}]
    rows = [
        gcp(str(n), labels=[{"key": key, "value": value} for key, value in given_labels.items()]) for n, given_labels in enumerate(named)
    ]
    bill = loaded(tmp_path, rows, write, ending)
    assert {line["run_tag"]: line["billed_cost"] for line in bill.lines()} == {RUN: 0, "0" * 32: 1, None: 2}


def test_labels_come_before_tags_projects_and_google(tmp_path: Path) -> None:
    row = gcp(
        labels=labels(a="label", mlflow_run_id=RUN),
        tags=[{**pair, "inherited": True, "namespace": "123"} for pair in labels(a="tag", b="tag")],
        project={"id": "ml", "name": "ML", "labels": labels(a="project", b="project", c="project")},
        system_labels=[{"key": "c", "value": "google"}, {"key": "goog-dataproc-cluster-name", "value": "spark"}],
    )
    [line] = loaded(tmp_path, [row]).lines()
    assert json.loads(line["tags"]) == {
        "a": "label", "mlflow-run-id": RUN, "b": "tag", "c": "project", "goog:c": "google", "goog-dataproc-cluster-name": "spark",
    }  # fmt: skip
    assert "ml|goog-dataproc-cluster-name|spark" in line["group_keys"]


@pytest.mark.parametrize("of", ["labels", "tags", "system_labels"])
def test_a_repeated_key_loses_the_tags_and_not_the_money(tmp_path: Path, of: str) -> None:
    twice = [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]
    bill = nights(tmp_path, write_csv(tmp_path / "bill.csv", [gcp("1", **{of: twice}), gcp("2", labels=labels(a="1"))]))
    assert bill.load().extra["warnings"]["unreadable_tags"] == 1
    assert {line["billed_cost"]: line["tags"] for line in bill.lines()} == {1: None, 2: '{"a":"1"}'}


def test_invalid_labels_are_dropped_and_counted(tmp_path: Path) -> None:
    spoilt: list[list[Any]] = [[{"key": "a", "value": {"b": "1"}}], [{"value": "no key"}], ["a"]]
    bill = nights(tmp_path, write_csv(tmp_path / "bill.csv", [gcp("1", labels=found) for found in spoilt]))
    assert bill.load().extra["warnings"]["unreadable_tags"] == 3
    assert [(line["billed_cost"], line["tags"]) for line in bill.lines()] == [(1, None)] * 3


def test_strings_stay_unchanged(tmp_path: Path) -> None:
    row = gcp(
        labels=[{"key": "empty", "value": "NULL"}, {"key": "run", "value": "1E5"}, {"key": "flag", "value": ""}],
        sku={"id": "1E5", "description": "Storage"},
        billing_account_id="012345-678901-000000",
        location={"location": "NULL", "region": None, "zone": None},
    )
    [line] = loaded(tmp_path, [row]).lines()
    assert (line["sku_id"], line["billing_account_id"], line["region_id"]) == ("1E5", "012345-678901-000000", None)
    assert json.loads(line["tags"]) == {"empty": "NULL", "run": "1E5", "flag": ""}


# --- machines and services ---------------------------------------------------------------------------------------------


def of_machine(spec: str, cores: str, memory: str = "30720") -> list[dict[str, str]]:
    found = {"machine_spec": spec, "cores": cores, "memory": memory}
    return [{"key": f"compute.googleapis.com/{name}", "value": value} for name, value in found.items()]


TIMES = [
    # SKU, system labels, usage, consumed quantity and unit, nanoseconds of the machine
    # Eight cores for a quarter of an hour are two core-hours, but the machine ran for a quarter of an hour.
    ("N1 Predefined Instance Core running in Americas", of_machine("n1-standard-8", "8"), ("7200", "seconds", "2", "hour"), "0.25", "hour", 900_000_000_000),
    ("N1 Predefined Instance Core running in Americas", [], ("7200", "seconds", "2", "hour"), "2", "vCPU-hour", None),
    ("E2 Instance Core running in Americas", of_machine("e2-medium", "2"), ("3600", "seconds", "1", "hour"), "1", "vCPU-hour", None),
    ("Nvidia Tesla A100 GPU running in Americas", of_machine("a2-highgpu-8g", "96"), ("28800", "seconds", "8", "hour"), "8", "GPU-hour", None),
    ("N1 Predefined Instance Ram running in Americas", of_machine("n1-standard-8", "8"), ("9e13", "byte-seconds", "30", "gibibyte hour"), "9e13", "byte-seconds", None),
    ("External IP Charge on a Standard VM", of_machine("n1-standard-8", "8"), ("900", "seconds", "0.25", "hour"), "0.25", "hour", 900_000_000_000),
    ("Dataproc", [], ("900", "seconds", "0.01", "month"), "900", "seconds", 900_000_000_000),
]  # fmt: skip


def test_the_time_of_a_line_is_the_machines_time(tmp_path: Path) -> None:
    rows = [
        gcp(
            sku={"id": "S", "description": sku},
            system_labels=system_labels,
            usage=dict(zip(("amount", "unit", "amount_in_pricing_units", "pricing_unit"), usage, strict=True)),
        )
        for sku, system_labels, usage, *_ in TIMES
    ]
    bill = loaded(tmp_path, each_its_own(rows))
    for line, (sku, _, usage, quantity, unit, nanoseconds) in zip(in_order(bill), TIMES, strict=True):
        assert (line["consumed_quantity"], line["consumed_unit"], line["billed_nanoseconds"]) == (Decimal(quantity), unit, nanoseconds), sku
        assert (line["pricing_quantity"], line["pricing_unit"]) == (Decimal(usage[2]), usage[3]), sku


def test_the_machine_is_known_by_its_number_and_its_kind(tmp_path: Path) -> None:
    custom = gcp(system_labels=of_machine("n2-custom-6-20480", "6", "20480"))
    nameless = gcp("2", resource={"name": "my-bucket", "global_name": None}, service={"description": "Cloud Storage"})
    bill = loaded(tmp_path, [custom, nameless])
    by_cost = {line["billed_cost"]: line for line in bill.lines()}
    machine, bucket = by_cost[Decimal(1)], by_cost[Decimal(2)]
    assert (machine["resource_key"], machine["sub_account_id"], machine["availability_zone"]) == (
        "projects/ml/zones/us-central1-a/instances/4711",
        "ml",
        "us-central1-a",
    )
    assert (machine["instance_type"], machine["machine_cpus"], machine["machine_memory_gb"]) == ("n2-custom-6-20480", 6, 20.0)
    assert (bucket["resource_id"], bucket["storage_key"], bucket["service_category"]) == ("my-bucket", "my-bucket", "Storage")


SERVICES = {
    "Compute Engine": "Compute", "Kubernetes Engine": "Compute", "Cloud Run": "Compute", "Vertex AI": "AI and Machine Learning",
    "Vertex AI API": "AI and Machine Learning", "Gemini API": "AI and Machine Learning", "Cloud Natural Language": "AI and Machine Learning",
    "Cloud Storage": "Storage", "Cloud Filestore": "Storage", "BigQuery": "Analytics", "Cloud Dataproc": "Analytics", "Cloud SQL": "Databases",
    "Networking": "Networking", "Cloud Logging": "Management and Governance", "Secret Manager": "Security", "Artifact Registry": "Developer Tools",
    "Something New": "Other",
}  # fmt: skip


def test_every_service_has_a_category(tmp_path: Path) -> None:
    bill = loaded(tmp_path, each_its_own([gcp(service={"id": "1", "description": service}) for service in SERVICES]))
    found = [(line["service_name"], line["service_category"], line["service_provider_name"]) for line in in_order(bill)]
    assert found == [(service, category, "Google Cloud") for service, category in SERVICES.items()]


def test_services_of_other_vendors_name_their_vendor(tmp_path: Path) -> None:
    [line] = loaded(tmp_path, [gcp(transaction_type="THIRD_PARTY_RESELLER", seller_name="Weights Inc")]).lines()
    assert (line["service_provider_name"], line["host_provider_name"], line["invoice_issuer_name"]) == (
        "Weights Inc",
        "Google Cloud",
        "Google Cloud",
    )


# --- several loads -----------------------------------------------------------------------------------------------------


def test_the_standard_export_has_no_resources_and_loads(tmp_path: Path) -> None:
    row = {name: value for name, value in gcp("3").items() if name not in ("resource", "cost_at_list", "tags", "adjustment_info")}
    bill = nights(tmp_path, write_csv(tmp_path / "bill.csv", [row]), format="gcp")
    bill.load()
    assert [(line["billed_cost"], line["resource_id"], line["list_cost"]) for line in bill.lines()] == [(3, None, None)]
    assert bill.rows("billing_loads")[0]["focus_version"] == "standard"


def test_all_ways_to_export_a_table_are_one_bill(tmp_path: Path) -> None:
    rows = [
        gcp("1.7166668039999999e-06", labels=labels(mlflow_run_id=RUN)),
        gcp("0.25", credits=[credit("-0.05")], system_labels=of_machine("n1-standard-8", "8")),
        gcp("7", "2026-11-03T10:00:00Z", "202611", project=None),
    ]
    reported = []
    for write, ending in ((write_csv, "csv"), (as_python, "csv"), (write_jsonl, "jsonl"), (write_parquet, "parquet")):
        folder = tmp_path / f"{write.__name__}"
        bill = loaded(folder, rows, write, ending)
        reported.append(
            [{k: v for k, v in line.items() if k not in ("load_id", "line_id")} for p in ("2026-10", "2026-11") for line in bill.lines(p)]
        )
    by = [sorted(lines, key=lambda line: str(line["billed_cost"])) for lines in reported]
    assert by[0] == by[1] == by[2] == by[3]
    assert len(by[0]) == 3


def test_rows_that_arrive_weeks_later_change_only_their_months(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    october = [gcp("1", start) for start in ("2026-10-05T10:00:00Z", "2026-10-05T11:00:00Z")]
    write_csv(folder / "october.csv", october, at=NOW - timedelta(days=20))
    write_csv(folder / "november.csv", [gcp("4", "2026-11-05T10:00:00Z", "202611")], at=NOW - timedelta(days=10))
    bill = nights(tmp_path, folder, delivery="parts")
    assert {p.period: p.state for p in bill.load().periods} == {"2026-10": "loaded", "2026-11": "loaded"}
    before = bill.store["billing_lines", "2026-11"]
    # Usage of October that is still on October's invoice, and a correction of October on November's invoice.
    late = [gcp("2", "2026-10-31T23:00:00Z", "202610")]
    write_csv(folder / "late.csv", late, at=NOW - timedelta(days=1))
    assert {p.period: p.state for p in bill.load().periods} == {"2026-10": "loaded", "2026-11": "unchanged"}
    assert (bill.total("2026-10"), bill.total("2026-11"), bill.store["billing_lines", "2026-11"] is before) == (4, 4, True)
    write_csv(folder / "corrected.csv", [gcp("-1", "2026-10-05T10:00:00Z", "202611", cost_type="adjustment")], at=NOW)
    assert {p.period: p.state for p in bill.load().periods} == {"2026-10": "unchanged", "2026-11": "loaded"}
    assert (bill.total("2026-10"), bill.total("2026-11")) == (4, 3)
    assert {p.period: p.state for p in bill.load().periods} == {"2026-10": "unchanged", "2026-11": "unchanged"}


def test_rows_with_duplicate_credits_or_labels_are_not_multiplied(tmp_path: Path) -> None:
    same = {"credits": [credit("-0.01")], "labels": labels(team="vision")}
    bill = loaded(tmp_path, [gcp("0.05", **same), gcp("0.05", **same), gcp("0.20", **same)])
    assert (len(bill.lines()), bill.total(), bill.total(column="contracted_cost")) == (3, Decimal("0.27"), Decimal("0.30"))


def test_equal_rows_are_all_kept(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [gcp("0.05"), gcp("0.05"), gcp("0.05"), gcp("0.20")])
    assert (len(bill.lines()), bill.total(), len({line["line_id"] for line in bill.lines()})) == (4, Decimal("0.35"), 4)


def test_times_are_read_in_every_spelling_exports_have(tmp_path: Path) -> None:
    spelled = ["2026-10-05T10:00:00", "2026-10-05 10:00:00 UTC", "2026-10-05 10:00:00+00:00", "2026-10-05T12:00:00+02:00"]
    bill = loaded(tmp_path, [gcp() | {"usage_start_time": text} for text in spelled])
    assert {line["charge_period_start"] for line in bill.lines()} == {datetime(2026, 10, 5, 10, tzinfo=timezone.utc)}


def test_bignumeric_keeps_all_its_digits(tmp_path: Path) -> None:
    """A view of the export with exact costs was exported as Parquet. Its decimals have 76 digits, also in credits."""
    wide = pa.decimal256(76, 38)

    def widened(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_floating(kind):
            return wide
        if pa.types.is_struct(kind):
            return pa.struct([field.with_type(widened(field.type)) for field in kind])
        return pa.list_(kind.value_field.with_type(widened(kind.value_type))) if pa.types.is_list(kind) else kind

    schema = pa.schema([field.with_type(widened(field.type)) for field in SCHEMA])
    row = gcp("0") | {"cost": Decimal("12.0000000000000000000003"), "cost_at_list": Decimal("0.1")}
    row["credits"] = [credit("0") | {"amount": Decimal("-0.0000000000000000000001")}]
    row["usage"] = {
        name: Decimal(3600) if name == "amount" else value for name, value in row["usage"].items() if name != "amount_in_pricing_units"
    }
    times = {name: datetime.fromisoformat(row[name]) for name in ("usage_start_time", "usage_end_time", "export_time")}
    path = tmp_path / "in" / "bill.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([row | times], schema), path)
    bill = nights(tmp_path, path.parent, format="gcp")
    bill.load()
    assert bill.total() == Decimal("12.0000000000000000000002")
    assert bill.total(column="list_cost") == Decimal("0.1")


def test_numbers_of_json_keep_all_their_digits(tmp_path: Path) -> None:
    """Most readers of JSON turn numbers into doubles, which have 17 digits. Strings that look like numbers stay strings."""
    amounts = ["0.1234567890123456789012", "123456.123456789012345678", "0.0000000000000000000007"]
    rows = [gcp(a, labels=[{"key": "note", "value": f'say "{a}" \\'}]) for a in amounts]
    rows.append(gcp("1.00", credits=[credit("-0.1000000000000000000001")]))
    bill = loaded(tmp_path, rows, write_jsonl, "jsonl")
    assert sorted(line["billed_cost"] for line in bill.lines()) == sorted([*map(Decimal, amounts), Decimal("0.8999999999999999999999")])
    assert {json.loads(line["tags"])["note"] for line in bill.lines() if line["tags"]} == {f'say "{a}" \\' for a in amounts}
