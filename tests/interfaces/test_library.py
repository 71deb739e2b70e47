"""`runspend.connect` returns the same figures as the commands, exact in every form."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

import runspend
from runspend.core.errors import RunspendError, UsageError
from tests.actions.explain import explain_world as w
from tests.command import run_here


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with three days of October: 8 teamless machines and a team of one run."""
    folder = tmp_path_factory.mktemp("library")
    w.make_explained(folder / "warehouse")
    (folder / "runspend.yaml").write_text("home: .\n", encoding="utf-8")
    return folder / "runspend.yaml"


def test_costs_are_those_of_the_command(config: Path) -> None:
    rs = runspend.connect(config)
    words = ("--by", "team,kind", "--since", "2026-10", "--until", "2026-10-02", "--where", "allocated_to=run", "--measure", "list")
    printed = json.loads(run_here("costs", *words, "--json", "--config", str(config)).stdout)
    found = rs.costs(by=["team", "kind"], since="2026-10", until=date(2026, 10, 2), where={"allocated_to": ["run"]}, measure="list")
    assert [(r["team"], r["cost_kind"], r["list_cost"]) for r in found] == [
        (r["team"], r["cost_kind"], Decimal(r["list_cost"])) for r in printed
    ]
    assert len(found) == len(printed) > 1
    assert [r["team"] for r in rs.costs(by="team", where={"team": None, "allocated_to": "run"})] == [None]
    assert {r["team"] for r in rs.costs(by="team", where={"team": [None, "vision"], "allocated_to": "run"})} == {None, "vision"}


def test_views_of_the_explorer_add_up_spread_or_not(config: Path) -> None:
    rs = runspend.connect(config)
    apart, spread, few = (rs.explore(by="run", spread=is_spread, top=top) for is_spread, top in ((False, 100), (True, 100), (True, 1)))
    whole = sum(row["cost"] for row in apart)
    assert whole == sum(row["cost"] for row in spread) == sum(row["cost"] for row in few) > 0
    assert {row["part"] for row in apart} == {"run", "idle", "shared", "unallocated"}
    assert {row["part"] for row in spread} == {"run"}
    own = {row["run"]: row["cost"] for row in apart}
    assert all(row["cost"] - row["spread_cost"] == own[row["run"]] for row in spread)
    assert len(few) == 2
    assert few.to_dicts()[-1]["run"] == f"({len(spread) - 1} others)"
    with pytest.raises(UsageError, match="cannot read by='teem'"):
        rs.explore(by="teem")


def test_every_form_has_the_same_exact_decimals(config: Path) -> None:
    found = runspend.connect(config).costs(by="experiment,day")
    arrow = found.to_arrow()["effective_cost"].to_pylist()
    assert found.to_pandas()["effective_cost"].tolist() == arrow
    assert found.to_polars()["effective_cost"].to_list() == arrow
    assert [row["effective_cost"] for row in found.to_dicts()] == arrow
    frame = found.to_pandas()
    assert str(frame["effective_cost"].dtype).startswith("decimal256(37, 22)")
    # In Arrow's own arithmetic, the result would exceed its 38 digits.
    assert (frame["effective_cost"] - 2 * frame["effective_cost"]).tolist() == [-cost for cost in arrow]
    assert (frame["effective_cost"] / frame["effective_cost"]).tolist() == [1] * len(arrow)
    assert found.to_pandas(exact=False)["effective_cost"].tolist() == [float(cost) for cost in arrow]


def test_results_print_themselves(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rs = runspend.connect(config)
    found = rs.costs(by="day,account,service,kind,confidence")
    found.show(rows=2)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert printed[-1] == f"… {len(found) - 2} more rows"
    hostile = rs.sql("select '<script>alert(1)</script>' as name")
    assert "<script>" not in hostile._repr_html_()
    assert "<script>" in repr(hostile)


def test_runs_sql_and_explanations(config: Path) -> None:
    rs = runspend.connect(config)
    runs = rs.run_costs()
    [stored] = rs.sql("select count(*) as n, sum(effective_cost) as cost from run_costs").to_dicts()
    assert (len(runs), sum(r["effective_cost"] for r in runs if r["effective_cost"] is not None)) == (stored["n"], stored["cost"])
    assert {r["run_id"] for r in rs.run_costs(since="2026-10-20", until="2026-10-20")} == {w.LATE}
    explained = rs.explain(w.BIG[:8], now=w.NOW)
    assert explained.to_dict()["key"]["run_id"] == w.BIG
    assert (
        str(explained).strip()
        == run_here("explain", w.BIG, "--config", str(config), "--now", f"{w.NOW:%Y-%m-%dT%H:%M}", "--quiet").stdout.strip()
    )


def test_wrong_use_is_an_error_in_a_sentence(config: Path) -> None:
    rs = runspend.connect(config)
    for wrong, why in (
        (lambda: rs.costs(by="teem"), "cannot group costs by 'teem'"),
        (lambda: rs.costs(measure="net; drop"), "allowed values are effective, billed, contracted, list"),
        (lambda: rs.costs(period="2026-10-05"), "write YYYY-MM"),
        (lambda: rs.costs(where={"team": []}), "cannot filter by team: its list of values is empty"),
        (lambda: rs.costs(by=[]), "cannot group costs: name a dimension"),
        (lambda: rs.costs(top=0), "a number from 1"),
        (lambda: rs.run_costs(since="2026-10-02", until="2026-10-01"), "is before since"),
        (lambda: rs.costs(since="2026-13"), "write YYYY-MM-DD or YYYY-MM"),
        (lambda: rs.costs(period="october"), "as a billing period: write YYYY-MM"),
        (lambda: rs.sql("delete from runs"), "cannot"),
        (lambda: rs.explain("nobody"), "nobody"),
        (lambda: runspend.connect("ftp://costs.example.com"), "write a file such as runspend.yaml"),
    ):
        with pytest.raises(RunspendError) as refused:
            wrong()
        assert why in str(refused.value)
    with pytest.raises(UsageError):
        rs.run_costs(since="yesterday")


def test_the_import_is_light() -> None:
    """`import runspend` imports neither a database engine nor a data frame library."""
    code = "import sys, runspend; print([m for m in ('duckdb', 'pyarrow', 'pandas', 'polars', 'mlflow', 'click', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
