"""Write a digest: one mail that replaces many waiting budget mails of a recipient.

Belongs here: the text of that mail. `outbox.py` decides when to write a digest and which mails it combines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from runspend.actions.alert.message import Mail
from runspend.actions.alert.render import Block, Button, Card, Envelope, Facts, MailTable, Paragraph, make_mail
from runspend.actions.alert.sections import budget_address, title_for
from runspend.actions.alert.wording import spent_ratio
from runspend.config.budgets import percent_used
from runspend.config.settings import Settings
from runspend.core.amounts import money
from runspend.core.text import clean, counted
from runspend.warehouse.records import Records

# Some mail programs hide the rest of a mail after 100 KB of HTML. A row has about 170 bytes.
ROWS_IN_A_MAIL = 400
Alert = Mapping[str, Any]


def write_digests(
    settings: Settings, recipient: str, alerts: Sequence[Alert], now: datetime, freshness: Facts | None
) -> Iterator[tuple[Mail, list[Alert]]]:
    """Yield one or more mails, each with the alerts that it lists. Together they list all alerts, highest share of the budget first.

    `alerts` are records of kind "alerts". The same alerts give the same Message-IDs.
    """
    ranked = sorted(alerts, key=lambda a: (-spent_ratio(a), a["budget"], a["budget_period"], a["mail"]["message_id"]))
    parts = [ranked[n : n + ROWS_IN_A_MAIL] for n in range(0, len(ranked), ROWS_IN_A_MAIL)]
    for number, part in enumerate(parts, 1):
        yield _write_one(settings, recipient, part, now, freshness, f" ({number} of {len(parts)})" if len(parts) > 1 else ""), part


def record_digest(records: Records, mail: Mail, recipient: str, alerts: Sequence[Alert], now: datetime) -> None:
    """Record a digest, which a recipient gets instead of the mails of these alerts."""
    members = [alert["mail"]["message_id"] for alert in alerts]
    value = {"recipient": recipient, "members": members, "decided_at": now.isoformat(), "mail": mail.as_record()}
    records.create("digests", mail.message_id.strip("<>"), value)


def _write_one(settings: Settings, recipient: str, alerts: Sequence[Alert], now: datetime, freshness: Facts | None, which: str) -> Mail:
    summary = _counted(alerts)
    members = "\n".join([recipient, *sorted(a["mail"]["message_id"] for a in alerts)])
    site = settings.site.url.rstrip("/") if settings.site else None
    over = len({a["budget"] for a in alerts if a["kind"] == "actual" and Decimal(a["spent"]) >= Decimal(a["amount"])})
    links = tuple(budget_address(a["budget"], a["budget_period"], site) for a in alerts) if site else ()
    blocks: list[Block] = [
        Card(
            (
                ("budgets", f"{len({a['budget'] for a in alerts})}", counted(len(alerts), "alert")),
                ("exceeded", f"{over}", "all of the budget spent"),
            )
        ),
        Paragraph(f"{summary}. This mail lists them all, most used first, instead of one mail each.{which}"),
        *([Button("See all budgets", f"{site}/#budgets")] if site else []),
        MailTable(
            "BUDGETS", ("", "alert", "spent", "amount", "used"), "llrrr", tuple(_row(a, settings.mail.people) for a in alerts), (), links
        ),
        *([freshness] if freshness else []),
        Facts("NEXT STEPS", (("See top costs", "runspend costs --by team,experiment"), ("List all budgets", "runspend budgets"))),
        Paragraph(f"Sent once. Budgets are configured in {settings.path.name if settings.path else 'runspend.yaml'}."),
    ]
    return make_mail(
        Envelope(settings.mail.from_, "budgets", "budget-digest"),
        local_id=f"digest.{hashlib.sha256(members.encode()).hexdigest()[:32]}",
        recipients=[recipient],
        subject=f"[runspend] {summary}{which}",
        blocks=blocks,
        now=now,
    )


def _counted(alerts: Sequence[Alert]) -> str:
    """Count alerts in words, such as "14 budgets over a threshold: 3 exceeded, 11 not exceeded".

    If some alerts are of another kind than `actual`, the text is such as "20 alerts on 14 budgets: 3 exceeded".
    """
    passed = [a for a in alerts if a["kind"] == "actual"]
    over = sum(1 for a in passed if Decimal(a["spent"]) >= Decimal(a["amount"]))
    states = ", ".join(
        text for text in (f"{over} exceeded" if over else "", f"{len(passed) - over} not exceeded" if len(passed) > over else "") if text
    )
    if len(passed) == len(alerts):
        return f"{counted(len(alerts), 'budget')} over a threshold: {states}"
    budgets = len({a["budget"] for a in alerts})
    return f"{counted(len(alerts), 'alert')} on {counted(budgets, 'budget')}" + (f": {states}" if states else "")


def _row(alert: Alert, people: str) -> tuple[str, ...]:
    why = alert["threshold"] if alert["kind"] in ("actual", "anomaly") else f"{alert['kind']} {alert['threshold']}"
    used = percent_used(Decimal(alert["spent"]), Decimal(alert["amount"]))
    of = f"{money(Decimal(alert['amount']), short=True)} {alert['currency']}"
    return (
        f"{title_for(alert.get('title') or alert['budget'], people, 30)} {alert['budget_period']}",
        clean(why, 17),
        money(Decimal(alert["spent"])),
        of,
        f"{used}%",
    )
