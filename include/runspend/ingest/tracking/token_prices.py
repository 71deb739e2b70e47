"""Price the tokens of LLM calls for which MLflow has no cost, with the list prices in the package `genai-prices`.

Belongs here: how the price of a call is found. The installed version of the package contains the prices, and the prices on the day of the
call are used. No request is sent over the network. `token_prices.sql` decides which calls are priced.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from decimal import Decimal, localcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from runspend.core.amounts import SMALLEST
from runspend.core.errors import MissingExtra

if TYPE_CHECKING:
    import pyarrow as pa


PACKAGE = "genai-prices"


@dataclass(frozen=True)
class Call:
    """One group of equal LLM calls of a day. `usage` is `mlflow.chat.tokenUsage` as JSON. `provider` may be empty."""

    model: str
    provider: str
    day: date
    usage: str


def load_prices() -> None:
    """Import the package with the prices. Raises MissingExtra if it is not installed."""
    try:
        import genai_prices  # noqa: F401 (checks that it is installed)
    except ImportError as error:
        raise MissingExtra(PACKAGE, "prices") from error


def price_source() -> str:
    """Return the value of `trace_costs.price_source` for these prices: the name and version of the package."""
    return f"{PACKAGE} {version(PACKAGE)}"


def price_calls(calls: Iterable[Call]) -> pa.Table:
    """Return each call with its tokens, the provider that priced it, and its cost in USD.

    The cost is null if the list has no price for the model.
    """
    import pyarrow as pa

    rows = [(call, *_price(call)) for call in calls]
    return pa.table(
        {
            "model": pa.array([call.model for call, *_ in rows], pa.string()),
            "provider": pa.array([call.provider for call, *_ in rows], pa.string()),
            "day": pa.array([call.day for call, *_ in rows], pa.date32()),
            "usage": pa.array([call.usage for call, *_ in rows], pa.string()),
            "priced_by": pa.array([provider for _, _, _, provider, _ in rows], pa.string()),
            "input_tokens": pa.array([tokens for _, tokens, *_ in rows], pa.int64()),
            "output_tokens": pa.array([tokens for _, _, tokens, *_ in rows], pa.int64()),
            "cost": pa.array([cost for *_, cost in rows], pa.decimal128(38, 22)),
        }
    )


def _price(call: Call) -> tuple[int, int, str, Decimal | None]:
    """Return the input tokens, the output tokens, the provider that priced the call, and the cost in USD (None if there is no price)."""
    from genai_prices import Usage, calc_price

    tokens = _tokens(call.usage)
    cached, written = tokens.get("cache_read_input_tokens", 0), tokens.get("cache_creation_input_tokens", 0)
    # The package counts cached tokens as a part of the input tokens. Some clients report them separately.
    given, made = max(tokens.get("input_tokens", 0), cached + written), tokens.get("output_tokens", 0)
    usage = Usage(input_tokens=given, output_tokens=made, cache_read_tokens=cached or None, cache_write_tokens=written or None)
    noon = datetime.combine(call.day, time(12), timezone.utc)
    for provider in (call.provider, None) if call.provider else (None,):  # the package may use another name for the provider than MLflow
        try:
            found = calc_price(usage, call.model, provider_id=provider, genai_request_timestamp=noon)
        except (LookupError, ValueError):
            continue
        with localcontext(prec=76):
            return given, made, found.provider.id, found.total_price.quantize(SMALLEST)
    return given, made, call.provider, None


def _tokens(usage: str) -> dict[str, int]:
    try:
        found: Any = json.loads(usage)
    except ValueError:
        return {}
    found = found if isinstance(found, dict) else {}
    return {name: count for name, count in found.items() if type(count) is int and 0 <= count < 2**53}
