"""Arrange an explanation as rows of text, for both the terminal and the page.

Only this module rounds money. It rounds all parts of a currency together, so that the printed parts add up to the printed sums.
Colors, widths and HTML tags do not belong here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby

from runspend.actions.explain.figures import (
    MEASURES,
    Block,
    CurrencyCost,
    MachineHour,
    ResourceExplanation,
    RunExplanation,
    RunKey,
    RunPart,
    Share,
)
from runspend.actions.explain.find import clean
from runspend.core.amounts import add, change, instant, money, percent, round_parts, size
from runspend.core.text import counted

MOST_ROWS = 60  # a block with more rows is grouped by day
MOST_SHARED = 3  # maximum number of runs named next to an hour
HOUR = timedelta(hours=1)
# Reason why the rest of the bill does not confirm a run's tag -> the words to print.
STRANGE = {
    "other_time": "for times when it did not run",
    "other_account": "in an account without its machines",
    "other_region": "in a region without its machines",
    "ambiguous_name": "by a name that is not unique",
}
TITLES = {
    "run_tag": ("TAGGED", "the bill has the run's id"),
    "job_id": ("JOB", "the bill names the run's job"),
    "resource_id": ("MACHINES", "the run and the bill name the same machine, at the same time"),
    "attached": ("ATTACHED", "attached to its machines, split like them"),
    "artifact_bytes": ("ARTIFACTS", "bytes x time in the artifact store"),
    "pool_time": ("POOL", "the pool's cost, split by the time of its runs"),
    "instance_type_time": ("INSTANCE TYPE", "machines of the type that it requested, while it ran"),
    "llm_identity": ("LLM CALLER", "calls of the IAM principal it states, by token cost or time"),
    "llm_cost": ("LLM", "in proportion to the token cost on its traces"),
    "sharing": ("SHARED COST", "its part of the shared and idle cost that `sharing` distributes"),
}
FEWEST_SIBLINGS = 3
SUMMED_UP = ("attached", "artifact_bytes", "sharing")  # rules whose charges are summed by resource, not shown by hour
UNIT_NAMES = {"gpu": "GPUs", "cpu": "cores", "memory": "memory"}


@dataclass(frozen=True)
class ChargeRow:
    """One charge, or the charges of one day.

    Only the first row of each machine has `machine`. `resource_id` is set if the charge has a single resource of the bill.
    `line_id` is the full id, if the row is one bill line.
    """

    machine: str
    when: str
    line: str
    line_cost: str
    ran: str
    share: str
    effective: str
    shared: str
    resource_id: str | None = None
    line_id: str | None = None
    period: str = ""


@dataclass(frozen=True)
class AttachedResource:
    """The total of one resource, for a rule whose charges are not shown by hour."""

    label: str
    lines: str
    effective: str


@dataclass(frozen=True)
class BlockView:
    """The printed charges of one rule, with their total."""

    title: str
    rule: str
    rows: tuple[ChargeRow, ...]
    attached: tuple[AttachedResource, ...]
    total: str
    note: str


@dataclass(frozen=True)
class CurrencyView:
    """The printed values of a run's cost in one currency."""

    currency: str
    costs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    status: str
    blocks: tuple[BlockView, ...]
    total: str
    check: str
    is_right: bool
    idle: str


def currency_views(e: RunExplanation, *, full: bool = False) -> list[CurrencyView]:
    """Return the values to print, one view per currency."""
    return [_currency_view(e, c, full) for c in e.currencies]


def header_lines(e: RunExplanation) -> list[str]:
    """Return the lines below the title: the run's names and time span, then notes on its time."""
    names = [f"{text} ({origin})" if origin else text for text, origin in named_facts(e)]
    return [" · ".join([*names, span_text(e.start_time, e.end_time)]), *time_lines(e)]


def named_facts(e: RunExplanation) -> list[tuple[str, str]]:
    """Return the names that people group the run by, each with its origin, such as `experiment.tag.team`.

    The origin of the experiment and of the user is an empty string: MLflow itself states them.
    """
    facts = [(f"experiment {clean(e.experiment_name)}", "")] if e.experiment_name else []
    facts += [(f"{d.name.replace('_', ' ')} {clean(d.value)}", clean(d.came_from or "")) for d in e.dimensions]
    return facts + ([(f"user {clean(e.user_name)}", "")] if e.user_name else [])


def time_lines(e: RunExplanation) -> list[str]:
    """Return notes on the run's time, its requested resources, its parent run and the selected billing period."""
    lines = []
    if e.future_end_time:
        until = instant(e.end_time) if e.end_time else "its last logged activity"
        lines.append(
            f"its clock was wrong: it ended at {e.future_end_time:%Y-%m-%d %H:%M} UTC, in the future when Runspend read it. Its cost counts until {until}"
        )
    for first, after in e.gaps:
        lines.append(f"it logged nothing from {instant(first)} to {instant(after)}: this time is not charged")
    if e.asked_for:
        lines.append(f"requested {clean(e.asked_for)}")
    if e.parent_run_id:
        lines.append(f"child of run {clean(e.parent_run_id)}")
    if e.period:
        lines.append(f"only costs billed for {e.period}")
    return lines


def span_text(start: datetime | None, end: datetime | None) -> str:
    """Return a time span as text: 18 Nov 2026 08:14:10 → 13:44:40 UTC, 5 h 30 min 30 s."""
    if start is None:
        return "no start time"
    begin = f"{start.day} {start:%b %Y %H:%M:%S}"
    if end is None:
        return f"{begin} UTC → no end"
    finish = f"{end:%H:%M:%S}" if end.date() == start.date() else f"{end.day} {end:%b %H:%M:%S}"
    return f"{begin} → {finish} UTC, {length_text((end - start).total_seconds())}"


def length_text(seconds: float) -> str:
    """Return a duration as text: 5 h 30 min 30 s."""
    sign, whole = ("-", -round(seconds)) if seconds < 0 else ("", round(seconds))
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return sign + (" ".join(f"{n:,} {unit}" for n, unit in parts if n) or "0 s")


def clock(seconds: float) -> str:
    """Return a duration as text: 45:50, or 5:30:30 above one hour."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}" if whole <= 3600 else f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def places_of(total: Decimal) -> int:
    """Return the number of decimals to print: four, six below 1, ten below 0.01."""
    amount = abs(total)
    return 4 if amount >= 1 or not amount else 6 if amount >= Decimal("0.01") else 10


def short(text: str) -> str:
    """Return an id, shortened to its last characters if it is long. `runspend explain --line` accepts the short form."""
    return clean(text if len(text) <= 12 else f"…{text[-6:]}")


def run_text(share: Share) -> str:
    """Return a short name for the target of a share."""
    if share.run is None:
        return share.allocated_to.replace("_", " ")
    return f"{share.run.run_id[:8]}{f' {clean(share.run_name)}' if share.run_name else ''}"


def _currency_view(e: RunExplanation, c: CurrencyCost, full: bool) -> CurrencyView:
    places = places_of(c.summed.effective_cost)
    grouped = [_groups(block, full) for block in c.blocks]
    # Round the amounts of all printed rows together: they are hours, days or resources.
    rounded = iter(round_parts([add([p.costs.effective_cost for p in group]) for groups in grouped for group in groups], places))
    blocks = tuple(
        _block_view(block, [(group, next(rounded)) for group in groups], places, e) for block, groups in zip(c.blocks, grouped, strict=True)
    )
    bills = [
        f"{b.source} {b.billing_period:%Y-%m}"
        + (f" v{b.version_number}" if b.version_number else "")
        + (f", complete to {instant(b.covered_until)}" if b.covered_until else "")
        for b in e.bills
    ]
    check, is_right = _check(c, places, "run_costs_daily" if e.period else "run_costs")
    return CurrencyView(
        currency=c.currency,
        costs=tuple((m.removesuffix("_cost"), money(getattr(c.summed, m), places)) for m in MEASURES),
        notes=(*_beside_siblings(e, c), *_notes(c, places), *_missing_hours(e, c)),
        status=f"{c.cost_status or 'provisional'} ({'; '.join(bills)})" if bills else c.cost_status or "",
        blocks=blocks,
        total=money(c.summed.effective_cost, places),
        check=check,
        is_right=is_right,
        idle=f"idle cost of the same machines on these days: {money(c.idle_beside, places)} {c.currency} in {c.idle_hours:,} of their billed hours"
        if c.idle_hours
        else "",
    )


def _groups(block: Block, full: bool) -> list[list[RunPart]]:
    """Return the parts grouped by printed row.

    A row is one charge, or one day of a machine if there are many charges. For rules in SUMMED_UP, it is all charges of a resource.
    """
    parts = sorted(block.parts, key=lambda p: (_place(p), p.starts_at, p.charge_id))
    if block.match_method in SUMMED_UP:
        things = [list(found) for _, found in groupby(sorted(parts, key=_label), key=_label)]
        return sorted(things, key=lambda found: -add([p.costs.effective_cost for p in found]))
    if len(parts) > MOST_ROWS and not full:
        return [list(found) for _, found in groupby(parts, key=lambda p: (_place(p), p.charge_date))]
    return [[p] for p in parts]


def _check(c: CurrencyCost, places: int, table: str) -> tuple[str, bool]:
    if c.difference is None or c.stated is None:
        return f"{table} has no row for it yet. Run: runspend allocate", False
    if c.difference == 0:
        return f"= {table}.effective_cost  ✓", True
    digits = max(places, places_of(c.difference))
    return (
        f"≠ {table}.effective_cost {money(c.stated.effective_cost, digits)}: the charges differ by {change(c.difference, digits)}. Run: runspend check",
        False,
    )


def _beside_siblings(e: RunExplanation, c: CurrencyCost) -> Iterable[str]:
    """Yield a comparison with the median run of the experiment, if the experiment has enough runs with a cost."""
    for one in e.siblings:
        if one.currency == c.currency and one.runs >= FEWEST_SIBLINGS and c.summed.effective_cost > 0:
            times = float(c.summed.effective_cost / one.median)
            ratio = f"{times:,.0f}" if times >= 10 else f"{times:.1f}" if times >= 0.1 else f"{times:.2g}"
            yield f"{ratio} times the median of the {one.runs:,} runs of its experiment that have a cost ({money(one.median, places_of(one.median))})"


def _notes(c: CurrencyCost, places: int) -> Iterable[str]:
    paid = [p for p in c.parts if p.pricing_category == "Committed"]
    if paid and c.summed.billed_cost * 2 < c.summed.effective_cost:
        yield "billed cost is small because a commitment covers these hours. Its fee is shared cost; effective cost spreads the fee over the covered hours."
    if c.overhead_cost:
        yield f"including {money(c.overhead_cost, places)} overhead: start-up, gaps and shutdown of its job"
    if c.unused_cost:
        yield f"including {money(c.unused_cost, places)} unused: parts of its machines that it did not request"
    if c.cost_with_children is not None and c.stated is not None and c.cost_with_children != c.stated.effective_cost:
        yield f"including its child runs: {money(c.cost_with_children, places)}"
    rules = {
        "alive": "it is still running",
        "started": "it is probably still running",
        "last_sign": "it counts until its last metric",
        "silent": "it counts for 24 h",
    }
    if found := sorted({p.run_end_rule for p in c.parts if p.run_end_rule in rules}):
        yield f"MLflow has no end time for it: {', '.join(rules[r] for r in found)}"


def _missing_hours(e: RunExplanation, c: CurrencyCost) -> Iterable[str]:
    """Yield a note if the run ended after the time that its bills cover."""
    sources = {p.source for p in c.parts}
    reached = max((b.covered_until for b in e.bills if b.source in sources and b.covered_until), default=None)
    if reached is not None and e.end_time is not None and e.end_time > reached:
        yield f"its hours after {instant(reached)} are not billed yet and not included"


def _block_view(block: Block, groups: Sequence[tuple[list[RunPart], Decimal]], places: int, e: RunExplanation) -> BlockView:
    title, why = TITLES.get(block.match_method, (block.match_method.upper(), ""))
    if block.match_method == "artifact_bytes" and e.artifacts:
        held = [f"{size(a.bytes)} · {a.storage_class} · {clean(a.where)}" for a in e.artifacts[:3]]
        why = f"{why} · {'; '.join(held)}"
    rule = f"rule {block.match_method} · confidence {block.confidence or 'none'} · {why}"
    total = money(add([amount for _, amount in groups]), places)
    if block.match_method in SUMMED_UP:
        attached = tuple(
            AttachedResource(_label(found[0]), counted(sum(p.lines for p in found), "charge"), money(amount, places))
            for found, amount in groups
        )
        return BlockView(title, rule, (), attached, total, "")
    kinds = sorted({UNIT_NAMES[p.weight_kind] for p in block.parts if p.weight_kind in UNIT_NAMES and (p.other_runs or p.ratio < 1)})
    notes = ["* runs requested or claimed more than the machine has: scaled down"] if any(p.is_scaled for p in block.parts) else []
    for reason, what in STRANGE.items():
        if strange := sum(p.reason == reason for p in block.parts):
            notes.append(f"{counted(strange, 'charge')} with its tag {'are' if strange != 1 else 'is'} {what}")
    if block.match_method == "instance_type_time":
        notes += [one.words for one in e.claimed_hours]
    if len(groups) < len(block.parts):
        notes.insert(0, f"grouped by day; --full shows all {len(block.parts):,} charges")
    rows, previous, day = [], "", ""
    for found, amount in groups:
        machine, today = _place(found[0]), f"{found[0].starts_at.day} {found[0].starts_at:%b}"
        is_new = machine != previous
        made = _row(found[0], amount, places) if len(groups) == len(block.parts) else _day_row(found, amount, places)
        when = f"{today if is_new or today != day else '':>6} {made.when}"
        period = f"{found[0].billing_period:%Y-%m}"
        rows.append(replace(made, machine=machine if is_new else "", when=when, resource_id=found[0].resource_id, period=period))
        previous, day = machine, today
    return BlockView(title, rule + (f" · weighted by {', '.join(kinds)}" if kinds else ""), tuple(rows), (), total, "; ".join(notes))


def _place(part: RunPart) -> str:
    return clean(part.resource_id or part.pool_key or part.service_name or part.cost_kind)


def _label(part: RunPart) -> str:
    return _place(part) + (f" ({clean(part.service_name)})" if part.service_name and part.service_name != _place(part) else "")


def _row(part: RunPart, amount: Decimal, places: int) -> ChargeRow:
    return ChargeRow(
        machine="",
        when=_window(part),
        line=counted(part.lines, "charge") if part.is_pooled else short(part.charge_id),
        # If the run has the whole line, both columns show the same amount.
        line_cost=money(amount if part.charge_cost == part.costs.effective_cost else part.charge_cost, places),
        ran="" if part.ran_seconds is None else clock(part.ran_seconds),
        share=f"{part.ratio:.4f}{'*' if part.is_scaled else ''}",
        effective=money(amount, places),
        shared=_shared(part),
        line_id=None if part.is_pooled else part.charge_id,
    )


def _window(part: RunPart) -> str:
    length = part.ends_at - part.starts_at
    if length == HOUR:
        return f"{part.starts_at:%H:%M}"
    if length < timedelta(days=1):
        return f"{part.starts_at:%H:%M}–{part.ends_at:%H:%M}"
    return f"+{length.total_seconds() / 86400:.4g} d"


def _shared(part: RunPart) -> str:
    window = part.billed_seconds if part.billed_seconds is not None else (part.ends_at - part.starts_at).total_seconds()
    words = []
    if part.billed_seconds is not None and abs(part.billed_seconds - (part.ends_at - part.starts_at).total_seconds()) >= 1:
        words.append(f"billed {clock(part.billed_seconds)}")
    runs = [s for s in part.shared if s.run is not None]
    words += [f"{run_text(s)} {s.ratio:.4f}" + (f" (requested {s.asked})" if s.asked else "") for s in runs[:MOST_SHARED]]
    words += [f"{len(runs) - MOST_SHARED} more runs"] if len(runs) > MOST_SHARED else []
    words += [f"{run_text(s)} {clock(s.ratio * window)}" for s in part.shared if s.run is None]
    if not part.shared and part.is_pooled:
        words += [counted(part.other_runs, "other run")] if part.other_runs else []
        words += [f"not used by runs {percent(100 * part.nobodys / part.charge_cost)}"] if part.nobodys and part.charge_cost else []
    return " · ".join(words)


def _day_row(found: Sequence[RunPart], amount: Decimal, places: int) -> ChargeRow:
    whole, mine = add([p.charge_cost for p in found]), add([p.costs.effective_cost for p in found])
    ran = {p.starts_at: p.ran_seconds for p in found if p.ran_seconds is not None}
    others = {s.run for p in found for s in p.shared if s.run is not None}
    unused = add([p.nobodys for p in found])
    words = [counted(len(others), "other run")] if others else []
    words += [f"not used by runs {money(unused, places)}"] if unused else []
    return ChargeRow(
        machine="",
        when=f"{len({p.starts_at for p in found})} x",
        line=counted(sum(p.lines for p in found), "charge"),
        line_cost=money(amount if whole == mine else whole, places),
        ran=clock(sum(ran.values())) if ran else "",
        share=(f"{mine / whole:.4f}" if whole else "") + ("*" if any(p.is_scaled for p in found) else ""),
        effective=money(amount, places),
        shared=" · ".join(words),
    )


@dataclass(frozen=True)
class HourRow:
    """One billed window of a machine, or all windows of one day."""

    when: str
    lines: str
    cost: str
    shared: str


def hour_rows(e: ResourceExplanation, *, full: bool) -> tuple[list[HourRow], str]:
    """Return the rows of a machine's windows. If there are many, rows are grouped by day and the second value is a note about it."""
    rounded = round_parts([h.effective_cost for h in e.hours], places_of(e.effective_cost))
    pairs = list(zip(e.hours, rounded, strict=True))
    if len(pairs) <= MOST_ROWS or full:
        return [_hour_row(f"{h.starts_at.day:>2} {h.starts_at:%b %H:%M}", [(h, a)], e) for h, a in pairs], ""
    days: dict[str, list[tuple[MachineHour, Decimal]]] = {}
    for hour, amount in pairs:
        days.setdefault(f"{hour.starts_at.day:>2} {hour.starts_at:%b}", []).append((hour, amount))
    return [
        _hour_row(f"{day} {len(found)} x", found, e) for day, found in days.items()
    ], f"grouped by day; --full shows all {len(pairs):,} hours"


def _hour_row(when: str, found: Sequence[tuple[MachineHour, Decimal]], e: ResourceExplanation) -> HourRow:
    whole = add([h.effective_cost for h, _ in found])
    sums: dict[tuple[str, RunKey | None], list[Share]] = {}
    for hour, _ in found:
        for share in hour.shares:
            sums.setdefault((share.allocated_to, share.run), []).append(share)
    totals = [(shares[0], add([s.effective_cost for s in shares])) for shares in sums.values()]
    runs = [(s, cost) for s, cost in totals if s.run is not None]
    rest = [(s, cost) for s, cost in totals if s.run is None]
    runs.sort(key=lambda pair: -pair[1])

    def words(share: Share, cost: Decimal) -> str:
        return f"{run_text(share)} {cost / whole:.4f}" if whole else run_text(share)

    texts = [words(*pair) for pair in runs[:MOST_SHARED]]
    texts += [f"{len(runs) - MOST_SHARED} more runs"] if len(runs) > MOST_SHARED else []
    texts += [words(*pair) for pair in rest]
    return HourRow(
        when,
        counted(sum(h.lines for h, _ in found), "charge"),
        money(add([a for _, a in found]), places_of(e.effective_cost)),
        " · ".join(texts),
    )
