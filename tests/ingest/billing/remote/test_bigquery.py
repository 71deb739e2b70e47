"""Read the billing export from BigQuery: each month becomes a file, and only months with new rows are read again.

Tests with `bigquery_server` use the emulator `bqemulator` over REST. A fake client behind `connect` shows what the emulator lacks:
partitions by arrival, a table that grows between two queries, limits and rights. None of this ran against Google's BigQuery.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.auth.exceptions import DefaultCredentialsError

from runspend.core.errors import ConfigError, MissingExtra, SourceUnreachable
from runspend.ingest.billing.remote import bigquery as bigquery_table
from tests.focus_files import Nights, nights
from tests.gcp_files import SCHEMA, arrow_table, credit, gcp, labels
from tests.ingest.billing.formats.test_gcp_focus import of_view
from tests.servers.bigquery import PROJECT, BigQueryServer

RUN = "0" * 31 + "1"
TYPES = {"string": "STRING", "double": "FLOAT64", "timestamp[us, tz=UTC]": "TIMESTAMP", "bool": "BOOL", "decimal128(38, 9)": "NUMERIC"}


# --- on the emulator ---------------------------------------------------------------------------------------------------


def fields(kinds: Any) -> list[Any]:
    """Return BigQuery's schema for these Arrow fields."""
    import pyarrow as pa
    from google.cloud.bigquery import SchemaField

    found = []
    for field in kinds:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        mode = "REPEATED" if pa.types.is_list(field.type) else "NULLABLE"
        if pa.types.is_struct(kind):
            found.append(SchemaField(field.name, "RECORD", mode=mode, fields=fields(kind)))
        else:
            found.append(SchemaField(field.name, TYPES[str(kind)], mode=mode))
    return found


class Table:
    """A table on the server to which tests append rows, as Google does."""

    def __init__(self, server: BigQueryServer, dataset: str, schema: Any = SCHEMA) -> None:
        from google.cloud import bigquery

        self.server, self.client, self.name = server, server.client(), f"{PROJECT}.{dataset}.gcp_billing_export_resource_v1_01A2B3"
        self.client.create_dataset(dataset)
        self.client.create_table(bigquery.Table(self.name, schema=fields(schema)))

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        assert self.client.insert_rows_json(self.name, [dict(row) for row in rows], retry=None) == []

    def bill(self, tmp_path: Path, **settings: Any) -> Nights:
        address = "bigquery://" + self.name.replace(".", "/")
        return nights(tmp_path, address, **{"format": "gcp", "endpoint": self.server.endpoint, "credentials": "anonymous", **settings})


def fetched(bill: Nights) -> list[str]:
    """Return the months that the last load read."""
    last = [line for line in bill.progress if "reading" in line]
    bill.progress.clear()
    return sorted(line.split("billing_period=")[1][:7] for line in last)


def test_a_table_loads_exactly_and_a_month_is_read_again_only_for_new_rows(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    table = Table(bigquery_server, "nights")
    table.append(
        [
            gcp("1.7166668039999999e-06", labels=labels(mlflow_run_id=RUN), credits=[credit("-1.7166668039999999e-06")]),
            gcp("0.1", credits=[credit("-0.02"), credit("-0.03")]),
            gcp("0.2", project=None),
            gcp("4", "2026-11-05T10:00:00Z", "202611"),
        ]
    )
    bill = table.bill(tmp_path)
    assert {p.period: p.state for p in bill.load().periods} == {"2026-10": "loaded", "2026-11": "loaded"}
    assert fetched(bill) == ["2026-10", "2026-11"]
    assert (bill.total("2026-10"), bill.total("2026-10", "contracted_cost"), bill.total("2026-11")) == (
        Decimal("0.25"), Decimal("0.3000017166668039999999"), 4,
    )  # fmt: skip
    [tagged] = [line for line in bill.lines("2026-10") if line["run_tag"]]
    assert (tagged["run_tag"], tagged["billed_cost"], tagged["sub_account_id"], tagged["resource_key"]) == (
        RUN,
        0,
        "ml",
        "projects/ml/zones/us-central1-a/instances/4711",
    )

    before = dict(bill.store)
    assert {p.period: p.state for p in bill.load().periods} == {"2026-10": "unchanged", "2026-11": "unchanged"}
    assert (fetched(bill), bill.store) == ([], before)

    # Weeks later, usage of October is exported in November, on October's invoice.
    table.append([gcp("2", "2026-10-31T22:00:00Z", "202610") | {"export_time": "2026-11-20T05:00:00Z"}])
    assert {p.period: p.state for p in bill.load().periods} == {"2026-10": "loaded", "2026-11": "unchanged"}
    assert (fetched(bill), bill.total("2026-10"), bill.total("2026-11")) == (["2026-10"], Decimal("2.25"), 4)
    assert bill.store["billing_lines", "2026-11"] is before["billing_lines", "2026-11"]

    # A correction of October's usage is on November's invoice.
    late = gcp("-1", "2026-10-05T10:00:00Z", "202611", cost_type="adjustment") | {"export_time": "2026-11-21T05:00:00Z"}
    table.append([late])
    assert {p.period: p.state for p in bill.load().periods} == {"2026-10": "unchanged", "2026-11": "loaded"}
    assert (fetched(bill), bill.total("2026-10"), bill.total("2026-11")) == (["2026-11"], Decimal("2.25"), 3)
    assert {(line["billed_cost"], line["charge_class"]) for line in bill.lines("2026-11")} == {(4, None), (-1, "Correction")}


def test_two_new_warehouses_read_the_same_rows(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    table = Table(bigquery_server, "again")
    rows = [gcp(f"0.{n:02d}", f"2026-10-05T{n:02d}:00:00Z") for n in range(1, 20)] + [gcp("0.05"), gcp("0.05")]
    table.append(rows)
    states = []
    for folder in ("one", "two"):
        bill = table.bill(tmp_path / folder)
        bill.load()
        states.append([{k: v for k, v in line.items() if k != "load_id"} for line in bill.lines()])
    assert states[0] == states[1]
    assert sum(line["billed_cost"] for line in states[0]) == sum(Decimal(row["cost"]) for row in rows)


def test_a_change_of_settings_reads_all_months_again(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    table = Table(bigquery_server, "settings")
    table.append([gcp("1"), gcp("4", "2026-11-05T10:00:00Z", "202611")])
    bill = table.bill(tmp_path)
    bill.load()
    fetched(bill)
    from runspend.config.settings import KeySettings

    load = bill.load(keys=KeySettings(job=["job"]))
    assert {p.period: p.state for p in load.periods} == {"2026-10": "loaded", "2026-11": "loaded"}
    assert (fetched(bill), bill.total("2026-10"), bill.total("2026-11")) == (["2026-10", "2026-11"], 1, 4)


def test_the_focus_view_is_read_in_place(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    import pyarrow as pa

    cost = pa.decimal128(38, 9)
    tag = pa.struct([(name, pa.string()) for name in ("key", "value", "x_type", "x_namespace")])
    moments = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd", "x_ExportTime")
    texts = (
        "BillingAccountId",
        "BillingCurrency",
        "ChargeCategory",
        "ChargeClass",
        "ChargeDescription",
        "ServiceName",
        "SubAccountId",
        "x_CostType",
        "x_ServiceId",
    )
    schema = pa.schema(
        [
            *((name, cost) for name in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")),
            *((name, pa.timestamp("us", "UTC")) for name in moments),
            *((name, pa.string()) for name in texts),
            ("Tags", pa.list_(tag)),
            ("x_Project", pa.struct([("id", pa.string()), ("name", pa.string())])),
        ]
    )  # fmt: skip

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        found = {name: row[name] for name in schema.names}
        return found | {
            "Tags": [{k: v for k, v in item.items() if k != "x_inherited"} for item in row["Tags"]],
            "x_Project": {"id": row["x_Project"]["id"], "name": row["x_Project"]["name"]},
        }

    table = Table(bigquery_server, "focus", schema)
    table.append([shown(of_view("0.123456789")), shown(of_view("2", "2026-11-05T10:00:00Z", "2026-11-01T07:00:00Z"))])
    bill = table.bill(tmp_path, format="gcp-focus")
    assert {p.period: p.state for p in bill.load().periods} == {"2026-10": "loaded", "2026-11": "loaded"}
    [line] = bill.lines("2026-10")
    assert (line["billed_cost"], line["run_tag"], line["sub_account_id"]) == (Decimal("0.123456789"), RUN, "ml")
    assert {p.state for p in bill.load().periods} == {"unchanged"}


def test_a_missing_table_is_reported_with_a_fix(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    bill = nights(tmp_path, f"bigquery://{PROJECT}/nothing/table", format="gcp", endpoint=bigquery_server.endpoint, credentials="anonymous")
    with pytest.raises(
        SourceUnreachable, match=r"cannot read bigquery://billing-project/nothing/table of the bill: .*BigQuery Data Viewer"
    ):
        bill.load()


# --- on a fake ---------------------------------------------------------------------------------------------------------


class FakeClient:
    """A client that answers the two queries from a list of rows, and records how it was asked."""

    def __init__(self, rows: Sequence[dict[str, Any]], **description: Any) -> None:
        self.rows = list(rows)
        self.asked: list[tuple[str, Any]] = []
        self.description = {"time_partitioning": None, "location": "EU", **description}
        self.grows_by: list[dict[str, Any]] = []

    def get_table(self, name: str, **_: Any) -> Any:
        return SimpleNamespace(schema=[SimpleNamespace(name=f.name, field_type="STRING") for f in SCHEMA], **self.description)

    def query(self, sql: str, *, job_config: Any, location: str, **_: Any) -> Any:
        assert location == "EU"
        self.asked.append((sql, job_config))
        answer = self._months() if "group by" in sql else self._rows(job_config)
        return SimpleNamespace(result=lambda **_: answer)

    def _months(self) -> list[dict[str, Any]]:
        months = sorted({row["invoice"]["month"] or "" for row in self.rows})
        found = []
        for month in months:
            times = [datetime.fromisoformat(r["export_time"]) for r in self.rows if (r["invoice"]["month"] or "") == month]
            partitions = (
                {} if self.description["time_partitioning"] is None else {"first_partition": min(times), "last_partition": max(times)}
            )
            found.append({"month": month or None, "row_count": len(times), "exported_at": max(times), **partitions})
        self.rows += self.grows_by
        return found

    def _rows(self, config: Any) -> Any:
        given = {p.name: p.value for p in config.query_parameters}
        rows = [
            r for r in self.rows if r["invoice"]["month"] == given["month"] and datetime.fromisoformat(r["export_time"]) <= given["until"]
        ]
        batches = arrow_table(rows).to_batches(max_chunksize=2)
        return SimpleNamespace(to_arrow_iterable=lambda bqstorage_client: iter(batches))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient([gcp("1"), gcp("2"), gcp("3"), gcp("4", "2026-11-05T10:00:00Z", "202611")])
    monkeypatch.setattr(bigquery_table, "connect", lambda source, project: (client, None))
    return client


def of_fake(tmp_path: Path, uri: str = "bigquery://my-project/billing/export") -> Nights:
    return nights(tmp_path, uri, format="gcp")


def test_a_month_without_new_rows_is_not_read_again(fake: FakeClient, tmp_path: Path) -> None:
    bill = of_fake(tmp_path)
    bill.load()
    fake.asked.clear()
    fake.rows.append(gcp("5", "2026-11-06T10:00:00Z", "202611"))
    bill.load()
    assert [[p.value for p in config.query_parameters if p.name == "month"] for _, config in fake.asked] == [[], ["202611"]]
    assert (bill.total("2026-10"), bill.total("2026-11")) == (6, 9)
    assert [json.loads(load["files"])[0]["name"] for load in bill.rows("billing_loads", "2026-10")] == [
        "billing_period=2026-10/rows.parquet"
    ]
    assert [load["delivered_at"] for load in bill.rows("billing_loads", "2026-10")] == [datetime(2026, 10, 5, 15, tzinfo=timezone.utc)]


def test_every_query_only_reads_and_has_a_limit_and_a_label(fake: FakeClient, tmp_path: Path) -> None:
    of_fake(tmp_path).load()
    assert len(fake.asked) == 3
    for sql, config in fake.asked:
        assert sql.startswith("select ") and ";" not in sql and "`my-project.billing.export`" in sql
        assert (config.maximum_bytes_billed, config.labels) == (1 << 40, {"runspend": "bill"})
    listing = fake.asked[0][0]
    assert "invoice.month" in listing and "max(export_time)" in listing and "cost" not in listing
    assert "seller_name" not in fake.asked[1][0]  # this table does not have that column


def test_rows_that_arrive_between_two_queries_wait_for_the_next_load(fake: FakeClient, tmp_path: Path) -> None:
    fake.grows_by = [gcp("100") | {"export_time": "2026-11-24T01:00:00Z"}]
    bill = of_fake(tmp_path)
    bill.load()
    assert bill.total("2026-10") == 6
    fake.grows_by = []
    bill.load()
    assert bill.total("2026-10") == 106


def test_a_month_that_changes_while_it_is_read_is_refused_and_the_old_rows_stay(fake: FakeClient, tmp_path: Path) -> None:
    bill = of_fake(tmp_path)
    bill.load()
    fake.rows.append(gcp("5") | {"export_time": "2026-11-20T05:00:00Z"})
    fake.grows_by = [gcp("7") | {"export_time": "2026-11-20T05:00:00Z"}]  # exported at the same moment as the newest row that was counted
    states = {p.period: (p.state, str(p.error)) for p in bill.load().periods}
    assert states["2026-10"][0] == "refused" and "it has 5 rows where 4 were counted, so it changed" in states["2026-10"][1]
    assert states["2026-11"][0] == "unchanged"
    assert (bill.total("2026-10"), bill.total("2026-11")) == (6, 4)


def test_only_the_months_days_of_a_table_partitioned_by_arrival_are_read(fake: FakeClient, tmp_path: Path) -> None:
    fake.description["time_partitioning"] = SimpleNamespace(field=None)
    of_fake(tmp_path).load()
    (listing, _), (sql, config), _ = fake.asked
    given = {p.name: p.value for p in config.query_parameters}
    assert "min(_partitiontime) as first_partition" in listing
    assert sql.endswith("and (_partitiontime between @first and @last or _partitiontime is null)")
    assert given["first"] == given["last"] == datetime(2026, 10, 5, 15, tzinfo=timezone.utc)


def test_rows_without_a_month_of_an_invoice_are_quarantined(fake: FakeClient, tmp_path: Path) -> None:
    fake.rows.append(gcp("5") | {"invoice": {"month": None}})
    bill = of_fake(tmp_path)
    bill.load()
    assert [row["reason"] for row in bill.rows("billing_quarantine")] == ["invoice.month is empty, which is not a month such as 202610"]
    assert bill.total() == 6


@pytest.mark.parametrize(
    "uri",
    ["bigquery://my-project/billing/export", "bigquery://my-project.billing.export", "bigquery://example.com:my-project/billing/export"],
)
def test_addresses_of_tables_are_parsed(fake: FakeClient, tmp_path: Path, uri: str) -> None:
    of_fake(tmp_path, uri).load()
    assert f"`{uri.removeprefix('bigquery://').replace('/', '.')}`" in fake.asked[0][0]


@pytest.mark.parametrize("uri", ["bigquery://my-project/billing", "bigquery://my-project/billing/t`; drop table x", "bigquery://p/d/t*"])
def test_an_address_that_is_not_a_table_is_refused_before_any_request(fake: FakeClient, tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="that is not a BigQuery table"):
        of_fake(tmp_path, uri).load()
    assert fake.asked == []


def test_without_googles_client_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("google.cloud.bigquery", "google.auth", "google.api_core.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r'pip install "runspend\[bigquery\]"'):
        of_fake(tmp_path).load()


def test_missing_credentials_are_reported_with_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none(**_: Any) -> None:
        raise DefaultCredentialsError("Your default credentials were not found.")

    monkeypatch.setattr("google.auth.default", find_none)
    with pytest.raises(SourceUnreachable, match="cannot read bigquery://my-project/billing/export of the bill: Your default credentials"):
        of_fake(tmp_path).load()
    key = nights(tmp_path, "bigquery://my-project/billing/export", format="gcp", credentials=str(tmp_path / "no-key.json"))
    with pytest.raises(ConfigError, match=r"no-key.json is not the key file of a service account \(FileNotFoundError\)"):
        key.load()
