"""Return rows as HTTP answers for programs: JSON, CSV or an Arrow stream.

`interfaces/row_formats.py` writes the formats. The queries belong in other modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from fastapi.responses import Response

from runspend.core.text import without_person
from runspend.interfaces.row_formats import json_bytes, rows_as

TYPES = {"json": "application/json", "csv": "text/csv; charset=utf-8", "arrow": "application/vnd.apache.arrow.stream"}
NAMING = ("owner", "user_name", "notify", "muted")  # columns that may name a person
EXPERIMENTS = ("experiment_name", "title")  # columns whose text may begin with a person's folder


@dataclass(frozen=True)
class Rows:
    """The rows of an answer. `about` has the other keys of the JSON object. `headers` are the same in every format."""

    name: str
    rows: pa.Table
    about: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def answer(self, form: str) -> Response:
        """Return the rows as an HTTP answer in one of the formats of `rows_as`."""
        return rows_answer(self.name, form, rows_as(form, self.rows, self.about), self.headers)


def rows_answer(name: str, form: str, body: bytes, headers: Mapping[str, str]) -> Response:
    """Return `body`, which `rows_as` wrote in the format `form`, as an HTTP answer. A browser saves CSV as the file NAME.csv."""
    shown = {"Content-Disposition": f'attachment; filename="{name}.csv"'} if form == "csv" else {}
    return Response(body, media_type=TYPES[form], headers={**shown, **headers})


def json_answer(value: Any) -> Response:
    """Return a value as a JSON answer. Values that JSON does not have (decimals, times, infinity, NaN) become text."""
    return Response(json_bytes(value), media_type=TYPES["json"])


def without_people(rows: pa.Table) -> pa.Table:
    """Return the rows without names of people. Columns of people become null, and names in experiment names are removed."""
    for index, name in enumerate(rows.column_names):
        if name in NAMING:
            rows = rows.set_column(index, rows.schema.field(index), pa.nulls(rows.num_rows, rows.schema.field(index).type))
        elif name in EXPERIMENTS:
            masked = [without_person(value) for value in rows.column(index).to_pylist()]
            rows = rows.set_column(index, name, pa.array(masked, pa.string()))
    return rows
