"""The answers of `runspend.connect`: rows and explanations for a notebook or a script. Other modules find the values."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from html import escape
from typing import TYPE_CHECKING, Any, cast

from runspend.actions.costs.query import as_values, table_text
from runspend.core.errors import MissingExtra

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import polars as pl
    import pyarrow as pa


SHOWN = 20  # rows of a result that are printed


class Result:
    """The rows of an answer. Amounts are exact decimals, and times are in UTC."""

    def __init__(self, rows: pa.Table, *, is_money: bool = False) -> None:
        self._rows = rows
        self._is_money = is_money

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table, without a copy."""
        return self._rows

    def to_pandas(self, *, exact: bool = True) -> pd.DataFrame:
        """Return a data frame with Arrow's types. Amounts are exact decimals, or floats with `exact=False`. Needs pandas."""
        try:
            import pandas as pd
        except ImportError as missing:
            raise MissingExtra("pandas", "frames") from missing
        return _with_room(self._rows, exact=exact).to_pandas(types_mapper=pd.ArrowDtype)

    def to_polars(self) -> pl.DataFrame:
        """Return a Polars data frame. Needs Polars."""
        try:
            import polars as pl
        except ImportError as missing:
            raise MissingExtra("polars", "frames") from missing
        return cast("pl.DataFrame", pl.from_arrow(self._rows))

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one dict per row, with Python values."""
        return as_values(self._rows)

    def show(self, rows: int = SHOWN) -> None:
        """Print the first rows as text. Costs have two decimals."""
        sys.stdout.write(self._text(rows))

    def _text(self, rows: int) -> str:
        text = table_text(self._rows.slice(0, rows), is_money=self._is_money)
        return text if len(self) <= rows else f"{text}… {len(self) - rows:,} more rows\n"

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_dicts())

    def __repr__(self) -> str:
        return self._text(SHOWN).rstrip("\n")

    def _repr_html_(self) -> str:
        """Return the same text for a notebook. It is escaped, so that names in it cannot become HTML."""
        return f"<pre>{escape(repr(self))}</pre>"


def _with_room(rows: pa.Table, *, exact: bool) -> pa.Table:
    """Return the rows with decimals that pandas can calculate with, or with floats if not `exact`.

    Arrow refuses to subtract two columns of 38 digits: the result may have 39 digits, which do not fit into 128 bits. With columns of 37
    digits in 256 bits, even products and quotients fit. Source: Arrow, "Decimal type promotion" (at most 76 digits).
    """
    import pyarrow as pa

    for at, field in enumerate(rows.schema):
        if pa.types.is_decimal(field.type):
            column = rows.column(at)
            if not exact:
                column = column.cast(pa.float64())
            else:
                with suppress(pa.ArrowInvalid):  # the column has a number of 38 digits: it is left unchanged
                    column = column.cast(pa.decimal256(min(field.type.precision, 37), field.type.scale))
            rows = rows.set_column(at, field.name, column)
    return rows


class Explanation:
    """The explanation of a run's cost."""

    def __init__(self, values: dict[str, Any], text: str) -> None:
        self._values, self._text = values, text

    def to_dict(self) -> dict[str, Any]:
        """Return all values, as `runspend explain --json` prints them."""
        return deepcopy(self._values)

    def show(self) -> None:
        """Print what `runspend explain` prints."""
        sys.stdout.write(f"{self}\n")

    def __str__(self) -> str:
        return self._text.rstrip("\n")

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
