"""Read the parameters of the HTTP API from an address, and describe them for its OpenAPI document.

The same `Parameter` does both, so that the document always matches the API. The answers belong in other modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from runspend.core.errors import UsageError
from runspend.core.text import quoted_value

LONGEST = 5000  # characters of a string
DAY_OR_MONTH = r"[0-9]{4}-[0-9]{2}(-[0-9]{2})?"
MONTH = r"[0-9]{4}-[0-9]{2}"


@dataclass(frozen=True)
class Parameter:
    """One parameter of an address. `least` and `most` limit a number, and `longest` is the most characters of a string."""

    name: str
    meaning: str
    kind: Literal["text", "number", "choice", "pattern"] = "text"
    allowed: tuple[str, ...] = ()
    pattern: str = ""
    least: int = 1
    most: int = 0
    longest: int = LONGEST
    default: str | None = None
    example: str | None = None
    is_required: bool = False
    is_repeated: bool = False

    def check(self, value: str) -> None:
        """Raise UsageError if the value is not allowed."""
        if self.kind == "choice" and value not in self.allowed:
            raise UsageError(f"cannot read {self.name}={quoted_value(value)}: allowed values are {', '.join(self.allowed)}.")
        if self.kind == "number" and not (re.fullmatch(r"[0-9]{1,9}", value) and self.least <= int(value) <= self.most):
            raise UsageError(f"cannot read {self.name}={quoted_value(value)}: it must be a number from {self.least:,} to {self.most:,}.")
        if self.kind == "pattern" and not re.fullmatch(self.pattern, value):
            raise UsageError(f"cannot read {self.name}={quoted_value(value)}: write it as in {self.name}={self.example}.")
        if len(value) > self.longest or any("\ud800" <= c <= "\udfff" or c == "\0" for c in value):
            raise UsageError(f"cannot read {self.name}={quoted_value(value)}: it must be text of at most {self.longest:,} characters.")

    def described(self) -> dict[str, Any]:
        """Return the parameter as a Parameter Object of OpenAPI."""
        schema: dict[str, Any] = {"type": "integer" if self.kind == "number" else "string"}
        if self.kind == "choice":
            schema["enum"] = list(self.allowed)
        if self.kind == "number":
            schema |= {"minimum": self.least, "maximum": self.most}
        if self.kind == "pattern":
            schema["pattern"] = f"^{self.pattern}$"
        if self.kind == "text":
            schema["maxLength"] = self.longest
        if self.default is not None:
            schema["default"] = self._typed(self.default)
        found: dict[str, Any] = {"name": self.name, "in": "query", "description": self.meaning, "required": self.is_required}
        if self.is_repeated:
            return {**found, "schema": {"type": "array", "items": schema}, "style": "form", "explode": True, **self._examples(is_list=True)}
        return {**found, "schema": schema, **self._examples(is_list=False)}

    def _examples(self, *, is_list: bool) -> dict[str, Any]:
        if self.example is None:
            return {}
        return {"example": [self._typed(self.example)] if is_list else self._typed(self.example)}

    def _typed(self, text: str) -> str | int:
        return int(text) if self.kind == "number" else text


@dataclass(frozen=True)
class Query:
    """The parameters of one address. Parameters that are not given have their default."""

    values: Mapping[str, Sequence[str]]

    def text(self, name: str) -> str | None:
        """Return the value of a parameter, or None if it has none."""
        return next(iter(self.values[name]), None)

    def texts(self, name: str) -> Sequence[str]:
        """Return all values of a repeated parameter."""
        return self.values[name]

    def number(self, name: str) -> int:
        """Return the value of a parameter that is a number and has a default."""
        return int(self.values[name][0])


def read_query(parameters: Sequence[Parameter], query: Iterable[tuple[str, str]]) -> Query:
    """Return the parameters of an address. Raises UsageError, which names the key, the value and the allowed values."""
    known = {parameter.name: parameter for parameter in parameters}
    given: dict[str, list[str]] = {}
    for key, value in query:
        if key not in known:
            raise UsageError(
                f"cannot read the address: {quoted_value(key)} is unknown. Known parameters are {', '.join(known) or 'no parameters'}."
            )
        if value or known[key].is_repeated or known[key].is_required:  # a web form also sends its empty fields
            known[key].check(value)
            given.setdefault(key, []).append(value)
    for name, parameter in known.items():
        if len(given.get(name, ())) > 1 and not parameter.is_repeated:
            raise UsageError(f"cannot read the address: {name} is given {len(given[name])} times.")
        if parameter.is_required and not any(text.strip() for text in given.get(name, ())):
            raise UsageError(f"cannot answer: {name} is missing. {parameter.meaning}")
        if name not in given:
            given[name] = [] if parameter.default is None else [parameter.default]
    return Query(given)
