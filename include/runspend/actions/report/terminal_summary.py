"""The summary of a pipeline run for the terminal: one screen for a person, or one `key=value` fact per line for a program.

The caller passes the events of the pipeline run as `PipelineRun`, and the figures of `figures.py`. Nothing is read or printed here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

from runspend import __version__
from runspend.actions.report.figures import PARTS, PLATFORM, CurrencyFigures, Estimates, ReportFigures, days_covered
from runspend.core.amounts import add, instant, iso_utc, money, month_name, percent, places_for, plain, round_money, share_of, size
from runspend.core.text import counted
from runspend.schema.rows import month_after
from runspend.schema.tables import CONFIDENCES

# Names of the parts of the bill in the summary.
WORDS = {
    "allocated to runs": "allocated to runs",
    "idle": "idle machines",
    "unallocated": "unallocated",
    "shared": "shared",
    "orphaned": "orphaned artifacts",
    "out of scope": "out of scope",
}
COLORS = {"✗": "31", "⚠": "33", "▲": "33", "✓": "32"}
NAME, AMOUNT, BAR = 20, 14, 15
NOTES = 6  # the maximum number of notes on the screen


@dataclass(frozen=True)
class PipelineRun:
    """The events of a pipeline run. The marks mean ✓ fine, ▲ close to a limit, ⚠ needs attention, ✗ exceeded or failed."""

    now: datetime
    seconds: float
    rebuilt: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    budgets: tuple[tuple[str, str], ...] = ()
    sources: tuple[tuple[str, str], ...] = ()
    report: Path | None = None
    next_commands: tuple[str, ...] = ("runspend costs --by experiment", "runspend sql --tables")
    exit_code: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    archive: tuple[tuple[str, str], ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    claimed_hours: tuple[tuple[str, str], ...] = ()
    annotated: tuple[str, ...] = ()
    published: tuple[tuple[str, str], ...] = ()
    empty: tuple[str, ...] = ()  # months that are newer than the figures, and have charges but no cost


def render_summary(figures_list: Sequence[ReportFigures], pipeline_run: PipelineRun, *, width: int = 100, tty: bool = False) -> str:
    """Return the screen of a pipeline run: the newest month in full, and the totals of older months.

    `tty` adds colors. The text ends with a newline.
    """

    def marked(label: str, facts: Sequence[tuple[str, str]]) -> list[str]:
        return ["", *_labelled(label, [f"{_mark(mark, tty)} {_clean(text)}" for mark, text in facts])] if facts else []

    done = [f"rebuilt {', '.join(pipeline_run.rebuilt)}"] if pipeline_run.rebuilt else []
    done += [_unchanged(pipeline_run.unchanged)] if pipeline_run.unchanged else []
    head = f"Runspend {__version__} · pipeline run of {pipeline_run.now:%Y-%m-%d %H:%M} UTC"
    lines = _wrap([head, *done, f"{pipeline_run.seconds:,.0f} s"], "", "  ", width)
    lines += marked("CLAIMS", pipeline_run.claims)
    ordered = sorted(figures_list, key=lambda f: f.period)
    if ordered:
        for c in ordered[-1].currencies:
            lines += ["", *_currency_lines(c, ordered[-1], width, tty)]
        if not ordered[-1].currencies:
            lines += ["", f"  {month_name(ordered[-1].period).upper()} · no charges of this month are loaded"]
    lines += marked("TYPES", pipeline_run.claimed_hours)
    older = [
        f"{month_name(f.period)} {money(c.platform.effective_cost, places_for(c.bill.effective_cost))} {c.currency}"
        for f in reversed(ordered[:-1])
        for c in f.currencies
    ]
    if pipeline_run.empty:
        lines += ["", *_labelled("NEWER", [f"{', '.join(month_name(period) for period in pipeline_run.empty)}: on the bill, without cost"])]
    if older:
        lines += ["", *_wrap(older, "  EARLIER  ", "           ", width)]
    lines += marked("BUDGETS", pipeline_run.budgets) + marked("ARCHIVE", pipeline_run.archive) + marked("PUBLISH", pipeline_run.published)
    if pipeline_run.annotated:
        lines += ["", *_labelled("MLFLOW", [_clean(text) for text in pipeline_run.annotated])]
    if pipeline_run.sources:
        lines += [
            "",
            *_wrap([f"{_mark(mark, tty)} {_clean(text)}" for mark, text in pipeline_run.sources], "  SOURCES  ", "           ", width),
        ]
    if pipeline_run.notes:
        shown = [_clean(note) for note in pipeline_run.notes[:NOTES]]
        more = (
            [f"{len(pipeline_run.notes) - NOTES} more: run runspend load or runspend extract to see all"]
            if len(pipeline_run.notes) > NOTES
            else []
        )
        lines += ["", *_labelled("NOTES", [*shown, *more])]
    lines.append("")
    if pipeline_run.report is not None:
        lines.append(f"  report   {pipeline_run.report}")
    if pipeline_run.next_commands:
        lines += _wrap(pipeline_run.next_commands, "  next     ", "           ", width)
    if pipeline_run.exit_code or pipeline_run.problems:
        lines += ["", f"exit {pipeline_run.exit_code}: " + ("; ".join(_clean(p) for p in pipeline_run.problems) or "see above")]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def summary_lines(figures_list: Sequence[ReportFigures], pipeline_run: PipelineRun) -> list[str]:
    """Return the same content as facts, one `key=value` per line, with exact money."""
    lines = [
        f"version={__version__}",
        f"now={pipeline_run.now.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        f"rebuilt={','.join(pipeline_run.rebuilt)}",
        f"unchanged={','.join(pipeline_run.unchanged)}",
        f"seconds={pipeline_run.seconds:.0f}",
    ]
    for f in sorted(figures_list, key=lambda f: f.period):
        for c in f.currencies:
            key = f"{f.period}.{c.currency}"
            lines += [
                f"{key}.measure=effective_cost by charge_date",
                f"{key}.converted_from={','.join(c.converted_from)}",
                f"{key}.covered_until={iso_utc(c.covered_until) if c.covered_until else ''}",
                f"{key}.runs={c.run_count}",
            ]
            lines += [f"{key}.{part.replace(' ', '_')}={plain(c.parts[part].effective_cost)}" for part in PARTS]
            lines += [f"{key}.ml_platform={plain(c.platform.effective_cost)}", f"{key}.bill={plain(c.bill.effective_cost)}"]
            # This compares the delivered bill, its lines in the warehouse, and the ledger. Files from `runspend export focus` are not
            # compared.
            lines += [f"{key}.equals_loaded_bill={str(all(r.is_equal for r in c.reconciliation)).lower() if c.reconciliation else ''}"]
            lines += [f"{key}.estimated={plain(c.estimates.cost)}", f"{key}.estimated_tokens={plain(c.estimates.token_cost)}"]
            lines += [f"{key}.unreadable_rows={sum(r.quarantined_rows for r in c.reconciliation)}"]
            lines += [f"{key}.explained_by.{_clean(g.words)}={plain(g.effective_cost)}" for g in c.groups[:3]]
            lines += [f"{key}.team.{_clean(t.name or 'untagged')}={plain(t.effective_cost)}" for t in c.teams]
        for code, made in f.other_estimates:
            lines += [f"{f.period}.{code}.estimated={plain(made.cost)}", f"{f.period}.{code}.estimated_tokens={plain(made.token_cost)}"]
        lines += [f"{f.period}.not_estimated.{reason}={count}" for reason, count in f.estimate_gaps]
        lines.append(f"{f.period}.snapshot={f.snapshot}")
    lines += [f"without_cost={period}" for period in pipeline_run.empty]
    lines += [f"unmet_claims={_clean(text)}" for _, text in pipeline_run.claims]
    lines += [f"claimed_hours={_clean(text)}" for _, text in pipeline_run.claimed_hours]
    lines += [f"budget={_clean(text)}" for _, text in pipeline_run.budgets]
    lines += [f"archive={_clean(text)}" for _, text in pipeline_run.archive]
    lines += [f"published={_clean(text)}" for _, text in pipeline_run.published]
    lines += [f"annotated={_clean(text)}" for text in pipeline_run.annotated]
    lines += [f"source={_clean(text)}" for _, text in pipeline_run.sources]
    lines += [f"report={pipeline_run.report or ''}"]
    lines += [f"note={_clean(note)}" for note in pipeline_run.notes]
    lines += [f"problem={_clean(p)}" for p in pipeline_run.problems]
    return [*lines, f"exit={pipeline_run.exit_code}"]


def _currency_lines(c: CurrencyFigures, figures: ReportFigures, width: int, tty: bool) -> list[str]:
    places = places_for(c.bill.effective_cost)
    costs = {part: c.parts[part].effective_cost for part in PARTS}
    platform = c.platform.effective_cost
    notes = {
        "idle": _idle_note(c),
        "unallocated": _unallocated_note(c, places),
        "shared": ", ".join(f"{kind} {money(cost, places)}" for kind, cost in c.shared_by.items()),
        "orphaned": size(figures.artifacts.orphaned_bytes) if figures.artifacts.orphaned_bytes else "",
    }
    also = f" ({', '.join(c.converted_from)} converted)" if c.converted_from else ""
    title = f"  {month_name(figures.period).upper()} · effective cost · {c.currency}{also} · {_coverage(c, figures)}"
    lines = [_bold(title, tty)]
    for part in PLATFORM:
        if part == "orphaned" and not round_money(costs[part], places) and not notes["orphaned"]:
            continue
        share = share_of(costs[part], platform)
        lines.append(_row(WORDS[part], costs[part], places, share, _bar(share), notes.get(part, "")))
        if part == "allocated to runs":
            lines += [
                f"    {_fit(kind, NAME - 2)}{money(amount, places):>{AMOUNT}}{'':11}{_kind_note(kind, c)}"
                for kind, amount in c.kinds.items()
            ]
    lines.append("  " + "─" * (NAME + AMOUNT + 9))
    lines.append(_row("ML platform", platform, places, share_of(platform, platform), "", ""))
    lines.append(_row("out of scope", costs["out of scope"], places, None, "", _outside_note(c, places)))
    lines.append(_row("bill", c.bill.effective_cost, places, None, "", _equality(c, tty)))
    lines += _estimate_lines(c, figures, places)
    if c.teams:
        teams = [f"{_clean(t.name or 'untagged')} {money(t.effective_cost, places)}" for t in c.teams]
        shown = teams if len(teams) <= 8 else [*teams[:7], f"{len(teams) - 7} more"]
        lines += ["", *_wrap(shown, "  TEAMS    ", "           ", width)]
    return lines


def _estimate_lines(c: CurrencyFigures, figures: ReportFigures, places: int) -> list[str]:
    """Return estimated costs, separate from billed ones."""
    others = figures.other_estimates if c is figures.currencies[0] else ()
    lines = _estimates_in("", c.estimates, places)
    for code, made in others:
        lines += _estimates_in(f"{code}; ", made, places_for(max(made.cost, made.token_cost)))
    runs = sum(count for _, count in figures.estimate_gaps)
    if runs:
        lines.append(
            f"  no estimate for {counted(runs, 'run')}: {', '.join(reason.replace('_', ' ') for reason, _ in figures.estimate_gaps)}"
        )
    return lines


def _estimates_in(currency: str, made: Estimates, places: int) -> list[str]:
    lines = []
    if made.since is not None:
        lines.append(
            _aside(
                "estimated since then", made.cost, places, f"{currency}{instant(made.since)} → {instant(made.until)}; excluded from totals"
            )
        )
    if made.token_cost:
        lines.append(_aside("tokens, list price", made.token_cost, places, f"{currency}MLflow's price; on no bill, excluded from totals"))
    return lines


def _aside(name: str, amount: Decimal, places: int, note: str) -> str:
    return f"  {name:<{NAME + 1}}{money(amount, places):>{AMOUNT - 1}}  {'':>7}  {note}"


def _coverage(c: CurrencyFigures, figures: ReportFigures) -> str:
    if c.covered_until is None:
        return "no usage billed yet"
    whole = (month_after(figures.first, 1) - figures.first).days
    end = datetime.combine(month_after(figures.first, 1), datetime.min.time(), tzinfo=timezone.utc)
    if c.covered_until >= end and days_covered(figures.first, c.covered_until) == whole:
        return "bill complete"
    return f"bill complete to {instant(c.covered_until)}"


def _kind_note(kind: str, c: CurrencyFigures) -> str:
    if kind == "compute" and c.confidence:
        names = [n for n in (*CONFIDENCES, "none") if c.confidence.get(n)]
        whole = add(c.confidence.values())
        return " · ".join(f"{n} {percent(share, 0)}" for n in names if (share := share_of(c.confidence[n], whole)) is not None)
    return ""


def _idle_note(c: CurrencyFigures) -> str:
    worst = next((r for r in c.idle if r.billed_seconds), None)
    if worst is None or worst.billed_seconds is None:
        return ""
    unused = (worst.billed_seconds - (worst.used_seconds or 0)) / 3600
    return f"worst {_short(worst.name)}, {unused:,.0f} of {worst.billed_seconds / 3600:,.0f} h unused"


def _unallocated_note(c: CurrencyFigures, places: int) -> str:
    inside = max((g for g in c.groups if g.inside_cost), key=lambda g: (g.is_accelerated, g.inside_cost), default=None)
    return f"{_clean(inside.action)}: explains {money(inside.inside_cost, places)}" if inside else ""


def _outside_note(c: CurrencyFigures, places: int) -> str:
    """Return a note on accelerators that are out of scope. Their cost rarely belongs to another department."""
    outside = next((g for g in c.groups if g.is_accelerated and g.outside_cost), None)
    return f"{_clean(outside.action)}: {money(outside.outside_cost, places)}" if outside else ""


def _equality(c: CurrencyFigures, tty: bool) -> str:
    if not c.reconciliation:
        return ""
    if not all(r.is_equal for r in c.reconciliation):
        wrong = ", ".join(_clean(r.source) for r in c.reconciliation if not r.is_equal)
        return f"differs from the delivered bill of {wrong}  {_mark('✗', tty)}"
    aside = sum(r.quarantined_rows for r in c.reconciliation)
    if aside:
        return f"equals the delivered bill, except {counted(aside, 'unreadable row')}  {_mark('⚠', tty)}"
    return f"equals the delivered bill in all four measures  {_mark('✓', tty)}"


def _row(name: str, amount: Decimal, places: int, share: Decimal | None, bar: str, note: str) -> str:
    shown = percent(share) if share is not None else ""
    return f"  {_fit(name, NAME)}{money(amount, places):>{AMOUNT}}  {shown:>7}  {bar:<{BAR}} {note}"


def _bar(share: Decimal | None) -> str:
    """Return a bar with one block per five percent, precise to an eighth of a block."""
    if share is None or share <= 0:
        return ""
    eighths = int(share * 8 / 5)
    return "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8]).strip()


def _labelled(label: str, lines: Sequence[str]) -> list[str]:
    return [f"  {label if i == 0 else '':<9}{line}" for i, line in enumerate(lines)]


def _wrap(items: Sequence[str], first: str, rest: str, width: int) -> list[str]:
    """Join items with middle dots. A line breaks before an item that would make it longer than `width`."""
    lines: list[str] = []
    line = first + items[0]
    for item in items[1:]:
        if len(line) + len(item) + 5 > width:
            lines.append(line)
            line = rest + item
        else:
            line += f" · {item}"
    return [*lines, line]


def _unchanged(periods: Sequence[str]) -> str:
    return f"{', '.join(periods)} unchanged" if len(periods) <= 2 else f"{len(periods)} months unchanged"


def _fit(text: str, length: int) -> str:
    return f"{text:<{length}}" if len(text) <= length else text[: length - 1] + "…"


def _short(resource: str) -> str:
    """Return the last part of a long resource name, by which people know the resource."""
    return _clean(resource.rstrip("/").rpartition("/")[2] or resource)


def _clean(text: str) -> str:
    """Replace characters that would move a terminal's cursor or reorder its text. Names come from outside."""
    return "".join("�" if unicodedata.category(ch) in ("Cc", "Cf", "Cs", "Zl", "Zp") else ch for ch in text)


def _mark(mark: str, tty: bool) -> str:
    return f"\x1b[{COLORS[mark]}m{mark}\x1b[0m" if tty and mark in COLORS else mark


def _bold(text: str, tty: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if tty else text
