"""What Runspend reports about its ledger: rules, groups without a run, coverage, and a scope to paste."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from runspend.actions.costs import as_of as history
from runspend.actions.report.labels import coverage_words, suggestion
from runspend.allocation import closing as finality
from runspend.allocation import diagnostics, scope_proposal, without_run
from runspend.config.settings import Settings
from runspend.interfaces.preview import outlook_lines, read_outlook, render_outlook, scope_yaml, suggestions
from runspend.warehouse.factory import open_warehouse
from tests.actions.alert.alert_world import run, warehouse
from tests.settings_builder import make_settings
from tests.sql_lint import lint

POOLED = {"pools": [{"name": "prod", "runs": {"tracking": "prod"}, "lines": {"instance_type": "g5.xlarge"}}]}
FIRST = date(2026, 11, 1)


def charge(number: int, cost: str, allocated_to: str = "run", **more: Any) -> dict[str, Any]:
    """Make a row of cost_allocations."""
    row = {
        "source": "aws", "billing_period": FIRST, "charge_id": f"c{number}", "target_id": f"t{number}", "charge_date": FIRST, "service_name": "Amazon EC2",
        "sub_account_id": "1111", "allocated_to": allocated_to, "cost_kind": "compute", "billing_currency": "USD", "match_method": "none", "effective_cost": Decimal(cost),
    }  # fmt: skip
    return row | more


def line(number: int, tags: dict[str, str] | None = None, groups: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """Make the bill line of that charge."""
    return {
        "source": "aws",
        "billing_period": FIRST,
        "line_id": f"c{number}",
        "tags": json.dumps(tags or {}),
        "group_keys": list(groups),
        **more,
    }


LOST = [
    (
        charge(1, "60", "unallocated", reason="no_run"),
        line(1, {"team": "vision"}, ("1111|sagemaker:job|j-1", "1111|eks:nodegroup-name|gpu-spot", "1111|eks:cluster-name|ml")),
    ),
    (charge(2, "40", "unallocated", reason="no_run"), line(2, {}, ("1111|eks:nodegroup-name|gpu-spot",))),
    (charge(3, "30", "unallocated", reason="no_run"), line(3, {"team": "nlp", "Name": "box-1", "env": "prod"})),
    (charge(4, "20", "unallocated", reason="no_run"), line(4, {"team": "nlp", "Name": "box-2"})),
    (charge(5, "10", "unallocated", reason="not_timed", cost_kind="storage", service_name="Amazon S3"), line(5)),
    (charge(6, "5", "unallocated", reason="unknown_run", service_name="Amazon SageMaker"), line(6)),
]
SETTLED = [
    charge(10, "100", match_method="run_tag", confidence="exact"),
    charge(11, "50", match_method="resource_id", confidence="high"),
    charge(11, "25", "idle", match_method="resource_id", confidence="high", target_id="idle"),
    charge(12, "15", match_method="pool_time", confidence="medium", pool_key="gpu|team=vision"),
    charge(13, "5", match_method="pool_time", confidence="medium", pool_key="gpu|team=nlp"),
    charge(14, "40", "shared", charge_category="Tax", reason="fee"),
    charge(15, "300", "out_of_scope", sub_account_id="2222"),
]


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Settings with one tracking server."""
    return make_settings(tmp_path, tracking=[{"name": "prod", "uri": "http://m"}], warehouse={"uri": str(tmp_path / "w")})


@pytest.fixture
def tables() -> dict[str, list[dict[str, Any]]]:
    """A small ledger with every kind of row."""
    return {
        "cost_allocations": [*SETTLED, *(c for c, _ in LOST)],
        "billing_lines": [bill_line for _, bill_line in LOST],
        "runs": [run("a")],
    }


@pytest.mark.parametrize(
    "sql",
    [
        diagnostics.RULE_COSTS,
        without_run.WITHOUT_RUN,
        diagnostics.ORIGINS.format(name="team"),
        scope_proposal.ACCOUNTS,
        scope_proposal.ACCELERATED,
        scope_proposal.KINDS,
        scope_proposal.OTHER_MONTHS,
        diagnostics.IDENTITY,
        finality.BILLS,
        history.DIFFERENCES,
    ],
    ids=["rule_costs", "unallocated", "origins", "accounts", "accelerated", "kinds", "other_months", "identity", "bills", "differences"],
)
def test_every_query_has_the_same_answer_on_both_engines(sql: str) -> None:
    """The queries have no construct that DuckDB and GoogleSQL answer differently."""
    assert lint(sql) == []


def test_a_line_is_in_the_group_that_would_explain_most(tmp_path: Path, given: Settings, tables: dict[str, Any]) -> None:
    """A node group comes before job, cluster and other tags, and the most expensive tag before service and account.

    Names of single things never count.
    """
    with warehouse(tmp_path / "w", **tables) as reader:
        (groups,) = without_run.unallocated_groups(reader, FIRST, given).values()
    assert [(g.words, g.effective_cost) for g in groups] == [
        ("node group gpu-spot", Decimal(100)),
        ("team=nlp in account 1111", Decimal(50)),
        ("Amazon S3 in account 1111", Decimal(10)),
        ("Amazon SageMaker in account 1111", Decimal(5)),
    ]
    assert groups[0].advice.endswith(
        'add a pool for the experiment that uses them: {name: gpu-spot, runs: {experiment: EXPERIMENT}, lines: {tag.eks:nodegroup-name: "gpu-spot"}}'
    )
    assert "`stores`" in groups[2].advice
    assert "no tracking server has" in groups[3].advice
    assert suggestion(groups[0], Decimal(400)) == "tag node group gpu-spot: explains 100.00, 25.0%"


def test_the_advised_pool_is_valid_configuration(tmp_path: Path, given: Settings, tables: dict[str, Any]) -> None:
    """The printed pool can be pasted."""
    with warehouse(tmp_path / "w", **tables) as reader:
        (groups,) = without_run.unallocated_groups(reader, FIRST, given).values()
    for group in (g for g in groups if "uses them: {" in g.advice):
        pool = yaml.safe_load(group.advice.partition("uses them: ")[2])
        assert Settings.model_validate({"home": tmp_path, "pools": [pool]}).pools[0].lines == {k: [v] for k, v in group.selector.items()}


def test_advised_pools_have_names_that_can_be_pasted_together(tmp_path: Path, given: Settings) -> None:
    """A pool of that name may exist, a service may be in two accounts, and a tag may have letters that names cannot have."""
    from runspend.allocation.remedies import remedy

    settings = given.model_copy(update={"pools": Settings.model_validate(POOLED | {"home": tmp_path}).pools})
    ec2 = [{"service": "Amazon Elastic Compute Cloud", "account": account} for account in ("1111", "2222")]
    advised = [
        yaml.safe_load(remedy("accelerator", selector, settings).partition("uses them: ")[2])
        for selector in (*ec2, {"tag.env": "prod"}, {"tag.owner": "Müller@firma.de"}, {"tag.owner": "日本"}, {"tag.x": "y" * 90})
    ]
    names = [pool["name"] for pool in advised]
    assert names == [
        "Amazon-Elastic-Compute-Cloud-1111", "Amazon-Elastic-Compute-Cloud-2222", "prod-2", "Muller-firma.de", "machines", "y" * 55,
    ]  # fmt: skip
    taken = Settings.model_validate({"home": tmp_path, "pools": [*POOLED["pools"], *advised]}).pools
    assert [pool.runs for pool in taken[1:]] == [{"experiment": ["EXPERIMENT"]}] * 6


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"Name": 'say "hi"', "env": "ml"}, "env=ml in account 1111"),
        ({"env": "ml", "name": "back\\slash\\"}, "env=ml in account 1111"),
        ({"Name": "only"}, "Amazon EC2 in account 1111"),
        ({'a "name': "x", "env": "ml"}, "Amazon EC2 in account 1111"),
        ({"env": "a, }"}, "env=a, } in account 1111"),
    ],
)
def test_any_tag_can_describe_a_group(tmp_path: Path, given: Settings, tags: dict[str, str], words: str) -> None:
    """Tags that name single things are left out, independent of their text."""
    with warehouse(tmp_path / "w", cost_allocations=[charge(1, "1", "unallocated")], billing_lines=[line(1, tags)]) as reader:
        (groups,) = without_run.unallocated_groups(reader, FIRST, given).values()
    assert [g.words for g in groups] == [words]


def test_a_charge_priced_from_several_lines_has_their_tags(tmp_path: Path, given: Settings) -> None:
    """The part of a pool that no run claims has the tags of its lines."""
    tables = {
        "cost_allocations": [charge(1, "70", "unallocated", charge_id="pooled", reason="no_run")],
        "charge_lines": [{"source": "aws", "billing_period": FIRST, "line_id": f"c{n}", "charge_id": "pooled"} for n in (1, 2)],
        "billing_lines": [line(n, {"env": "ml"}) for n in (1, 2)],
    }
    with warehouse(tmp_path / "w", **tables) as reader:
        (groups,) = without_run.unallocated_groups(reader, FIRST, given).values()
    assert [(g.words, g.effective_cost) for g in groups] == [("env=ml in account 1111", Decimal(70))]


def test_rules_are_listed_in_their_order(tmp_path: Path, tables: dict[str, Any]) -> None:
    """Each pool has its name, idle cost counts for the rule that knew the machine, and the sum is the bill."""
    with warehouse(tmp_path / "w", **tables) as reader:
        (found,) = diagnostics.rule_costs(reader, FIRST).values()
    assert [(r.words, r.confidence, r.effective_cost, r.idle_cost) for r in found] == [
        ("exact, by run tag", "exact", Decimal(100), Decimal(0)),
        ("by machine", "high", Decimal(75), Decimal(25)),
        ("by pool gpu", "medium", Decimal(20), Decimal(0)),
        ("unallocated", None, Decimal(165), Decimal(0)),
        ("shared", None, Decimal(40), Decimal(0)),
        ("out of scope", None, Decimal(300), Decimal(0)),
    ]


def test_the_confidence_of_a_rule_is_that_of_most_of_its_money(tmp_path: Path) -> None:
    """A little idle cost of low confidence does not lower the confidence of all machines."""
    rows = [
        charge(1, "90", match_method="resource_id", confidence="high"),
        charge(1, "10", "idle", match_method="resource_id", confidence="low", target_id="idle"),
    ]
    with warehouse(tmp_path / "w", cost_allocations=rows) as reader:
        (found,) = diagnostics.rule_costs(reader, FIRST).values()
    assert [(r.words, r.confidence, r.effective_cost, r.idle_cost) for r in found] == [("by machine", "high", Decimal(100), Decimal(10))]


def test_coverage_shows_where_names_came_from(tmp_path: Path) -> None:
    """Coverage is in money and covers only the chosen days. Runs without a name are not an origin."""
    costs = [("a", "vision", "run.tag.team", "60"), ("b", "nlp", "experiment.tag.team", "30"), ("c", None, None, "10")]
    key = {"tracking_server": "prod", "workspace": "default", "billing_currency": "USD"}
    daily = [
        {
            **key,
            "run_id": r,
            "charge_date": date(2026, 11, 3),
            "billing_period": FIRST,
            "source": "aws",
            "cost_kind": "compute",
            "effective_cost": Decimal(c),
        }
        for r, _, _, c in costs
    ]
    daily.append({**daily[0], "charge_date": date(2026, 12, 1), "billing_period": date(2026, 12, 1)})
    runs = [{**key, "run_id": r, "start_month": FIRST, "team": team, "team_from": origin} for r, team, origin, _ in costs]
    with warehouse(tmp_path / "w", run_costs_daily=daily, run_costs=runs) as reader:
        (parts,) = diagnostics.coverage(reader, FIRST, date(2026, 12, 1)).values()
    assert coverage_words(parts) == ["90.0% of allocated cost has a team (run.tag.team 60.0%, experiment.tag.team 30.0%)"]
    assert coverage_words(parts[1:2], every=True) == ["0.0% of allocated cost has a project"]


def test_the_proposed_scope_includes_accounts_that_mostly_serve_the_platform(tmp_path: Path) -> None:
    """Up to a tenth of an account may be other cost. From other accounts, only services with cost in scope are proposed."""
    rows = [
        charge(1, "95", match_method="run_tag"),
        charge(2, "5", "out_of_scope", service_name="Amazon RDS"),
        charge(3, "10", sub_account_id="web"),
        charge(4, "90", "out_of_scope", sub_account_id="web", service_name="Amazon RDS"),
        charge(5, "7", "out_of_scope", sub_account_id="other"),
    ]
    with warehouse(tmp_path / "w", cost_allocations=rows) as reader:
        found = scope_proposal.scope_proposal(reader, FIRST)
    assert [(entry.yaml, entry.inside_cost, entry.outside_cost) for entry in found.entries] == [
        ('{source: "aws", account: ["1111"]}', Decimal(95), Decimal(5)),
        ('{source: "aws", account: "web", service: ["Amazon EC2"]}', Decimal(10), Decimal(0)),
    ]
    assert found.left_out == ()


def test_after_a_trial_the_advice_does_not_name_suggest_again(tmp_path: Path, tables: dict[str, Any]) -> None:
    """The trial has proposed pools already. If a person changes the file, `runspend suggest` may find more."""
    from runspend.allocation.remedies import remedy
    from runspend.config.settings import load_settings
    from runspend.config.trial_folder import mark

    file = tmp_path / "runspend.yaml"
    file.write_text(json.dumps({"home": ".", "tracking": [{"name": "prod", "uri": "http://m"}], **POOLED}))
    mark(tmp_path)

    def advised() -> list[str]:
        settings = load_settings(file)
        outlook = read_outlook(open_warehouse(settings), settings, "")
        return [*suggestions(outlook), *(remedy(kind, {"service": "EC2"}, settings) for kind in ("accelerator", "machine", "job"))]

    with warehouse(tmp_path / "warehouse", **tables):
        pass
    tried = advised()
    assert not any("runspend suggest" in text for text in tried)
    assert any(text.endswith(f"Until then, their cost comes from the proposed pools in {file}") for text in tried)
    assert any(text.strip().startswith("no runs were found for these machines.") and "uses them: {name: " in text for text in tried)
    file.write_text(file.read_text() + "\n")
    assert sum("runspend suggest" in text for text in advised()) > 3


def fee(number: int, cost: str, service: str | None, category: str = "Tax", account: str | None = None) -> dict[str, Any]:
    """Make a fee of the whole bill, which is shared cost."""
    return charge(number, cost, "shared", reason="fee", charge_category=category, service_name=service, sub_account_id=account)


def scope_of(tmp_path: Path, *rows: dict[str, Any]) -> scope_proposal.ScopeProposal:
    """Return the scope proposed for a ledger. Its entries and what they leave out have all cost that is in scope now."""
    with warehouse(tmp_path / "w", cost_allocations=rows) as reader:
        found = scope_proposal.scope_proposal(reader, FIRST)
    covered = [*(entry.inside_cost for entry in found.entries), *(cost for one in found.left_out for cost in one.kinds.values())]
    assert sum(covered) == sum(row["effective_cost"] for row in rows if row["allocated_to"] != "out_of_scope")
    return found


def test_the_proposed_scope_is_the_bill_if_nothing_else_is_on_it(tmp_path: Path) -> None:
    """A tax without an account is not in an entry that names accounts."""
    found = scope_of(tmp_path, charge(1, "95"), charge(2, "5", "out_of_scope"), fee(3, "7", None))
    assert [(entry.yaml, entry.inside_cost, entry.outside_cost) for entry in found.entries] == [
        ('{source: "aws"}', Decimal(102), Decimal(5))
    ]
    assert found.left_out == ()


def test_the_proposed_scope_names_fees_without_an_account_by_service(tmp_path: Path) -> None:
    """A service that other cost on the bill also has gets no entry, because that would bring the other cost into scope."""
    rows = [
        charge(1, "95"),
        fee(2, "9", "Amazon EC2", account="1111"),
        charge(3, "90", "out_of_scope", sub_account_id="web"),
        fee(4, "30", "AWS Support (Business)", "Purchase"),
        fee(5, "8", "Amazon Registrar"),
        fee(6, "4", "Amazon EC2"),
        fee(7, "-2", "Amazon EC2", "Credit"),
        fee(8, "1", None, "Purchase"),
        charge(9, "0.5", "unallocated", reason="no_run", service_name=None, sub_account_id=None),
    ]
    found = scope_of(tmp_path, *rows)
    assert [(entry.yaml, entry.inside_cost, entry.outside_cost) for entry in found.entries] == [
        ('{source: "aws", account: ["1111"]}', Decimal(104), Decimal(0)),
        ('{source: "aws", service: ["AWS Support (Business)", "Amazon Registrar"]}', Decimal(38), Decimal(0)),
    ]
    kinds = {"taxes": Decimal(4), "purchases": Decimal(1), "usage": Decimal("0.5"), "credits": Decimal(-2)}
    assert found.left_out == (scope_proposal.LeftOut("USD", kinds),)
    *_, left, why, what_to_do = scope_yaml(found)
    assert left == "    # In scope now, but not in these entries: taxes 4.00, purchases 1.00, usage 0.50, credits −2.00 USD."
    assert "no account" in why and "`scope.exclude`" in what_to_do
    assert len(yaml.safe_load("\n".join(scope_yaml(found)))["scope"]["include"]) == 2


def test_the_proposed_scope_has_shared_platform_services(tmp_path: Path) -> None:
    """They are named by account and service, even if another account has the service.

    A service with other cost in its account is left out.
    """

    def platform(number: int, cost: str, service: str) -> dict[str, Any]:
        return charge(number, cost, "shared", reason="platform", service_name=service)

    found = scope_of(
        tmp_path,
        charge(1, "95"),
        charge(2, "300", "out_of_scope", service_name="Amazon S3"),
        platform(3, "20", "Amazon RDS"),
        platform(4, "7", "Amazon EKS"),
        platform(5, "3", "Amazon S3"),
        charge(6, "60", "out_of_scope", service_name="Amazon RDS", sub_account_id="web"),
    )
    assert [(entry.yaml, entry.inside_cost, entry.outside_cost) for entry in found.entries] == [
        ('{source: "aws", account: "1111", service: ["Amazon EC2", "Amazon EKS", "Amazon RDS"]}', Decimal(122), Decimal(0))
    ]
    assert found.left_out == (scope_proposal.LeftOut("USD", {"platform services": Decimal(3)}),)


def test_the_preview_shows_shares_and_a_scope_to_paste(tmp_path: Path, given: Settings, tables: dict[str, Any]) -> None:
    """The screen has the shares of ML platform cost, the groups without a run, what to do, and a scope that can be pasted."""
    with warehouse(tmp_path / "w", **tables):
        pass
    outlook = read_outlook(open_warehouse(given), given, "from the tables of the last pipeline run")
    screen = render_outlook(outlook)
    assert screen.splitlines()[:8] == [
        "preview of November 2026 with this configuration (from the tables of the last pipeline run)",
        "  exact, by run tag   25.0%  100.00 USD",
        "  by machine          18.8%  75.00 USD, high confidence, including 25.00 idle",
        "  by pool gpu          5.0%  20.00 USD, medium confidence",
        "  unallocated         41.3%  165.00 USD, 25.0% node group gpu-spot, 12.5% team=nlp in account 1111, 2.5% Amazon S3 in account 1111, 1.3% other",
        "  shared              10.0%  40.00 USD, taxes 40.00",
        "  plus                       300.00 USD out of scope",
        "  suggestions        tag node group gpu-spot: explains 100.00, 25.0%",
    ]
    pasted = screen[screen.index("\nscope:\n") :]
    assert Settings.model_validate({"home": tmp_path, **yaml.safe_load(pasted)}).scope is not None
    assert any("0 of 1 runs" in text for _, text in outlook_lines(outlook))


def scope_lines(tmp_path: Path, given: Settings, *rows: dict[str, Any], cost_daily: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Return what the preview says about the scope to paste."""
    with warehouse(tmp_path / "w", cost_allocations=rows, cost_daily=cost_daily, runs=[run("a")]):
        pass
    lines = outlook_lines(read_outlook(open_warehouse(given), given, ""))
    first = next(number for number, (name, _) in enumerate(lines) if name == "scope")
    return [text for name, text in lines[first + 1 :] if not name]


def test_a_scope_that_lowers_the_allocated_share_says_so(tmp_path: Path, given: Settings) -> None:
    """The entry names the whole account, with a database that no run has."""
    said = scope_lines(tmp_path, given, charge(1, "95"), charge(2, "5", "out_of_scope"))
    assert said == ["with these entries, 95.0% is allocated to runs instead of 100.0%: they add 5.00 that is not allocated to runs"]


def test_a_scope_that_leaves_out_cost_of_runs_says_so(tmp_path: Path, given: Settings) -> None:
    """Other cost has no service and no account either, so no entry names this charge of a run."""
    nameless = {"service_name": None, "sub_account_id": None}
    said = scope_lines(
        tmp_path,
        given,
        charge(1, "80"),
        charge(2, "20", "unallocated"),
        charge(3, "20", **nameless),
        charge(4, "50", "out_of_scope", **nameless),
    )
    assert said == ["with these entries, 80.0% is allocated to runs instead of 83.3%: they leave out 20.00 that is allocated to runs"]


def test_a_scope_that_leaves_out_runs_of_other_months_says_so(tmp_path: Path, given: Settings) -> None:
    """The entries come from the newest month. In October, runs used machines of another account."""
    october = {"billing_period": date(2026, 10, 1), "charge_date": date(2026, 10, 9), "source": "aws", "billing_currency": "USD"}
    daily = [
        {**october, "service_name": "Amazon EC2", "sub_account_id": account, "allocated_to": target, "effective_cost": Decimal(cost)}
        for account, target, cost in (("2222", "run", "70"), ("1111", "run", "30"), ("3333", "idle", "9"))
    ]
    rows = charge(1, "95"), charge(5, "200", "out_of_scope", sub_account_id="2222")
    said = scope_lines(tmp_path, given, *rows, cost_daily=daily)
    assert said == ["they leave out what runs of other months used: Amazon EC2 in account 2222 70.00 USD. Add it to the entries first"]


def test_a_scope_with_the_same_share_needs_no_words(tmp_path: Path, given: Settings) -> None:
    assert scope_lines(tmp_path, given, charge(1, "95"), charge(2, "300", "out_of_scope", sub_account_id="web")) == []


def test_the_preview_says_that_pods_have_the_cost_of_stated_machines(tmp_path: Path, given: Settings) -> None:
    """One of three stated machines is split among pods, one also has an unused part, and one is on no bill."""
    lines = [line(1, node_key="zones/z/n1", resource_key="pod-a"), line(2, node_key="n2"), line(3, node_key="n2", resource_key="n2")]
    stated = [
        {"tracking_server": "prod", "run_id": "a", "start_month": FIRST, "resource_id": name, "resource_key": name}
        for name in ("n1", "n2", "n3")
    ]
    charges = [charge(number, "10", "unallocated", reason="no_run") for number in (1, 2, 3)]
    with warehouse(tmp_path / "w", cost_allocations=charges, billing_lines=lines, runs=[run("a")], run_resources=stated):
        pass
    outlook = read_outlook(open_warehouse(given), given, "")
    assert outlook.identity is not None
    assert (outlook.identity.unbilled_machines, outlook.identity.split_machines) == (1, 1)
    assert dict(outlook_lines(outlook))["exact or by machine"].endswith(
        "the bill splits the cost of the machines that runs state among pods"
    )
    assert (
        "the bill splits the cost of 1 machine that runs state among pods. State the pod (docs/identify.md#kubernetes), or set `pods: whole` on the bill"
        in suggestions(outlook)
    )


def test_shared_and_unallocated_cost_are_each_one_figure_with_parts(tmp_path: Path, given: Settings) -> None:
    """Taxes, support, declared services and `sharing` have their own names. Cost with a known caller is unallocated too."""
    rows = [
        charge(1, "100", match_method="run_tag", confidence="exact"),
        fee(2, "30", "Amazon EC2"),
        fee(3, "-5", "Amazon EC2", "Credit"),
        fee(4, "12", "AWS Support (Business)", "Usage"),
        fee(5, "8", "Amazon EC2", "Usage"),
        charge(6, "20", "shared", reason="platform", charge_category="Usage", service_name="Amazon RDS"),
        charge(7, "-15", "shared", reason="proportional", charge_category="Adjustment", service_name=None, match_method="sharing"),
        charge(8, "15", match_method="sharing"),
        charge(9, "10", "unallocated", reason="no_run", match_method="llm_identity", cost_kind="llm"),
        charge(10, "25", "unallocated", reason="no_run"),
    ]
    with warehouse(tmp_path / "w", cost_allocations=rows, runs=[run("a")]):
        pass
    lines = dict(outlook_lines(read_outlook(open_warehouse(given), given, "")))
    kinds = "taxes 30.00, platform services 20.00, support 12.00, other fees 8.00, credits −5.00, distributed by sharing −15.00"
    assert lines["shared"] == f" 25.0%  50.00 USD, {kinds}"
    assert lines["unallocated"] == " 17.5%  35.00 USD, including 10.00 with a known caller, 12.5% Amazon EC2 in account 1111"
    assert "LLM usage by caller" not in lines


def test_a_run_belongs_to_a_pool_and_does_not_state_it() -> None:
    """A pool selects its runs, so they do not state it."""
    found = [
        diagnostics.UnmetClaims("pool_time", reason, runs, 3.0, "gpu").words
        for reason, runs in (("no_such_machine", 2), ("over_claimed", 1))
    ]
    assert found == [
        "2 runs (3.0 h) belong to a pool, such as gpu: no bill has its machines at that time",
        "1 run (3.0 h) belongs to a pool, such as gpu: other runs used all of its hours",
    ]
