"""`explain` shows every charge of a cost, or why there is none. Printed amounts add up, and JSON has every digit."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from runspend.actions.explain import (
    AmbiguousName,
    RunExplanation,
    UnknownName,
    explain_line,
    explain_named,
    explain_resource,
    explain_run,
    explanation_as_json,
    line_as_text,
    resource_as_text,
    run_as_text,
)
from runspend.core.errors import UsageError
from runspend.warehouse.base import Reader
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.actions.explain import explain_world as w
from tests.allocation.chain import arrow, total


def explained(reader: Reader, text: str, period: str | None = None) -> RunExplanation:
    """Return the explanation of a run."""
    return explain_run(reader, text, w.SETTINGS, now=w.NOW, period=period)


def amounts(text: str, column: str = "") -> list[Decimal]:
    """Return the effective costs printed on lines that contain `column`."""
    return [
        Decimal(found[1].replace(",", ""))
        for line in text.splitlines()
        if column in line and (found := re.search(r"\d\.\d{4}\*?\s+(\d[\d,]*\.\d+)(?:\s{3}|$)", line))
    ]


def test_why_a_run_with_a_wild_clock_and_a_gap_is_less_certain(reader: Reader) -> None:
    """The text states both reasons. No charge includes the time in which the run was stopped."""
    found = explained(reader, w.STOPPED)
    text = run_as_text(found)
    assert "its clock was wrong: it ended at 2099-01-01 00:00 UTC" in text and "Its cost counts until 1 Oct 12:00 UTC" in text
    assert "it logged nothing from 1 Oct 02:15 UTC to 1 Oct 10:00 UTC: this time is not charged" in text
    [cost] = found.currencies
    assert cost.summed.effective_cost == Decimal("4.25")
    assert {(p.run_end_rule, p.confidence) for p in cost.parts} == {("future", "medium")}
    assert sum(p.ran_seconds or 0 for p in cost.parts) == 4.25 * 3600
    assert explanation_as_json(found)["gaps"] == [["2026-10-01T02:15:00Z", "2026-10-01T10:00:00Z"]]


def test_a_tag_of_another_time_is_stated(reader: Reader) -> None:
    """The bill's tag is only a claim. Charges for hours in which the run was not active still go to the run, and the text reports them."""
    assert "1 charge with its tag is for times when it did not run" in run_as_text(explained(reader, w.TAGGED))
    assert "other_time" in line_as_text(explain_line(reader, "line-301"))
    assert "other_time" not in line_as_text(explain_line(reader, "line-300"))


@pytest.mark.parametrize("run_id", [w.BIG, w.SMALL, w.TAGGED, w.CHILD, w.LONG, w.LOST])
def test_the_charges_add_up_to_run_costs_and_the_print_to_itself(reader: Reader, run_id: str) -> None:
    """The charges are exact in all four measures. The printed column equals the printed sum despite rounding."""
    found = explained(reader, run_id)
    (cost,) = found.currencies
    assert cost.stated is not None and cost.difference == 0
    for measure in ("effective_cost", "list_cost", "contracted_cost", "billed_cost"):
        assert total(getattr(p.costs, measure) for p in cost.parts) == getattr(cost.stated, measure) == getattr(cost.summed, measure)
    text = run_as_text(found, full=True)
    printed = re.search(r"([\d,.]+)   = run_costs.effective_cost  ✓", text)
    assert printed is not None
    things = [Decimal(m[1]) for m in re.finditer(r", \d+ charges?\s+([\d.]+)\n", text)]
    assert total([*amounts(text), *things]) == Decimal(printed[1].replace(",", ""))


def test_an_explanation_has_header_costs_blocks_and_idle_cost(reader: Reader) -> None:
    """It shows a header, four costs, a block for each rule, how each hour was split between runs, and the machines' idle cost."""
    text = run_as_text(explained(reader, w.BIG[:8]))
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == f"RUN   {w.BIG}  vit-l16-224  FINISHED  https://mlflow.example.com/#/experiments/1/runs/{w.BIG}"
    assert "experiment exp · team vision (experiment.tag.team) · user ben · 1 Oct 2026 08:14:10 → 13:44:40 UTC, 5 h 30 min 30 s" in lines[1]
    assert lines[2].strip() == "requested 8 GPUs on 1 x p4d.24xlarge"
    assert any(line.startswith("COST  effective 1") and "billed" in line and "list" in line for line in lines)
    assert any("a commitment covers these hours" in line for line in lines)
    assert any(line.strip().startswith("cost status: provisional (aws 2026-10 v2, complete to 4 Oct 00:00 UTC)") for line in lines)
    assert (
        "MACHINES   rule resource_id · confidence high · the run and the bill name the same machine, at the same time · weighted by GPUs"
        in lines
    )
    assert re.search(r"1 Oct 08:00 +…000008 +24\.5760 +45:50 +0\.7639 +18\.77\d\d +idle 14:10", text)
    assert re.search(r"11:00 +…00000b +24\.5760 +60:00 +0\.8889\* +21\.84\d\d +e77b01aa eval-vit 0\.1111 \(requested 1 GPU\)", text)
    assert "* runs requested or claimed more than the machine has: scaled down" in text
    assert "ATTACHED   rule attached · confidence high · attached to its machines, split like them" in lines
    assert re.search(r"  vol-1 \(EBS\), 6 charges +3\.\d{4}", text)
    assert "NOT CHARGED TO THIS RUN  idle cost of the same machines on these days:" in text
    assert "aws 2026-10 v2 changed charges of its services on its days" in text
    assert "  aws 2026-10 v2   1 Oct        +24.5760 USD  EC2" in run_as_text(explained(reader, w.BIG), history=True)


def test_a_sum_that_does_not_add_up_is_stated(warehouse: ParquetWarehouse, tmp_path: Path) -> None:
    """If the charges and `run_costs` differ, the text shows the difference and no check mark."""
    other = w.make_explained(tmp_path / "warehouse")
    (unit,) = other.states("run_costs")
    rows = other.read(unit)
    assert rows is not None
    wrong = [
        {**r, "effective_cost": r["effective_cost"] + Decimal("0.0000001") if r["run_id"] == w.BIG else r["effective_cost"]}
        for r in rows.to_pylist()
    ]
    with other.step("summarize", "wrong") as step:
        step.put(*unit, arrow("run_costs", wrong))
        assert step.publish()
    with other.reader() as reader:
        found = explained(reader, w.BIG)
        text = run_as_text(found)
        assert found.currencies[0].difference == Decimal("-0.0000001")
        assert "✓" not in text
        assert "the charges differ by −0.0000001" in text and "runspend check" in text
        assert "✓" in run_as_text(explained(reader, w.SMALL))


def test_a_long_run_is_explained_by_day(reader: Reader) -> None:
    """72 hours become three rows, and --full shows them all. Both add up to the same cost."""
    found = explained(reader, w.LONG)
    short, full = run_as_text(found), run_as_text(found, full=True)
    assert "grouped by day; --full shows all 72 charges" in short
    assert re.search(r" 1 Oct 24 x +24 charges +8\.0000 +24:00:00 +1\.0000 +8\.0000", short)
    assert len(amounts(full)) == 72 and len(amounts(short)) == 3
    assert total(amounts(full)) == total(amounts(short)) == Decimal("24.0000")


def test_a_run_can_be_explained_for_one_period(reader: Reader) -> None:
    """Only the charges of that period's bill are included."""
    found = explained(reader, w.BIG, "2026-10")
    assert "= run_costs_daily.effective_cost  ✓" in run_as_text(found)
    assert explained(reader, w.BIG, "2026-09").currencies == ()


def test_a_run_without_an_end_says_where_it_ends(reader: Reader) -> None:
    """The text names the rule that determined the end."""
    text = run_as_text(explained(reader, w.LOST))
    assert "MLflow has no end time for it: it counts until its last metric" in text
    assert re.search(r"21:00 +line-421 +1\.0000 +30:00 +0\.5000 +0\.5000 +idle 30:00", text)


@pytest.mark.parametrize(
    ("run_id", "reason", "words"),
    [
        (w.ZERO_LENGTH, "zero_length", "it started and ended at the same time"),
        (w.NOWHERE, "no_machine", "Neither the run nor a parent run states a machine"),
        (w.LATE, "no_bill_yet", "the newest bill is complete to 4 Oct 00:00 UTC"),
        (w.ELSEWHERE, "not_on_bill", "No loaded bill has a charge for gpu-m9"),
        (w.EXCLUDED, "out_of_scope", "excludes the charges of db"),
        (w.ON_NODE, "split_into_pods", "The bill gives the cost of node-1 to its pods"),
        (w.PARENT, "children", "Its child runs cover all of its time and get its cost: together 2 USD"),
    ],
)
def test_no_cost_has_one_reason_and_one_thing_to_do(reader: Reader, run_id: str, reason: str, words: str) -> None:
    """The text gives the first matching reason, and what to do about it."""
    found = explained(reader, run_id).no_cost
    assert found is not None
    assert (found.reason, words in found.why, len(found.advice) > 10) == (reason, True, True), found
    text = run_as_text(explained(reader, run_id))
    assert f"COST  none: {found.why}" in text and found.advice in text


def test_a_bill_that_is_down_is_the_reason(warehouse: ParquetWarehouse, tmp_path: Path) -> None:
    """The reason is not "no bill yet", because the bill with these hours was refused. The advice contains its error."""
    other = w.make_explained(tmp_path / "warehouse")
    with other.step("load", "down") as step:
        step.put(
            "sources",
            "all",
            "aws",
            arrow("sources", [{"source": "aws", "kind": "bill", "state": "refused", "last_error": "part 3 of 5 is missing"}]),
        )
        assert step.publish()
    with other.reader() as reader:
        found = explained(reader, w.LATE).no_cost
    assert found is not None and found.reason == "source_down"
    assert found.advice == "Fix it: part 3 of 5 is missing"


def test_how_a_run_may_be_named(reader: Reader) -> None:
    """A run may be named by its id, the beginning of its id, its address in MLflow, or server/workspace/id."""
    for text in (
        w.BIG,
        w.BIG[:8],
        w.BIG[:6],
        f"https://mlflow.example.com/#/experiments/1/runs/{w.BIG}/artifacts",
        f"runs:/{w.BIG}/model",
        f"prod/default/{w.BIG}",
    ):
        assert explained(reader, text).key.run_id == w.BIG
    assert explained(reader, f"https://mlflow.example.com/#/experiments/1/runs/{w.TWICE}").key.tracking_server == "prod"


def test_unknown_short_and_ambiguous_names_are_explained(reader: Reader) -> None:
    """The message has similar names, the shortest allowed length, or a list."""
    with pytest.raises(UnknownName, match=r"(?s)cannot find run '3f1c9b7be2': .* Did you mean:\n  prod/default/3f1c9a7b") as unknown:
        explained(reader, "3f1c9b7be2")
    assert [c.key.run_id for c in unknown.value.candidates] == [w.BIG]
    with pytest.raises(UsageError, match="at least 6 characters"):
        explained(reader, "3f1c9")
    with pytest.raises(AmbiguousName, match="2 match") as several:
        explained(reader, w.TWICE[:8])
    assert sorted(c.key.tracking_server for c in several.value.candidates) == ["lab", "prod"]
    assert explained(reader, f"lab/default/{w.TWICE}").key.tracking_server == "lab"
    for hostile in ("'; drop table runs; --", "%", "a\x1b[31mred%", "\N{FULLWIDTH APOSTROPHE}" * 9):
        with pytest.raises(UsageError) as error:
            explained(reader, hostile + "      ")
        assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vol-1", "cannot find run 'vol-1': it is a resource of a bill. Run: runspend explain --resource vol-1"),
        (" gpu-m1 ", None),
        ("m1", "cannot find run 'm1': it is a resource of a bill. Run: runspend explain --resource m1"),
        ("line-600", "cannot find run 'line-600': it is a charge of a bill. Run: runspend explain --line line-600"),
        ("VOL", "it is too short. .* Billed resources with a similar name: vol-1. Explain one with: runspend explain --resource ID$"),
        ("zzzzzzzz", r"List some with: runspend sql .*limit 20.$"),
        ("3f1c9b7be2", "Did you mean:\n  prod/default/3f1c9a7b"),
    ],
)
def test_a_name_of_a_resource_or_line_hints_at_its_option(reader: Reader, text: str, sentence: str | None) -> None:
    """Users may type an instance's id or a bill line's id."""
    with pytest.raises(UsageError, match=sentence) as refused:
        explain_named(reader, text, w.SETTINGS, now=w.NOW)
    assert sentence is not None or "--resource" not in str(refused.value)


def test_a_run_is_explained_even_if_a_resource_has_its_name(reader: Reader) -> None:
    assert explain_named(reader, w.BIG[:8], w.SETTINGS, now=w.NOW).key.run_id == w.BIG
    with pytest.raises(AmbiguousName, match="2 match"):
        explain_named(reader, w.TWICE[:8], w.SETTINGS, now=w.NOW)


def test_a_machine_is_explained_by_hour(reader: Reader) -> None:
    """The explanation shows users and idle time by hour. The rows add up to the machine's bill lines."""
    found = explain_resource(reader, "m1")
    assert found.effective_cost == Decimal("24.576") * 6 == total(u.share.effective_cost for u in found.users)
    assert [h.lines for h in found.hours] == [1] * 6
    text = resource_as_text(found)
    assert "RESOURCE  m1  p4d.24xlarge" in text
    assert re.search(r" 1 Oct 08:00 +1 charge +24\.5760   3f1c9a7b vit-l16-224 0\.7639 · idle 0\.2361", text)
    assert "grouped by day; --full shows all 72 hours" in resource_as_text(explain_resource(reader, "m3"))
    with pytest.raises(UnknownName, match="Did you mean: vol-1"):
        explain_resource(reader, "vol")
    with pytest.raises(UnknownName, match="it is billed in 2026-10"):
        explain_resource(reader, "m1", period="2026-01")
    with pytest.raises(UnknownName, match="its charges are out of scope"):
        explain_resource(reader, "db")


def test_a_line_is_explained_with_all_its_targets(reader: Reader) -> None:
    """The page shows the delivered line, the computed columns and each part. The line is found by the end of its id, as `explain RUN` prints it."""
    found = explain_line(reader, "…00000b")
    text = line_as_text(found)
    assert dict(found.facts)["EffectiveCost"] == "24.576" and dict(found.settled)["instance_type"] == "p4d.24xlarge"
    assert [(t.run.run_id if t.run else t.allocated_to, round(t.ratio, 4)) for t in found.targets] == [(w.BIG, 0.8889), (w.SMALL, 0.1111)]
    assert "= the charge  ✓" in text and "rule resource_id · confidence high · scaled down" in text
    assert explain_line(reader, "line-600").charge_id is None
    assert "out of scope" in line_as_text(explain_line(reader, "line-600"))
    pooled = explain_line(reader, "line-208")
    assert pooled.lines_in_charge >= 1 and {t.match_method for t in pooled.targets} == {"attached"}
    with pytest.raises(AmbiguousName, match=r"Give more of the id:\n  line-20"):
        explain_line(reader, "line-20")
    with pytest.raises(UnknownName):
        explain_line(reader, "nothing-like-it")


def test_json_has_every_digit_as_text(reader: Reader) -> None:
    """Costs are strings that add up exactly. The object can be written and read back, and includes the difference."""
    made = json.loads(json.dumps(explanation_as_json(explained(reader, w.LONG))))
    (cost,) = made["currencies"]
    parts = [p for block in cost["blocks"] for p in block["parts"]]
    assert len(parts) == 72
    assert parts[0]["costs"]["effective_cost"] == "0.3333333333333333333333"
    assert total(Decimal(p["costs"]["effective_cost"]) for p in parts) == Decimal(cost["stated"]["effective_cost"])
    assert cost["difference"] == "0" and made["explains"] == "run" and made["start_time"] == "2026-10-01T00:00:00Z"
    assert json.loads(json.dumps(explanation_as_json(explain_resource(reader, "m1"))))["effective_cost"] == "147.456"
    assert json.loads(json.dumps(explanation_as_json(explain_line(reader, "…00000b"))))["summed"]["effective_cost"] == "24.576"
    assert explanation_as_json(explained(reader, w.NOWHERE))["no_cost"]["reason"] == "no_machine"


def test_people_are_hidden_where_configured(reader: Reader) -> None:
    """With `mail.people: hide`, the text shows neither the user nor the owner."""
    hidden = w.SETTINGS.model_copy(update={"mail": w.SETTINGS.mail.model_copy(update={"people": "hide"})})
    assert "ben" in run_as_text(explained(reader, w.BIG))
    assert "ben" not in run_as_text(explain_run(reader, w.BIG, hidden, now=w.NOW))
