"""Reads Tableau extracts with Hyper's SQL."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any


def asked(file: Path, *questions: str) -> list[list[list[Any]]]:
    """Return the rows of each query of an extract. All run in one Hyper process."""
    import tableauhyperapi as api

    quiet = {"log_config": ""}
    with (
        decimal.localcontext(decimal.Context(prec=76)),  # Hyper either reads decimals exactly or fails
        api.HyperProcess(api.Telemetry.DO_NOT_SEND_USAGE_DATA_TO_TABLEAU, parameters=quiet) as process,
        api.Connection(process.endpoint, file) as connection,
    ):
        return [connection.execute_list_query(sql) for sql in questions]
