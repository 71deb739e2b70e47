"""Replaces variables and macros in a query as Grafana 12 does, by its documentation.

Sources: Grafana's "Variable syntax" (formats; a "Custom all value" is inserted unchanged), "PostgreSQL query editor" (macros),
"Global variables" ($__from).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

ALL = "$__all"
FORMATS: dict[str, Callable[[str | list[str]], str]] = {
    "raw": lambda value: value if isinstance(value, str) else ",".join(value),
    "sqlstring": lambda value: ",".join("'" + one.replace("'", "''") + "'" for one in ([value] if isinstance(value, str) else value)),
    "doublequote": lambda value: ",".join('"' + one.replace('"', '\\"') + '"' for one in ([value] if isinstance(value, str) else value)),
    "json": json.dumps,
}


def replace_variables(
    sql: str, variables: Mapping[str, Any], chosen: Mapping[str, str | list[str]], first: datetime, last: datetime
) -> str:
    """Replace `${name:format}`. `variables` are the dashboard's variables by name, as in its JSON."""

    def value(match: re.Match[str]) -> str:
        name, form = match[1], match[2]
        if name in ("__from", "__to"):
            assert form == "date:iso"
            moment = first if name == "__from" else last
            return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
        found = chosen.get(name, ALL)
        if found == ALL:
            return str(variables[name]["allValue"])
        if variables[name].get("multi"):
            assert isinstance(found, list)
        return FORMATS[form](found)

    done = re.sub(r"\$\{(\w+):([\w:]+)\}", value, sql)
    assert "${" not in done
    return done


def replace_macros(sql: str, first: datetime, last: datetime) -> str:
    """Replace the macros of the PostgreSQL data source."""
    texts = [f"'{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z'" for moment in (first, last)]
    macros: dict[str, Callable[[str], str]] = {
        "time": lambda column: f'{column} AS "time"',
        "timeFilter": lambda column: f"{column} BETWEEN {texts[0]} AND {texts[1]}",
        "timeFrom": lambda _: texts[0],
        "timeTo": lambda _: texts[1],
    }
    done = re.sub(r"\$__(\w+)\(([^()]*)\)", lambda match: macros[match[1]](match[2]), sql)
    assert "$__" not in done
    return done
