"""Read the budgets that people set in tags of experiments: `runspend.budget` = "500 USD / month".

Belongs here: the syntax of such a tag, and its limits. Authors of tags are not trusted. A tag makes a budget only for its own experiment, and
the only effect of a budget is mail. A tag with anything other than an amount, the currency and a period is refused with a message. The owner
in a tag gets mail only if `config/recipients.py` allows it.
"""

from __future__ import annotations

import hashlib
import re
from decimal import Decimal
from typing import Any, cast

from pydantic import ValidationError

from runspend.actions.alert.selector_sql import sql
from runspend.config.budgets import Every
from runspend.config.recipients import find_recipients
from runspend.config.settings import Budget, Settings, TagBudgets
from runspend.core.text import clean
from runspend.warehouse.base import Reader

TAG_KEYS = ("experiment_tag.runspend.budget", "experiment_tag.owner")
# Selector keys of these budgets. `experiment_id` is not allowed in settings.
OF_EXPERIMENT = {"tracking", "workspace", "experiment_id"}
MOST = 5000  # highest number of tag budgets that are judged; more are probably a mistake or an attack, and are reported
_TAG = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s{0,3}([A-Z]{3})\s{0,3}/\s{0,3}(day|week|month|quarter|year)", re.ASCII)
EXAMPLE = '"500 USD / month"'


class TagBudget(Budget):
    """A budget of one experiment, from its tag."""

    experiment: str

    @property
    def title(self) -> str:
        """The name of the experiment. The name of the budget cannot be shown to people, because it is made of ids."""
        return f"experiment {clean(self.experiment, 40)}"


def read_tag_budgets(reader: Reader, settings: Settings) -> tuple[list[Budget], list[str]]:
    """Return the budgets in experiment tags, and messages about refused tags. Both are empty unless runspend.yaml enables tag budgets."""
    if not settings.tag_budgets:
        return [], []
    rules, budgets, notes = settings.tag_budgets[0], list[Budget](), list[str]()
    rows = reader.query(sql("tagged")).to_pylist()
    recipients = find_recipients(settings)
    for row in rows[:MOST]:
        where = f"experiment {clean(row['experiment_id'], 30)} of {clean(row['tracking_server'], 30)}"
        match = _TAG.fullmatch(str(row["budget"]).strip()[:64])
        why = _refusal(match, settings.currency)
        if match is None or why:
            notes.append(f"{where}: its tag runspend.budget is not used: {why}. It is {clean(row['budget'], 40)!r}; write {EXAMPLE}")
            continue
        owner = recipients.find(row["owner"])
        try:
            budget = _budget(row, match, rules, owner)
        except ValidationError as error:  # A threshold does not fit the tag's amount. Only this budget is not judged.
            why = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors(include_url=False))
            notes.append(f"{where}: its tag runspend.budget is not used: with {clean(row['budget'], 40)} {clean(why, 200)}")
            continue
        if not budget.all_recipients():
            notes.append(
                f"{where}: no alerts for its budget: Runspend may not mail the owner {clean(row['owner'] or 'none', 40)!r} (allowed domains: {recipients.listed}): {recipients.why_not(row['owner'])}"
            )
        budgets.append(budget)
    if len(rows) > MOST:
        notes.append(f"{len(rows)} experiments have the tag runspend.budget; only the first {MOST} are judged")
    return budgets, notes


def tag_name(tracking_server: str, workspace: str, experiment_id: str) -> str:
    """Return the name of the budget of an experiment's tag: "tag.", the experiment's id and a digest."""
    digest = hashlib.sha256(f"{tracking_server}\0{workspace}\0{experiment_id}".encode()).hexdigest()[:8]
    return f"tag.{re.sub('[^A-Za-z0-9_-]+', '-', str(experiment_id))[:30]}.{digest}"


def _refusal(match: re.Match[str] | None, currency: str) -> str | None:
    if match is None:
        return "it is not an amount, a currency and a period"
    if match[2] != currency:
        return f"budgets must be in {currency}"
    return None if Decimal(match[1]) else "the amount is zero"


def _budget(row: dict[str, Any], match: re.Match[str], rules: TagBudgets, owner: str | None) -> TagBudget:
    key = [row["tracking_server"], row["workspace"], row["experiment_id"]]
    made = TagBudget(
        name=tag_name(*key),
        experiment=row["experiment_name"] or row["experiment_id"],
        amount=Decimal(match[1]),
        every=cast(Every, match[3]),
        measure=rules.measure,
        judged_on=rules.judged_on,
        actual=rules.actual,
        forecast=rules.forecast,
        anomalies=rules.anomalies,
        notify=rules.notify,
        owner=owner,
        runbook=rules.runbook,
    )
    of = {"tracking": [key[0]], "workspace": [key[1]], "experiment_id": [key[2]]}  # set after validation, which refuses the last key
    return made.model_copy(update={"for_": of})
