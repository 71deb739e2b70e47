"""Write a test mail with the same parts as a real mail: text, HTML and a picture.

Belongs here: the text of the test mail. It is sent on request and is not an alert, so it is not recorded.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from runspend.actions.alert.chart import ForecastDay, SpendChart
from runspend.actions.alert.message import Mail
from runspend.actions.alert.render import Block, Button, Card, Envelope, Facts, Paragraph, make_mail
from runspend.config.settings import Settings
from runspend.config.types import is_channel

SAYS = "This is a test. It was requested with: runspend alert --test-mail. It is not about a real budget."
CHART = "If you see a chart below with a blue line, a red line and a violet band, budget mails display correctly. Its numbers are made up."


def write_test_mail(settings: Settings, recipient: str, now: datetime) -> Mail:
    """Return a test mail. Its text states that it is a test and that its figures are made up."""
    first = now.date() - timedelta(days=12)
    spent = tuple(Decimal(40) * day for day in range(1, 14))
    outlook = tuple(ForecastDay(*(spent[-1] + Decimal(per_day) * day for per_day in (25, 40, 55))) for day in range(1, 8))
    picture = SpendChart(first, first + timedelta(days=20), spent, Decimal(600), settings.currency, outlook)
    return make_mail(
        Envelope(settings.mail.from_, "operators", "test"),
        local_id=f"test.{datetime.now(now.tzinfo):%Y%m%dT%H%M%S.%f}",
        recipients=[recipient],
        subject="[runspend] TEST: mail delivery",
        blocks=[
            *(_beginning(settings) if is_channel(recipient) else (Paragraph(SAYS), Paragraph(CHART), picture)),
            Facts(
                "SENT BY",
                (
                    ("From", settings.mail.from_),
                    ("Configuration", settings.path.name if settings.path else "settings made in code"),
                    ("At", f"{now:%Y-%m-%d %H:%M} UTC"),
                ),
            ),
        ],
        now=now,
    )


def _beginning(settings: Settings) -> tuple[Block, ...]:
    """Return the blocks that chats and pagers show: figures, a paragraph, and a button if there are live pages."""
    card = Card((("spent", f"520.00 {settings.currency}", "86.6% of 600"), ("left", f"80.00 {settings.currency}", "8 days to go")))
    button = (Button("See all budgets", f"{settings.site.url.rstrip('/')}/#budgets"),) if settings.site else ()
    return (card, Paragraph(f"{SAYS} Its numbers are made up."), *button)
