"""docs/accuracy.md, written from judgements: how right each rule is, world by world, beside the three published formulas.

What is measured belongs in `judge.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tests.benchmarks.accuracy.judge import NO_COST, Judgement, Rule
from tests.benchmarks.accuracy.others import OTHERS
from tests.benchmarks.accuracy.worlds import WITH_IDS, WITHOUT_IDS, WORLDS, Size

ORDER = ("run_tag", "job_id", "resource_id", "attached", "artifact_bytes", "llm_cost", "pool_time", "instance_type_time")
STORIES = {maker.__name__: (maker.__doc__ or "").strip() for makers in WORLDS.values() for maker in makers}

HEAD = """\
# How far the ledger follows its policy

This page measures consistency, not truth. A policy decides whose an hour is: exclusive time, as in
[How money is split](how-money-is-split.md). The benchmark shows how close the ledger comes to that policy with what a run and a bill
state, and what other tools' policies make of the same runs and lines. Another company may prefer another policy, for instance that a run
pays for the idle time around it.

```sh
make bench ARGS="-k accuracy"          # writes this page: seed {seed}, {machines} machines at a time, {days} days a world
```

A simulator (`tests/benchmarks/accuracy`) makes clusters in which everything is known. It decides what runs where and when. By slicing time, in exact
fractions, it works out whose each bill line is by the policy: a machine's time belongs to the runs on it, by what they asked for; the rest is idle. The
tables call that the truth. The simulator then writes what a user has, an MLflow store and a FOCUS bill, and `runspend nightly` runs over them. It shares
no code with the product.

Error is Σ over runs |cost − truth| ÷ Σ truth. What must hold, or the benchmark fails: in every world, billing period and measure the ledger is the bill to
the last decimal; no false match above confidence `medium`; the goals below. {met}
"""

OTHERS_TEXT = """\
Three published formulas, re-implemented from their descriptions, got the same runs and lines. They need a machine's id on the run; without
one they give runs nothing, which is an error of 1. Their error is the distance from the policy above, which is not theirs.

In `silent_dead`, Mozilla's formula comes closer than Runspend: {silent}. Runs there never say that they ended and log nothing, so no rule can know
when they died. Mozilla leaves runs without an end out. Runspend lets them run for `silent_hours` (24), and gives their cost confidence `low`.

* **Mozilla** (Firefox-CI): duration ÷ uptime × cost of the machine; what has no machine is dropped. `mozilla/bigquery-etl`,
  `sql/moz-fx-data-shared-prod/fxci_derived/task_run_costs_v1/query.sql` and `worker_costs_v1/query.sql`.
* **OptScale** (MLOps): cost of the machine in the days of a task × duration ÷ hours billed in them, for every run anew. `hystax/optscale`,
  `rest_api/rest_api_server/controllers/profiling/base.py`, `_get_run_costs`.
* **SnowPatrol**: share of the elapsed time of a day × the day's cost of the machine, idle time included. `astronomer/snowpatrol`,
  `include/sql/initial_setup/view_reporting_dag_cost.sql`, `include/sql/data_reporting/reporting_warehouse_credits.sql`.
"""


def write_report(judgements: Sequence[Judgement], *, seed: int, size: Size) -> str:
    """The page."""
    faults = [f"* `{j.world.name}`: {fault}." for j in judgements for fault in j.faults]
    met = "This time some of it did not hold: see the end." if faults else "All of it held."
    parts = [HEAD.format(seed=seed, machines=size.machines, days=size.days, met=met), "## By rule\n", *_rules(judgements), "\n## By world\n", *_worlds(judgements), "", OTHERS_TEXT.format(silent=_silent(judgements))]
    parts += ["## What each world is\n", *(f"* `{j.world.name}`: {STORIES[j.world.name]}" for j in judgements)]
    parts += ["\n## What did not hold\n", *faults] if faults else []
    return "\n".join(parts) + "\n"


def _rules(judgements: Sequence[Judgement]) -> list[str]:
    lines = [
        "All worlds together, but those without a goal, which stand alone at the end. A false match is money of a charge given to a run that had no part in it; `worst run` is the largest difference of one run.\n",
        "| rule | truth, USD | error | false matches | their money | over-claimed | worst run, USD |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ORDER:
        rules = [j.rules[name] for j in judgements if name in j.rules and j.world.bar is not None]
        if rules:
            lines.append(_rule_line(name, rules))
    for judgement in judgements:
        if judgement.world.bar is None:
            lines += [_rule_line(f"{rule.name}, `{judgement.world.name}` alone", [rule]) for rule in judgement.rules.values() if rule.truth and rule is not judgement.whole]
    lines.append(
        "\nThe rules from a pool and from types price an hour of an account together. A run that names no account has a part of each account's hour, at nearly the same price: "
        "most of their false matches are that, and hardly any of the error."
    )
    return lines


def _rule_line(name: str, rules: Sequence[Rule]) -> str:
    truth = sum((r.truth for r in rules), NO_COST)
    error = sum((r.error for r in rules), NO_COST)
    money = sum((r.false_money for r in rules), NO_COST)
    scaled = sum((r.scaled for r in rules), NO_COST)
    to_runs = sum((r.to_runs for r in rules), NO_COST)
    worst = max(r.worst_run[0] for r in rules)
    return f"| {name} | {float(truth):,.0f} | {_error(error / truth if truth else error)} | {sum(r.false_matches for r in rules):,} | {float(money):,.2f} | {float(scaled / to_runs) if to_runs else 0:.1%} | {_money(worst)} |"


def _worlds(judgements: Sequence[Judgement]) -> list[str]:
    lines = [
        "`settled` is the share of the bill some rule of the ladder settled, idle time included; the rest is fees, other departments, and what no rule could place.\n",
        "| world | runs | lines | settled | error | goal | " + " | ".join(OTHERS) + " |",
        "|---|---|---|---|---|---|" + "---|" * len(OTHERS),
    ]
    for j in judgements:
        goal = {WITH_IDS: "≤ 10⁻⁶", WITHOUT_IDS: "≤ 5 %"}.get(j.world.bar, "none")
        others = " | ".join(_error(j.others[name].relative_error) for name in OTHERS)
        lines.append(f"| {j.world.name} | {len(j.world.runs):,} | {len(j.world.lines):,} | {float(j.whole.settled / j.bill):.1%} | {_error(j.whole.relative_error)} | {goal} | {others} |")
    return lines


def _silent(judgements: Sequence[Judgement]) -> str:
    """What the text says of the world in which runs end unseen."""
    found = next(j for j in judgements if j.world.name == "silent_dead")
    return f"{_error(found.others['Mozilla'].relative_error)} beside {_error(found.whole.relative_error)}"


def _error(error: Fraction) -> str:
    value = float(error)
    return "0" if not value else f"{value:.1e}" if value < 0.0005 else f"{value:.3f}"


def _money(amount: Fraction) -> str:
    value = float(amount)
    return "0" if not value else f"{value:.1e}" if value < 0.005 else f"{value:,.2f}"
