"""`runspend costs` on the command line: periods, days, values of dimensions, and formats."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.actions.explain.explain_world import called_by, make_explained
from tests.allocation.chain import line
from tests.command import run_here


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with three days of October: eight machines without a team, and a team with one run."""
    folder = tmp_path_factory.mktemp("costs")
    make_explained(folder / "warehouse")
    (folder / "runspend.yaml").write_text("home: .\n", encoding="utf-8")
    return folder / "runspend.yaml"


def costs(config: Path, *words: str) -> list[dict[str, str]]:
    """Return the rows of the JSON output."""
    found: list[dict[str, str]] = json.loads(run_here("costs", *words, "--format", "json", "--config", str(config)).stdout)
    return found


def total(rows: list[dict[str, str]]) -> Decimal:
    return sum((Decimal(row["effective_cost"]) for row in rows), Decimal(0))


def test_csv_and_json_have_the_same_exact_values_and_a_table_has_two_decimals(config: Path) -> None:
    words = ("costs", "--by", "team,day", "--top", "100", "--quiet", "--config", str(config))
    exact = json.loads(run_here(*words, "--format", "json").stdout)
    assert json.loads(run_here(*words, "--json").stdout) == exact
    rows = list(csv.DictReader(run_here(*words, "--format", "csv").stdout.splitlines()))
    assert [(r["team"], r["charge_date"], Decimal(r["effective_cost"])) for r in rows] == [
        (r["team"] or "", r["charge_date"], Decimal(r["effective_cost"])) for r in exact
    ]
    assert any(Decimal(r["effective_cost"]).as_tuple().exponent < -2 for r in exact)  # type: ignore[operator]
    header, *table = [line.split() for line in run_here(*words).stdout.splitlines()[: len(exact) + 1]]
    assert header == ["team", "charge_date", "billing_currency", "effective_cost"]
    assert all(line[-1][-3] == "." for line in table)
    assert {line[0] for line in table} >= {"vision", "untagged", "(idle)"}


def test_large_amounts_have_separators_and_small_ones_the_digits_they_need() -> None:
    import pyarrow as pa

    from runspend.actions.costs.query import csv_text, table_text

    rows = pa.table({"large": pa.array([Decimal("1234567.891"), Decimal("-2.005")]), "small": pa.array([Decimal("0.00042"), None])})
    assert table_text(rows, is_money=True).splitlines()[1:] == ["1,234,567.89  0.000420", "       \N{MINUS SIGN}2.01         -"]
    assert csv_text(rows) == "large,small\n1234567.891,0.00042\n-2.005,\n"


def test_a_period_and_days_select_charges(config: Path) -> None:
    by_day = {row["charge_date"]: Decimal(row["effective_cost"]) for row in costs(config, "--by", "day")}
    assert sorted(by_day) == ["2026-10-01", "2026-10-02", "2026-10-03"]
    assert total(costs(config, "--by", "kind", "--period", "2026-10")) == sum(by_day.values())
    for words, days in {
        ("--since", "2026-10-02"): ["2026-10-02", "2026-10-03"],
        ("--until", "2026-10-02"): ["2026-10-01", "2026-10-02"],
        ("--since", "2026-10-02", "--until", "2026-10-02"): ["2026-10-02"],
        ("--since", "2026-10", "--until", "2026-10"): list(by_day),
        ("--period", "2026-10", "--since", "2026-10-03"): ["2026-10-03"],
    }.items():
        assert {row["charge_date"]: Decimal(row["effective_cost"]) for row in costs(config, "--by", "day", *words)} == {
            day: by_day[day] for day in days
        }


def test_cost_without_a_run_is_that_of_the_team_that_the_bill_names(tmp_path: Path) -> None:
    """`--where team=` also finds this cost, in addition to runs of that team. The sum of all rows stays the same."""
    make_explained(tmp_path / "warehouse", called_by(901, "rag", "7.00"), called_by(902, "vision", "3.00"))
    config = tmp_path / "runspend.yaml"
    config.write_text("home: .\n", encoding="utf-8")
    by_team = {row["team"]: Decimal(row["effective_cost"]) for row in costs(config, "--by", "team")}
    assert by_team["rag"] == 7
    for team in ("rag", "vision"):
        assert total(costs(config, "--where", f"team={team}")) == by_team[team]
    parts = {row["allocated_to"]: Decimal(row["effective_cost"]) for row in costs(config, "--by", "allocated_to")}
    assert sum(by_team.values()) == sum(parts.values())
    assert by_team.get("(unallocated)", 0) == parts["unallocated"] - 10
    assert {row["experiment_name"] for row in costs(config, "--by", "experiment", "--where", "team=rag")} == {"(unallocated)"}


def test_the_newest_month_is_not_that_of_a_contract_until_next_year(config: Path, tmp_path: Path) -> None:
    """A purchase is spread over its year. Without months or days, the month of the newest charge of a day counts, and all of that month."""
    contract = line(901, on=None, at="2026-10-01T00:00:00..2027-10-01T00:00:00", cost="365", charge_category="Purchase")
    make_explained(tmp_path / "warehouse", contract)
    later = tmp_path / "runspend.yaml"
    later.write_text("home: .\n", encoding="utf-8")
    assert total(costs(later, "--by", "team")) == total(costs(config, "--by", "team")) + 31
    assert costs(later, "--by", "team") == costs(later, "--by", "team", "--since", "2026-10", "--until", "2026-10")
    of_month, of_october = (
        run_here("costs", "--by", "team", *words, "--config", str(later)).stdout.splitlines()[-1] for words in ((), ("--period", "2026-10"))
    )
    assert of_month == of_october
    assert " of allocated cost has a team " in of_month
    said = run_here("costs", "--period", "2028-01", "--config", str(later)).stderr
    assert said.splitlines()[-1] == "No charges match. The newest charge is from 2026-10-03."


def test_where_selects_by_value_by_either_value_and_by_no_value(config: Path) -> None:
    by_team = {row["team"]: Decimal(row["effective_cost"]) for row in costs(config, "--by", "team") if row["team"] in ("vision", None)}
    assert total(costs(config, "--where", "team=vision")) == by_team["vision"] > 0  # type: ignore[index]
    assert total(costs(config, "--where", "team=", "--where", "allocated_to=run")) == by_team[None]  # type: ignore[index]
    assert total(costs(config, "--where", "team=vision", "--where", "team=", "--where", "allocated_to=run")) == sum(by_team.values())
    assert costs(config, "--where", "team=vision", "--where", "service=EBS", "--where", "user=nobody") == []
    quoted = 'team=it\'s "q" --'
    assert costs(config, "--where", quoted) == []


def test_the_lack_of_charges_is_stated_on_standard_error(config: Path) -> None:
    done = run_here("costs", "--period", "2027-01", "--config", str(config))
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("no rows\n", "No charges match. The newest charge is from 2026-10-03.")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--where", "teem=x"),
            "error: cannot select costs by 'teem': allowed keys are team, project, cost_center, owner, experiment, user, server, kind, allocated_to, source, service, account, region, provider, confidence, currency. Did you mean 'team'?",
        ),
        (("--where", "team"), "error: cannot use --where 'team': it has no `=`. Write KEY=VALUE, such as team=vision."),
        (("--where", "team=\udcff"), "error: cannot use --where 'team=\\udcff': it is not UTF-8 text. Correct the value."),
        (
            ("--where", "day=2026-10-01"),
            "error: cannot use --where day=…: use --period for a billing period, and --since and --until for days.",
        ),
        (("--by", "teem"), "error: cannot group costs by 'teem': allowed keys are team,"),
        (
            ("--since", "2026-10-02", "--until", "2026-10-01"),
            "error: cannot show costs: --until ends on 2026-10-01, before --since, 2026-10-02. Swap them.",
        ),
        (("--since", "2026-13"), "'2026-13' is not a day or month. Write YYYY-MM-DD or YYYY-MM."),
        (("--until", "9999-12-31"), "'9999-12-31' is not a day or month."),
        (("--until", "9999-12"), "'9999-12' is not a day or month."),
        (("--since", "2026-02-30"), "'2026-02-30' is not a day or month."),
        (("--json", "--format", "csv"), "error: cannot print csv and JSON: --format csv and --json are both given. Give only one."),
        (
            ("--as-of", "2026-10-05", "--where", "team=vision"),
            "error: cannot show the bill of an earlier day by 'team': for earlier versions, only totals by source, period, service, account, day are kept.",
        ),
    ],
)
def test_wrong_use_names_what_is_allowed(config: Path, words: tuple[str, ...], says: str) -> None:
    assert says in run_here("costs", *words, "--config", str(config), code=2).stderr
