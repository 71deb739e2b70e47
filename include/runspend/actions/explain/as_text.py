"""Write explanations for a terminal, as aligned text.

`layout.py` decides the content of an explanation of a run. `as_json.py` writes JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runspend.actions.explain.figures import LineExplanation, ResourceExplanation, RunExplanation
from runspend.actions.explain.find import clean
from runspend.actions.explain.layout import BlockView, CurrencyView, currency_views, header_lines, hour_rows, places_of, run_text
from runspend.core.amounts import add, change, money, round_parts

PAD = "      "
MOST_CHANGES = 40
MOST_USERS = 25


def run_as_text(e: RunExplanation, *, full: bool = False, history: bool = False) -> str:
    """Return the explanation of a run as text.

    `full` shows every charge, even if there are many. `history` lists the changes that later bill versions made.
    """
    title = [
        "RUN ",
        e.key.run_id,
        *([clean(e.run_name)] if e.run_name else []),
        *([e.run_status] if e.run_status else []),
        *(["deleted"] if e.lifecycle_stage == "deleted" else []),
        e.link or e.key.tracking_server,
    ]
    lines = ["  ".join(clean(t) for t in title), *(PAD + line for line in header_lines(e)), ""]
    for view in currency_views(e, full=full):
        lines += [*_currency_lines(view), ""]
    if e.no_cost is not None:
        lines += [f"COST  none{f' in {e.period}' if e.period else ''}: {e.no_cost.why}", f"{PAD}{e.no_cost.advice}", ""]
    if e.changes and history:
        lines += [
            "HISTORY  changes by later bill versions to the run's services on its days (whole bill, not only this run)",
            *_history_lines(e),
            "",
        ]
    elif e.changes:
        versions = sorted({(c.source, f"{c.billing_period:%Y-%m}", c.version_number) for c in e.changes})
        lines += [
            f"HISTORY  {', '.join(f'{s} {p} v{v}' for s, p, v in versions[-4:])} changed charges of its services on its days          --history shows them",
            "",
        ]
    return "\n".join(lines[:-1]) + "\n"


def _currency_lines(view: CurrencyView) -> Iterable[str]:
    named = dict(view.costs)
    effective = named.pop("effective")
    yield f"COST  effective {effective} {view.currency}     " + "   ".join(f"{name} {amount}" for name, amount in named.items())
    yield from (PAD + note for note in view.notes)
    if view.status:
        yield f"{PAD}cost status: {view.status}"
    yield ""
    width = max(
        [
            len(view.total),
            *(len(b.total) for b in view.blocks),
            *(len(r.effective) for b in view.blocks for r in b.rows),
            *(len(t.effective) for b in view.blocks for t in b.attached),
        ],
        default=0,
    )
    margin = max((_row_margin(b) for b in view.blocks), default=0)
    for block in view.blocks:
        yield from _block_lines(block, margin, width)
    yield " " * margin + "─" * width
    yield f"{' ' * margin}{view.total:>{width}}   {view.check}"
    if view.idle:
        yield ""
        yield f"NOT CHARGED TO THIS RUN  {view.idle}"


def _columns(block: BlockView) -> list[list[str]]:
    head = ["hour (UTC)", "charge", "cost", "run time", "share"]
    return [head, *([r.when, r.line, r.line_cost, r.ran, r.share] for r in block.rows)]


def _widths(block: BlockView) -> list[int]:
    return [max(len(cells[i]) for cells in _columns(block)) for i in range(5)]


def _row_margin(block: BlockView) -> int:
    """Return the column at which the amounts of a block begin."""
    if block.rows:
        return 2 + sum(_widths(block)) + 2 * 5
    return 2 + max((len(f"{t.label}, {t.lines}") for t in block.attached), default=0) + 2


def _block_lines(block: BlockView, margin: int, width: int) -> Iterable[str]:
    yield f"{block.title}   {block.rule}"
    if block.rows:
        widths = _widths(block)
        for number, cells in enumerate(_columns(block)):
            if number and block.rows[number - 1].machine:
                yield f"  {block.rows[number - 1].machine}"
            left = [cells[0].ljust(widths[0]), cells[1].ljust(widths[1]), *(cells[i].rjust(widths[i]) for i in (2, 3, 4))]
            amount, beside = (
                ("effective", "shared with") if number == 0 else (block.rows[number - 1].effective, block.rows[number - 1].shared)
            )
            yield f"  {'  '.join(left)}".ljust(margin) + f"{amount:>{width}}   {beside}".rstrip()
    for resource in block.attached:
        yield f"  {resource.label}, {resource.lines}".ljust(margin) + f"{resource.effective:>{width}}"
    if len(block.rows) + len(block.attached) > 1:
        yield " " * margin + f"{block.total:>{width}}"
    if block.note:
        yield f"  {block.note}"


def _history_lines(e: RunExplanation) -> Iterable[str]:
    for c in e.changes[:MOST_CHANGES]:
        amount = c.costs.effective_cost
        yield f"  {c.source} {c.billing_period:%Y-%m} v{c.version_number}  {c.charge_date.day:>2} {c.charge_date:%b}  {change(amount, places_of(amount)):>14} {c.currency}  {clean(c.service_name)}"
    if len(e.changes) > MOST_CHANGES:
        yield f"  … and {len(e.changes) - MOST_CHANGES} more: --json shows all"


def resource_as_text(e: ResourceExplanation, *, full: bool = False) -> str:
    """Return the explanation of a resource as text: its targets with their total cost, then each billed hour.

    `full` shows every hour, even if there are many.
    """
    places = places_of(e.effective_cost)
    lines = [
        f"RESOURCE  {clean(e.resource_id)}{f'  {clean(e.instance_type)}' if e.instance_type else ''}",
        f"{PAD}{e.period} · effective {money(e.effective_cost, places)} {e.currency} in {len(e.hours):,} billed hours"
        + (f" · also billed in {', '.join(e.other_periods)} (--period)" if e.other_periods else ""),
        "",
        "USED BY",
    ]
    amounts = round_parts([u.share.effective_cost for u in e.users], places)
    for user, amount in zip(e.users[:MOST_USERS], amounts, strict=False):
        share = f"{user.share.effective_cost / e.effective_cost * 100:.1f}%" if e.effective_cost > 0 else ""
        lines.append(f"  {run_text(user.share):<40.40}  {money(amount, places):>14}  {share:>7}  in {user.windows:,} hours")
    if len(e.users) > MOST_USERS:
        lines.append(f"  {f'{len(e.users) - MOST_USERS:,} more: --json shows all':<40}  {money(add(amounts[MOST_USERS:]), places):>14}")
    rows, note = hour_rows(e, full=full)
    lines += ["", "BY HOUR  hour (UTC), charges, cost, used by"]
    width = max((len(r.cost) for r in rows), default=0)
    left = max((len(r.when) for r in rows), default=0)
    lines += [f"  {r.when:<{left}}  {r.lines:>10}  {r.cost:>{width}}   {r.shared}".rstrip() for r in rows]
    if note:
        lines.append(f"  {note}")
    return "\n".join(lines) + "\n"


def line_as_text(e: LineExplanation) -> str:
    """Return the explanation of a bill line as text: the delivered values, the values derived at loading, and the targets."""
    places = places_of(e.summed.effective_cost)
    lines = [f"CHARGE  {clean(e.line_id)}", f"{PAD}bill {e.source} · {e.period}", "", "AS DELIVERED"]
    lines += _facts(e.facts)
    if e.settled:
        lines += ["", "DERIVED AT LOADING", *_facts(e.settled)]
    lines.append("")
    if e.charge_id is None:
        lines.append(
            "ALLOCATED TO  out of scope: it counts in the totals of its day, account, service and category. `scope:` in runspend.yaml defines the ML platform."
        )
        return "\n".join(lines) + "\n"
    if e.lines_in_charge > 1:
        lines.append(
            f"COMBINED  with {e.lines_in_charge - 1:,} other bill lines as {clean(e.charge_id)}; the parts below are those of all lines together"
        )
    shown = e.targets[:MOST_CHANGES]
    lines.append(f"ALLOCATED TO  effective cost, {e.currency}")
    amounts = round_parts([t.costs.effective_cost for t in e.targets], places)
    for t, amount in zip(shown, amounts, strict=False):
        who = (
            f"run {t.run.run_id}" + (f" {clean(t.run_name)}" if t.run_name else "")
            if t.run
            else t.allocated_to.replace("_", " ") + (f" {clean(t.owner_id)}" if t.owner_id else "")
        )
        words = [
            f"rule {t.match_method}",
            *([f"confidence {t.confidence}"] if t.confidence else []),
            *([t.reason] if t.reason else []),
            *(["scaled down"] if t.is_scaled else []),
        ]
        lines.append(f"  {who:<56.56}  {t.ratio:.6f}  {money(amount, places):>14}   {' · '.join(words)}")
    if len(e.targets) > len(shown):
        lines.append(f"  … and {len(e.targets) - len(shown):,} more: --json shows all")
    lines.append(f"  {'total':<56}  {'':8}  {money(e.summed.effective_cost, places):>14}   {_line_check(e)}")
    return "\n".join(lines) + "\n"


def _line_check(e: LineExplanation) -> str:
    if e.line_costs is None or e.lines_in_charge > 1:
        return ""
    return "= the charge  ✓" if e.line_costs == e.summed else "≠ the charge. Run: runspend check"


def _facts(facts: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in facts), default=0)
    return [f"  {name:<{width}}  {clean(value)}" for name, value in facts]
