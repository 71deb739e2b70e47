"""Defines `budgets` of runspend.yaml: selected cost, amount, period, and recipients of each alert.

`actions/alert/` compares budgets with costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_FLOOR, Decimal
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Discriminator, Field, PlainSerializer, Tag, model_validator

from runspend.config.types import (
    Address,
    BudgetSelector,
    CostMeasure,
    Frozen,
    Money,
    Name,
    Recipient,
    Threshold,
    parse_threshold,
    threshold_amount,
)
from runspend.core.amounts import EXACT
from runspend.core.selectors import BUDGET_RUN_KEYS

Every = Literal["day", "week", "month", "quarter", "year"]
ALL_MAILS = "all"  # the key in `notify` whose recipients get every mail about a budget


def percent_used(spent: Decimal, amount: Decimal, unit: str = "0.1") -> Decimal:
    """Return the used percentage of a budget for display. It is rounded down, so that 99.97% never appears as 100.0%."""
    return EXACT.divide(EXACT.multiply(spent, Decimal(100)), amount).quantize(Decimal(unit), ROUND_FLOOR, EXACT)


def _parse_notify(raw: object) -> object:
    """Return a map with its keys in the spelling of `parse_threshold`. Other values stay as they are.

    Raises ValueError for an empty map or an invalid threshold.
    """
    if not isinstance(raw, Mapping):
        return raw
    if not raw:
        raise ValueError("it has no recipient. Write a list of mail addresses, or a map from thresholds to lists")
    return {ALL_MAILS if key == ALL_MAILS else parse_threshold(key): value for key, value in raw.items()}


Recipients = Annotated[list[Recipient], Field(min_length=1)]
Notify = Annotated[Recipients | dict[str, Recipients], BeforeValidator(_parse_notify)]


class AnomalySettings(Frozen):
    """By how much a day's cost must exceed its history to cause an alert. It must exceed both limits.

    `percent`: in percent of a usual day. `money`: as an amount, or in percent of the budget's amount.
    """

    percent: Annotated[str, Field(pattern=r"^\d+(\.\d+)?%$")] = "100%"
    money: Threshold = "5%"  # of the budget's amount, or an amount like 50 USD

    @property
    def ratio(self) -> Decimal:
        """Return `percent` as a ratio, 1 for 100%."""
        return Decimal(self.percent.removesuffix("%")) / 100


def _parse_anomalies(raw: object) -> object:
    """Return the defaults for `on` and None for `off`. Both may also be given as true and false."""
    if raw in (True, "on", "true"):
        return AnomalySettings()
    return None if raw in (False, "off", "false") else raw


Anomalies = Annotated[
    AnomalySettings | None,
    BeforeValidator(_parse_anomalies, json_schema_input_type=bool | AnomalySettings),
    PlainSerializer(lambda value: False if value is None else value),
]


class _Rules(Frozen):
    """Settings that apply both to budgets in the file and to budgets in experiment tags."""

    measure: CostMeasure = "effective_cost"
    judged_on: Literal["bill", "bill_and_estimates"] = "bill"
    actual: list[Threshold] = ["80%", "100%"]
    forecast: list[Threshold] = ["100%"]
    anomalies: Anomalies = AnomalySettings()
    runbook: str | None = None


class Budget(_Rules):
    """One budget: its selected cost, amount, period, and recipients per threshold.

    Thresholds are strings in one spelling ("80%", "500 USD", "500"). `threshold_amount` converts them to money. `judged_on`: only billed
    cost, or billed cost plus the estimated cost of runs for hours that are not billed yet.
    """

    name: Name
    for_: BudgetSelector = Field(default={}, validation_alias=AliasChoices("for", "for_"), serialization_alias="for")
    amount: Money
    every: Every = "month"
    notify: Notify
    owner: Address | None = None

    @property
    def title(self) -> str:
        """Return the budget's name in mails."""
        return self.name

    @property
    def is_of_runs(self) -> bool:
        """Return whether the budget selects by properties that only runs have (tags, params, model). Then only cost of runs counts."""
        return any(key.partition(".")[0] in BUDGET_RUN_KEYS for key in self.for_)

    def recipients(self, levels: Iterable[Decimal]) -> list[str]:
        """Return the recipients of an alert about these crossed thresholds, plus the recipients of `all`.

        If there are none, return all recipients. In `notify`, "owner" means the budget's owner.
        """
        if isinstance(self.notify, list):
            return self.all_recipients()
        wanted = set(levels)
        named = [r for key, rs in self.notify.items() for r in rs if key == ALL_MAILS or threshold_amount(key, self.amount) in wanted]
        found = list(dict.fromkeys(r for r in (self.owner if n == "owner" else n for n in named) if r))
        return found or self.all_recipients()

    def all_recipients(self) -> list[str]:
        """Return all recipients of the budget."""
        named = self.notify if isinstance(self.notify, list) else [r for rs in self.notify.values() for r in rs]
        return list(dict.fromkeys(r for r in ((self.owner if n == "owner" else n) for n in named) if r))

    @model_validator(mode="after")
    def _thresholds_make_sense(self) -> Budget:
        for key, thresholds in (("actual", self.actual), ("forecast", self.forecast)):
            amounts = [threshold_amount(t, self.amount) for t in thresholds]
            if len(set(amounts)) < len(amounts):
                raise ValueError(f"`{key}` names the same threshold twice. Keep one of them")
            for threshold, amount in zip(thresholds, amounts, strict=True):
                if re.fullmatch(r"[\d.]+", threshold) and amount * 10 < self.amount:
                    raise ValueError(
                        f"`{key}` holds {threshold}, which could be a percentage or money. Write {threshold}% or the money with its currency"
                    )
        if not self.actual and not self.forecast:
            raise ValueError("`actual` and `forecast` are both empty, so the budget could never alert. Leave them out, or name a threshold")
        return self

    @model_validator(mode="after")
    def _recipients_and_thresholds_match(self) -> Budget:
        if isinstance(self.notify, dict):
            levels = {threshold_amount(t, self.amount): t for t in (*self.actual, *self.forecast)}
            notified = {threshold_amount(key, self.amount): key for key in self.notify if key != ALL_MAILS}
            for level, key in notified.items():
                if level not in levels:
                    raise ValueError(
                        f"`notify` has recipients for {key}, which is not a threshold of this budget. Thresholds are {', '.join(levels.values())}"
                    )
            silent = [text for level, text in levels.items() if level not in notified]
            if silent and ALL_MAILS not in self.notify:
                raise ValueError(
                    f"`notify` has no recipient for {', '.join(silent)}. Add the threshold, or `all:` for recipients of every mail"
                )
        return self

    @model_validator(mode="after")
    def _one_table_has_it_all(self) -> Budget:
        if self.is_of_runs and "provider" in self.for_:
            runs = next(key for key in self.for_ if key.partition(".")[0] in BUDGET_RUN_KEYS)
            raise ValueError(
                f"`for` has both `provider`, which bill lines have, and `{runs}`, which runs have. Use `source` instead of `provider`"
            )
        return self


class TagBudgets(_Rules):
    """Budgets that users set on experiments with the tag `runspend.budget` = "500 USD / month". They only cause mail."""

    from_: Literal["experiment_tags"] = Field(validation_alias=AliasChoices("from", "from_"), serialization_alias="from")
    notify: Recipients


def _budget_kind(raw: object) -> str:
    if isinstance(raw, TagBudgets) or (isinstance(raw, Mapping) and ("from" in raw or "from_" in raw)):
        return "tagged"
    return "named"


BudgetEntry = Annotated[Annotated[Budget, Tag("named")] | Annotated[TagBudgets, Tag("tagged")], Discriminator(_budget_kind)]
