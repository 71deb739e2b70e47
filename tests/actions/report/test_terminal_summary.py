"""The summary of a pipeline run in the terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from runspend.actions.report import PipelineRun, ReportFigures, plan_report, render_summary, summary_lines
from runspend.actions.report.figures import PARTS
from runspend.actions.report.terminal_summary import WORDS
from runspend.allocation.without_run import Group
from runspend.config.settings import Settings
from runspend.core.amounts import money, percent
from tests.actions.report.report_world import NOW, TableReader, month_world
from tests.hostile_names import TERMINAL


@pytest.fixture(scope="module")
def figures() -> ReportFigures:
    """The figures of the small month."""
    return plan_report(TableReader(month_world()), "2026-11", settings=Settings(), now=NOW)


PIPELINE_RUN = PipelineRun(
    NOW, 41.2, ("2026-11",), ("2026-10",), (("✗", "vision 5,012.38 / 5,000"), ("✓", "3 others")), (("✓", "aws v23"), ("⚠", "mlflow lab: down")),
    Path("reports/2026-11.html"), exit_code=3, problems=("1 source was not read (mlflow lab). Everything else is done.",),
)  # fmt: skip


def test_the_screen_says_what_the_page_says(figures: ReportFigures) -> None:
    """Each figure is its exact value, rounded. The screen shows every figure that it is given."""
    text = render_summary([figures], PIPELINE_RUN)
    (c,) = figures.currencies
    costs = {WORDS[part]: c.parts[part].effective_cost for part in PARTS}
    costs |= {"ML platform": c.platform.effective_cost, "bill": c.bill.effective_cost}
    assert (
        dict(re.findall(r"^  (\S.*?)\s{2,}([−\d,]+\.\d\d)", text, re.MULTILINE)).items() >= {n: money(v) for n, v in costs.items()}.items()
    )
    shares = re.findall(r"^  (\S.*?) {2,}\S+ +([\d.]+%)", text, re.MULTILINE)
    assert dict(shares) == {name: percent(costs[name] * 100 / costs["ML platform"]) for name, _ in shares} and shares[-1] == (
        "ML platform",
        "100.0%",
    )
    for words in ("NOVEMBER 2026 · effective cost · USD · bill complete to 22 Nov 23:00 UTC", "equals the delivered bill in all four measures  ✓", "BUDGETS  ✗ vision 5,012.38 / 5,000",
                  "SOURCES  ✓ aws v23 · ⚠ mlflow lab: down", "report   reports/2026-11.html", "exit 3: 1 source was not read (mlflow lab). Everything else is done."):  # fmt: skip
        assert words in text
    assert "\x1b" not in text


def test_the_unallocated_line_names_what_explains_most_of_it(figures: ReportFigures) -> None:
    """A group counts with its cost in scope: S3 has more out of scope here."""
    storage = Group("Amazon S3", {"service": "Amazon S3"}, Decimal(3000), "measure", outside_cost=Decimal(2932))
    calls = Group("Amazon Bedrock", {"service": "Amazon Bedrock"}, Decimal(238), "identify")
    (c,) = figures.currencies
    text = render_summary([replace(figures, currencies=(replace(c, groups=(storage, calls)),))], PIPELINE_RUN)
    (line,) = [line for line in text.splitlines() if "explains" in line]
    assert "Amazon Bedrock: explains 238" in line


def test_colors_are_for_terminals_only(figures: ReportFigures) -> None:
    """With `tty`, the same words have colors."""
    colored = render_summary([figures], PIPELINE_RUN, tty=True)
    assert "\x1b[31m✗\x1b[0m" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == render_summary([figures], PIPELINE_RUN)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_lists_are_broken_at_the_width(figures: ReportFigures, width: int) -> None:
    """Teams and sources wrap. No such line is longer than the width."""
    pipeline_run = PipelineRun(NOW, 1, sources=tuple(("✓", f"source number {i}") for i in range(12)))
    text = render_summary([figures], pipeline_run, width=width)
    block = text[text.index("SOURCES") : text.index("  next")]
    assert max(map(len, block.splitlines())) <= width
    assert all(f"source number {i}" in text for i in range(12))


def test_a_difference_from_the_export_is_stated() -> None:
    """A ledger that differs from the bill is not shown as equal."""
    world = month_world()
    world["billing_lines"].pop()
    text = render_summary([plan_report(TableReader(world), "2026-11", settings=Settings(), now=NOW)], PIPELINE_RUN)
    assert "differs from the delivered bill of aws" in text
    assert "equals the delivered bill" not in text


def test_claims_that_found_nothing_come_first_and_shares_of_types_after_the_money() -> None:
    """Each is a line for users, and a key and value for programs."""
    pipeline_run = PipelineRun(
        NOW,
        1,
        claims=(("⚠", "2026-10: 1 run without a match"),),
        claimed_hours=(("⚠", "2026-10: runs claim 96% of 10 h of p4d"),),
        sources=(("✓", "bill"),),
    )
    text = render_summary([], pipeline_run)
    assert "  CLAIMS   ⚠ 2026-10: 1 run without a match\n" in text and "  TYPES    ⚠ 2026-10: runs claim 96% of 10 h of p4d\n" in text
    assert text.index("CLAIMS") < text.index("TYPES") < text.index("SOURCES")
    facts = summary_lines([], pipeline_run)
    assert "unmet_claims=2026-10: 1 run without a match" in facts and "claimed_hours=2026-10: runs claim 96% of 10 h of p4d" in facts


def test_the_newest_month_is_shown_in_full_and_an_empty_month_says_so(figures: ReportFigures) -> None:
    """Older months have one line each. An empty month states that it is empty."""
    october = plan_report(TableReader(month_world()), "2026-10", settings=Settings(), now=NOW)
    text = render_summary([figures, october], PIPELINE_RUN)
    assert "NOVEMBER 2026" in text
    assert "OCTOBER 2026" not in text
    assert re.search(r"EARLIER  October 2026 [\d,]+\.\d\d USD", text)
    newer = PipelineRun(NOW, 1, empty=("2026-12",))
    assert "  NEWER    December 2026: on the bill, without cost\n" in render_summary([figures], newer)
    assert "without_cost=2026-12" in summary_lines([figures], newer)
    empty = plan_report(TableReader({}), "2026-11", settings=Settings(), now=NOW)
    assert "no charges of this month are loaded" in render_summary([empty], PIPELINE_RUN)
    assert "exit" not in render_summary([], PipelineRun(NOW, 1))


def test_facts_are_exact_and_one_per_line(figures: ReportFigures) -> None:
    """Without a terminal, the output is key=value, with money to the last decimal."""
    lines = summary_lines([figures], PIPELINE_RUN)
    facts = dict(line.split("=", 1) for line in lines)
    (currency,) = figures.currencies
    assert Decimal(facts["2026-11.USD.allocated_to_runs"]) == currency.parts["allocated to runs"].effective_cost
    assert Decimal(facts["2026-11.USD.bill"]) == currency.bill.effective_cost
    assert facts["2026-11.USD.equals_loaded_bill"] == "true"
    assert (facts["exit"], facts["rebuilt"], facts["report"]) == ("3", "2026-11", "reports/2026-11.html")
    assert all("\n" not in line for line in lines)


def test_a_ledger_without_a_bill_is_not_called_equal(figures: ReportFigures) -> None:
    """The value is false if ledger and bill differ. A currency without a bill in the month has no value."""
    (currency,) = figures.currencies
    wrong = replace(currency.reconciliation[0], ledger=None)
    for reconciliation, flag in (((wrong, *currency.reconciliation[1:]), "false"), ((), "")):
        shown = replace(figures, currencies=(replace(currency, reconciliation=reconciliation),))
        assert f"2026-11.USD.equals_loaded_bill={flag}" in summary_lines([shown], PIPELINE_RUN)


@pytest.mark.parametrize("name", TERMINAL)
def test_names_cannot_move_the_cursor(name: str) -> None:
    """Control characters and text direction marks in a name are replaced before they reach a terminal or a log."""
    figures = plan_report(TableReader(month_world(names={"*": name})), "2026-11", settings=Settings(), now=NOW)
    pipeline_run = PipelineRun(NOW, 1, budgets=(("✓", name),), sources=(("✓", name),), problems=(name,), exit_code=3)
    for text in (render_summary([figures], pipeline_run), "\n".join(summary_lines([figures], pipeline_run))):
        assert not set(text) & set("\x1b\r\x07\x9b\u202e\u2028")
        assert "\nexit 0" not in text
