"""Preview the costs that a configuration leads to. `runspend doctor` shows them before the first pipeline run, `runspend try` after it.

Figures come from the warehouse if the last pipeline run used the same settings, otherwise from a dry run in a temporary folder.
`allocation/diagnostics` computes them. This module collects them and puts them into words.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from runspend import pipeline
from runspend.actions.report.labels import coverage_words, suggestion
from runspend.allocation import diagnostics
from runspend.allocation.claimed_hours import ClaimedHours, claimed_hours
from runspend.allocation.diagnostics import Coverage, Identity, RuleCost, UnmetClaims
from runspend.allocation.inputs import configuration_digest
from runspend.allocation.pools_without_runs import pools_without_runs
from runspend.allocation.scope_proposal import LeftOut, ScopeProposal, scope_proposal
from runspend.allocation.without_run import Group, unallocated_groups
from runspend.config.settings import MailSettings, Settings, WarehouseSettings
from runspend.config.trial_folder import is_trial
from runspend.config.types import CONNECTION
from runspend.core.amounts import add, less, money, month_name, percent, places_for, round_money, share_of
from runspend.core.step_result import Progress, silent
from runspend.core.text import counted
from runspend.schema.rows import first_day, month_after
from runspend.warehouse.base import Reader, Unit, Warehouse
from runspend.warehouse.factory import open_warehouse

BILL_TABLES = ("billing_lines", "billing_quarantine", "billing_loads", "bill_changes")
CONFIDENCE = {"exact": "", "high": "high confidence", "medium": "medium confidence", "low": "low confidence: by type and time only"}
GROUPS_SHOWN, LINES_SHOWN, CLAIMS_SHOWN = 3, 5, 3
NEWEST_WITH_COST = "select max(billing_period) as newest from billing_lines where effective_cost <> 0"
PASTE = "paste"  # name of lines to paste into runspend.yaml: they are shown without a name and indentation


@dataclass(frozen=True)
class Money:
    """The figures of an outlook in one currency."""

    currency: str
    rule_costs: tuple[RuleCost, ...]
    groups: tuple[Group, ...]
    coverage: tuple[Coverage, ...]

    def cost(self, words: str) -> Decimal:
        """Return the effective cost of one allocation rule. `words` is its name on the screen."""
        return add(r.effective_cost for r in self.rule_costs if r.words == words)

    @property
    def platform(self) -> Decimal:
        """Return all cost except out-of-scope cost."""
        return add(r.effective_cost for r in self.rule_costs if r.words != "out of scope")


@dataclass(frozen=True)
class Outlook:
    """The newest billing period with cost, as this configuration would show it.

    `problems` explains missing parts. `pools` is advice until runs state their machines. `empty` has newer billing periods without
    cost. `idle_pools` has a warning for each pool without runs.
    """

    period: str | None
    origin: str
    moneys: tuple[Money, ...] = ()
    identity: Identity | None = None
    scope: ScopeProposal = field(default_factory=ScopeProposal)
    unmet: tuple[UnmetClaims, ...] = ()
    claimed: tuple[ClaimedHours, ...] = ()
    pools: str = ""
    problems: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    idle_pools: tuple[str, ...] = ()


def foresee(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outlook:
    """Return the preview of the newest billing period with cost. Keeps nothing that it writes."""
    if (warehouse := _warehouse_of(settings)) is not None:
        return read_outlook(warehouse, settings, "from the tables of the last pipeline run")
    sources = {**{s.name: s for s in settings.tracking}, **{s.name: s for s in settings.billing}}
    waiting = [name for name, source in sources.items() if any(str(v).startswith(CONNECTION) for v in _texts(source))]
    if waiting:
        return Outlook(
            None,
            "",
            problems=(
                f"{', '.join(waiting)} use Airflow connections, which only Airflow tasks can read: try again after the first pipeline run",
            ),
        )
    with tempfile.TemporaryDirectory(prefix="runspend-doctor-") as folder:
        trial = settings.model_copy(
            update={"home": Path(folder), "warehouse": WarehouseSettings(uri=f"{folder}/warehouse"), "mail": MailSettings(backend="none")}
        )
        return _tried(trial, now, progress)


def _texts(source: object) -> list[object]:
    return [getattr(v, "get_secret_value", lambda v=v: v)() for v in vars(source).values()]


def _warehouse_of(settings: Settings) -> Warehouse | None:
    """Return the warehouse if its newest cost tables were built with these settings, otherwise None."""
    uri = settings.warehouse.uri.removeprefix("file://")
    if "://" not in uri and not Path(uri).exists():
        return None  # opening it would create the folder
    warehouse = open_warehouse(settings)
    states = warehouse.states("period_states", "cost_allocations")
    newest = max((u.period for u in states if u.table == "period_states"), default=None)
    if newest is None or Unit("cost_allocations", newest, "all") not in states:
        return None
    same = states[Unit("period_states", newest, "all")].extra.get("configuration") == configuration_digest(settings)
    return warehouse if same else None


def _tried(trial: Settings, now: datetime, progress: Progress) -> Outlook:
    """Run the pipeline for the newest billing period with cost and all later ones, and return the outlook.

    Artifact stores are not listed, and no mail or page is written.
    """
    problems: list[str] = []
    problems += pipeline.extract(trial, now=now, progress=progress).problems
    problems += pipeline.load(trial, now=now, progress=progress).problems
    warehouse = open_warehouse(trial)
    bills = warehouse.states(*BILL_TABLES)
    with warehouse.reader() as reader:
        newest = reader.query(NEWEST_WITH_COST).to_pylist()[0]["newest"]
    since = f"{newest:%Y-%m}" if newest is not None else max((u.period for u in bills if u.table == "billing_lines"), default="")
    with warehouse.step("trial", "trial") as step:
        for unit in (u for u in bills if u.period < since):
            step.drop(*unit)
        step.publish()
    problems += pipeline.allocate(trial, now=now, progress=progress).problems
    origin = "trial run, nothing was kept" + ("; artifact stores were not listed" if any(s.measure == "list" for s in trial.stores) else "")
    found = read_outlook(warehouse, trial, origin)
    return replace(found, problems=(*problems, *found.problems))


def read_outlook(warehouse: Warehouse, settings: Settings, origin: str) -> Outlook:
    """Return the outlook of the newest billing period with cost, or of the newest one if none has cost."""
    periods = sorted((u.period for u in warehouse.states("cost_allocations")), reverse=True)
    if not periods:
        return Outlook(None, origin, problems=("no bill could be allocated",))
    with warehouse.reader() as reader:
        period, rule_costs = _newest_with_cost(reader, periods)
        first = first_day(period)
        groups = unallocated_groups(reader, first, settings)
        coverage = diagnostics.coverage(reader, first, month_after(first, 1))
        return Outlook(
            period,
            origin,
            tuple(
                Money(currency, rule_costs[currency], groups.get(currency, ()), coverage.get(currency, ()))
                for currency in sorted(rule_costs, key=lambda c: (c != settings.currency, c))
            ),
            diagnostics.identity(reader, first),
            scope_proposal(reader, first) if settings.scope is None else ScopeProposal(),
            diagnostics.unmet_claims(reader, first),
            tuple(hours for hours in claimed_hours(reader, first) if hours.is_notable)[:CLAIMS_SHOWN],
            _pool_words(settings),
            empty=tuple(one for one in periods if one > period),
            idle_pools=tuple(pools_without_runs(reader, settings)),
        )


def _newest_with_cost(reader: Reader, periods: Sequence[str]) -> tuple[str, dict[str, tuple[RuleCost, ...]]]:
    """Return the first of `periods` with cost, or the first one if none has cost, and its cost by currency and rule."""
    for period in periods:
        rule_costs = diagnostics.rule_costs(reader, first_day(period))
        if any(rule.effective_cost for currency in rule_costs.values() for rule in currency):
            return period, rule_costs
    return periods[0], diagnostics.rule_costs(reader, first_day(periods[0]))


def _pool_words(settings: Settings) -> str:
    """Return advice on pools, for the time until runs state their machines. Empty if a trial proposed no pools."""
    if not is_trial(settings):
        return "Until then, `runspend suggest` can propose pools"
    return f"Until then, their cost comes from the proposed pools in {settings.path}" if settings.pools else ""


# --- in words --------------------------------------------------------------------------------------------------------------


def outlook_lines(outlook: Outlook) -> list[tuple[str, str]]:
    """Return all (name, sentence) pairs in display order. An empty name continues the previous line."""
    if outlook.period is None:
        return [("no preview", "; ".join(outlook.problems))]
    lines = [(f"preview of {month_name(outlook.period)} with this configuration", outlook.origin)]
    if outlook.empty:
        months = ", ".join(month_name(period) for period in sorted(outlook.empty))
        lines.append(("newer", f"{months}: on the bill, without cost"))
    for one in outlook.moneys:
        lines += _rule_lines(one, outlook.identity)
    lines += [("claims not met" if not number else "", claims.words) for number, claims in enumerate(outlook.unmet)]
    lines += [("claimed by type" if not number else "", hours.words) for number, hours in enumerate(outlook.claimed)]
    lines += [("not shown", problem) for problem in outlook.problems]
    for number, text in enumerate(suggestions(outlook)):
        lines.append(("suggestions" if not number else "", text))
    names = [text for one in outlook.moneys for text in coverage_words(one.coverage)]
    lines += [("tagging" if not number else "", text) for number, text in enumerate(names)]
    if outlook.scope.machines_cost > 0:
        cost = money(outlook.scope.machines_cost)
        lines.append(
            (
                "scope",
                f"the default applies. Do not define one yet: it would leave out machines in the platform's accounts that cost {cost} and have no known runs",
            )
        )
    elif outlook.scope.entries:
        lines.append(("scope", "the default applies. To define what belongs to the ML platform, paste the lines below"))
        lines += [("", text) for text in _scope_warnings(outlook.scope)]
        lines += [(PASTE, line) for line in scope_yaml(outlook.scope)]
    return lines


def render_outlook(outlook: Outlook) -> str:
    """Return the outlook as text for the terminal: a headline, then one column of names and one of sentences."""
    (title, origin), *lines = outlook_lines(outlook)
    width = max((len(name) for name, _ in lines if name != PASTE), default=0)
    shown = [text if name == PASTE else f"  {name:<{width}}  {text}".rstrip() for name, text in lines]
    return "\n".join([f"{title} ({origin})", *shown]) + "\n"


def _rule_lines(one: Money, who: Identity | None) -> list[tuple[str, str]]:
    inside = [r for r in one.rule_costs if r.words != "out of scope"]
    places = places_for(add(r.effective_cost for r in one.rule_costs))
    lines = []
    if not any(r.words.startswith("exact") or r.words == "by machine" for r in inside):
        stated = "none of the machines that runs state is on the bill"
        if who is not None and not who.machine_runs:
            stated = "no run states a machine or job: see docs/identify.md"
        elif who is not None and who.split_machines:
            stated = "the bill splits the cost of the machines that runs state among pods"
        lines.append(("exact or by machine", f"{percent(Decimal(0)):>6}  {stated}"))
    for rule in inside:
        notes = [f"{money(rule.effective_cost, places)} {one.currency}"]
        if rule.words == "unallocated":
            notes += [f"including {money(rule.caller_cost, places)} with a known caller"] if rule.caller_cost else []
            notes += [note] if (note := _group_note(one, less(rule.effective_cost, [rule.caller_cost]))) else []
        elif rule.words == "shared":
            notes += [f"{kind} {money(cost, places)}" for kind, cost in rule.kinds.items()]
        elif CONFIDENCE.get(rule.confidence or ""):
            notes.append(CONFIDENCE[rule.confidence or ""])
        if rule.idle_cost:
            notes.append(f"including {money(rule.idle_cost, places)} idle")
        lines.append((rule.words, f"{percent(share_of(rule.effective_cost, one.platform)):>6}  {', '.join(notes)}"))
    if outside := one.cost("out of scope"):
        lines.append(("plus", f"{'':>6}  {money(outside, places)} {one.currency} out of scope"))
    return lines


def _group_note(one: Money, whole: Decimal) -> str:
    """Return the largest groups of unallocated cost as shares of the ML platform, or "" if there are none.

    Example: "12.0% node group gpu-spot, 6.0% Amazon SageMaker, 4.0% other". `whole` is all unallocated cost without a known caller.
    """
    groups = sorted((g for g in one.groups if g.inside_cost), key=lambda g: -g.inside_cost)
    if one.platform <= 0 or not groups:
        return ""
    shown = groups[:GROUPS_SHOWN]
    named = [f"{percent(share_of(g.inside_cost, one.platform))} {g.words}" for g in shown]
    rest = share_of(less(whole, (g.inside_cost for g in shown)), one.platform)
    return ", ".join([*named, *([f"{percent(rest)} other"] if len(groups) > GROUPS_SHOWN and rest and round_money(rest, 1) > 0 else [])])


def suggestions(outlook: Outlook) -> list[str]:
    """Return advice as lines: groups with accelerators first, then by cost, then general advice."""
    ranked = [(g, one) for one in outlook.moneys for g in one.groups]
    ranked.sort(key=lambda pair: (not pair[0].is_accelerated, -pair[0].effective_cost))
    found = [text for g, one in ranked[:LINES_SHOWN] for text in (suggestion(g, one.platform), f"  {g.advice}")]
    if (left := len(ranked) - LINES_SHOWN) > 0:
        found.append(f"{counted(left, 'more group')}: the report of the month lists all")
    who = outlook.identity
    if who is None:
        return found
    if who.runs and who.machine_runs < who.runs:
        rest = "the others do so too" if who.machine_runs else "them do so"
        advised = f"{who.machine_runs:,} of {who.runs:,} runs that started this month state a machine. Make {rest} (docs/identify.md)"
        found.append(f"{advised}. {outlook.pools}" if outlook.pools else advised)
    if who.unbilled_machines:
        found.append(
            f"{who.unbilled_machines:,} machines that runs state are not on the bill: they are in another account, or their ids have another form (docs/identify.md)"
        )
    if who.split_machines:
        found.append(
            f"the bill splits the cost of {counted(who.split_machines, 'machine')} that runs state among pods. {diagnostics.STATE_THE_POD}"
        )
    if not who.tagged_lines:
        found.append(
            "no charge has the tag mlflow_run_id. If you submit one job per run, tag the jobs and activate the tag as a cost allocation tag. It does not apply to earlier charges"
        )
    return found


def scope_yaml(proposal: ScopeProposal) -> list[str]:
    """Return the proposed scope as lines of `runspend.yaml`. Comments state the cost of each entry, and the cost that is left out."""
    width = max(len(entry.yaml) for entry in proposal.entries)
    return [
        "scope:",
        "  include:",
        *(
            f"    - {entry.yaml:<{width}}  # {money(entry.inside_cost)} in scope now"
            + (f", {money(entry.outside_cost)} not in scope" if entry.outside_cost else "")
            + (f", including accelerators {money(entry.accelerated_cost)}" if entry.accelerated_cost else "")
            for entry in proposal.entries
        ),
        *(f"    # {text}" for text in _left_out_words(proposal.left_out)),
    ]


def _scope_warnings(proposal: ScopeProposal) -> list[str]:
    """Return sentences about what the proposed scope makes worse.

    The share allocated to runs may be lower, and the scope may leave out cost of runs in other months.
    """
    now, then = proposal.now, proposal.then
    words = []
    shares = [percent(share_of(one.run_cost, one.platform_cost)) for one in (now, then) if one.platform_cost > 0]
    if len(shares) == 2 and then.run_cost * now.platform_cost < now.run_cost * then.platform_cost and shares[0] != shares[1]:
        lost, added = less(now.run_cost, [then.run_cost]), less(then.platform_cost, [now.platform_cost])
        why = (
            f"they leave out {money(lost)} that is allocated to runs"
            if lost > 0
            else f"they add {money(added)} that is not allocated to runs"
        )
        words.append(f"with these entries, {shares[1]} is allocated to runs instead of {shares[0]}: {why}")
    if proposal.other_months:
        named = [
            f"{row['service_name'] or row['source']}{f' in account {account}' if (account := row['sub_account_id']) else ''} {money(row['effective_cost'])} {row['billing_currency']}"
            for row in proposal.other_months[:GROUPS_SHOWN]
        ]
        words.append(f"they leave out what runs of other months used: {', '.join(named)}. Add it to the entries first")
    return words


def _left_out_words(left_out: Sequence[LeftOut]) -> list[str]:
    """Return sentences about the cost that a proposed scope leaves out, and what to do. Empty if it leaves out nothing."""
    words = [
        f"In scope now, but not in these entries: {', '.join(f'{kind} {money(cost)}' for kind, cost in one.kinds.items())} {one.currency}."
        for one in left_out
    ]
    if words:
        words += [
            "No selector matches only these bill lines: they have no account, or their service has other cost too.",
            "To keep them, use `scope.exclude` instead of `scope.include`: list what does not belong to the ML platform.",
        ]
    return words
