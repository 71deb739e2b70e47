"""Write docs/accuracy.md from judgements: the accuracy of each rule and world, compared with three published formulas.

`judge.py` decides what is measured.
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

This page measures consistency, not truth. A policy decides which run pays for an hour: exclusive time, as in
[How money is split](how-money-is-split.md). The benchmark shows how close the ledger comes to that policy, from the data of runs and bills
alone. It also shows the results of other tools' policies for the same runs and charges. Your company may prefer another policy, for
example that a run pays for the idle time around it.

```sh
make bench ARGS="-k accuracy"          # writes this page: seed {seed}, {machines} machines at a time, {days} days a world
```

A simulator (`tests/benchmarks/accuracy`) creates clusters in which everything is known. It decides which runs use which machines, and when. It
cuts time into exact fractions and applies the policy to each charge. A machine's time belongs to the runs on it, in proportion to what they
requested. The rest is idle. The tables below call this result the truth. The simulator then writes the data that a user would have: an MLflow
store and a FOCUS bill. `runspend nightly` processes both. The simulator shares no code with Runspend.

The error is Σ over runs |cost − truth| ÷ Σ truth. The benchmark fails unless all of these are true:

* In every world, billing period and measure, the ledger equals the bill to the last decimal.
* No false match has a confidence above `medium`.
* Every world meets its goal below.

{met}
"""

OTHERS_TEXT = """\
Three published formulas were re-implemented from their descriptions and applied to the same runs and charges. They need a machine's id on the
run. Without one, they allocate nothing to runs, which is an error of 1. Their error is the distance from the policy above, which is not theirs.

In `silent_dead`, Mozilla's formula is more accurate than Runspend: {silent}. Runs in that world have no end and log nothing, so no rule can know
when they died. Mozilla excludes runs without an end. Runspend charges them for `silent_hours` (24), with confidence `low`.

* **Mozilla** (Firefox-CI): duration ÷ uptime × cost of the machine, over the last 30 days. Runs without a machine are dropped, and so are runs
  longer than the uptime (`uptime >= duration`, since May 2026). `mozilla/bigquery-etl`,
  `sql/moz-fx-data-shared-prod/fxci_derived/task_run_costs_v1/query.sql` and `worker_costs_v1/query.sql`.
* **OptScale** (MLOps): cost of the machine on the days of a task × duration ÷ hours billed on these days, separately for every run. `hystax/optscale`,
  `rest_api/rest_api_server/controllers/profiling/base.py`, `_get_run_costs`.
* **SnowPatrol**: share of the elapsed time of a day × the machine's cost on that day, including idle time. `astronomer/snowpatrol`,
  `include/sql/initial_setup/view_reporting_dag_cost.sql`, `include/sql/data_reporting/reporting_warehouse_credits.sql`.
"""


def write_report(judgements: Sequence[Judgement], *, seed: int, size: Size) -> str:
    """Return the page."""
    faults = [f"* `{j.world.name}`: {fault}." for j in judgements for fault in j.faults]
    met = "This run did not meet all of these conditions: see the end." if faults else "This run met all of these conditions."
    parts = [
        HEAD.format(seed=seed, machines=size.machines, days=size.days, met=met),
        "## By rule\n",
        *_rules(judgements),
        "\n## By world\n",
        *_worlds(judgements),
        "",
        OTHERS_TEXT.format(silent=_silent(judgements)),
    ]
    parts += ["## The worlds\n", *(f"* `{j.world.name}`: {STORIES[j.world.name]}" for j in judgements)]
    parts += ["\n## Failures\n", *faults] if faults else []
    return "\n".join(parts) + "\n"


def _rules(judgements: Sequence[Judgement]) -> list[str]:
    lines = [
        "All worlds together. Worlds without a goal are listed separately at the end. A false match is cost allocated to a run that did not use the charged resource. `worst run` is the largest difference for one run.\n",
        "| rule | truth, USD | error | false matches | their cost, USD | over-claimed | worst run, USD |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ORDER:
        rules = [j.rules[name] for j in judgements if name in j.rules and j.world.bar is not None]
        if rules:
            lines.append(_rule_line(name, rules))
    for judgement in judgements:
        if judgement.world.bar is None:
            lines += [
                _rule_line(f"{rule.name}, `{judgement.world.name}` alone", [rule])
                for rule in judgement.rules.values()
                if rule.truth and rule is not judgement.whole
            ]
    lines.append(
        "\nThe rules `pool_time` and `instance_type_time` price the hours of an account together. A run that states no account gets a part of each account's hour, at nearly the same price. "
        "This causes most of their false matches, but hardly any of the error. "
        "The rule `attached` follows machines: where runs of a pool or a type may have them (`mixed`), it is as accurate as these rules."
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
        "`allocated` is the share of the bill that an allocation rule matched, including idle time. The rest is fees, other departments, and cost that no rule matched.\n",
        "| world | runs | charges | allocated | error | goal | " + " | ".join(OTHERS) + " |",
        "|---|---|---|---|---|---|" + "---|" * len(OTHERS),
    ]
    for j in judgements:
        goal = {WITH_IDS: "≤ 10⁻⁶", WITHOUT_IDS: "≤ 5%"}.get(j.world.bar, "none")
        others = " | ".join(_error(j.others[name].relative_error) for name in OTHERS)
        lines.append(
            f"| {j.world.name} | {len(j.world.runs):,} | {len(j.world.lines):,} | {float(j.whole.settled / j.bill):.1%} | {_error(j.whole.relative_error)} | {goal} | {others} |"
        )
    return lines


def _silent(judgements: Sequence[Judgement]) -> str:
    """Return a phrase that compares two errors in the world whose runs die silently."""
    found = next(j for j in judgements if j.world.name == "silent_dead")
    return f"error {_error(found.others['Mozilla'].relative_error)}, compared with {_error(found.whole.relative_error)}"


def _error(error: Fraction) -> str:
    value = float(error)
    return "0" if not value else f"{value:.1e}" if value < 0.0005 else f"{value:.3f}"


def _money(amount: Fraction) -> str:
    value = float(amount)
    return "0" if not value else f"{value:.1e}" if value < 0.005 else f"{value:,.2f}"
