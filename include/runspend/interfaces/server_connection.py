"""Answer the questions of `runspend.connect("http://…")` through the HTTP API of a server.

Rows come as Arrow, so that every amount keeps all its digits. `web/operations.py` describes the requests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from runspend.actions.costs.runs import day_or_month
from runspend.core.errors import MissingExtra, RunspendError, SqlRefused, UsageError
from runspend.interfaces.library_arguments import Where, check_top, dimensions, explorer_query, filters
from runspend.interfaces.results import Explanation, Result

if TYPE_CHECKING:
    import pyarrow as pa
    import requests


MOST_ROWS = 100_000  # of one answer
MOST_SECONDS = 60  # of a statement
WAIT = 90  # seconds for an answer
BUSY_TRIES = 6
REBUILT_TRIES = 3
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Value = str | int | list[str] | None


class ServerConnection:
    """A connection to a server of `runspend serve` or Airflow. It has the methods of `Connection`, with the same results.

    A method raises RunspendError if its question cannot be answered.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        try:
            import requests
        except ImportError as missing:
            raise MissingExtra("requests", "pipeline") from missing
        try:
            parts = urlsplit(address)
            host = parts.hostname
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise UsageError(
                f"cannot connect to {address!r}: write a file such as runspend.yaml, or an address such as http://127.0.0.1:8321."
            )
        self._address = address.rstrip("/")
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # without a password
        self._session = requests.Session()
        self._session.trust_env = host not in LOOPBACK  # this machine is never reached through a proxy
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def __repr__(self) -> str:
        return f"<Runspend at {self._shown}>"

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
        """Return daily costs by one or several dimensions, as `Connection.costs` does."""
        check_top(top)
        rows, _ = self._rows(
            "cost-groups",
            {
                "by": ",".join(dimensions(by)),
                "period": period,
                "since": _day(since),
                "until": _day(until),
                "where": filters(where),
                "measure": measure,
                "top": min(top or MOST_ROWS, MOST_ROWS),
                "each_currency": "true" if each_currency else "false",
            },
        )
        if rows.num_rows == MOST_ROWS and (top is None or top > MOST_ROWS):
            raise _too_many("Group by fewer dimensions")
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
        """Return the rows of a view of the cost explorer, as `Connection.explore` does."""
        from runspend.actions.explore import rows_as_table  # slow to import

        query: dict[str, Value] = {}
        more = {"every": "month", "measure": measure, "spread": "1" if spread else "0", "top": f"{top}"}
        for key, value in explorer_query(by, since, until, where, more):
            query[key] = [*query.get(key, []), value] if key == "where" else value  # type: ignore[misc]  # only `where` is a list
        answer = self._get("costs", query)
        try:
            return Result(rows_as_table(answer.json()), is_money=True)
        except (ValueError, KeyError, TypeError, ArithmeticError):
            raise self._not_runspend(answer) from None

    def run_costs(self, *, since: date | str | None = None, until: date | str | None = None) -> Result:
        """Return the table `run_costs`, as `Connection.run_costs` does. All its rows are of one build of the tables."""
        for _ in range(REBUILT_TRIES):
            rows = self._all_runs({"since": _day(since), "until": _day(until), "limit": MOST_ROWS})
            if rows is not None:
                return Result(rows)
        raise RunspendError(f"cannot read run_costs from {self._shown}: its tables were rebuilt during every attempt. Try again later.")

    def sql(self, statement: str, *, native: bool = False, timeout: float = 300) -> Result:
        """Return the rows of one SELECT in GoogleSQL, as `Connection.sql` does. A server stops a statement after 60 seconds."""
        if native:
            raise UsageError("cannot ask a server in its engine's SQL: write GoogleSQL, or connect to the configuration file.")
        seconds = min(max(1, math.ceil(timeout)), MOST_SECONDS)
        rows, headers = self._rows("sql", {"q": statement, "limit": MOST_ROWS, "timeout": seconds}, refused=SqlRefused)
        if headers.get("Runspend-Is-Cut") == "true":
            raise _too_many("Ask for less")
        return Result(rows)

    def explain(self, run: str, *, period: str | None = None, now: datetime | None = None) -> Explanation:
        """Explain the cost of a run, as `Connection.explain` does. `now` must be None, because a server uses its own clock."""
        if now is not None:
            raise UsageError("cannot explain as of another time: a server uses its own clock. Leave `now` out.")
        found = self._explanation(run, period, "json")
        try:
            values = found.json()
        except ValueError:
            values = None
        if not isinstance(values, dict) or values.get("explains") != "run":
            raise self._not_runspend(found)
        return Explanation(values, self._explanation(run, period, "text").text)

    def _explanation(self, run: str, period: str | None, form: str) -> requests.Response:
        return self._get(f"explain/{quote(run, safe='')}", {"period": period, "format": form})

    def _all_runs(self, query: dict[str, Value]) -> pa.Table | None:
        """Return the rows of all pages, or None if the tables were rebuilt in between."""
        import pyarrow as pa

        pages: list[pa.Table] = []
        built: set[str | None] = set()
        while True:
            rows, headers = self._rows("runs", {**query, "offset": sum(page.num_rows for page in pages)})
            pages.append(rows)
            built.add(headers.get("Runspend-Built-At"))
            if len(built) > 1:
                return None
            if "Link" not in headers:
                return pa.concat_tables(pages)

    def _rows(self, path: str, query: dict[str, Value], *, refused: type[UsageError] = UsageError) -> tuple[pa.Table, Any]:
        """Return the rows of an answer, and its headers."""
        import pyarrow as pa

        answer = self._get(path, {**query, "format": "arrow"}, refused=refused)
        try:
            with pa.ipc.open_stream(answer.content) as stream:
                return stream.read_all(), answer.headers
        except (pa.ArrowException, OSError):
            raise self._not_runspend(answer) from None

    def _get(self, path: str, query: dict[str, Value], *, refused: type[UsageError] = UsageError) -> requests.Response:
        """Return the server's answer, which has status 200. A busy server is asked up to BUSY_TRIES times, 5 seconds apart.

        Raises RunspendError or `refused` for any other answer.
        """
        import requests

        given = {key: value for key, value in query.items() if value is not None}
        for attempt in range(BUSY_TRIES):
            try:
                answer = self._session.get(f"{self._address}/api/v1/{path}", params=given, timeout=WAIT, allow_redirects=False)
            except requests.Timeout as error:
                raise RunspendError(
                    f"cannot ask {self._shown}: it did not answer within {WAIT} s. Ask for less, or try again later."
                ) from error
            except (requests.RequestException, UnicodeError) as error:
                raise RunspendError(
                    f"cannot reach {self._shown}: {_reason(error)}. Start the server (runspend serve), or correct the address."
                ) from error
            pause = answer.headers.get("Retry-After", "")
            if answer.status_code != 503 or pause != "5" or attempt == BUSY_TRIES - 1:
                break
            time.sleep(5)
        if answer.status_code == 200:
            return answer
        raise self._error(answer, refused)

    def _error(self, answer: requests.Response, refused: type[UsageError]) -> RunspendError:
        try:
            text = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            text = None
        if answer.status_code == 401 or 300 <= answer.status_code < 400:
            return UsageError(
                f"cannot ask {self._shown}: it asks for a login (HTTP {answer.status_code}). Pass a token: connect(…, token=…)."
            )
        if not isinstance(text, str):
            return self._not_runspend(answer)
        return refused(text) if answer.status_code < 500 else RunspendError(f"{self._shown}: {text}")

    def _not_runspend(self, answer: requests.Response) -> RunspendError:
        kind = answer.headers.get("Content-Type", "no type")
        return RunspendError(
            f"cannot read the answer of {self._shown}: it is not from Runspend (HTTP {answer.status_code}, {kind[:60]!r}). Correct the address."
        )


def _day(given: date | str | None) -> str | None:
    """Return a day or month as text. Raises UsageError for any other value."""
    if given is None:
        return None
    first, _ = day_or_month(given)
    return given if isinstance(given, str) else first.isoformat()


def _too_many(then: str) -> UsageError:
    return UsageError(
        f"cannot answer: there are more than {MOST_ROWS:,} rows, the most that a server sends. {then}, or connect to the configuration file."
    )


def _reason(error: Exception) -> str:
    """Return why a server cannot be reached. The text does not contain the address or its parameters."""
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted"
    return (
        "no server answers at this address"
        if isinstance(error, requests.ConnectionError)
        else f"the request failed ({type(error).__name__})"
    )
