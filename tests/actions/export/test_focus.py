"""The exported FOCUS file equals the bill to the last digit. The ratios of a charge sum to 1, and two independent linters accept the file.

`focus-data-toolkit` writes the bill from a seed: commitments used and unused, purchases, tax, credits, corrections.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from runspend import pipeline
from runspend.actions.export import export_focus, focus_view
from runspend.actions.export import focus as export_module
from runspend.config.settings import Settings
from runspend.core.errors import CheckFailed, UsageError
from runspend.core.spreadsheet_text import PATTERN, guard_text
from runspend.schema.rows import first_day
from runspend.warehouse.base import Reader
from runspend.warehouse.dialect import table_names
from runspend.warehouse.factory import open_warehouse
from tests.allocation.chain import World as SmallWorld
from tests.allocation.chain import arrow, build_on_duckdb, line, make_run, total
from tests.allocation.pooled_chain import artifact, trace
from tests.reference import GoogleSQL, exact_rows
from tests.sql_lint import lint

TOOLKIT = shutil.which("focus-toolkit", path=str(Path(sys.executable).parent))
VALIDATOR_PINS = Path(__file__).parent / "focus-validator.txt"
MONTH = "2026-05"
NOW = datetime(2026, 6, 10, 6, tzinfo=timezone.utc)
COSTS = ("EffectiveCost", "BilledCost", "ListCost", "ContractedCost")

# All optional features of a provider, as focus-validator names them, except capacity reservations: neither bill nor file has them.
CRITERIA = (
    "ACCOUNT_NAMING", "AVAILABILITY_ZONE", "BILLING_BASED_ON_PROVISIONED_RESOURCES", "COMMITMENT_DISCOUNT", "MULTIPLE_BILLING_ACCOUNT_TYPES", "MULTIPLE_PRICING_CATEGORIES",
    "MULTIPLE_SUB_ACCOUNT_TYPES", "NEGOTIATED_PRICING", "PRICING_BILLING_CURRENCY_DIFFERENCES", "PUBLIC_PRICE_LIST", "REGION", "RESOURCE_TYPE_ASSIGNMENT", "SUB_ACCOUNT", "TAGGING",
    "UNIT_PRICING", "USAGE_MEASUREMENT", "VIRTUAL_CURRENCY",
)  # fmt: skip
# Rules of focus-validator 2.2.1 (model 1.2.0.1) that a correct file cannot pass, and why. The test fails if this set changes.
KNOWN_FAILURES = {
    "InvoiceId-C-004-C": "must be null, without its condition (until invoiced); -C-005-C says the opposite",
    "CommitmentDiscountStatus-C-004-C": "its condition is inverted in the model",
    "CommitmentDiscountStatus-C-002-C": "parent of -C-004-C",
    "CommitmentDiscountStatus-C-000-C": "parent of -C-002-C",
    "EffectiveCost-C-005-C": "must be 0 on every purchase, also on one that covers no future charge",
    "EffectiveCost-C-000-M": "parent of -C-005-C",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Load the toolkit's bill with every line in scope, put runs on its machines, build the ledger, and return the settings."""
    home = tmp_path_factory.mktemp("focus")
    assert TOOLKIT is not None, "focus-data-toolkit is not installed beside this Python"
    made = subprocess.run(
        [TOOLKIT, "generate", "--provider", "aws", "--focus-version", "1.2", "--rows", "1500", "--seed", "7", "--out", str(home / "bill")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    settings = Settings.model_validate({
        "home": home / "home", "warehouse": {"uri": str(home / "warehouse")},
        "tracking": [{"name": "prod", "uri": "https://mlflow.example.com"}], "billing": [{"name": "aws", "uri": str(home / "bill"), "late_after": "900d"}],
        "scope": {"include": [{"source": "aws"}]},
    })  # fmt: skip
    outcome = pipeline.load(settings, now=NOW)
    assert outcome.exit_code == 0, outcome.problems
    put_runs(settings)
    outcome = pipeline.allocate(settings, now=NOW)
    assert outcome.exit_code == 0, outcome.problems
    return settings


def put_runs(settings: Settings) -> None:
    """Add two runs for each of 40 machine-hours: one for the whole hour, and one for a third of it. They request nothing."""
    warehouse = open_warehouse(settings)
    with warehouse.reader() as reader:
        hours = reader.query(
            "select distinct resource_key, charge_period_start from billing_lines where charge_category = 'Usage' and service_name = 'AmazonEC2'"
            " and coalesce(commitment_discount_status, 'Used') = 'Used' and timestamp_diff(charge_period_end, charge_period_start, microsecond) = 3600000000 order by charge_period_start, resource_key limit 40"
        ).to_pylist()
    runs, resources = [], []
    for number, hour in enumerate(hours):
        for part, length in (("whole", 60), ("third", 20)):
            start = hour["charge_period_start"]
            run, stated = make_run(
                id=f"{number:04d}{part}", at=f"{start:%Y-%m-%dT%H:%M}..{start + timedelta(minutes=length):%Y-%m-%dT%H:%M}", on=[hour["resource_key"]],
                run_name=f'=cmd "{number}"\n\\', team='vis"ion\\', tags='{"stage":"test"}' if number % 2 else None,
            )  # fmt: skip
            runs.append(run)
            resources += stated
    starts = [r["start_time"] for r in runs]
    extra = {"first_start": min(starts).isoformat(), "last_end": max(r["end_time"] for r in runs).isoformat()}
    with warehouse.step("extract", "runs") as step:
        step.put("runs", MONTH, "prod", arrow("runs", runs), extra=extra)
        step.put("run_resources", MONTH, "prod", arrow("run_resources", resources))
        assert step.publish()


@pytest.fixture(scope="module")
def reader(settings: Settings) -> Iterator[Reader]:
    """One reader for all tests."""
    with open_warehouse(settings).reader() as reader:
        yield reader


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, compressed or not."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(raw.decode("utf-8"), newline="")))


def details(row: dict[str, str]) -> Decimal:
    """Return the row's ratio exactly as in the file."""
    (element,) = json.loads(row["AllocatedMethodDetails"], parse_float=Decimal, parse_int=Decimal)["Elements"]
    ratio = element["AllocatedRatio"]
    assert isinstance(ratio, Decimal)
    return ratio


def test_costs_quantities_and_ratios_add_up_to_each_line(reader: Reader, tmp_path: Path) -> None:
    """For each original charge, four costs and three quantities sum to the line's with 22 decimals, and ratios sum to 1. Dimensions are the line's."""
    export_focus(reader, MONTH, tmp_path / "may.csv")
    rows = rows_of(tmp_path / "may.csv")
    lines = {r["line_id"]: r for r in reader.query("select * from billing_lines").to_pylist()}
    charges: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        charges[row["x_OriginChargeId"]].append(row)
    assert charges.keys() == lines.keys()
    split = 0
    for line_id, parts in charges.items():
        origin = lines[line_id]
        for column, name in (
            *((c, c) for c in COSTS),
            *((q, q) for q in ("ConsumedQuantity", "PricingQuantity", "CommitmentDiscountQuantity")),
        ):
            known = origin[snake(name)]
            values = [Decimal(p[column]) for p in parts if p[column]]
            assert (total(values) if values else None) == known, (line_id, column)
        if parts[0]["AllocatedMethodId"]:
            ratios = [details(p) for p in parts]
            assert total(ratios) == 1 and min(ratios) > 0
            split += len(parts) > 1
        for column in (
            "ResourceId",
            "SkuId",
            "ListUnitPrice",
            "Tags",
            "ChargePeriodStart",
            "CommitmentDiscountId",
            "ServiceSubcategory",
            "InvoiceId",
        ):
            assert len({p[column] for p in parts}) == 1
    assert split >= 40
    assert total(Decimal(r["EffectiveCost"]) for r in rows) == total(r["effective_cost"] for r in lines.values())


def test_the_run_is_the_allocated_resource(reader: Reader, tmp_path: Path) -> None:
    """A run's rows have its id, name and tags, and other rows have none. A charge that no rule split has no method."""
    export_focus(reader, MONTH, tmp_path / "may.csv")
    rows = rows_of(tmp_path / "may.csv")
    runs = [r for r in rows if r["x_AllocatedTo"] == "run"]
    assert len({r["AllocatedResourceId"] for r in runs}) == 80
    for row in runs:
        assert row["AllocatedResourceId"] == f"prod/default/{row['x_RunId']}" and row["AllocatedMethodId"] == "runspend/resource_id"
        tags = json.loads(row["AllocatedTags"])
        assert tags["runspend:team"] == 'vis"ion\\' and tags["runspend:experiment"] == "exp"
        assert tags.get("stage") == ("test" if int(row["x_RunId"][:4]) % 2 else None)
    assert runs[0]["AllocatedResourceName"].startswith('=cmd "') and runs[0]["AllocatedResourceName"].endswith("\n\\")
    rest = [r for r in rows if r["x_AllocatedTo"] != "run"]
    assert not [r for r in rest if r["AllocatedResourceId"] or r["AllocatedTags"]]
    assert not [r for r in rest if (r["x_MatchMethod"] == "none") != (r["AllocatedMethodId"] == "")]


def test_three_kinds_of_file_hold_the_same(reader: Reader, tmp_path: Path) -> None:
    """CSV, gzipped CSV and Parquet have the same rows and digits. Parquet's amounts are decimal128(38, 22)."""
    for name in ("a.csv", "b.csv.gz", "c.parquet"):
        export_focus(reader, MONTH, tmp_path / name)
    plain, zipped = rows_of(tmp_path / "a.csv"), rows_of(tmp_path / "b.csv.gz")
    typed = pq.read_table(tmp_path / "c.parquet")
    assert sorted(map(str, plain)) == sorted(map(str, zipped)) and typed.column_names == list(plain[0])
    assert typed.schema.field("EffectiveCost").type == pa.decimal128(38, 22)
    key = ["x_OriginChargeId", "AllocatedResourceId", "x_AllocatedTo"]
    ours = {tuple(r[k] or "" for k in key): r["EffectiveCost"] for r in typed.to_pylist()}
    assert {tuple(r[k] for k in key): Decimal(r["EffectiveCost"]) for r in plain} == ours
    assert not [v for r in plain for c in COSTS for v in [r[c]] if "E" in v.upper()]


def test_versions_differ_by_their_columns(reader: Reader, tmp_path: Path) -> None:
    """1.2 has no Allocated columns, and 1.4 has no ProviderName. The toolkit recognizes 1.3."""
    headers = {}
    for version in ("1.2", "1.3", "1.4"):
        export_focus(reader, MONTH, tmp_path / f"{version}.csv", version=version)
        headers[version] = set(rows_of(tmp_path / f"{version}.csv")[0])
    assert "AllocatedMethodId" in headers["1.3"] & headers["1.4"] - headers["1.2"]
    assert "ProviderName" in headers["1.2"] & headers["1.3"] - headers["1.4"]
    assert TOOLKIT is not None
    detected = subprocess.run([TOOLKIT, "detect", str(tmp_path / "1.3.csv")], capture_output=True, text=True, check=False)
    assert "dataset=Cost and Usage version=1.3" in detected.stdout and "unknown:" not in detected.stdout


def test_all_columns_of_a_version_have_its_names_and_types(reader: Reader, tmp_path: Path) -> None:
    """1.4 has the columns of the toolkit's model, and 1.3 also has the two columns that it replaced. A column without a value is null and typed."""
    model = json.loads((resources.files("focus_data_toolkit") / "model" / "focus_1_4_model.json").read_text(encoding="utf-8"))
    types = {"Decimal": pa.decimal128(38, 22), "Date/Time": pa.timestamp("us", tz="UTC"), "String": pa.string(), "JSON": pa.string()}
    of_1_4 = {name: types[column["data_type"]] for name, column in model["datasets"]["Cost and Usage"]["columns"].items()}
    of_1_3 = {*of_1_4, "ProviderName", "PublisherName"} - {"InvoiceDetailId", "CommitmentProgramEligibilityDetails"}
    named = export_module.focus_columns(reader, first_day(MONTH), "1.3", all_columns=True)
    assert {name for name in named if not name.startswith("x_")} == of_1_3 and len(of_1_3) == 65
    done = export_focus(reader, MONTH, tmp_path / "all.parquet", version="1.4", all_columns=True)
    written = pq.read_table(tmp_path / "all.parquet")
    assert {field.name: field.type for field in written.schema if not field.name.startswith("x_")} == of_1_4 and len(of_1_4) == 65
    assert written["CapacityReservationId"].null_count == written.num_rows == done.rows  # the bill has no capacity reservations
    some = export_focus(reader, MONTH, tmp_path / "some.csv", version="1.4")
    every = export_focus(reader, MONTH, tmp_path / "every.csv", version="1.4", all_columns=True)
    assert some.totals == every.totals
    names = list(rows_of(tmp_path / "some.csv")[0])
    assert [{name: row[name] for name in names} for row in rows_of(tmp_path / "every.csv")] == rows_of(tmp_path / "some.csv")
    assert {row["CapacityReservationId"] for row in rows_of(tmp_path / "every.csv")} == {""}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_toolkits_lint_accepts_it(reader: Reader, tmp_path: Path, kind: str) -> None:
    """The linter of focus-data-toolkit checks structure and meaning with its model of FOCUS 1.4."""
    export_focus(reader, MONTH, tmp_path / f"may.{kind}", version="1.4")
    assert TOOLKIT is not None
    done = subprocess.run(
        [TOOLKIT, "validate", str(tmp_path / f"may.{kind}"), "--dataset", "cost-and-usage"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "lint OK" in done.stdout, done.stdout + done.stderr


def test_the_lint_would_notice(reader: Reader, tmp_path: Path) -> None:
    """The lint finds a ratio key that is not in FOCUS, and a cost that is not a number."""
    export_focus(reader, MONTH, tmp_path / "may.csv", version="1.4")
    text = (tmp_path / "may.csv").read_text(encoding="utf-8")
    (tmp_path / "wrong.csv").write_text(text.replace('""x_AllocatedTo""', '""AllocatedTo""', 1), encoding="utf-8")
    assert TOOLKIT is not None
    done = subprocess.run(
        [TOOLKIT, "validate", str(tmp_path / "wrong.csv"), "--dataset", "cost-and-usage"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "AllocatedMethodDetails" in done.stdout


def test_exports_pass_the_focus_validator_except_for_known_rules(reader: Reader, tmp_path: Path, validator: Path) -> None:
    """Exactly the known rules fail, which a correct file cannot pass."""
    export_focus(reader, MONTH, tmp_path / "may.parquet", version="1.2")
    report = tmp_path / "report.xml"
    (site,) = (validator / "lib").glob("python3.*/site-packages")  # it finds its model by a path relative to this folder
    command = [str(validator / "bin" / "focus-validator"), "--data-file", str(tmp_path / "may.parquet"), "--validate-version", "1.2", "--block-download",
               "--applicability-criteria", ",".join(f"{name}_SUPPORTED" for name in CRITERIA), "--output-type", "unittest", "--output-destination", str(report)]  # fmt: skip
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=300, check=False)
    assert report.exists(), done.stdout + done.stderr
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = {str(case.get("name")).split(" :: ")[0] for case in cases for result in case if result.tag in ("failure", "error")}
    assert len(cases) > 500
    assert dict.fromkeys(failed - KNOWN_FAILURES.keys(), "began to fail") == {}
    assert dict.fromkeys(KNOWN_FAILURES.keys() - failed, "ceased to fail") == {}


@pytest.fixture(scope="session")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install focus-validator in its own environment. Without Python 3.12 or a package index, the test is skipped with a message."""
    python = next((found for name in ("python3.13", "python3.12") if (found := shutil.which(name)) and works(found)), None)
    if python is None:
        pytest.skip("focus-validator did not run: it needs Python 3.12 or newer, and there is none on PATH")
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("focus-validator did not run: there is no uv beside this Python")
    folder = tmp_path_factory.mktemp("validator") / "venv"
    install = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        str(folder),
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-binary",
        "focus-validator",
    ]
    install += [
        "--require-hashes",
        "--require-build-hashes",
        "--build-constraints",
        str(VALIDATOR_PINS),
        "--requirement",
        str(VALIDATOR_PINS),
    ]
    for command in ([uv, "venv", "--quiet", "--python", python, str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"focus-validator did not run: it cannot be installed ({done.stderr.strip()[-200:]})")
    return folder


def works(python: str) -> bool:
    """Return whether this is a Python of at least 3.12 that can create environments. (pyenv leaves commands that are not.)"""
    code = "import sys, ensurepip; sys.exit(sys.version_info < (3, 12))"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_file_that_is_not_the_bill_is_not_left(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the export loses a row, it fails with a message. The earlier file stays, and no part of the new one."""
    lossy = focus_view().replace("where not (allocated_to = 'out_of_scope' and match_method = 'none')", "where allocated_to <> 'run'", 1)
    monkeypatch.setattr(export_module, "focus_view", lambda: lossy)
    old = '"BilledCost","x_AllocatedTo"'
    (tmp_path / "may.csv").write_text(old)
    with pytest.raises(CheckFailed, match="focus_export_equals_bill"):
        export_focus(reader, MONTH, tmp_path / "may.csv")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("may.csv", old)]
    with pytest.raises(UsageError, match="there is no folder"):
        export_focus(reader, MONTH, tmp_path / "nowhere" / "may.csv")


@pytest.mark.parametrize("name", ["bill.csv", "bill.csv.gz", "bill.parquet"])
def test_a_bill_is_not_replaced_by_the_export(reader: Reader, tmp_path: Path, name: str) -> None:
    """An earlier export of any version is replaced, and so is an empty file."""
    file = tmp_path / name
    file.touch()
    export_focus(reader, MONTH, file)
    export_focus(reader, MONTH, file, version="1.2")
    bill = pa.table({"BilledCost": ["1"]})
    if name == "bill.parquet":
        pq.write_table(bill, file)
    else:
        with pa.output_stream(file) as stream:  # compressed if the name says so
            stream.write(b"BilledCost\n1\n")
    before = file.read_bytes()
    with pytest.raises(UsageError, match="is not a file that `runspend export focus` wrote"):
        export_focus(reader, MONTH, file)
    assert file.read_bytes() == before


def test_rows_do_not_depend_on_how_they_are_read(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are the same, whether they are read some days at a time or all at once."""
    export_focus(reader, MONTH, tmp_path / "once.csv")
    monkeypatch.setattr(export_module, "STRETCH_ROWS", 50)
    export_focus(reader, MONTH, tmp_path / "often.csv")
    assert sorted(map(str, rows_of(tmp_path / "often.csv"))) == sorted(map(str, rows_of(tmp_path / "once.csv")))


def pooled_world() -> SmallWorld:
    """A disk in two lines an hour that follows its machine, a database out of scope, and tax. Shared and idle cost are spread over runs."""
    stated = [make_run(id="a", at="00:00..01:00"), make_run(id="b", at="00:00..00:30")]
    database = {
        "service_name": "RDS", "service_category": "Databases", "scope": None, "commitment_discount_id": "plan", "commitment_discount_status": "Used",
        "region_name": "Ireland", "pricing_unit": "Hours", "pricing_quantity": Decimal("1.5"), "pricing_currency": "EUR", "service_subcategory": "Caching",
    }  # fmt: skip
    return {
        "billing_lines": [
            line(0, cost="10.00", scope=None, service_category="AI and Machine Learning"),
            line(1, cost="0.0000000000000000000001", on="vol-1", attached_to="m1", scope=None, consumed_quantity=Decimal(3), consumed_unit="GB-Hours", service_name="EBS", resource_name="x"),
            line(2, cost="3.00", on="vol-1", attached_to="m1", scope=None, consumed_quantity=Decimal(4), consumed_unit="GB-Hours", service_name="EBS", resource_name="y"),
            line(3, cost="7.00", on="db", **database, sku_id="r6g", list_unit_price=Decimal(4)),
            line(4, cost="9.00", on="db2", **database, sku_id="r6g", list_unit_price=Decimal(5)),
            line(5, on=None, charge_category="Tax", service_name="Tax", cost="1.10", scope=None),
            line(6, cost="10.00", at="01:00..02:00", scope=None),
        ],
        "billing_loads": [], "runs": [run for run, _ in stated], "run_resources": [row for _, rows in stated for row in rows],
    }  # fmt: skip


def test_pooled_charges_sums_out_of_scope_and_sharing(tmp_path: Path) -> None:
    """Lines that are priced together become one charge with their common values. Out-of-scope lines are sums, and spread shared cost sums to zero."""
    settings = Settings.model_validate({"sharing": {"shared": "proportional", "idle": "even"}})
    with build_on_duckdb(pooled_world(), tmp_path / "warehouse", settings).reader() as reader:
        done = export_focus(reader, "2026-10", tmp_path / "all.csv")
        inside = export_focus(reader, "2026-10", tmp_path / "platform.csv", scope="platform")
    rows = rows_of(tmp_path / "all.csv")
    assert done.totals[0].effective_cost == Decimal("40.1000000000000000000001")
    assert done.totals[0].effective_cost - inside.totals[0].effective_cost == 16
    disk = [r for r in rows if r["ServiceName"] == "EBS"]
    assert (
        {r["x_LineCount"] for r in disk} == {"2"}
        and {r["ResourceId"] for r in disk} == {"vol-1"}
        and {r["ResourceName"] for r in disk} == {""}
    )
    assert total(Decimal(r["ConsumedQuantity"]) for r in disk) == 7 and total(map(details, disk)) == 1
    assert total(Decimal(r["EffectiveCost"]) for r in disk) == Decimal("3.0000000000000000000001")
    (outside,) = [r for r in rows if r["x_AllocatedTo"] == "out_of_scope"]
    assert (outside["EffectiveCost"], outside["x_LineCount"], outside["ServiceCategory"], outside["x_OriginChargeId"]) == (
        "16",
        "2",
        "Databases",
        "",
    )
    kept = {
        "CommitmentDiscountId": "plan", "CommitmentDiscountStatus": "Used", "RegionName": "Ireland", "PricingUnit": "Hours", "PricingQuantity": "3",
        "PricingCurrency": "EUR", "ServiceSubcategory": "Caching", "SkuId": "r6g", "ListUnitPrice": "", "ResourceId": "",
    }  # fmt: skip
    assert {name: outside[name] for name in kept} == kept  # the two prices differ, and out-of-scope resources are not named
    spread = [r for r in rows if r["x_MatchMethod"] == "sharing"]
    assert total(Decimal(r["EffectiveCost"]) for r in spread) == 0 and {r["ServiceProviderName"] for r in spread} == {"Runspend"}
    for pot in ("shared", "idle"):
        given = [r for r in spread if r["x_PoolKey"] == pot and r["x_AllocatedTo"] == "run"]
        assert len(given) == 2 and total(map(details, given)) == 1
        (taken,) = [r for r in spread if r["x_PoolKey"] == pot and r["x_AllocatedTo"] == pot]
        assert taken["AllocatedMethodId"] == "" and Decimal(taken["EffectiveCost"]) == -total(Decimal(r["EffectiveCost"]) for r in given)


def test_a_line_split_between_two_rules_is_exported_once(tmp_path: Path) -> None:
    """A run that names the machine gets a part of the line. Runs of its instance type and idle time get the rest.

    These are two original charges, whose costs and quantities add up to the line.
    """
    stated = [make_run(id="a", at="00:00..00:20", instance_type="big"), make_run(id="b", at="00:20..00:30", on=[], instance_type="big")]
    usage = {"consumed_unit": "Hours", "consumed_quantity": Decimal(3), "pricing_unit": "Hours", "pricing_quantity": Decimal("1.7")}
    world: SmallWorld = {
        "billing_lines": [line(0, cost="10.00", instance_type="big", hours=1, **usage)],
        "billing_loads": [], "runs": [run for run, _ in stated], "run_resources": [row for _, rows in stated for row in rows],
    }  # fmt: skip
    with build_on_duckdb(world, tmp_path / "warehouse").reader() as reader:
        export_focus(reader, "2026-10", tmp_path / "all.csv")
    rows = {r["x_RunId"] or r["x_AllocatedTo"]: r for r in rows_of(tmp_path / "all.csv")}
    assert {name: round(float(r["ConsumedQuantity"]), 9) for name, r in rows.items()} == {"a": 1.0, "b": 0.5, "idle": 1.5}
    for column, sum_ in (("ConsumedQuantity", 3), ("PricingQuantity", Decimal("1.7")), ("EffectiveCost", 10)):
        assert total(Decimal(r[column]) for r in rows.values()) == sum_
    assert rows["a"]["x_OriginChargeId"] != rows["b"]["x_OriginChargeId"] == rows["idle"]["x_OriginChargeId"]
    assert details(rows["a"]) == 1 and details(rows["b"]) + details(rows["idle"]) == 1


def ladder_world() -> SmallWorld:
    """A month in which every rule allocates something: buckets billed by day, one of them since September, and machines billed by hour."""
    day = [f"{24 * n}:00..{24 * (n + 1)}:00" for n in range(-1, 5)]
    storage = {
        "on": None,
        "scope": None,
        "service_name": "S3",
        "service_category": "Storage",
        "sku_id": "bytes",
        "consumed_unit": "GB-Days",
        "pricing_unit": "GB-Days",
    }
    lines: list[dict[str, Any]] = [
        *({**storage, "at": at, "cost": f"4.5{n}00000000000000000001", "storage_key": "bucket", "storage_class": "STANDARD", "consumed_quantity": Decimal(n + 1), "tags": f'{{"day":"{n}"}}'} for n, at in enumerate(day)),
        *({**storage, "at": day[n], "cost": "0.30", "storage_key": "bucket", "storage_class": "GLACIER", "region_id": "eu"} for n in (2, 4)),
        *({**storage, "at": day[n], "cost": "2.00", "storage_key": "elsewhere", "storage_class": "STANDARD"} for n in (1, 3)),  # another owner's bucket
        {**storage, "at": day[3], "cost": "1.00", "storage_key": "shut", "scope": "exclude"},
        {"at": "00:00..01:00", "run_tag": "A", "cost": "5.00"},
        {"at": "49:00..50:00", "job_key": "train-7", "on": None, "cost": "6.00"},
        *({"at": f"{h}:00..{h + 1}:00", "on": "m1"} for h in (0, 1, 25)),
        *({"at": f"{h}:{m}..{h}:{n}", "on": "vol-1", "attached_to": "m1", "cost": "0.20", "service_name": "EBS", "service_category": "Storage", "consumed_quantity": Decimal(2), "consumed_unit": "GB-Hours"} for h, m, n in ((0, "00", "30"), (0, "30", "59"), (25, "00", "30"))),
        *({"at": f"{24 * d}:00..{24 * d + 7}:00", "on": None, "service_subcategory": "Generative AI", "service_name": "LLM", "cost": cost} for d, cost in ((1, "8.00"), (1, "1.00"), (2, "3.00"))),
        *({"at": f"{h}:00..{h + 1}:00", "on": machine, "pool_key": "gpu", "hours": 1, "cost": "7.00"} for h in (23, 24) for machine in ("p1", "p2")),
        *({"at": f"{h}:00..{h + 1}:00", "on": machine, "instance_type": "big", "hours": 1, "cost": "3.00"} for h in (23, 24) for machine in ("t1", "t2")),
        {"at": "70:00..71:00", "on": None, "instance_type": "big", "hours": 1, "cost": "3.00"},
        {"at": "23:00..24:00", "on": "t3", "instance_type": "big", "hours": 1, "cost": "3.00", "consumed_quantity": Decimal(1), "consumed_unit": "Hours"},
        *({"at": at, "on": f"db-{at}", "scope": None, "service_name": "RDS", "service_category": "Databases", "cost": "9.00"} for at in day[2:4]),
        {"at": day[2], "on": None, "charge_category": "Tax", "service_name": "Tax", "cost": "1.10"},
    ]  # fmt: skip
    stated = [
        make_run(id="A", at="00:00..26:00", on=["m1"]),
        make_run(id="B", at="00:00..00:30", on=["m1"]),
        make_run(id="C", at="49:00..50:00", on=[], job_key="train-7"),
        *(make_run(id=f"pool{n}", at="23:00..25:00", on=[], pool_key="gpu") for n in range(3)),
        *(make_run(id=f"type{n}", at="23:15..24:45", on=[], instance_type="big") for n in range(2)),
        make_run(id="stated", at="23:00..23:20", on=["t3"], instance_type="big"),
    ]
    priced = [line(n, **row) for n, row in enumerate(lines)]
    for n, row in enumerate(priced):  # all four measures differ
        row |= {
            "list_cost": row["effective_cost"] * 3,
            "contracted_cost": row["effective_cost"] * 2 + n,
            "billed_cost": Decimal(0) if n % 5 == 1 else row["effective_cost"],
        }
    return {
        "billing_lines": priced, "billing_loads": [], "runs": [run for run, _ in stated], "run_resources": [row for _, rows in stated for row in rows],
        "artifact_bytes": [
            artifact(id="A", bytes=300), artifact(id="B", bytes=100, at="2..4"), artifact(kind="orphan", id="exp/gone", bytes=200), artifact(kind="logged_model", id="m-1", bytes=70),
            artifact(kind="other", id="backups", bytes=30), artifact(id="A", bytes=5, **{"class": "GLACIER"}), artifact(id="B", bytes=9, store="s3://shut/"),
        ],
        "trace_costs": [trace(run="A", cost="0.75", day=2), trace(cost="0.25", day=2), trace(run="B", cost="0.5", day=3)],
    }  # fmt: skip


@pytest.fixture(scope="module")
def ladder_reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader over the warehouse of that month. Idle and shared cost are spread."""
    root, settings = tmp_path_factory.mktemp("ladder"), Settings.model_validate({"sharing": {"shared": "even", "idle": "proportional"}})
    with build_on_duckdb(ladder_world(), root, settings).reader() as reader:
        yield reader


@pytest.mark.parametrize("stretch_rows", [1, 1_500_000])
def test_charges_of_every_rule_add_up_over_any_days(
    ladder_reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch_rows: int
) -> None:
    """Buckets billed by day become charges of the month. Each charge has the four costs of its lines, and all rows together equal the bill."""
    monkeypatch.setattr(export_module, "STRETCH_ROWS", stretch_rows)
    lines = {r["line_id"]: r for r in ladder_reader.query("select * from billing_lines").to_pylist()}
    members: dict[str, list[str]] = defaultdict(list)
    for row in ladder_reader.query("select charge_id, line_id from charge_lines").to_pylist():
        members[row["charge_id"]].append(row["line_id"])
    done = export_focus(ladder_reader, "2026-10", tmp_path / "all.csv")
    export_focus(ladder_reader, "2026-10", tmp_path / "platform.csv", scope="platform")
    rows = rows_of(tmp_path / "all.csv")
    platform = [r for r in rows if r["x_OriginChargeId"]]
    assert sorted(map(str, rows_of(tmp_path / "platform.csv"))) == sorted(str({c: r[c] for c in rows[0]}) for r in platform)
    assert {r["x_MatchMethod"] for r in rows} == {
        "run_tag", "job_id", "resource_id", "attached", "artifact_bytes", "llm_cost", "pool_time", "instance_type_time", "sharing", "none",
    }  # fmt: skip
    seen: list[str] = []
    charges: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in platform:
        charges[row["x_OriginChargeId"]].append(row)
    # one line is split between two charges: a run's part by its machine, and the rest; together they are the line
    split = {line_id: charge_id for charge_id, of in members.items() for line_id in of if line_id in charges}
    assert len(split) == 1
    for line_id, charge_id in split.items():
        assert members[charge_id] == [line_id]
        charges[line_id] += charges.pop(charge_id)
    for charge_id, parts in charges.items():
        own = [lines[line_id] for line_id in members.get(charge_id, [charge_id] if charge_id in lines else [])]
        assert {p["x_LineCount"] for p in parts} == {str(len(own))}, charge_id
        for cost in COSTS:
            assert total(Decimal(p[cost]) for p in parts) == total(l[snake(cost)] for l in own), (charge_id, cost)
        if own:
            quantities = [l["consumed_quantity"] for l in own if l["consumed_quantity"] is not None]
            assert total(Decimal(p["ConsumedQuantity"]) for p in parts if p["ConsumedQuantity"]) == total(quantities)
            assert {p["ChargePeriodStart"] for p in parts} == {f"{min(l['charge_period_start'] for l in own):%Y-%m-%dT%H:%M:%SZ}"}
            assert {p["ChargePeriodEnd"] for p in parts} == {f"{max(l['charge_period_end'] for l in own):%Y-%m-%dT%H:%M:%SZ}"}
            seen += [l["line_id"] for l in own]
    assert len(seen) == len(set(seen))
    outside = [l for line_id, l in lines.items() if line_id not in seen]
    sums = [r for r in rows if not r["x_OriginChargeId"]]
    assert sum(int(r["x_LineCount"]) for r in sums) == len(outside) == 5
    for cost in COSTS:
        assert total(Decimal(r[cost]) for r in sums) == total(l[snake(cost)] for l in outside)
        assert getattr(done.totals[0], snake(cost)) == total(l[snake(cost)] for l in lines.values())
    bucket = [r for r in platform if r["x_MatchMethod"] == "artifact_bytes"]
    assert {r["x_AllocatedTo"] for r in bucket} == {"run", "orphan", "logged_model", "unallocated"}
    assert {(r["x_LineCount"], r["x_PoolKey"], r["Tags"]) for r in bucket} == {("6", "bucket|STANDARD", ""), ("2", "bucket|GLACIER", "")}


def test_the_views_rows_have_one_date_a_charge_on_both_engines(ladder_reader: Reader) -> None:
    """Google's reference implementation gives the same rows as DuckDB. All rows of a charge have one date, and four sums equal the bill."""
    tables = {name: ladder_reader.query(f"select * from {name}") for name in table_names(focus_view())}
    view = ladder_reader.query(focus_view())
    answer = GoogleSQL().query(focus_view(), tables)
    assert answer.names == view.column_names
    assert exact_rows(answer.rows) == exact_rows(view.to_pylist())
    dates: dict[tuple[str, str], set[Any]] = defaultdict(set)
    for row in view.to_pylist():
        if row["x_OriginChargeId"]:
            dates[row["x_Source"], row["x_OriginChargeId"]].add(row["x_ChargeDate"])
    assert {len(found) for found in dates.values()} == {1} and len(set.union(*dates.values())) == 3
    lines = tables["billing_lines"].to_pylist()
    for cost in COSTS:
        assert total(r[cost] for r in view.to_pylist()) == total(l[snake(cost)] for l in lines)


def test_the_view_is_googlesql_with_equal_rows_on_both_engines() -> None:
    """Nothing in it differs between DuckDB and BigQuery. It has no parameter, so it can be a view."""
    assert lint(focus_view()) == []
    assert "@" not in focus_view()


def snake(name: str) -> str:
    """Return a FOCUS column's name as the warehouse spells it."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def test_the_file_can_be_read_back(reader: Reader, tmp_path: Path) -> None:
    """DuckDB reads the gzipped CSV, and its sum equals the bill."""
    done = export_focus(reader, MONTH, tmp_path / "may.csv.gz")
    with duckdb.connect() as con:
        query = "select count(*), sum(EffectiveCost::decimal(38, 22)) from read_csv(?, all_varchar = true)"
        found: Any = con.execute(query, [str(tmp_path / "may.csv.gz")]).fetchone()
    assert found == (done.rows, done.totals[0].effective_cost)


def test_a_csv_for_people_runs_no_text_as_a_formula(reader: Reader, tmp_path: Path) -> None:
    """With `guard_formulas`, strings get an apostrophe, as in the report's CSV files. Numbers and times do not change."""
    export_focus(reader, MONTH, tmp_path / "raw.csv")
    export_focus(reader, MONTH, tmp_path / "guarded.csv", guard_formulas=True)
    raw, guarded = rows_of(tmp_path / "raw.csv"), rows_of(tmp_path / "guarded.csv")
    texts = {name for one in raw for name, value in one.items() if value and guard_text(value) != value and not value.startswith("-")}
    assert "AllocatedResourceName" in texts
    for before, after in zip(raw, guarded, strict=True):
        for name, value in before.items():
            is_number = name.endswith(("Cost", "Quantity", "UnitPrice")) or name == "x_LineCount"
            assert after[name] == (value if is_number else guard_text(value))
    with pytest.raises(UsageError, match="Parquet stores strings as strings, so no program runs them as formulas"):
        export_focus(reader, MONTH, tmp_path / "may.parquet", guard_formulas=True)
    assert not (tmp_path / "may.parquet").exists()


def test_arrow_finds_the_texts_that_python_guards() -> None:
    """The rule for Arrow and the rule for Python find the same strings."""
    texts = [
        "",
        "a",
        "=1",
        " =1",
        "'=1",
        '"+1',
        "-1",
        "@x",
        "\tx",
        "\rx",
        "\nx",
        "\0x",
        "|x",
        "%x",
        "＝1",
        "＋",
        "－",
        "＠",
        "\u3000=1",
        "\ufeff\u200b@",
        "a=1",
        "1-",
        "x@y",
        " a",
        "'",
        "''='",
    ]
    found = pc.match_substring_regex(pa.array(texts), PATTERN).to_pylist()
    assert found == [guard_text(text) != text for text in texts]
