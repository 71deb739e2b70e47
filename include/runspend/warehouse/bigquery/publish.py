"""The transaction that makes the units of a step visible in all tables at once.

The head row of `published` counts publishes. This number is read together with the digests of the inputs. The transaction fails if the
number has changed since, and otherwise increases it. So no input can have changed, and the same request cannot succeed twice. Two
concurrent transactions change the same table, and BigQuery commits only one of them.

Source: BigQuery "Multi-statement transactions", "Transaction concurrency".
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from runspend.core.crash_points import crash_point
from runspend.core.errors import RunspendError
from runspend.schema.tables import TABLES, Table
from runspend.warehouse.base import Unit, UnitState
from runspend.warehouse.bigquery.jobs import Jobs, Statement, is_transient
from runspend.warehouse.bigquery.published import Head, read_head
from runspend.warehouse.bigquery.tables import PUBLISHED, WRITER, Places, column_names, quoted
from runspend.warehouse.bigquery.units import StagedTable
from runspend.warehouse.parquet.engine import month_of

TRIES = 20
MOVED = "runspend: another process published first"


StagedUnits = Mapping[Unit, tuple[tuple[StagedTable, ...], UnitState]]


def swap(
    jobs: Jobs,
    places: Places,
    build_id: str,
    staged: StagedUnits,
    dropped: Iterable[Unit],
    inputs: Mapping[Unit, str | None],
    labels: Mapping[str, str],
) -> bool:
    """Replace the units. Returns False, and changes nothing, if the digest of an input has changed.

    Raises RunspendError if other processes published first TRIES times in a row.
    """
    publish_id = uuid.uuid4().hex
    for number in range(1, TRIES + 1):
        head = read_head(jobs, places)
        if _is_done(head, staged, publish_id):
            return True
        if any((head.units[unit].digest if unit in head.units else None) != digest for unit, digest in inputs.items()):
            return False
        gone = sorted(unit for unit in dropped if unit in head.units)
        if not staged and not gone:
            return True
        script = _script(places, head.number, publish_id, build_id, staged, gone)
        crash_point("publish.before_commit")
        try:
            jobs.run_once(script, f"runspend-{labels['step']}-swap-{publish_id}-{number}", dataset=places.internal, labels=labels)
        except RunspendError as error:
            if MOVED not in str(error) and not is_transient(error):
                raise
            time.sleep(random.uniform(0.1, 2.0))
            continue
        crash_point("publish.after_commit")
        return True
    raise RunspendError(f"cannot publish to {jobs.place}: others published first {TRIES} times in a row. Nothing was changed. Run again.")


def _is_done(head: Head, staged: StagedUnits, publish_id: str) -> bool:
    """Whether an earlier attempt succeeded although its reply was lost."""
    return any(head.publish_ids.get(unit) == publish_id for unit in staged)


def _script(places: Places, number: int, publish_id: str, build_id: str, staged: StagedUnits, gone: list[Unit]) -> Statement:
    """Return the transaction as one script. All values are parameters."""
    published = quoted(places.published)
    given: dict[str, Any] = {"number": number, "next_number": number + 1, "publish_id": publish_id, "build_id": build_id}
    statements = [
        "begin transaction",
        f"select if(max(row_count) = @number, true, error('{MOVED}')) from {published} where table_name = ''",
        f"update {published} set row_count = @next_number where table_name = ''",
    ]
    units = sorted({*staged, *gone})
    names = {unit: str(position) for position, unit in enumerate(units)}
    for unit, name in names.items():
        given |= {f"writer_{name}": unit.writer, f"period_{name}": unit.period, f"table_{name}": unit.table}
        if TABLES[unit.table].period_column is not None:
            given[f"first_{name}"], given[f"after_{name}"] = month_of(unit.period)
    for table_name, group in groupby(units, key=lambda unit: unit.table):
        table, of_table = TABLES[table_name], list(group)
        target = quoted(places.table(table))
        statements.append(f"delete from {target} where {' or '.join(_is_of(table, names[unit]) for unit in of_table)}")
        rows = [_rows(table, part, names[unit]) for unit in of_table if unit in staged for part in staged[unit][0]]
        if rows:
            statements.append(f"insert into {target} ({column_names(table)}, {WRITER.name}) {' union all '.join(rows)}")
    which = " or ".join(f"(table_name = @table_{name} and period = @period_{name} and writer = @writer_{name})" for name in names.values())
    statements.append(f"delete from {published} where {which}")
    if staged:
        values = ", ".join(_known(names[unit]) for unit in units if unit in staged)
        statements.append(f"insert into {published} ({column_names(PUBLISHED)}) values {values}")
    for unit, (_, state) in staged.items():
        name = names[unit]
        extra = json.dumps(dict(state.extra), ensure_ascii=False, sort_keys=True)
        given |= {f"digest_{name}": state.digest, f"rows_{name}": state.rows, f"extra_{name}": extra}
    return Statement(";\n".join([*statements, "commit transaction"]) + ";", given)


def _is_of(table: Table, name: str) -> str:
    condition = f"{WRITER.name} = @writer_{name}"
    if table.period_column is None:
        return f"({condition})"
    return f"({table.period_column} >= @first_{name} and {table.period_column} < @after_{name} and {condition})"


def _rows(table: Table, part: StagedTable, name: str) -> str:
    columns = ", ".join(c.name if c.name in part.columns else "@build_id" for c in table.columns)
    return f"select {columns}, @writer_{name} from {quoted(part.table)}"


def _known(name: str) -> str:
    columns: Iterator[str] = (f"@{column}_{name}" for column in ("table", "period", "writer", "digest", "rows"))
    return f"({', '.join(columns)}, @build_id, @extra_{name}, @publish_id)"
