"""Bills of format `databricks`: usage multiplied by prices, from exported files or read in place through a fake SQL warehouse."""

from __future__ import annotations

import json
import re
import sys
import types
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pytest
import sqlglot
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runspend.config.settings import BillSource
from runspend.core.errors import ConfigError, MissingExtra, SourceRefused, SourceUnreachable
from runspend.ingest.billing import probe_source
from runspend.ingest.billing.formats import BILL_FORMATS, format_module
from runspend.ingest.billing.remote import databricks as databricks_warehouse
from runspend.ingest.billing.staging import open_engine
from tests.allocation.chain import INPUTS, make_run, run_on_duckdb
from tests.databricks_files import account_price, arrow, job_run, list_price, task_run, usage, write
from tests.focus_files import Nights, nights, only, row, write_csv

EXACT = Context(prec=90)
PAGE = Path(__file__).resolve().parents[4] / "docs" / "start-databricks.md"
FENCE = re.compile(r"```(?:yaml|sql)\n(.*?)```", re.S)
CLUSTER = "1009-152321-abcd"
KINDS = ("csv", "jsonl", "parquet")


def bill(
    tmp_path: Path, rows: list[dict[str, Any]], listed: list[dict[str, Any]] | None = None, kind: str = "csv", **settings: Any
) -> Nights:
    """A folder of usage and list prices."""
    write(tmp_path / "bills" / f"usage.{kind}", rows)
    write(tmp_path / "bills" / f"list_prices.{kind}", [list_price()] if listed is None else listed)
    return nights(tmp_path, tmp_path / "bills", format="databricks", **settings)


def details(line: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(line["sku_price_details"]))


# --- prices ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_price_of_its_time_and_no_other(tmp_path: Path, kind: str) -> None:
    """10 DBU at 0.50 cost 5.00 in one line, not 9.00 in two."""
    prices = [list_price("0.40", "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"), list_price("0.50", "2026-03-01T00:00:00Z")]
    dbu = bill(tmp_path, [usage("10", "2026-03-10T10:00:00Z")], prices, kind)
    dbu.load()
    [line] = dbu.lines("2026-03")
    assert [line[f"{m}_cost"] for m in ("billed", "effective", "contracted", "list")] == [Decimal("5.00")] * 4
    assert (line["billing_currency"], line["consumed_quantity"], line["consumed_unit"], line["pricing_currency"]) == (
        "USD",
        10,
        "DBU",
        "USD",
    )
    assert line["sku_price_id"] == "PREMIUM_JOBS_COMPUTE/2026-03-01T00:00:00Z"


@pytest.mark.parametrize("table", ["list_prices", "account_prices"])
def test_a_price_begins_with_its_start_and_ends_before_its_end(tmp_path: Path, table: str) -> None:
    """The end of the usage decides. Usage that ends exactly when a price starts has that price."""
    price = list_price if table == "list_prices" else account_price
    prices = [price("0.40", "2026-01-01T00:00:00Z", "2026-10-10T12:00:00Z"), price("0.50", "2026-10-10T12:00:00Z")]
    dbu = bill(
        tmp_path,
        [usage("1", f"2026-10-10T{hour}:00:00Z") for hour in (10, 11, 12)],
        prices if table == "list_prices" else [list_price("9")],
    )
    write(tmp_path / "bills" / f"{table}.csv", prices)
    dbu.load()
    assert [line["billed_cost"] for line in sorted(dbu.lines(), key=lambda line: line["charge_period_start"])] == [
        Decimal("0.4"),
        Decimal("0.5"),
        Decimal("0.5"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_corrected_usage_is_summed_with_its_reversal(tmp_path: Path, kind: str) -> None:
    """10 − 10 + 8 DBU at 0.50 cost 4.00. Without corrections they would cost 5.00, and without the retraction 9.00."""
    rows = [usage("10"), usage("-10", record_type="RETRACTION"), usage("8", record_type="RESTATEMENT")]
    dbu = bill(tmp_path, rows, kind=kind)
    dbu.load()
    assert (len(dbu.lines()), dbu.total(), dbu.total(column="effective_cost")) == (3, Decimal("4.00"), Decimal("4.00"))
    assert {line["charge_class"] for line in dbu.lines()} == {None}
    assert {details(line)["x_record_type"] for line in dbu.lines()} == {"ORIGINAL", "RETRACTION", "RESTATEMENT"}


@pytest.mark.parametrize("kind", KINDS)
def test_prices_of_the_account_come_before_public_ones(tmp_path: Path, kind: str) -> None:
    """Each line names its price list. A public price makes the cost an estimate, and it is the list cost of both lines."""
    other = {"sku_name": "PREMIUM_ALL_PURPOSE_COMPUTE"}
    write(tmp_path / "bills" / f"account_prices.{kind}", [account_price("0.36")])
    dbu = bill(tmp_path, [usage("10"), usage("10", **other)], [list_price("0.50"), list_price("0.70", effective="0.60", **other)], kind)
    dbu.load()
    account, public = sorted(dbu.lines(), key=lambda line: line["billed_cost"])
    assert [account[f"{m}_cost"] for m in ("billed", "effective", "contracted", "list")] == [Decimal("3.60")] * 3 + [Decimal("5.00")]
    assert [public[f"{m}_cost"] for m in ("billed", "effective", "contracted", "list")] == [Decimal("6.00")] * 3 + [Decimal("7.00")]
    assert (account["contracted_unit_price"], account["list_unit_price"]) == (Decimal("0.36"), Decimal("0.50"))
    assert (details(account)["x_cost_is_estimate"], details(account)["x_price_from"]) == (False, "account_prices")
    assert (details(public)["x_cost_is_estimate"], details(public)["x_price_from"]) == (True, "list_prices")


def test_a_discount_reduces_only_public_prices(tmp_path: Path) -> None:
    write(tmp_path / "bills" / "account_prices.csv", [account_price("0.36")])
    other = {"sku_name": "PREMIUM_ALL_PURPOSE_COMPUTE"}
    prices = {"from": "account_prices", "else": "list", "discount": "18%"}
    dbu = bill(
        tmp_path, [usage("10"), usage("10", **other)], [list_price("0.50"), list_price("0.70", effective="0.60", **other)], prices=prices
    )
    dbu.load()
    account, public = sorted(dbu.lines(), key=lambda line: line["billed_cost"])
    assert account["billed_cost"] == Decimal("3.60")
    assert (public["billed_cost"], public["contracted_unit_price"], public["list_cost"]) == (
        Decimal("4.92"),
        Decimal("0.492"),
        Decimal("7.00"),
    )
    assert details(public)["x_discount"] == "0.18"


def test_a_bill_may_use_only_public_prices_or_only_prices_of_the_account(tmp_path: Path) -> None:
    write(tmp_path / "bills" / "account_prices.csv", [account_price("0.36")])
    rows = [usage("10"), usage("10", sku_name="OTHER")]
    prices = [list_price("0.50"), list_price("0.70", sku_name="OTHER")]
    dbu = bill(tmp_path, rows, prices, prices={"from": "list"})
    dbu.load()
    assert sorted(line["billed_cost"] for line in dbu.lines()) == [Decimal("5.00"), Decimal("7.00")]
    strict = bill(tmp_path / "strict", rows, prices, prices={"else": "none"})
    write(tmp_path / "strict" / "bills" / "account_prices.csv", [account_price("0.36")])
    load = strict.load()
    assert (strict.total(), only(load).extra["quarantined"]) == (Decimal("3.60"), 1)
    assert (
        strict.rows("billing_quarantine")[0]["reason"]
        == "no price: OTHER (AWS, DBU) at 2026-10-10 11:00:00 UTC is in no price of the account"
    )


def test_a_price_in_another_currency_gives_no_list_cost(tmp_path: Path) -> None:
    """All costs of a line have one currency. With prices in euros and dollars, the list cost stays empty."""
    write(tmp_path / "bills" / "account_prices.csv", [account_price("0.36", currency_code="EUR")])
    dbu = bill(tmp_path, [usage("10")])
    dbu.load()
    [line] = dbu.lines()
    assert (line["billed_cost"], line["billing_currency"], line["list_cost"], line["list_unit_price"]) == (
        Decimal("3.60"),
        "EUR",
        None,
        None,
    )


def test_usage_without_a_price_is_set_aside_with_the_reason(tmp_path: Path) -> None:
    """A price must match in SKU, cloud, unit and time. Each quarantined row differs in one of them."""
    rows = [
        usage("1"),
        usage("2", sku_name="NEW_SKU"),
        usage("3", cloud="GCP"),
        usage("4", usage_unit="HOUR"),
        usage("5", "2026-10-10T20:00:00Z"),
    ]
    dbu = bill(tmp_path, rows, [list_price("0.50", end="2026-10-10T21:00:00Z")])
    load = dbu.load()
    assert (dbu.total(), only(load).extra["quarantined"]) == (Decimal("0.50"), 4)
    reasons = [found["reason"] for found in sorted(dbu.rows("billing_quarantine"), key=lambda found: found["row_number"])]
    assert reasons == [
        f"no price: {what} UTC is in neither the account's prices nor the list prices"
        for what in (
            "NEW_SKU (AWS, DBU) at 2026-10-10 11:00:00",
            "PREMIUM_JOBS_COMPUTE (GCP, DBU) at 2026-10-10 11:00:00",
            "PREMIUM_JOBS_COMPUTE (AWS, HOUR) at 2026-10-10 11:00:00",
            "PREMIUM_JOBS_COMPUTE (AWS, DBU) at 2026-10-10 21:00:00",
        )
    ]
    assert json.loads(dbu.rows("billing_quarantine")[0]["raw"])["record_id"] == "r"


@pytest.mark.parametrize("same_file", [True, False])
def test_two_prices_for_one_time_are_refused(tmp_path: Path, same_file: bool) -> None:
    """Each price would be right alone. Both together would charge the usage twice."""
    first, second = list_price("0.40", "2026-01-01T00:00:00Z"), list_price("0.50", "2026-03-01T00:00:00Z")
    dbu = bill(tmp_path, [usage()], [first, second] if same_file else [first])
    if not same_file:
        write(tmp_path / "bills" / "list_prices_new.csv", [second])
    with pytest.raises(
        SourceRefused,
        match=r"two prices of PREMIUM_JOBS_COMPUTE \(AWS, DBU\) apply at the same time: one from 2026-01-01 00:00:00, one from 2026-03-01 00:00:00 UTC",
    ):
        dbu.load()
    assert not dbu.store


def test_prices_of_other_keys_do_not_overlap_and_equal_rows_count_once(tmp_path: Path) -> None:
    """Prices of another cloud, unit or account are separate. A second copy of the same row is not a second price."""
    prices = [
        list_price("0.50"),
        list_price("0.51", cloud="GCP"),
        list_price("0.52", usage_unit="HOUR"),
        list_price("0.53", account_id="acc-2"),
        list_price("0.54", sku_name="OTHER"),
    ]
    dbu = bill(tmp_path, [usage("10"), usage("10", account_id="acc-2")], prices)
    write(tmp_path / "bills" / "list_prices_again.csv", [*prices, list_price("0.60", sku_name="MORE")])
    dbu.load()
    assert sorted(line["billed_cost"] for line in dbu.lines()) == [Decimal("5.00"), Decimal("5.30")]


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ({"price": "free"}, "row 2: pricing.default is 'free', which is not a price of at most 18 decimals"),
        ({"price": "-1"}, "row 2: pricing.default is '-1'"),
        ({"price": "0.1234567890123456789"}, "row 2: pricing.default is '0.1234567890123456789'"),
        ({"price": "1", "start": "soon"}, "row 2: price_start_time is 'soon'"),
        ({"price": "1", "end": "never"}, "row 2: price_end_time is 'never'"),
        ({"price": "1", "currency_code": "DBU"}, "row 2: currency_code is 'DBU'"),
    ],
)
def test_a_price_that_cannot_be_read_refuses_the_list(tmp_path: Path, price: dict[str, str], reason: str) -> None:
    dbu = bill(tmp_path, [usage()], [list_price(), list_price(**{"sku_name": "OTHER", **price})])
    with pytest.raises(SourceRefused, match=r"cannot load list_prices\.csv of the bill: ") as refused:
        dbu.load()
    assert reason in str(refused.value)


def test_usage_prices_or_timelines_alone_are_not_a_bill(tmp_path: Path) -> None:
    write(tmp_path / "usage" / "usage.csv", [usage()])
    with pytest.raises(SourceRefused, match="its folder has no price list"):
        nights(tmp_path, tmp_path / "usage", format="databricks").load()
    write(tmp_path / "aside" / "list_prices.csv", [list_price()])
    write(tmp_path / "aside" / "runs.csv", task_run("1", "2"))
    with pytest.raises(SourceRefused, match=r"list_prices\.csv, runs\.csv has only prices, and no usage file is next to it"):
        nights(tmp_path, tmp_path / "aside", format="databricks").load()


def test_a_new_price_list_makes_a_new_version_of_every_month(tmp_path: Path) -> None:
    """Renaming the list does not make a version. A new discount does."""
    write(tmp_path / "bills" / "september.csv", [usage("10", "2026-09-10T10:00:00Z")])
    dbu = bill(tmp_path, [usage("10")])
    dbu.load()
    assert (dbu.total("2026-09"), dbu.total()) == (Decimal("5.00"), Decimal("5.00"))
    assert {p.state for p in dbu.load().periods} == {"unchanged"}
    (tmp_path / "bills" / "list_prices.csv").rename(tmp_path / "bills" / "prices_of_today.csv")
    assert {p.state for p in dbu.load().periods} == {"unchanged"}

    write(
        tmp_path / "bills" / "prices_of_today.csv",
        [list_price("0.50", end="2026-10-01T00:00:00Z"), list_price("0.60", "2026-10-01T00:00:00Z")],
    )
    assert [(p.period, p.state) for p in dbu.load().periods] == [("2026-09", "loaded"), ("2026-10", "loaded")]
    assert (dbu.total("2026-09"), dbu.total()) == (Decimal("5.00"), Decimal("6.00"))
    assert [(r["version_number"], r["state"], r["billed_cost"]) for r in dbu.rows("billing_loads")] == [
        (1, "replaced", 5),
        (2, "current", 6),
    ]

    cheaper = dbu.source.model_copy(update={"prices": BillSource.model_validate({**SOURCE, "prices": {"discount": "10%"}}).prices})
    assert {p.state for p in dbu.load(source=cheaper).periods} == {"loaded"}
    assert dbu.total() == Decimal("5.40")
    assert {p.state for p in dbu.load(source=cheaper).periods} == {"unchanged"}


def test_a_missing_price_list_leaves_the_months_as_they_were(tmp_path: Path) -> None:
    dbu = bill(tmp_path, [usage("10")])
    dbu.load()
    (tmp_path / "bills" / "list_prices.csv").unlink()
    load = dbu.load()
    assert (only(load).state, dbu.total()) == ("refused", Decimal("5.00"))
    assert "its folder has no price list" in str(only(load).error)


def test_a_pool_named_with_blanks_is_part_of_the_version_next_to_a_price_list(tmp_path: Path) -> None:
    """The version's key includes the price list and still contains the whole pool."""
    from runspend.config.settings import Pool

    dbu = bill(tmp_path, [usage("10")])
    dbu.load(pools=[Pool(name="a", runs={"tag.x": "1"}, lines={"service": ["b with c", "x"]})])
    dbu.load(pools=[Pool(name="a", runs={"tag.x": "1"}, lines={"service": ["b with c", "JOBS"]})])
    assert [line["pool_key"] for line in dbu.lines()] == ["a"]


# --- exactness ---------------------------------------------------------------------------------------------------------


def test_long_quantities_and_prices_are_multiplied_exactly(tmp_path: Path) -> None:
    """A quantity with 18 decimals is multiplied by a price with 8, after the discount.

    The product is rounded once, to 22 decimals, half away from zero.
    """
    dbu = bill(
        tmp_path,
        [usage("1.166666666666666667"), usage("-0.333333333333333333"), usage("1E-15"), usage("98765432.000000000000000001")],
        [list_price("0.70", effective="0.55000001")],
        prices={"discount": "17.25%"},
    )
    dbu.load()
    unit = Decimal("0.55000001") * Decimal("0.8275")
    wanted = [
        EXACT.multiply(Decimal(q), unit).quantize(Decimal(1).scaleb(-22), ROUND_HALF_UP, context=EXACT)
        for q in ("1.166666666666666667", "-0.333333333333333333", "1E-15", "98765432.000000000000000001")
    ]
    assert sorted(line["billed_cost"] for line in dbu.lines()) == sorted(wanted)
    assert wanted[0] == Decimal("0.5309791763208333334850") and unit == Decimal("0.455125008275")


def test_a_quantity_that_would_lose_a_digit_is_set_aside(tmp_path: Path) -> None:
    quantities = ["", "ten", "0.1234567890123456789", "1_000", "NaN"]
    dbu = bill(tmp_path, [usage("1"), *(usage(quantity) for quantity in quantities)])
    load = dbu.load()
    assert (dbu.total(), only(load).extra["quarantined"]) == (Decimal("0.50"), len(quantities))
    assert all("which is not a number of at most 18 decimals" in aside["reason"] for aside in dbu.rows("billing_quarantine"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with open_engine(tmp_path_factory.mktemp("engine")) as con:
        yield con


@given(st.integers(-(10**27), 10**27), st.integers(0, 10**24))
def test_any_product_is_the_decimal_one(engine: Any, quantity: int, price: int) -> None:
    a, b = Decimal(quantity).scaleb(-18, EXACT), Decimal(price).scaleb(-18, EXACT)
    [(got,)] = engine.execute("select rounded_product(exact_decimal(?), exact_decimal(?))", [f"{a:f}", f"{b:f}"]).fetchall()
    assert got == EXACT.multiply(a, b).quantize(Decimal(1).scaleb(-22), ROUND_HALF_UP, context=EXACT)


# --- values of lines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_structs_and_json_strings_give_the_same_focus_columns(tmp_path: Path, kind: str) -> None:
    """Columns may be structs and maps or JSON strings."""
    metadata = {
        "cluster_id": CLUSTER,
        "job_id": "7",
        "job_run_id": "815",
        "node_type": "g5.xlarge",
        "run_name": "nightly",
        "usage_policy_id": "p-1",
    }
    dbu = bill(
        tmp_path,
        [usage("2", "2026-10-31T23:00:00Z", "2026-11-01T00:00:00Z", metadata=metadata, tags={"team": "vision", "a.b": "ü"})],
        kind=kind,
    )
    dbu.load()
    [line] = dbu.lines()
    wanted = {
        "billing_account_id": "acc-1",
        "sub_account_id": "4242",
        "sub_account_type": "Workspace",
        "charge_category": "Usage",
        "service_name": "JOBS",
        "service_category": "Analytics",
        "service_provider_name": "Databricks",
        "host_provider_name": "Amazon Web Services",
        "invoice_issuer_name": "Databricks",
        "resource_id": CLUSTER,
        "resource_type": "Cluster",
        "resource_key": CLUSTER,
        "sku_id": "PREMIUM_JOBS_COMPUTE",
        "sku_meter": "COMPUTE_TIME",
        "instance_type": "g5.xlarge",
        "machine_gpus": 1,
        "job_key": "4242/815",
        "billed_nanoseconds": None,
        "group_keys": ["4242|usage_metadata.job_run_id|815", f"4242|usage_metadata.cluster_id|{CLUSTER}"],
    }
    assert {name: line[name] for name in wanted} == wanted
    assert json.loads(line["tags"]) == {
        "team": "vision", "a.b": "ü", "usage_metadata.job_id": "7", "usage_metadata.job_run_id": "815", "usage_metadata.cluster_id": CLUSTER,
        "usage_metadata.run_name": "nightly", "usage_metadata.usage_policy_id": "p-1",
    }  # fmt: skip
    assert [f"{line[c]:%Y-%m-%dT%H}" for c in ("billing_period_start", "billing_period_end", "charge_period_start", "charge_period_end")] == [
        "2026-10-01T00", "2026-11-01T00", "2026-10-31T23", "2026-11-01T00",
    ]  # fmt: skip


PRODUCTS = [
    # product; metadata of the usage; id, type and name of the resource; category
    ("ALL_PURPOSE", {"cluster_id": "c", "notebook_id": "n"}, ("c", "Cluster", None), "Analytics"),
    ("JOBS", {"job_id": "7", "job_name": "train", "job_run_id": "8"}, ("7", "Job", "train"), "Analytics"),
    ("INTERACTIVE", {"notebook_id": "n", "notebook_path": "/x"}, ("n", "Notebook", "/x"), "Analytics"),
    ("SQL", {"warehouse_id": "w"}, ("w", "SQL warehouse", None), "Analytics"),
    ("DLT", {"dlt_pipeline_id": "d"}, ("d", "Pipeline", None), "Analytics"),
    ("MODEL_SERVING", {"endpoint_id": "e", "endpoint_name": "bert"}, ("e", "Endpoint", "bert"), "AI and Machine Learning"),
    ("VECTOR_SEARCH", {"endpoint_name": "docs"}, ("docs", "Endpoint", "docs"), "AI and Machine Learning"),
    ("FOUNDATION_MODEL_TRAINING", {"run_name": "ft"}, (None, None, None), "AI and Machine Learning"),
    ("DATABASE", {"database_instance_id": "db"}, ("db", "Database instance", None), "Databases"),
    ("SOMETHING_NEW", {}, (None, None, None), "Other"),
]


def test_the_resource_is_the_first_of_its_ids(tmp_path: Path) -> None:
    dbu = bill(tmp_path, [usage(metadata=metadata, billing_origin_product=product) for product, metadata, _, _ in PRODUCTS])
    dbu.load()
    found = {
        line["service_name"]: ((line["resource_id"], line["resource_type"], line["resource_name"]), line["service_category"])
        for line in dbu.lines()
    }
    assert found == {product: (resource, category) for product, _, resource, category in PRODUCTS}


def test_regions_clouds_and_generative_models_are_recognized(tmp_path: Path) -> None:
    sku = "ENTERPRISE_SERVERLESS_REAL_TIME_INFERENCE_EUROPE_IRELAND"
    rows = [
        usage(
            "1", sku_name=sku, cloud="AZURE", billing_origin_product="MODEL_SERVING", product_features={"serving_type": "FOUNDATION_MODEL"}
        ),
        usage("2", cloud="GCP", billing_origin_product="NETWORKING", metadata={"source_region": "us-east-1"}),
    ]
    dbu = bill(tmp_path, rows, [list_price(sku_name=sku, cloud="AZURE"), list_price(cloud="GCP")])
    dbu.load()
    serving, network = sorted(dbu.lines(), key=lambda line: line["billed_cost"])
    assert (serving["region_name"], serving["service_subcategory"], serving["host_provider_name"], serving["invoice_issuer_name"]) == (
        "EUROPE_IRELAND", "Generative AI", "Microsoft", "Microsoft",
    )  # fmt: skip
    assert (network["region_id"], network["region_name"], network["host_provider_name"], network["service_category"]) == (
        "us-east-1",
        None,
        "Google Cloud",
        "Networking",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_custom_tag_names_the_run(tmp_path: Path, kind: str) -> None:
    """A custom tag on Databricks names the run."""
    dbu = bill(tmp_path, [usage("2", tags={"mlflow_run_id": "r1"}), usage("3")], kind=kind)
    dbu.load()
    assert {line["run_tag"]: line["billed_cost"] for line in dbu.lines()} == {"r1": Decimal("1.00"), None: Decimal("1.50")}


def test_invalid_tags_lose_no_money(tmp_path: Path) -> None:
    """A duplicate key and a nested object are counted, and the costs stay."""
    write(
        tmp_path / "bills" / "usage.csv",
        [
            usage("2", custom_tags='{"a":"1","a":"2"}', metadata={"job_id": "7"}),
            usage("2", custom_tags='{"a":{"b":1}}'),
            usage("2", custom_tags="{ }", metadata={"job_id": "7"}),
        ],
    )
    write(tmp_path / "bills" / "list_prices.csv", [list_price()])
    dbu = nights(tmp_path, tmp_path / "bills", format="databricks")
    load = dbu.load()
    assert (dbu.total(), load.extra["warnings"]["unreadable_tags"]) == (Decimal("3.00"), 2)
    assert {line["tags"] for line in dbu.lines()} == {None, '{"usage_metadata.job_id":"7"}'}


# --- runs of jobs ------------------------------------------------------------------------------------------------------


def aliases(dbu: Nights) -> list[tuple[str | None, str | None]]:
    tags = [(line["job_key"], json.loads(line["tags"] or "{}").get("runspend.job_aliases")) for line in dbu.lines()]
    return sorted(tags, key=str)


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_has_the_tasks_of_its_job_run(tmp_path: Path, kind: str) -> None:
    """The timeline has one row per hour and task. The line is not multiplied."""
    write(
        tmp_path / "bills" / f"tasks.{kind}",
        [*task_run("901", "815", hours=3), *task_run("902", "815"), *task_run("816", "816"), *task_run("77", "42")],
    )
    rows = [
        usage("1", metadata={"job_run_id": "815"}),
        usage("1", metadata={"job_run_id": "816"}),
        usage("1", metadata={"job_run_id": "902"}),
        usage("1"),
    ]
    dbu = bill(tmp_path, rows, kind=kind)
    dbu.load()
    assert aliases(dbu) == [("4242/815", "901 902"), ("4242/815", "901 902"), ("4242/816", None), (None, None)]
    assert dbu.total() == Decimal("2.00")


def test_a_task_of_another_workspace_is_another_task(tmp_path: Path) -> None:
    write(tmp_path / "bills" / "tasks.csv", [{**found, "workspace_id": "1"} for found in task_run("901", "815")])
    dbu = bill(tmp_path, [usage(metadata={"job_run_id": "815"}), usage(metadata={"job_run_id": "901"})])
    dbu.load()
    assert aliases(dbu) == [("4242/815", None), ("4242/901", None)]


def test_a_job_run_has_the_number_of_its_workspace(tmp_path: Path) -> None:
    """The number has the workspace as its prefix, unless the export lacks it.

    A job that a custom tag names keeps its name, because virtual machines have the same tag.
    """
    rows = [
        usage("1", metadata={"job_run_id": "815"}),
        usage("2", metadata={"job_run_id": "815"}, workspace_id="9999"),
        usage("3", metadata={"job_run_id": "815"}, workspace_id=None),
        usage("4", metadata={"job_run_id": "816"}, tags={"job_run_id": "816"}),
        usage("5", metadata={"job_run_id": "817"}, tags={"runspend.job_id": "train"}),
    ]
    dbu = bill(tmp_path, rows)
    dbu.load()
    jobs = {int(line["consumed_quantity"]): line["job_key"] for line in dbu.lines()}
    assert jobs == {1: "4242/815", 2: "9999/815", 3: "815", 4: "816", 5: "train"}


@pytest.mark.parametrize(("other", "found"), [("c-2", "901 950"), ("c-1", "901")])
def test_a_notebook_that_a_notebook_calls_belongs_to_the_only_job_of_its_cluster(tmp_path: Path, other: str, found: str) -> None:
    """If two job runs used the cluster, it is unknown which of them called the notebook."""
    write(tmp_path / "bills" / "tasks.csv", [*task_run("901", "815", 2, ["c-1"]), *task_run("902", "816", 1, [other])])
    write(
        tmp_path / "bills" / "jobs.csv",
        [job_run("815", clusters=["c-1"]), job_run("950", "WORKFLOW_RUN", ["c-1"]), job_run("951", "WORKFLOW_RUN", ["c-9"])],
    )
    dbu = bill(tmp_path, [usage(metadata={"job_run_id": "815"})])
    dbu.load()
    assert aliases(dbu) == [("4242/815", found)]


def ledger(tmp_path: Path, bills: list[Nights], runs: list[dict[str, Any]]) -> dict[str, Decimal]:
    """Run the ledger's models over these bills, and return the cost of each run or other target."""
    world: dict[str, list[dict[str, Any]]] = {name: [] for name in INPUTS}
    world["billing_lines"] = [{**line, "source": f"bill-{n}"} for n, loaded in enumerate(bills) for line in loaded.lines()]
    for stated in runs:
        run, resources = make_run(**stated)
        world["runs"].append(run)
        world["run_resources"] += resources
    costs: dict[str, Decimal] = {}
    for part in run_on_duckdb(world, tmp_path / "warehouse")["cost_allocations"].to_pylist():
        target = part["run_id"] or part["allocated_to"]
        costs[target] = costs.get(target, Decimal(0)) + part["effective_cost"]
    return costs


def test_a_run_gets_its_dbus_and_its_virtual_machines(tmp_path: Path) -> None:
    """DBUs for 4.00 and VMs for 6.00 cost 10.00. They are found by the cluster that the run names and by the tags of the VMs."""
    dbu = bill(tmp_path, [usage("8", "2026-10-01T10:00:00Z", metadata={"cluster_id": CLUSTER}, billing_origin_product="ALL_PURPOSE")])
    hour = {"ChargePeriodStart": "2026-10-01T10:00:00Z", "ChargePeriodEnd": "2026-10-01T11:00:00Z", "ServiceCategory": "Compute"}
    machines = [
        row("4.00", ResourceId="i-0aaaaaaaaaaaaaaaa", Tags=json.dumps({"ClusterId": CLUSTER}), **hour),
        row("2.00", ResourceId="i-0bbbbbbbbbbbbbbbb", Tags=json.dumps({"clusterid": CLUSTER}), **hour),
    ]
    write_csv(tmp_path / "vms" / "oct.csv", machines)
    vms = nights(tmp_path / "aws", tmp_path / "vms")
    dbu.load()
    vms.load()
    assert ledger(tmp_path, [dbu, vms], [{"id": "A", "at": "10:00..11:00", "on": [CLUSTER]}]) == {"A": Decimal("10.00")}


def test_dbus_that_azure_bills_as_well_are_counted_once(tmp_path: Path) -> None:
    """The `only` of docs/start-databricks.md leaves the DBU line of the Azure bill out of scope."""
    [block] = [text for text in FENCE.findall(PAGE.read_text(encoding="utf-8")) if "only:" in text]
    [only_of_azure] = [bill["only"] for bill in yaml.safe_load(block)["billing"] if bill["name"] == "azure"]
    dbu = bill(tmp_path, [usage("8", "2026-10-01T10:00:00Z", metadata={"cluster_id": CLUSTER}, cloud="AZURE")], [list_price(cloud="AZURE")])
    hour = {
        "ChargePeriodStart": "2026-10-01T10:00:00Z",
        "ChargePeriodEnd": "2026-10-01T11:00:00Z",
        "Tags": json.dumps({"ClusterId": CLUSTER}),
    }
    machine = row("6.00", ResourceId="/subscriptions/s/virtualMachines/w", ServiceName="Virtual Machines", **hour)
    workspace = row("4.00", ResourceId="/subscriptions/s/workspaces/w", ServiceName="Azure Databricks", **hour)
    write_csv(tmp_path / "azure" / "oct.csv", [machine, workspace])
    azure = nights(tmp_path / "a", tmp_path / "azure", only=only_of_azure)
    dbu.load()
    azure.load()
    assert ledger(tmp_path, [dbu, azure], [{"id": "A", "at": "10:00..11:00", "on": [CLUSTER]}]) == {
        "A": Decimal("10.00"),
        "out_of_scope": Decimal("4.00"),
    }


def test_runs_of_a_jobs_tasks_share_its_lines_by_time(tmp_path: Path) -> None:
    """Two runs name tasks and one names the job run. A run of another job in the same hour gets only its own line."""
    write(tmp_path / "bills" / "tasks.csv", [*task_run("901", "815", hours=2), *task_run("902", "815")])
    at = "2026-10-01T10:00:00Z"
    dbu = bill(
        tmp_path,
        [usage("16", at, metadata={"job_id": "7", "job_run_id": "815"}), usage("2", at, metadata={"job_id": "8", "job_run_id": "820"})],
    )
    dbu.load()
    runs = [
        {"id": "A", "at": "10:00..10:30", "on": [], "job_key": "901"},
        {"id": "B", "at": "10:30..10:45", "on": [], "job_key": "902"},
        {"id": "C", "at": "10:45..11:00", "on": [], "job_key": "815"},
        {"id": "D", "at": "10:00..11:00", "on": [], "job_key": "820"},
    ]
    assert ledger(tmp_path, [dbu], runs) == {"A": Decimal("4.00"), "B": Decimal("2.00"), "C": Decimal("2.00"), "D": Decimal("1.00")}


def test_job_runs_of_one_number_in_two_workspaces_get_their_own_costs(tmp_path: Path) -> None:
    """The same holds for runs of tasks. A run that names no workspace gets the only job run with its number."""
    tasks = [*task_run("901", "815"), *({**found, "workspace_id": "9999"} for found in task_run("901", "816"))]
    write(tmp_path / "bills" / "tasks.csv", tasks)
    at = "2026-10-01T10:00:00Z"
    rows = [
        usage("10", at, metadata={"job_run_id": "815"}),
        usage("40", at, metadata={"job_run_id": "815"}, workspace_id="9999"),
        usage("4", at, metadata={"job_run_id": "816"}, workspace_id="9999"),
        usage("2", at, metadata={"job_run_id": "820"}),
    ]
    dbu = bill(tmp_path, rows)
    dbu.load()
    jobs = {"A": "4242/815", "B": "9999/815", "C": "4242/901", "D": "9999/901", "E": "820"}
    runs = [{"id": run, "at": "10:00..11:00", "on": [], "job_key": job} for run, job in jobs.items()]
    assert ledger(tmp_path, [dbu], runs) == {
        "A": Decimal("2.50"),
        "B": Decimal("20.00"),
        "C": Decimal("2.50"),
        "D": Decimal("2.00"),
        "E": Decimal("1.00"),
    }


# --- headers and settings ----------------------------------------------------------------------------------------------

SOURCE = {"name": "bill", "format": "databricks", "uri": "bills"}


@pytest.mark.parametrize("kind", KINDS)
def test_auto_finds_the_format_by_any_of_its_tables(tmp_path: Path, kind: str) -> None:
    dbu = bill(tmp_path, [usage("10")], kind=kind)
    write(tmp_path / "bills" / f"tasks.{kind}", task_run("901", "815", clusters=["c"]))
    write(tmp_path / "bills" / f"jobs.{kind}", [job_run("815", clusters=["c"])])
    probed = probe_source(dbu.source.model_copy(update={"format": "auto"}))
    assert (probed["format"], probed["rows"], probed["billed"], probed["problems"]) == ("databricks", 1, {"USD": Decimal("5.00")}, [])


def test_no_other_format_accepts_a_header_of_these_tables() -> None:
    for found in (usage(), list_price(), account_price("1"), task_run("1", "2")[0], job_run("1")):
        assert [name for name in BILL_FORMATS if format_module(name).matches(list(found))] == ["databricks"]


def test_usage_without_its_unit_is_refused(tmp_path: Path) -> None:
    rows = [{k: v for k, v in usage().items() if k not in ("usage_unit", "cloud")}]
    with pytest.raises(SourceRefused, match=r"usage.csv of the bill: it lacks cloud, usage_unit\. Add them to the export"):
        bill(tmp_path, rows).load()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"prices": {"from": "account_prices", "discuont": "18%"}}, "Extra inputs are not permitted"),
        ({"prices": {"discount": 0.18}}, "a percentage below 100 with its sign is needed"),
        ({"prices": {"discount": "118%"}}, "a percentage below 100 with its sign is needed"),
        ({"prices": {"from": "somewhere"}}, "'account_prices' or 'list'"),
        ({"format": "focus", "prices": {"discount": "18%"}}, "`prices:` belongs to `format: databricks`"),
        ({"format": "focus", "vms": "none"}, "`vms:` belongs to `format: databricks`"),
    ],
)
def test_prices_are_settings_that_refuse_what_they_do_not_know(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        BillSource.model_validate({**SOURCE, **wrong})
    assert why in str(refused.value)


# --- read in place -----------------------------------------------------------------------------------------------------

ADDRESS = "databricks://eu-prod/sql/1.0/warehouses/8f3a21c0"
ASIDE = ["billing.list_prices", "billing.account_prices", "lakeflow.job_task_run_timeline", "lakeflow.job_run_timeline"]


class Workspace:
    """A fake of the function that queries a SQL warehouse. It runs Databricks' SQL on system tables in DuckDB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {"billing.usage": [], "billing.list_prices": [list_price()]}
        self.asked: list[str] = []
        monkeypatch.setattr(databricks_warehouse, "run_query", self.run_query)

    def run_query(self, source: BillSource, sql: str) -> pa.Table:
        assert source.uri == ADDRESS
        [name] = [f"{t.db}.{t.name}" for t in sqlglot.parse_one(sql, read="databricks").find_all(sqlglot.exp.Table)]
        self.asked.append(name + (f" {month[1]}" if (month := re.search("date '([0-9-]{7})-01'", sql)) else ""))
        if name not in self.tables:
            raise databricks_warehouse.TableMissing(f"[TABLE_OR_VIEW_NOT_FOUND] {name}")
        with duckdb.connect() as con:
            con.execute("set TimeZone = 'UTC'")
            con.execute(f"create schema {name.split('.')[0]}")
            con.register("rows", arrow(self.tables[name]))
            con.execute(f"create table {name} as from rows")
            written = sql.replace("system.", "")
            [query] = sqlglot.transpile(
                written, read="databricks", write="duckdb", identify=True, unsupported_level=sqlglot.ErrorLevel.RAISE
            )
            return con.sql(query).to_arrow_table()

    def bill(self, tmp_path: Path) -> Nights:
        return nights(tmp_path, ADDRESS, format="databricks")


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> Workspace:
    return Workspace(monkeypatch)


def test_tables_read_in_place_give_the_same_lines_as_their_exports(tmp_path: Path, workspace: Workspace) -> None:
    """The lines are equal, with their tags, prices and tasks of jobs."""
    metadata = {"cluster_id": CLUSTER, "job_id": "7", "job_run_id": "815"}
    serving = {"product_features": {"serving_type": "FOUNDATION_MODEL"}, "billing_origin_product": "MODEL_SERVING"}
    workspace.tables["billing.usage"] = [
        usage("10", metadata=metadata, tags={"team": "vision"}),
        usage("1.166666666666666667", record_id="s", sku_name="OTHER", **serving),
    ]
    workspace.tables["billing.list_prices"] = [
        list_price("0.50", end="2026-10-31T00:00:00Z"),
        list_price("0.70", effective="0.60", sku_name="OTHER"),
    ]
    workspace.tables["billing.account_prices"] = [account_price("0.36")]
    workspace.tables["lakeflow.job_task_run_timeline"] = task_run("901", "815", 2, ["c-1"])
    workspace.tables["lakeflow.job_run_timeline"] = [job_run("815", clusters=["c-1"]), job_run("950", "WORKFLOW_RUN", ["c-1"])]
    for name, rows in workspace.tables.items():
        write(tmp_path / "bills" / f"{name.split('.')[1]}.parquet", rows)
    exported = nights(tmp_path / "files", tmp_path / "bills", format="databricks")
    exported.load()
    in_place = workspace.bill(tmp_path)
    in_place.load()
    assert in_place.lines() == exported.lines()
    assert (in_place.total(), aliases(in_place)) == (Decimal("4.3000000000000000002"), [("4242/815", "901 950"), (None, None)])


def test_a_month_without_new_records_is_not_read_again(tmp_path: Path, workspace: Workspace) -> None:
    """The tables for look-ups are still read. One more record in October makes Runspend read October."""
    workspace.tables["billing.usage"] = [usage("10", "2026-09-10T10:00:00Z"), usage("10")]
    dbu = workspace.bill(tmp_path)
    dbu.load()
    assert workspace.asked == ["billing.usage", *ASIDE, "billing.usage 2026-09", "billing.usage 2026-10"]
    workspace.asked.clear()
    assert {p.state for p in dbu.load().periods} == {"unchanged"}
    assert workspace.asked == ["billing.usage", *ASIDE]
    workspace.tables["billing.usage"].append(usage("-10", record_type="RETRACTION", ingestion_date="2026-10-12"))
    assert {p.period: p.state for p in dbu.load(accept=["bill:2026-10"]).periods} == {"2026-09": "unchanged", "2026-10": "loaded"}
    assert (workspace.asked[-1], dbu.total("2026-09"), dbu.total()) == ("billing.usage 2026-10", Decimal("5.00"), Decimal(0))


def test_a_new_price_loads_every_month_again(tmp_path: Path, workspace: Workspace) -> None:
    workspace.tables["billing.usage"] = [usage("10", "2026-09-10T10:00:00Z"), usage("10")]
    dbu = workspace.bill(tmp_path)
    dbu.load()
    workspace.tables["billing.account_prices"] = [account_price("0.36", "2026-10-01T00:00:00Z")]
    assert {p.state for p in dbu.load().periods} == {"loaded"}
    assert (dbu.total("2026-09"), dbu.total()) == (Decimal("5.00"), Decimal("3.60"))


def test_exports_made_with_the_queries_of_the_start_page_can_be_loaded(tmp_path: Path, workspace: Workspace) -> None:
    """The test exports each query to a CSV, as the SQL editor would: usage, prices, and tasks of jobs."""
    [block] = [text for text in FENCE.findall(PAGE.read_text(encoding="utf-8")) if "from system.billing.usage" in text]
    workspace.tables["billing.usage"] = [
        usage("10", metadata={"job_run_id": "815"}, tags={"mlflow_run_id": "r1"}),
        usage("1", "2026-09-30T10:00:00Z"),
    ]
    workspace.tables["billing.list_prices"] = [list_price("0.70", effective="0.60")]
    workspace.tables["lakeflow.job_task_run_timeline"] = task_run("901", "815", 2, ["c-1"])
    workspace.tables["lakeflow.job_run_timeline"] = [job_run("950", "WORKFLOW_RUN", ["c-1"])]
    dbu = nights(tmp_path, tmp_path / "bills", format="databricks")
    (tmp_path / "bills").mkdir()
    for number, query in enumerate(block.split(";")[:4]):
        rows = workspace.run_query(BillSource.model_validate({**SOURCE, "uri": ADDRESS}), query)
        arrow_csv.write_csv(rows, tmp_path / "bills" / f"{number}.csv")
    dbu.load()
    [line] = dbu.lines()
    assert (line["billed_cost"], line["list_cost"], line["run_tag"], aliases(dbu)) == (
        Decimal("6.00"),
        Decimal("7.00"),
        "r1",
        [("4242/815", "901 950")],
    )
    assert not dbu.lines("2026-09")


@pytest.mark.parametrize("table", ["billing.usage", "billing.list_prices"])
def test_a_missing_required_table_is_named(tmp_path: Path, workspace: Workspace, table: str) -> None:
    workspace.tables["billing.usage"] = [usage()]
    del workspace.tables[table]
    with pytest.raises(SourceUnreachable, match=rf"cannot read system\.{table} for the bill: .* GRANT SELECT ON TABLE system\.{table}"):
        workspace.bill(tmp_path).load()


@pytest.mark.parametrize(
    "uri",
    [
        "databricks://eu-prod",
        "databricks:///sql/1.0/warehouses/1",
        "databricks://eu-prod/sql/1.0/warehouses/",
        "databricks://eu-prod/api/2.0",
    ],
)
def test_an_address_without_a_warehouse_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="it does not name an SQL warehouse"):
        nights(tmp_path, uri, format="databricks").load()


def test_without_the_connector_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "databricks.sql", None)
    monkeypatch.setitem(sys.modules, "databricks", types.ModuleType("databricks"))
    with pytest.raises(MissingExtra, match=r"runspend\[databricks\]"):
        nights(tmp_path, ADDRESS, format="databricks").load()


class Connection:
    """A fake of the connector's connection and cursor, with its login and its answer."""

    def __init__(self, answer: pa.Table | Exception, **login: Any) -> None:
        self.answer, self.login, self.executed = answer, login, [""]

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def cursor(self) -> Connection:
        return self

    def execute(self, sql: str) -> None:
        self.executed.append(sql)
        if isinstance(self.answer, Exception):
            raise self.answer

    def fetchall_arrow(self) -> pa.Table | Exception:
        return self.answer


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake of databricks-sql-connector, and of the SDK's Config with a token that must stay secret."""
    fake: Any = types.ModuleType("databricks.sql")
    core: Any = types.ModuleType("databricks.sdk.core")
    package: Any = types.ModuleType("databricks")
    fake.Error = type("Error", (Exception,), {})
    fake.opened = []
    fake.answer = pa.table({"one": [1]})

    def connect(**login: Any) -> Connection:
        fake.opened.append(Connection(fake.answer, **login))
        return fake.opened[-1]  # type: ignore[no-any-return]

    class Config:
        def __init__(self, host: str | None = None, profile: str | None = None) -> None:
            if profile == "unknown":
                raise ValueError("default auth: cannot configure default credentials")
            self.host = host or f"https://{profile}.cloud.databricks.com"

        def authenticate(self) -> dict[str, str]:
            return {"Authorization": "Bearer dapi-secret"}

    fake.connect, core.Config, package.sql = connect, Config, fake
    for module in (package, fake, types.ModuleType("databricks.sdk"), core):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return fake


@pytest.mark.parametrize(
    ("uri", "credentials", "host"),
    [
        (ADDRESS, None, "eu-prod.cloud.databricks.com"),
        (ADDRESS, "us-prod", "us-prod.cloud.databricks.com"),
        ("databricks://dbc-1.cloud.databricks.com/sql/1.0/warehouses/8f3a21c0", None, "dbc-1.cloud.databricks.com"),
    ],
)
def test_a_query_logs_in_as_the_sdk_does(connector: Any, uri: str, credentials: str | None, host: str) -> None:
    source = BillSource.model_validate({**SOURCE, "uri": uri, "credentials": credentials})
    assert databricks_warehouse.run_query(source, "select 1 as one").to_pylist() == [{"one": 1}]
    [opened] = connector.opened
    login = opened.login
    assert (login["server_hostname"], login["http_path"], opened.executed[-1]) == (host, "/sql/1.0/warehouses/8f3a21c0", "select 1 as one")
    assert login["credentials_provider"]()() == {"Authorization": "Bearer dapi-secret"}


def test_a_refusal_of_the_warehouse_is_reported_without_the_token(connector: Any) -> None:
    source = BillSource.model_validate({**SOURCE, "uri": ADDRESS})
    connector.answer = connector.Error("[TABLE_OR_VIEW_NOT_FOUND] no such table\nmore")
    with pytest.raises(databricks_warehouse.TableMissing, match="no such table"):
        databricks_warehouse.run_query(source, "select 1")
    connector.answer = connector.Error("warehouse is stopped\nmore")
    with pytest.raises(
        SourceUnreachable, match=r"cannot read the bill from databricks://eu-prod/sql.*: warehouse is stopped\. Check"
    ) as error:
        databricks_warehouse.run_query(source, "select 1")
    assert "dapi" not in str(error.value)
    with pytest.raises(SourceUnreachable, match="cannot configure default credentials"):
        databricks_warehouse.run_query(source.model_copy(update={"credentials": "unknown"}), "select 1")
