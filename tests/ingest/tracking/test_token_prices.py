"""Calls without a cost get the list price of `genai-prices`.

MLflow's client logs real spans, which are read from the API and from the database.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import Usage, calc_price

from runspend.core.errors import MissingExtra
from runspend.ingest.tracking import token_prices
from runspend.ingest.tracking.token_prices import Call, price_calls, price_source
from tests.ingest.tracking.mlflow_servers import Served, at, mlflow_server
from tests.ingest.tracking.test_extract import extract
from tests.servers.mlflow_process import log_unpriced_traces

DAY = at("2026-11-02")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("mlflow-tokens")
    database = f"sqlite:///{folder / 'mlflow.db'}"
    with mlflow_server(folder, database) as uri:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        run_id = client.create_run("0", start_time=DAY, run_name="asks").info.run_id
        client.set_terminated(run_id, end_time=DAY + 3_600_000)
        log_unpriced_traces(uri, "0", run_id, DAY)
        yield Served(uri, database, {"asks": run_id})


def costs(served: Served, folder: Path, via: str, **options: Any) -> tuple[list[tuple[Any, ...]], list[str]]:
    result, tables = extract(served.settings(via, **options), folder)
    rows = [r for (table, _), found in sorted(tables.items()) if table == "trace_costs" for r in found.to_pylist()]
    shown = [
        (r["model"], r["provider"], r["price_source"], r["traces"], r["input_tokens"], r["output_tokens"], r["list_cost"]) for r in rows
    ]
    assert {r["run_id"] for r in rows} == {served.run_ids["asks"]}
    return shown, result.warnings


def price(model: str, **tokens: int) -> Decimal:
    return calc_price(Usage(**tokens), model).total_price


@pytest.mark.parametrize("via", ["api", "database"])
def test_calls_without_a_cost_have_their_list_price(served: Served, tmp_path: Path, via: str) -> None:
    found, warnings = costs(served, tmp_path / "out", via, token_prices="genai-prices")
    cached = price(
        "claude-3-7-sonnet-latest", input_tokens=1_000, output_tokens=100, cache_read_tokens=800
    )  # cached tokens cost less than the other input
    two = price("claude-sonnet-4-0", input_tokens=10, output_tokens=20) + price("claude-sonnet-4-0", input_tokens=50, output_tokens=10)
    assert found == [
        ("claude-3-7-sonnet-latest", "anthropic", price_source(), 1, 1_000, 100, cached),
        ("claude-sonnet-4-0", "anthropic", price_source(), 2, 60, 30, two),  # a wrapper that repeats the tokens of its call counts once
        ("gpt-4o", "openai", "mlflow", 1, 2_060, 230, Decimal("0.5")),
    ]
    assert [w for w in warnings if "tokens and no cost" in w] == [
        f"prod: 3 calls have tokens and no cost, and {price_source()} has no price for their models: our-own-model (2), another (1). Their cost is unknown."
    ]


@pytest.mark.parametrize("via", ["api", "database"])
def test_without_the_key_only_what_mlflow_recorded_counts(served: Served, tmp_path: Path, via: str) -> None:
    found, warnings = costs(served, tmp_path / "out", via)
    assert found == [("gpt-4o", "openai", "mlflow", 1, 2_060, 230, Decimal("0.5"))]
    assert not [w for w in warnings if "tokens" in w]


def test_a_call_has_the_price_of_its_day_and_an_unreadable_call_has_no_price() -> None:
    from datetime import date

    new, old = (Call("o3", "openai", date(year, 1, 2), '{"input_tokens": 1000, "output_tokens": 1000}') for year in (2026, 2025))
    odd = Call("gpt-4o", "the company's own name", date(2026, 1, 2), '{"input_tokens": "many", "output_tokens": -1}')
    rows = price_calls([new, old, odd]).to_pylist()
    assert rows[1]["cost"] > rows[0]["cost"] > 0  # OpenAI lowered the price in June 2025
    assert (rows[2]["priced_by"], rows[2]["cost"], rows[2]["input_tokens"]) == ("openai", 0, 0)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(MissingExtra, match=r"runspend\[prices\]"):
        token_prices.load_prices()


def test_list_prices_end_with_the_setting_and_stay_when_traces_are_deleted(served: Served, tmp_path: Path) -> None:
    _, first = extract(served.settings("database", token_prices="genai-prices"), tmp_path / "first")
    later = {"previous": lambda table, period: first.get((table, period)), "known_trace_months": ["2026-11"]}
    _, without = extract(served.settings("database"), tmp_path / "without", **later)
    assert {r["price_source"] for r in without["trace_costs", "2026-11"].to_pylist()} == {"mlflow"}
    fewer = first["trace_costs", "2026-11"].to_pylist()
    gone = [{**row, "traces": row["traces"] + 5, "charge_date": row["charge_date"].replace(day=3)} for row in fewer]
    first["trace_costs", "2026-11"] = first["trace_costs", "2026-11"].from_pylist(gone, first["trace_costs", "2026-11"].schema)
    _, kept = extract(served.settings("database", token_prices="genai-prices"), tmp_path / "kept", **later)
    assert [r["price_source"] for r in kept["trace_costs", "2026-11"].to_pylist()] == [r["price_source"] for r in fewer] * 2
