"""The smallest bill that can be loaded, from `docs/bills.md`, and the errors for headers that do not fit."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from runspend.config.settings import BillSource
from runspend.core.errors import SourceRefused
from runspend.ingest.billing.formats import find_format
from runspend.ingest.billing.formats.focus import REQUIRED_SPELLINGS
from tests.command import run_here

PAGE = Path(__file__).resolve().parents[4] / "docs" / "bills.md"


@pytest.fixture
def bill() -> str:
    [text] = re.findall(r"```csv\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return str(text)


def load(folder: Path, bill: str) -> None:
    (folder / "bills").mkdir()
    (folder / "bills" / "lab.csv").write_text(bill, encoding="utf-8")
    settings = {"home": "home", "billing": [{"name": "lab", "uri": "bills"}]}
    (folder / "runspend.yaml").write_text(json.dumps(settings), encoding="utf-8")
    run_here("load", "--now", "2026-11-04", cwd=folder)


def test_the_bill_of_the_page_is_loaded_with_its_machine(tmp_path: Path, bill: str) -> None:
    load(tmp_path, bill)
    statement = "select resource_key, instance_type, region_id, sum(effective_cost) as cost from billing_lines group by 1, 2, 3"
    [line] = json.loads(run_here("sql", statement, "--json", cwd=tmp_path).stdout)
    assert [line[key] for key in ("resource_key", "instance_type", "region_id")] == ["gpu-box-1", "p3.2xlarge", "cellar"]
    assert Decimal(line["cost"]) == Decimal("3.06")


def test_the_page_names_the_required_columns_first(bill: str) -> None:
    header = bill.splitlines()[0].split(",")
    assert set(header[: len(REQUIRED_SPELLINGS)]) == set(REQUIRED_SPELLINGS)


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        (
            ["BilledCost", "ServiceName", "BillingCurrency"],
            "The closest is focus, which also needs EffectiveCost, ListCost, ContractedCost, ",
        ),
        (["line_item_usage_start_date", "line_item_line_item_type"], "The closest is aws-cur, which also needs "),
        (["name", "color"], None),
    ],
)
def test_the_error_for_an_unknown_header_names_the_closest_format(header: list[str], hint: str | None) -> None:
    with pytest.raises(SourceRefused) as refused:
        find_format(BillSource.model_validate({"name": "bill", "uri": "bills"}), "lab.csv", header)
    assert ("The closest is" in str(refused.value)) == (hint is not None)
    assert hint is None or hint in str(refused.value)
