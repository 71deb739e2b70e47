"""Rows of FOCUS bills: exact money, odd strings, changed columns, and what Runspend derives from rows when it loads them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Iterable
from datetime import date, datetime, timezone
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.config.settings import BillSource, ScopeSettings
from runspend.core.errors import SourceRefused
from runspend.ingest.billing import probe_source
from runspend.schema.tables import BILL_CHANGES, BILLING_LINES, BILLING_LOADS, BILLING_QUARANTINE
from tests.focus_files import ROW, csv_text, month, nights, only, row, write_bytes, write_csv

WIDE = Context(prec=76)


def test_the_public_sample_loads_to_the_last_digit(tmp_path: Path, samples: Path) -> None:
    path = samples / "focus_1_0/focus_sample.csv"
    bill = nights(tmp_path, path)
    load = bill.load()
    assert (bill.total("2024-09"), bill.total("2024-10")) == (Decimal("20.28022672899"), Decimal("0.24"))
    assert sum(bill.total(p, "effective_cost") for p in ("2024-09", "2024-10")) == Decimal("14.97651418586"), (
        "the damaged sample is loaded as delivered"
    )
    with path.open(newline="") as file:
        delivered = list(csv.DictReader(file))
    for column, name in (("ListCost", "list_cost"), ("ContractedCost", "contracted_cost")):
        expected = sum((Decimal(r[column]) for r in delivered if r[column] not in ("", "NULL")), Decimal(0))
        assert sum(bill.total(p, name) for p in ("2024-09", "2024-10")) == expected
    assert load.extra["dropped_columns"] == ["Id"]
    assert load.extra["warnings"]["respelled_values"] == {"charge_frequency: Usage-based": 7}
    lines = bill.lines("2024-09") + bill.lines("2024-10")
    assert len(lines) == 1000
    assert {r["charge_frequency"] for r in lines} <= {"Usage-Based", "Recurring", "One-Time"}
    assert not [r for r in lines for value in r.values() if value == "NULL"]
    assert {r["focus_version"] for r in bill.rows("billing_loads", "2024-09")} == {"1.0"}
    assert {r["null_contracted_count"] for r in bill.rows("billing_loads", "2024-09")} == {6}


def test_the_generated_bill_loads_to_the_last_digit(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, samples / "focus_synthetic/focus_1_2_cost_and_usage_aws.csv")
    bill.load()
    assert bill.total("2026-05") == bill.total("2026-05", "effective_cost") == Decimal("5029.869295913408750")
    assert bill.total("2026-05", "list_cost") == Decimal("7622.051961259883298")
    [listed] = bill.rows("billing_loads", "2026-05")
    assert (listed["focus_version"], listed["is_invoiced"], listed["row_count"]) == ("1.2", True, 300)
    machine = next(r for r in bill.lines("2026-05") if r["instance_type"] == "m6i.large")
    assert (machine["machine_cpus"], machine["machine_memory_gb"], machine["machine_gpus"]) == (2, 8.0, 0)
    assert machine["billed_nanoseconds"] == int(machine["consumed_quantity"] * 3600 * 10**9)
    assert machine["resource_key"].startswith("i-")


@pytest.mark.parametrize("name", ["simple_saas_agreements_a1", "saas_spend_agreements_b2", "commitment_discount_purchase_scenario_2"])
def test_the_specs_odd_examples_are_refused_loudly(tmp_path: Path, samples: Path, name: str) -> None:
    with pytest.raises(SourceRefused):
        nights(tmp_path, samples / f"focus_spec_1_2_examples/{name}.csv").load()


def test_the_tables_have_exactly_the_columns_of_the_contract(tmp_path: Path) -> None:
    write_csv(tmp_path / "oct.csv", [row()])
    outcome = only(nights(tmp_path, tmp_path / "oct.csv").load())
    for table in (BILLING_LINES, BILLING_QUARANTINE, BILLING_LOADS, BILL_CHANGES):
        rows = outcome.tables[table.name]
        schema = pq.read_schema(rows) if isinstance(rows, Path) else rows.schema
        assert [(f.name, f.type) for f in schema] == [(f.name, f.type) for f in table.arrow_schema()], table.name


def exact(text: str) -> Decimal:
    """Round a string to 22 decimals, half away from zero."""
    return Decimal(text).quantize(Decimal(1).scaleb(-22), rounding=ROUND_HALF_UP, context=WIDE)


def add(amounts: Iterable[Decimal]) -> Decimal:
    """Return a sum without rounding. The default context would keep only 28 digits."""
    total = Decimal(0)
    for amount in amounts:
        total = WIDE.add(total, amount)
    return total


def test_money_is_exact_however_it_is_written(tmp_path: Path) -> None:
    rng = random.Random(7)
    texts = [
        "35.2E-7",
        "1.7166668039999999e-06",
        "-0",
        "0.000000060000000000000000000",
        "1e3",
        "+5",
        "123456789012345.1234567890123456789012",
    ]
    texts += [f"{rng.choice(['', '-'])}{rng.randrange(10 ** rng.randrange(1, 13))}.{rng.randrange(10**22):022d}" for _ in range(300)]
    texts += [f"{rng.randrange(1, 10)}.{rng.randrange(10**16)}e{rng.choice('+-')}{rng.randrange(0, 9):02d}" for _ in range(300)]
    texts += [f"-0.{'0' * rng.randrange(15, 22)}{rng.randrange(10**9)}" for _ in range(300)]
    write_csv(tmp_path / "oct.csv", [row(text, ResourceId=f"{n}") for n, text in enumerate(texts)])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    loaded = {int(r["resource_id"]): r["billed_cost"] for r in bill.lines()}
    assert bill.rows("billing_quarantine") == []
    assert [loaded[n] for n in range(len(texts))] == [exact(t) for t in texts]
    rest = add(WIDE.subtract(Decimal(t), exact(t)) for t in texts)
    assert rest
    [listed] = bill.rows("billing_loads")
    assert listed["rounded_cost"] == exact(f"{rest:f}")
    assert listed["billed_cost"] == add(exact(t) for t in texts)


def test_cost_lost_by_rounding_is_counted(tmp_path: Path) -> None:
    write_csv(tmp_path / "oct.csv", [row("0.00000000000000000000004")] * 1000 + [row("0.00000000000000000000005", BillingCurrency="EUR")])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    by_currency = {r["billing_currency"]: (r["billed_cost"], r["rounded_cost"]) for r in bill.rows("billing_loads")}
    assert by_currency == {
        "USD": (Decimal(0), Decimal("4E-20")),
        "EUR": (Decimal("1E-22"), Decimal("-1E-22")),
    }  # -5E-23, rounded to 22 decimals


def test_currencies_are_never_added(tmp_path: Path) -> None:
    write_csv(tmp_path / "oct.csv", [row("100"), row("90", BillingCurrency="EUR"), row("7", BillingCurrency="MC")])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    assert {r["billing_currency"]: r["billed_cost"] for r in bill.rows("billing_loads")} == {"EUR": Decimal(90), "USD": Decimal(100)}
    [bad] = bill.rows("billing_quarantine")
    assert (bad["billed_cost"], bad["row_number"], bad["file_name"]) == (Decimal(7), 3, "oct.csv")
    assert "BillingCurrency is 'MC', which is not an ISO 4217 code" in bad["reason"]


UNREADABLE = [
    # column, its value, the cost that is known despite it
    ("BilledCost", "$10,000.00 ", None),
    ("BilledCost", "", None),
    ("BilledCost", "NULL", None),
    ("BilledCost", "1_000", None),
    ("BillingCurrency", "", Decimal("4.20")),
    ("BillingPeriodStart", "9/1/25", Decimal("4.20")),
    ("ChargePeriodStart", "2026-10-05T30:00:00Z", Decimal("4.20")),
    ("ChargePeriodEnd", "2026-02-30", Decimal("4.20")),
    ("BillingPeriodStart", "infinity", Decimal("4.20")),
]


@pytest.mark.parametrize("name", ["bill.jsonl", "bill.ndjson.gz"])
def test_json_lines_are_the_same_bill_as_csv(tmp_path: Path, name: str) -> None:
    """Numbers keep every digit. Objects equal their strings in a CSV, and null and missing values are null."""
    odd = [
        row("0.0000000600000000000001", Tags='{"team":"vision","n":"1"}', RegionId="NULL"),
        row("1.5", ConsumedQuantity="12", SkuPriceDetails='{"InstanceType":"m6i.large"}'),
        row("-2.25", Tags="", ChargeClass="Correction"),
    ]
    objects = []
    for each in odd:
        reported = {k: json.loads(v) if k in ("Tags", "SkuPriceDetails") and v else v for k, v in each.items()}
        objects.append(
            json.dumps({**reported, "Tags": reported["Tags"] or None}).replace(
                f'"BilledCost": "{each["BilledCost"]}"', f'"BilledCost": {each["BilledCost"]}'
            )
        )
    text = "\n".join(objects).encode() + b"\n"
    as_json = nights(tmp_path / "json", write_bytes(tmp_path / name, gzip.compress(text, mtime=0) if name.endswith(".gz") else text))
    as_csv = nights(tmp_path / "csv", write_csv(tmp_path / "bill.csv", odd, header=list(dict.fromkeys(k for each in odd for k in each))))
    as_json.load()
    as_csv.load()
    assert as_json.total() == Decimal("-0.7499999399999999999999")
    assert [r["line_id"] for r in as_json.lines()] == [r["line_id"] for r in as_csv.lines()]
    assert {r["focus_version"] for r in as_json.rows("billing_loads")} == {"1.1"}


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_columns_may_have_another_separator(tmp_path: Path, delimiter: str) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, [*ROW, "x_note"], delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows([row("1.25", x_note=f"a{delimiter}b, c"), row("2.50", x_note=""), row("two", x_note="")])
    bill = nights(tmp_path, write_bytes(tmp_path / "bill.csv", out.getvalue().encode("utf-8-sig")))
    bill.load()
    assert bill.total() == Decimal("3.75")
    [kept] = bill.rows("billing_quarantine")
    assert json.loads(kept["raw"])["BilledCost"] == "two"


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_an_extra_empty_field_at_the_end_of_a_row_is_refused(tmp_path: Path, delimiter: str) -> None:
    """A stray separator earlier in the row would shift each value into the next column."""
    text = (
        csv_text([row("1.25", x_note="a"), row("2.50", x_note="b")])
        .replace(",", delimiter)
        .replace(f"{delimiter}b\n", f"{delimiter}b{delimiter}\n")
    )
    bill = nights(tmp_path, write_bytes(tmp_path / "bill.csv", text.encode()))
    with pytest.raises(SourceRefused, match=r"line 3: it has 18 fields, but the header has 17"):
        bill.load()


def test_a_row_of_json_that_cannot_be_read_is_kept_whole(tmp_path: Path) -> None:
    good, bad = row("1.00", x_note="kept"), row("1.00", x_note="kept") | {"BilledCost": "$1"}
    text = "\n".join(json.dumps(each | {"ListUnitPrice": "dear"}) for each in (good, bad))
    bill = nights(tmp_path, write_bytes(tmp_path / "bill.jsonl", text.encode()))
    load = bill.load()
    assert bill.total() == Decimal("1.00")
    [kept] = bill.rows("billing_quarantine")
    assert (kept["reason"], kept["row_number"]) == ("BilledCost is '$1', which is not a plain decimal number", 2)
    assert json.loads(kept["raw"]) == bad | {"ListUnitPrice": "dear"}
    assert only(load).extra["unreadable"] == {"BilledCost": 1, "ListUnitPrice": 2}
    assert load.extra["dropped_columns"] == ["x_note"]


def test_rows_that_cannot_be_read_are_kept_whole_and_counted(tmp_path: Path) -> None:
    bad = [{**row("4.20", ResourceId='odd "one"'), column: value} for column, value, _ in UNREADABLE]
    write_csv(tmp_path / "oct.csv", [row("1.00"), *bad, row("2.00")])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    assert only(bill.load()).extra["quarantined"] == len(UNREADABLE)
    assert bill.total() == Decimal(3)
    aside = sorted(bill.rows("billing_quarantine"), key=lambda kept: int(kept["row_number"]))
    for number, (kept, (column, value, cost)) in enumerate(zip(aside, UNREADABLE, strict=True), 2):
        assert (kept["row_number"], kept["billed_cost"], kept["billing_period"]) == (number, cost, date(2026, 10, 1))
        assert kept["reason"].startswith(column)
        raw = json.loads(kept["raw"])
        assert raw["ResourceId"] == 'odd "one"'
        assert raw[column] in (value, None)
    [listed] = bill.rows("billing_loads")
    assert (listed["row_count"], listed["quarantined_count"]) == (2, len(UNREADABLE))


def test_an_unreadable_number_elsewhere_becomes_null_and_is_reported(tmp_path: Path) -> None:
    write_csv(tmp_path / "oct.csv", [{**row("1.00"), "ListCost": "n/a"}])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    assert only(bill.load()).extra["unreadable"] == {"ListCost": 1}
    [line] = bill.lines()
    assert (line["list_cost"], line["billed_cost"]) == (None, Decimal(1))
    assert bill.rows("billing_loads")[0]["null_list_count"] == 1


def test_identifiers_stay_strings_and_only_declared_columns_have_words_for_null(tmp_path: Path) -> None:
    base = {"RegionId": "", "SkuId": "1E5"}
    rows = [row(**{**base, "RegionId": text, "ResourceId": f"r{n}"}) for n, text in enumerate(["NULL", "null", "(null)", "", "nan"])]
    rows += [row(**base, BillingAccountId="0099999999999", Tags='{"team":"NULL"}', ResourceId="/SUBSCRIPTIONS/A")]
    rows += [row(**base, Tags='{"run":"00000000000000000000000000000000"}', ResourceId="/subscriptions/a")]
    write_bytes(tmp_path / "oct.csv", b"\xef\xbb\xbf" + csv_text(rows).encode() + b"\n\n")
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    lines = bill.lines()
    assert len(lines) == 7
    assert {r["region_id"] for r in lines} == {None}
    assert {r["sku_id"] for r in lines} == {"1E5"}
    assert "0099999999999" in {r["billing_account_id"] for r in lines}
    assert {r["tags"] for r in lines if r["tags"]} == {'{"team":"NULL"}', '{"run":"00000000000000000000000000000000"}'}
    assert len({r["resource_key"] for r in lines if r["resource_id"].lower().startswith("/subscriptions")}) == 1


def test_a_tag_names_the_run_in_every_spelling_the_clouds_have(tmp_path: Path) -> None:
    runs = {
        key: f"{n:032x}"
        for n, key in enumerate(("mlflow_run_id", "mlflow.run_id", "mlflow-run-id", "user_mlflow_run_id", "user:mlflow_run_id"))
    }
    write_csv(
        tmp_path / "oct.csv",
        [*(row(Tags=json.dumps({"team": "nlp", key: run})) for key, run in runs.items()), row(Tags='{"note":"mlflow"}')],
    )
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    assert sorted(str(r["run_tag"]) for r in bill.lines()) == [*runs.values(), "None"]


TAGS = [
    ('{"a":"1","a":"2"}', None),
    ('{"a":{"b":1}}', None),
    ('{"a":[1]}', None),
    ('"a":"1"', '{"a":"1"}'),  # Azure omits the braces
    ('"a":"1"}', None),
    ("{'a': '1'}", None),
    ("[]", None),
    ('{"a":true,"n":1.50,"z":null}', '{"a":"true","n":"1.50","z":null}'),
    ('{ "a" : "1" }', '{ "a" : "1" }'),
    ('{"a":"\\ud83d"}', None),
    ('{"a":"\\u00e9 \\"x\\""}', '{"a":"é \\"x\\""}'),
    ("{}", "{}"),
]


@pytest.mark.parametrize("given_tags", [TAGS, [('{"a":"two\nlines"}', None)]], ids=["all", "over two lines"])
def test_tags_are_an_object_of_strings_or_null_and_the_cost_stays(tmp_path: Path, given_tags: list[tuple[str, str | None]]) -> None:
    write_csv(tmp_path / "oct.csv", [row("9.00", Tags=tags, ResourceId=f"r{n:02}") for n, (tags, _) in enumerate(given_tags)])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    load = bill.load()
    lines = sorted(bill.lines(), key=lambda line: str(line["resource_id"]))
    assert [(line["tags"], line["billed_cost"]) for line in lines] == [(kept, Decimal(9)) for _, kept in given_tags]
    assert load.extra["warnings"].get("unreadable_tags") == [kept for _, kept in given_tags].count(None)


def test_corrections_keep_their_charge_month_and_refunds_their_sign(tmp_path: Path) -> None:
    may = {"ChargePeriodStart": "2026-05-01T00:00:00Z", "ChargePeriodEnd": "2026-05-01T01:00:00Z"}
    rows = [
        row("-1500", **may, ChargeClass="Correction", ResourceId="R-111"),
        row("1200", **may, ChargeClass="correction", ResourceId="R-111"),
    ]
    rows += [row("300", **may, ChargeClass="Correction", ResourceId="R-222"), row("-2.00", ChargeCategory="credit", ChargeClass="")]
    write_csv(tmp_path / "oct.csv", rows)
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    lines = bill.lines()
    assert bill.total() == Decimal(-2)
    assert {r["charge_date"] for r in lines if r["charge_class"] == "Correction"} == {date(2026, 5, 1)}
    assert sum(r["billed_cost"] for r in lines if r["resource_key"] == "R-111") == Decimal(-300)
    assert {r["charge_category"] for r in lines} == {"Usage", "Credit"}


def test_columns_are_matched_by_name_and_new_ones_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_csv(folder / "sep.csv", [row("10.00", **month("2026-09"))])
    shuffled = dict(sorted(row("20.00", x_New="1", Odd="2").items(), reverse=True))
    write_csv(folder / "oct.csv", [shuffled])
    bill = nights(tmp_path, folder)
    load = bill.load()
    assert (bill.total("2026-09"), bill.total()) == (Decimal(10), Decimal(20))
    assert only(load).extra["dropped_columns"] == ["Odd", "x_New"]
    assert only(load, "2026-09").extra["dropped_columns"] == []


def test_a_row_has_the_same_id_in_every_file(tmp_path: Path) -> None:
    """The order of columns and files and the format do not change ids, so the digest stays the same too."""
    rows = [row("1.50", ResourceId="a"), row("2.25", ResourceId="b", Tags='{"k":"v"}')]
    write_csv(tmp_path / "one/oct.csv", rows)
    write_csv(tmp_path / "two/oct.csv", [dict(reversed(r.items())) for r in reversed(rows)])
    table = pa.table({name: [r[name] for r in rows] for name in ROW})
    times = {
        n: pa.array([datetime.fromisoformat(r[n]) for r in rows], pa.timestamp("ms", "UTC")) for n in ROW if n.endswith(("Start", "End"))
    }
    costs = {n: pa.array([float(r[n]) for r in rows], pa.float64()) for n in ROW if n.endswith("Cost")}
    for name, column in {**times, **costs}.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    tags = pa.array([None, [("k", "v")]], pa.map_(pa.string(), pa.string()))
    table = table.set_column(table.schema.get_field_index("Tags"), "Tags", tags)
    (tmp_path / "three").mkdir()
    pq.write_table(table, tmp_path / "three/oct.parquet")
    seen = []
    for folder in ("one", "two", "three"):
        bill = nights(tmp_path / f"w-{folder}", tmp_path / folder)
        bill.load()
        seen.append(sorted((r["line_id"], r["billed_cost"], r["tags"], r["charge_period_start"]) for r in bill.lines()))
    assert seen[0] == seen[1]
    assert seen[0] == seen[2]
    assert [s[0] for s in seen[0]] == PINNED_IDS


# DuckDB's hashes of these rows. If an upgrade changes them, every line id changes with the next version of a bill: raise NORMALIZE_VERSION,
# and say so in the changelog.
PINNED_IDS = ["7e67f78abd936235", "d6cb1c90a0db267c"]


def test_doubles_in_parquet_are_the_numbers_their_writer_meant(tmp_path: Path) -> None:
    values = [0.1, 1e-7, 4e-10, 20.52022672899, -2.7756713001, 123456789.12]
    columns = {name: [ROW[name]] * len(values) for name in ROW}
    table = pa.table({**columns, **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), values)})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/a.parquet")
    decimals = pa.array([Decimal(str(v)) for v in values], pa.decimal128(38, 18))
    pq.write_table(table.set_column(table.schema.get_field_index("BilledCost"), "BilledCost", decimals), tmp_path / "in/b.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "in/empty.parquet")
    bill = nights(tmp_path, tmp_path / "in", delivery="parts")
    bill.load()
    assert bill.total() == 2 * sum((Decimal(str(v)) for v in values), Decimal(0))


def test_decimals_of_more_digits_than_the_engine_has_stay_exact(tmp_path: Path) -> None:
    """BigQuery exports BIGNUMERIC with 76 digits, which DuckDB would turn into doubles."""
    costs = [Decimal("0.1"), Decimal("-1234567890123456.0000000000000000000001"), Decimal("1E-22"), Decimal("3E-30")]
    wide = pa.array(costs, pa.decimal256(76, 38))
    columns: dict[str, object] = {name: [ROW[name]] * len(costs) for name in ROW}
    quantities = pa.array([None, *costs[1:]], pa.decimal256(76, 38))
    pq.write_table(
        pa.table({**columns, "BilledCost": wide, "EffectiveCost": wide, "ConsumedQuantity": quantities}), tmp_path / "oct.parquet"
    )
    bill = nights(tmp_path, tmp_path / "oct.parquet")
    bill.load()
    for name in ("billed_cost", "effective_cost"):
        assert sorted(r[name] for r in bill.lines()) == sorted([*costs[:3], Decimal(0)])
    assert sorted(r["consumed_quantity"] for r in bill.lines() if r["consumed_quantity"]) == costs[1:3]
    assert [r["rounded_cost"] for r in bill.rows("billing_loads")] == [Decimal(0)], "3E-30 is too small to be counted"


def test_a_text_of_parquet_that_is_not_a_number_is_reported(tmp_path: Path) -> None:
    columns = {name: [ROW[name]] * 2 for name in ROW}
    pq.write_table(pa.table({**columns, "EffectiveCost": ["1.00", "dear"]}), tmp_path / "oct.parquet")
    bill = nights(tmp_path, tmp_path / "oct.parquet")
    load = bill.load()
    assert only(load).extra["unreadable"] == {"EffectiveCost": 1}
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal(2), Decimal(1))


def test_a_row_of_parquet_that_cannot_be_read_is_quarantined(tmp_path: Path) -> None:
    columns = {name: [ROW[name]] * 3 for name in ROW}
    pq.write_table(pa.table({**columns, "BilledCost": [1.0, None, float("nan")]}), tmp_path / "oct.parquet")
    bill = nights(tmp_path, tmp_path / "oct.parquet")
    bill.load()
    assert bill.total() == Decimal(1)
    assert sorted(r["row_number"] for r in bill.rows("billing_quarantine")) == [2, 3]


@pytest.mark.parametrize(
    ("providers", "expected", "version"),
    [
        ({"ProviderName": "AWS", "PublisherName": "Amazon Web Services, Inc."}, ("AWS", "AWS"), "1.0"),
        ({"ProviderName": "Microsoft", "PublisherName": "Databricks", "InvoiceId": ""}, ("Databricks", "Microsoft"), "1.2"),
        ({"ProviderName": "Microsoft", "PublisherName": "", "SkuMeter": ""}, ("Microsoft", "Microsoft"), "1.1"),
        ({"ProviderName": "AWS", "PublisherName": "X", "ServiceProviderName": "X", "HostProviderName": "AWS"}, ("X", "AWS"), "1.3"),
        ({"ServiceProviderName": "Snowflake", "HostProviderName": ""}, ("Snowflake", None), "1.4"),
    ],
)
def test_old_provider_names_are_mapped_by_meaning(
    tmp_path: Path, providers: dict[str, str], expected: tuple[str, str | None], version: str
) -> None:
    base = {k: v for k, v in row().items() if k not in ("ProviderName", "PublisherName")}
    write_csv(tmp_path / "oct.csv", [{**base, **providers}])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    [line] = bill.lines()
    assert (line["service_provider_name"], line["host_provider_name"]) == expected
    assert bill.rows("billing_loads")[0]["focus_version"] == version


def test_an_explicit_scope_keeps_its_lines_and_sums_the_rest(tmp_path: Path) -> None:
    rows = [
        row("5.00", ServiceName="AmazonEC2", Tags='{"team":"ml-vision"}'),
        row("0.10", ServiceName="AmazonEC2"),
        row("0.20", ServiceName="AmazonEC2"),
    ]
    rows += [
        row("7.00", ServiceName="AmazonS3", ResourceId="b"),
        row("9.00", ServiceName="AmazonS3", ResourceId="secret", Tags='{"team":"ml-nlp"}'),
    ]
    write_csv(tmp_path / "oct.csv", rows)
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    assert {r["scope"] for r in bill.lines()} == {None}
    scope = ScopeSettings(include=[{"tag.team": "ml-*"}], exclude=[{"service": "AmazonS3", "resource": "secret"}])
    assert only(bill.load(scope=scope)).state == "loaded", "another scope makes another version"
    lines = bill.lines()
    assert bill.total() == Decimal("21.30")
    assert [(r["billed_cost"], r["tags"]) for r in lines if r["scope"] == "include"] == [(Decimal(5), '{"team":"ml-vision"}')]
    sums = {r["service_name"]: r for r in lines if r["scope"] == "exclude"}
    assert {name: r["billed_cost"] for name, r in sums.items()} == {"AmazonEC2": Decimal("0.30"), "AmazonS3": Decimal(16)}
    assert all(r["resource_id"] is r["tags"] is None for r in sums.values())
    assert bill.rows("billing_loads")[-1]["row_count"] == 5
    assert only(bill.load(scope=scope)).state == "unchanged"


def test_sums_of_excluded_lines_name_accelerators(tmp_path: Path) -> None:
    """They have a sum per type, apart from other machines of the same day and service. The bill's total stays the same."""
    types = ("p4d.24xlarge", "p4d.24xlarge", "trn2.48xlarge", "m5.large")
    rows = [row(f"{n}.00", ServiceName="AmazonEC2", SkuPriceDetails=f'{{"InstanceType":"{name}"}}') for n, name in enumerate(types, 1)]
    rows += [row("16.00", ServiceName="AmazonEC2", SkuMeter="Nvidia L4 GPU running in EMEA"), row("32.00", ServiceName="AmazonEC2")]
    write_csv(tmp_path / "oct.csv", rows, header=dict.fromkeys(name for r in rows for name in r))
    bill = nights(tmp_path, tmp_path / "oct.csv")
    assert only(bill.load(scope=ScopeSettings(exclude=[{"service": "AmazonEC2"}]))).state == "loaded"
    found = {r["charge_description"]: r["billed_cost"] for r in bill.lines()}
    assert found == {
        "accelerators: p4d.24xlarge": Decimal(3),
        "accelerators: trn2.48xlarge": Decimal(3),
        "accelerators: Nvidia L4 GPU running in EMEA": Decimal(16),
        None: Decimal(36),
    }
    assert len({r["line_id"] for r in bill.lines()}) == 4 and all(r["instance_type"] is None for r in bill.lines())


def test_declared_platform_services_are_marked_unless_the_scope_leaves_them_out(tmp_path: Path) -> None:
    """`shared.lines` accepts any selector. A changed declaration makes another version, and without one the lines are as before."""
    rows = [
        row("5.00", ServiceName="AmazonEC2"),
        row("4.00", ServiceName="AmazonRDS", ResourceId="db"),
        row("3.00", ServiceName="AmazonVPC", ResourceId="arn:aws:ec2:us-east-1:1:natgateway/nat-1"),
        row("2.00", ServiceName="AmazonRDS", ResourceId="web-db", Tags='{"team":"web"}'),
    ]
    write_csv(tmp_path / "oct.csv", rows)
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    shared = [{"service": ["AmazonRDS"]}, {"resource": ["*:natgateway/*"]}]

    def marked() -> dict[str | None, list[Decimal]]:
        found: dict[str | None, list[Decimal]] = {}
        for line in sorted(bill.lines(), key=lambda line: line["billed_cost"]):
            found.setdefault(line["scope"], []).append(line["billed_cost"])
        return found

    assert only(bill.load(shared=shared)).state == "loaded", "a declaration makes another version"
    assert marked() == {None: [Decimal(5)], "shared": [Decimal(2), Decimal(3), Decimal(4)]}
    assert only(bill.load(shared=shared)).state == "unchanged"
    assert only(bill.load(shared=shared, scope=ScopeSettings(exclude=[{"tag.team": "web"}]))).state == "loaded"
    assert marked() == {"include": [Decimal(5)], "shared": [Decimal(3), Decimal(4)], "exclude": [Decimal(2)]}
    assert only(bill.load(shared=shared, scope=ScopeSettings(include=[{"service": "AmazonRDS"}]))).state == "loaded"
    assert marked() == {"exclude": [Decimal(3), Decimal(5)], "shared": [Decimal(2), Decimal(4)]}
    warned = [text for text in bill.progress if "shared.lines" in text]
    assert warned == [
        'bill: entries of shared.lines whose charges are all out of scope: {resource: "*:natgateway/*"}. Include them in `scope`, or remove them'
    ]
    assert only(bill.load(shared=shared, scope=ScopeSettings(include=[{"account": "nobody"}]))).state == "loaded"
    assert len([text for text in bill.progress if "shared.lines" in text]) == 1, "no warning if the whole bill is out of scope"
    assert only(bill.load()).state == "loaded"
    assert marked() == {None: [Decimal(2), Decimal(3), Decimal(4), Decimal(5)]}


def test_machines_are_described_by_the_line_else_by_the_list(tmp_path: Path) -> None:
    usage = {"ConsumedQuantity": "0.25", "ConsumedUnit": "Hours"}
    rows = [
        row(
            **usage,
            ResourceId="a",
            x_UsageType="",
            SkuPriceDetails='{"InstanceType":"p4d.24xlarge","CoreCount":96,"GpuCount":8,"MemorySize":"1152 GiB"}',
        ),
        row(**usage, ResourceId="b", x_UsageType="USW2-BoxUsage:g5.2xlarge", SkuPriceDetails=""),
        row(
            ConsumedQuantity="3",
            ConsumedUnit="100 Hours",
            ResourceId="c",
            x_UsageType="",
            SkuPriceDetails="",
            ResourceType="Standard_NC24s_v3",
        ),
        row(ConsumedQuantity="4", ConsumedUnit="GB-Hours", ResourceId="d", x_UsageType="USE1-TimedStorage-ByteHrs", SkuPriceDetails="[1]"),
    ]
    write_csv(tmp_path / "oct.csv", rows, header=list(rows[2]))
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    facts = {
        r["resource_id"]: (r["instance_type"], r["machine_gpus"], r["machine_cpus"], r["machine_memory_gb"], r["billed_nanoseconds"])
        for r in bill.lines()
    }
    hour = 3600 * 10**9
    assert facts == {
        "a": ("p4d.24xlarge", 8, 96, 1152.0, hour // 4),
        "b": ("g5.2xlarge", 1, 8, 32.0, hour // 4),
        "c": ("Standard_NC24s_v3", 4, 24, 448.0, 300 * hour),
        "d": (None, None, None, None, None),
    }
    assert next(r for r in bill.lines() if r["resource_id"] == "d")["sku_price_details"] is None


def test_a_line_of_a_whole_day_or_month_does_not_make_a_bill_complete(tmp_path: Path) -> None:
    """A DNS zone has usage from the 1st to the 1st, a bucket from midnight to midnight, in a bill that ends on the 5th at 11:00.

    They count whole only if there are no shorter lines.
    """
    zone = {"ChargePeriodStart": "2026-10-01T00:00:00Z", "ChargePeriodEnd": "2026-11-01T00:00:00Z"}
    day, next_day = ({"ChargePeriodStart": f"2026-10-0{n}T00:00:00Z", "ChargePeriodEnd": f"2026-10-0{n + 1}T00:00:00Z"} for n in (5, 6))
    for number, (rows, until) in enumerate(
        (
            ([row(), row(**zone), row(**day)], "2026-10-05T11:00Z"),
            ([row(), row(**day), row(**next_day)], "2026-10-06T00:00Z"),
            ([row(**zone), row(**day)], "2026-10-06T00:00Z"),
            ([row(**zone)], "2026-11-01T00:00Z"),
        )
    ):
        folder = tmp_path / f"{number}"
        write_csv(folder / "oct.csv", rows)
        bill = nights(folder, folder / "oct.csv")
        bill.load()
        [listed] = bill.rows("billing_loads")
        assert listed["covered_until"] == datetime.fromisoformat(until)
        assert probe_source(bill.source)["covered_until"] == listed["covered_until"]


def test_coverage_and_invoicing_are_recorded(tmp_path: Path) -> None:
    until = {"ChargePeriodStart": "2026-10-31T22:00:00Z", "ChargePeriodEnd": "2026-10-31T23:00:00Z"}
    year = {"ChargeCategory": "Purchase", "ChargePeriodEnd": "2027-10-01T00:00:00Z"}
    write_csv(tmp_path / "oct.csv", [row(InvoiceId="I-1"), row(InvoiceId="I-1", **until), row(InvoiceId="", **year)])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    outcome = only(bill.load())
    [listed] = bill.rows("billing_loads")
    assert listed["covered_until"] == datetime(2026, 10, 31, 23, tzinfo=timezone.utc)
    assert listed["is_invoiced"] is False
    assert (outcome.extra["first_charge_start"], outcome.extra["last_charge_end"]) == (
        "2026-10-05T10:00:00+00:00",
        "2027-10-01T00:00:00+00:00",
    )


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Kolkata"])
def test_the_machines_time_zone_changes_nothing(tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    write_csv(tmp_path / "oct.csv", [row(ChargePeriodStart="2026-10-31 23:30:00", ChargePeriodEnd="2026-11-01T00:00:00.1234567Z")])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load()
    [line] = bill.lines()
    assert (line["charge_date"], line["charge_period_start"]) == (date(2026, 10, 31), datetime(2026, 10, 31, 23, 30, tzinfo=timezone.utc))


def test_a_probe_lists_what_a_bill_contains(tmp_path: Path, samples: Path) -> None:
    reported = probe_source(BillSource(name="bill", uri=str(samples / "focus_1_0/focus_sample.csv")))
    assert (reported["periods"], reported["rows"], reported["version"], reported["billed"]) == (
        ["2024-09", "2024-10"],
        1000,
        "1.0",
        {"USD": Decimal("20.52022672899")},
    )
    assert reported["problems"] == []
    write_csv(tmp_path / "in/a.csv", [row()])
    write_bytes(tmp_path / "in/b.csv", b"no,bill\n1,2\n")
    reported = probe_source(BillSource(name="bill", uri=str(tmp_path / "in")))
    assert reported["rows"] == 1
    assert "b.csv" in reported["problems"][0]
