"""The Python interface `runspend.connect`: costs, SQL and explanations for a notebook or a script. It only reads.

It answers the same questions as the commands `costs`, `sql` and `explain`, and uses the same modules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, timezone
from pathlib import Path

from runspend.actions.costs.query import Selection, newest_day
from runspend.actions.costs.query import costs as ask_costs
from runspend.actions.costs.runs import ChosenRuns, billing_period, day_or_month, read_run_costs
from runspend.actions.explain import explain_run, explanation_as_json, run_as_text
from runspend.config.access_log import log_statement
from runspend.config.settings import load_settings
from runspend.core.errors import UsageError
from runspend.interfaces.library_arguments import Where, check_top, dimensions, explorer_query, filters
from runspend.interfaces.results import Explanation, Result
from runspend.interfaces.server_connection import ServerConnection
from runspend.warehouse.factory import open_warehouse

EVERY_ROW = 10_000_000


def connect(config: str | Path | None, token: str | None = None) -> Connection | ServerConnection:
    """Return a connection to the warehouse of a configuration file, or to a server by its address.

    If `config` is None, the file is $RUNSPEND_CONFIG or ./runspend.yaml. `token` logs in to a server. Raises UsageError if it is given
    with a file.
    """
    if "://" in str(config):
        return ServerConnection(str(config), token)
    if token is not None:
        raise UsageError("cannot use a token with a configuration file: only a server asks for a login.")
    return Connection(None if config is None else Path(config))


class Connection:
    """A connection to the warehouse of a configuration file. It only reads, and each answer is from one build of the tables.

    A method raises RunspendError if its question cannot be answered.
    """

    def __init__(self, config: Path | None) -> None:
        self.settings = load_settings(config)

    def costs(
        self,
        by: str | Sequence[str] = "experiment",
        *,
        period: str | None = None,
        since: date | str | None = None,
        until: date | str | None = None,
        where: Where | None = None,
        measure: str = "effective",
        top: int | None = None,
        each_currency: bool = False,
    ) -> Result:
        """Return daily costs by one or several dimensions, the largest first, as `runspend costs` does. Default: the newest month.

        `period` is a billing period (YYYY-MM); `since` and `until` are days or months, inclusive. `where` selects values of dimensions;
        None selects costs without a value. `measure` is effective, billed, contracted or list.
        """
        if measure not in ("effective", "billed", "contracted", "list"):
            raise UsageError(f"cannot show {measure!r} costs: allowed values are effective, billed, contracted, list.")
        check_top(top)
        chosen = Selection.of(
            period=billing_period(period),
            since=None if since is None else day_or_month(since)[0],
            until=None if until is None else day_or_month(until)[1],
            where=filters(where),
        )
        keys = dimensions(by)
        rows = ask_costs(
            self.settings, keys, chosen, top=EVERY_ROW if top is None else top, measure=measure, is_exchanged=not each_currency
        )
        return Result(rows, is_money=True)

    def explore(
        self,
        by: str | Sequence[str] = "team",
        *,
        since: date | str | None = None,
        until: date | str | None = None,
        where: Where | None = None,
        measure: str = "effective",
        spread: bool = False,
        top: int = 1000,
    ) -> Result:
        """Return the rows of a view of the cost explorer, with the previous period and the cost per GPU hour.

        Out-of-scope cost does not count. `by` is one or two dimensions; run, model, machine and instance_type are also possible. `spread`
        distributes idle, shared and unallocated cost over the groups of runs. Groups after the first `top` are summed in one row.
        """
        from runspend.actions.explore import View, figures_as_json, read_figures, rows_as_table  # slow to import

        more = {"every": "month", "measure": measure, "spread": "1" if spread else "0", "top": f"{top}"}
        query = explorer_query(by, since, until, where, more)
        with open_warehouse(self.settings).reader() as reader:
            newest = newest_day(reader)
            if newest is None:
                raise UsageError("cannot show costs: no bill has been loaded yet. Run: runspend nightly")
            found = read_figures(reader, self.settings, View.of(query, newest), newest)
        return Result(rows_as_table(json.loads(figures_as_json(found))), is_money=True)

    def run_costs(self, *, since: date | str | None = None, until: date | str | None = None) -> Result:
        """Return the table `run_costs`: runs with their total cost. `since` and `until` are days or months of their start, inclusive."""
        chosen = ChosenRuns.of(since, until)
        with open_warehouse(self.settings).reader() as reader:
            return Result(read_run_costs(reader, chosen))

    def sql(self, statement: str, *, native: bool = False, timeout: float = 300) -> Result:
        """Return the rows of one SELECT in GoogleSQL, or in the engine's SQL with `native`. `timeout` is in seconds."""
        try:
            rows = open_warehouse(self.settings).answer(statement, native=native, timeout=timeout)
        except BaseException as error:  # log the statement even after Ctrl-C
            log_statement(self.settings, statement, native=native, rows=None, error=type(error).__name__)
            raise
        log_statement(self.settings, statement, native=native, rows=rows.num_rows)
        return Result(rows)

    def explain(self, run: str, *, period: str | None = None, now: datetime | None = None) -> Explanation:
        """Explain the cost of a run. `run` is its id, six or more characters of its id, its name, or its address in MLflow."""
        with open_warehouse(self.settings).reader() as reader:
            found = explain_run(reader, run, self.settings, now=now or datetime.now(timezone.utc), period=period)
        return Explanation(explanation_as_json(found), run_as_text(found))
