"""Read MLflow through its own client, with any tracking URI that the client supports.

Belongs here: paging and the choice of workspaces. `client.py` logs in. `runs.sql` defines what the rows mean.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from runspend.config.settings import TrackingServer
from runspend.core.cost_keys import is_cost_metric
from runspend.core.errors import SourceError, SourceRefused, SourceUnreachable
from runspend.core.outside_json import parse_json
from runspend.ingest.tracking import raw
from runspend.ingest.tracking.client import DEFAULT_WORKSPACE, Client, PageTokens, pages
from runspend.ingest.tracking.links_api import ApiLinks

if TYPE_CHECKING:
    import pyarrow as pa

PAGE_RUNS = 1_000
MOST_SECONDS = 1_800  # limit of one request with its retries; by default, MLflow's client retries for half of that
LARGEST_PAGE = 50_000  # MLflow's limit for one page of runs
PAGE_EXPERIMENTS = 1_000
PAGE_OWNERS = 500
PAGE_POINTS = 25_000
TRACES_PER_REQUEST = 50
LONGEST_MODEL = 500  # MLflow's database cuts names of models and providers to this length
EXPERIMENTS_PER_REQUEST = 500


class ApiReader:
    """Read MLflow's rows through its client, one workspace after the other."""

    def __init__(self, server: TrackingServer, progress: Callable[[str], None]) -> None:
        self.name = server.name
        self.version = ""
        self.warnings: list[str] = []
        self.repaired = 0
        self._server = server
        self._progress = progress
        self._client = Client(server, seconds=MOST_SECONDS)
        self._store: Any = None
        self._experiments: dict[str | None, list[str]] = {}  # ids by workspace; the key is None on a server without workspaces
        self._workspace_of: dict[str, str | None] = {}  # workspace by run id, for runs that may be requested one by one
        self.links = ApiLinks(self._client, self._workspace_of)
        self._noted_at = time.monotonic()

    def __enter__(self) -> ApiReader:
        self._store = self._client.store
        self.version = self._client.version
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._store = None

    def _list_workspaces(self) -> list[str | None]:
        """Return the workspaces to read, or [None] if the server has no workspaces.

        Raises SourceRefused if a configured workspace does not exist or is hidden from the credentials.
        """
        wanted = self._server.workspaces
        there = self._client.find_workspaces()
        if there is None:
            if isinstance(wanted, list) and wanted != [DEFAULT_WORKSPACE]:
                raise SourceRefused(
                    self.name, f"cannot read the workspaces of {self.name}: the server has none. Remove `workspaces` from runspend.yaml."
                )
            return [None]
        if wanted is None:
            hidden = sorted(set(there) - {DEFAULT_WORKSPACE})
            if hidden:
                self.warnings.append(
                    f"{self.name}: only workspace default was read; the server has {', '.join(hidden)} too. Set `workspaces: all`."
                )
            return [DEFAULT_WORKSPACE]
        if wanted == "all":
            return list(there)
        missing = sorted(set(wanted) - set(there))
        if missing:
            raise SourceRefused(
                self.name,
                f"cannot read the workspaces {', '.join(missing)} of {self.name}: the server shows {', '.join(there)}. Check their names and the permissions.",
            )
        return list(wanted)

    def read_experiments(self) -> pa.Table:
        from mlflow.entities import ViewType

        rows: list[tuple[Any, ...]] = []
        for workspace in self._list_workspaces():
            with self._client.in_workspace(workspace):
                found = list(
                    self._client.list_items(
                        lambda token: self._store.search_experiments(view_type=ViewType.ALL, max_results=PAGE_EXPERIMENTS, page_token=token)
                    )
                )
            self._experiments[workspace] = sorted({e.experiment_id for e in found}, key=lambda i: (len(i), i))
            by_id = {e.experiment_id: e for e in found}
            for e in by_id.values():
                rows.append(
                    (
                        workspace or DEFAULT_WORKSPACE,
                        e.experiment_id,
                        e.name or "",
                        e.lifecycle_stage or "",
                        e.artifact_location or "",
                        _document(e.tags),
                        e.creation_time or 0,
                        e.last_update_time or 0,
                    )
                )
        self.links.workspaces = [None] if self._server.registry else list(self._experiments)
        return raw.rows_to_table(rows, raw.raw_schema(raw.EXPERIMENT_TEXT, raw.EXPERIMENT_TIMES))

    def _chunks(self) -> Iterator[tuple[str | None, list[str]]]:
        if not self._experiments:
            self.read_experiments()
        for workspace, ids in self._experiments.items():
            for start in range(0, len(ids), EXPERIMENTS_PER_REQUEST):
                yield workspace, ids[start : start + EXPERIMENTS_PER_REQUEST]

    def _search(self, ids: list[str], condition: str, order: str, limit: int, token: str | None = None) -> Any:
        from mlflow.entities import ViewType

        return self._client.ask(lambda: self._store.search_runs(ids, condition, ViewType.ALL, limit, [order], token))

    def list_months(self) -> list[str]:
        """Return the start months that have runs, with one request per month."""
        months: set[str] = set()
        for workspace, ids in self._chunks():
            with self._client.in_workspace(workspace):
                if self._search(ids, f"attributes.start_time < {raw.month_bounds(raw.NO_START)[1]}", "attributes.start_time ASC", 1):
                    months.add(raw.NO_START)
                months |= self._months_from(
                    raw.month_bounds(raw.NO_START)[1],
                    lambda after: [
                        run.info.start_time
                        for run in self._search(ids, f"attributes.start_time >= {after}", "attributes.start_time ASC", 1)  # noqa: B023
                    ],
                )
        return sorted(months)

    def _months_from(self, after: int, find_first: Callable[[int], list[int]]) -> set[str]:
        """Return the months from `after` on that have items.

        `find_first` returns a list with the first time at or after the given one, or an empty list if there is none. Raises
        SourceUnreachable if the server answers with an earlier time.
        """
        months = set()
        while found := find_first(after):
            month = raw.month_of(found[0])
            months.add(month)
            if month == raw.NO_START:  # beyond the year 9999
                break
            if found[0] < after:  # would repeat without end
                raise SourceUnreachable(
                    self.name,
                    f"cannot read {self.name}: Runspend asked for later runs, and the server answered with earlier ones. Check the server.",
                )
            after = raw.month_bounds(month)[1]
        return months

    def count_runs(self) -> int:
        return sum(batch.num_rows for batch in self.read_runs(None, raw.Keys((), ())))

    def narrow_keys(self, wanted: raw.Keys) -> raw.Keys:
        return wanted  # the API returns runs with all their tags and params, and has no query for keys

    def read_runs(self, months: Sequence[str] | None, keys: raw.Keys) -> Iterator[pa.RecordBatch]:
        for month in self.list_months() if months is None else months:
            first, after = raw.month_bounds(month)
            for workspace, ids in self._chunks():
                # `_read_range` enters the workspace for each request: another thread may consume this generator.
                if month == raw.NO_START:
                    yield from self._read_range(workspace, ids, -(2**62), after, keys)
                    yield from self._read_range(workspace, ids, raw.LAST_MS, 2**62, keys)
                else:
                    yield from self._read_range(workspace, ids, first, after, keys)

    def _read_range(self, workspace: str | None, ids: list[str], first: int, after: int, keys: raw.Keys) -> Iterator[pa.RecordBatch]:
        """Yield the runs that started in [first, after), each once, even if runs are created or removed while they are read.

        MLflow's page tokens are offsets, so a run that disappears shifts all later runs. Therefore each page starts at the start time
        of the previous page's last run. If all runs of a page started in the same millisecond, the page is read again with twice the size.
        A token is used only if more runs started in one millisecond than fit into MLflow's largest page.
        """
        done: set[str] = set()  # runs already yielded that started in the first millisecond of the next page
        token: str | None = None
        tokens = PageTokens(self.name)
        limit = PAGE_RUNS
        count = 0
        while True:
            condition = f"attributes.start_time >= {first} AND attributes.start_time < {after}"
            with self._client.in_workspace(workspace):
                page = self._search(ids, condition, "attributes.start_time ASC", limit, token)
            runs = [r for r in page if r.info.run_id not in done]
            if runs:
                count += len(runs)
                self._note(count)
                batch = _to_batch(runs, keys.believed_ms)
                if workspace is not None:
                    self._workspace_of |= {r.info.run_id: workspace for r in runs}
                self.links.note_runs(runs, keys.metrics)
                yield batch
            if not page.token:
                return
            last = page[-1].info.start_time or 0
            if last > first:
                first, token, limit = last, None, PAGE_RUNS
                tokens = PageTokens(self.name)
                done = {r.info.run_id for r in page if (r.info.start_time or 0) == last}
            else:
                done |= {r.info.run_id for r in page}
                token = tokens.follow(page.token) if limit == LARGEST_PAGE else None
                limit = min(2 * limit, LARGEST_PAGE)

    def _note(self, count: int) -> None:
        if time.monotonic() - self._noted_at > 2:
            self._noted_at = time.monotonic()
            self._progress(f"{self.name}: {count} runs of the month")

    def read_use(self, wanted: Sequence[raw.UseKey]) -> Iterator[pa.RecordBatch]:
        """Yield the chosen points of utilization metrics.

        Each page of each metric of each run costs one request, because the API cannot select steps.
        """
        for metric in wanted:
            yield raw.rows_to_batch([(metric.run_id, metric.key, point.value) for point in self._points(metric, 100)], raw.use_schema())

    def read_power(self, wanted: Sequence[raw.UseKey]) -> Iterator[pa.RecordBatch]:
        """Yield the chosen points of power metrics with their times."""
        for metric in wanted:
            points = self._points(metric, raw.LARGEST_WATTS)
            yield raw.rows_to_batch([(metric.run_id, metric.key, point.timestamp, point.value) for point in points], raw.power_schema())

    def read_times(self, wanted: Sequence[raw.StepRange]) -> Iterator[pa.RecordBatch]:
        """Yield the times at which metrics were logged at the chosen steps. Each page of each metric of each run costs one request."""
        for metric in wanted:
            found: dict[int, tuple[int, int, int]] = {}  # stride -> its first logged step, and when that step was first and last logged
            for p in self._history(metric.run_id, metric.key):
                if metric.first_step <= p.step <= metric.last_step:
                    stride = (p.step - metric.first_step) // metric.stride
                    step, first, last = found.get(stride, (p.step, p.timestamp, p.timestamp))
                    if p.step == step:
                        found[stride] = step, min(first, p.timestamp), max(last, p.timestamp)
                    elif p.step < step:
                        found[stride] = p.step, p.timestamp, p.timestamp
            rows = [(metric.run_id, metric.key, *times) for times in found.values()]
            yield raw.rows_to_batch(rows, raw.time_schema())

    def _points(self, metric: raw.UseKey, most: int) -> list[Any]:
        """Return the points of a metric at the chosen steps, with values between 0 and `most`."""
        points = self._history(metric.run_id, metric.key)
        return [p for p in points if 0 <= p.step <= metric.last_step and p.step % metric.stride == 0 and 0 <= p.value <= most]

    def _history(self, run_id: str, key: str) -> Iterator[Any]:
        """Yield all points of a metric, one page at a time."""
        with self._client.in_workspace(self._workspace_of.get(run_id)):
            yield from self._client.list_items(
                lambda token: self._store.get_metric_history(run_id, key, max_results=PAGE_POINTS, page_token=token)
            )

    def read_owners(self) -> pa.Table:
        rows: list[tuple[str, str, str, str]] = []
        for workspace, ids in self._chunks():
            with self._client.in_workspace(workspace):
                rows += self._owners(
                    lambda token: self._store.search_logged_models(experiment_ids=ids, max_results=PAGE_OWNERS, page_token=token),  # noqa: B023
                    self._model_row,
                )
                rows += self._owners(
                    lambda token: self._store.search_traces(experiment_ids=ids, max_results=PAGE_OWNERS, page_token=token),  # noqa: B023
                    lambda t: ("trace", t.request_id, t.experiment_id, t.tags.get("mlflow.artifactLocation", "")),
                )
        return raw.rows_to_table(sorted({row for row in rows if row[3]}), raw.raw_schema(raw.OWNER_TEXT))

    def _model_row(self, model: Any) -> tuple[str, str, str, str]:
        self.links.note_model(model)
        return "logged_model", model.model_id, model.experiment_id, model.artifact_location or ""

    def list_trace_months(self) -> list[str]:
        """Return the months that have traces, with one request per month."""
        months: set[str] = set()
        for workspace, ids in self._chunks():
            with self._client.in_workspace(workspace):
                months |= self._months_from(
                    1,
                    lambda after: [t.request_time for t in self._search_traces(ids, f"attributes.timestamp_ms >= {after}", 1)[0]],  # noqa: B023
                )
        return sorted(months)

    def _search_traces(self, ids: list[str], condition: str, limit: int, token: str | None = None) -> tuple[list[Any], str | None]:
        """Return one page of traces, oldest first, and the next token. The page is empty if the server is too old to have traces."""
        from mlflow.exceptions import MlflowException

        try:
            page = self._store.search_traces(
                experiment_ids=ids, filter_string=condition, max_results=limit, order_by=["attributes.timestamp_ms ASC"], page_token=token
            )
        except MlflowException as error:
            if error.error_code in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
                return [], None
            raise self._as_source_error(error) from None
        return list(page[0] if isinstance(page, tuple) else page), page[1] if isinstance(page, tuple) else page.token

    def read_traces(self, months: Sequence[str]) -> tuple[pa.Table, pa.Table]:
        traces: list[tuple[Any, ...]] = []
        spans: list[tuple[Any, ...]] = []
        for month in months:
            first, after = raw.month_bounds(month)
            condition = f"attributes.timestamp_ms >= {first} AND attributes.timestamp_ms < {after}"
            for workspace, ids in self._chunks():
                with self._client.in_workspace(workspace):
                    for page in pages(self.name, lambda token: self._search_traces(ids, condition, PAGE_OWNERS, token)):  # noqa: B023
                        found = (_trace_row(trace, has_tokens=self._server.token_prices is not None) for trace in page)
                        priced = [row for row in found if row is not None]
                        spans += self._read_spans([row[0] for row in priced])
                        traces += priced
        return raw.rows_to_table(dict.fromkeys(traces), raw.trace_schema()), raw.rows_to_table(dict.fromkeys(spans), raw.span_schema())

    def _read_spans(self, trace_ids: list[str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(trace_ids), TRACES_PER_REQUEST):
            batch = trace_ids[start : start + TRACES_PER_REQUEST]
            for trace in self._client.ask(lambda: self._store.batch_get_traces(batch)):  # noqa: B023
                for span in trace.data.spans:
                    cost = _finite((span.get_attribute("mlflow.llm.cost") or {}).get("total_cost"))
                    model = str(span.get_attribute("mlflow.llm.model") or "")[:LONGEST_MODEL]
                    provider = str(span.get_attribute("mlflow.llm.provider") or "")[:LONGEST_MODEL]
                    usage = ""
                    if self._server.token_prices is not None:
                        tokens = span.get_attribute("mlflow.chat.tokenUsage")
                        usage = json.dumps(tokens) if tokens else ""
                    yield trace.info.trace_id, span.span_id, span.parent_id or "", model, provider, usage, -1.0 if cost is None else cost

    def _owners(
        self, ask: Callable[[str | None], Any], to_row: Callable[[Any], tuple[str, str, str, str]]
    ) -> list[tuple[str, str, str, str]]:
        """Return all owners of one kind. The list is empty if the server is too old for that kind."""
        from mlflow.exceptions import MlflowException

        rows: list[tuple[str, str, str, str]] = []
        try:
            for page in pages(self.name, ask):
                rows += [to_row(item) for item in page]
        except MlflowException as error:
            if error.error_code not in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
                raise self._as_source_error(error) from None
        return rows

    def _as_source_error(self, error: Exception) -> SourceError:
        try:
            self._client.ask(lambda: _raise(error))
        except SourceError as ours:
            return ours
        raise error


def _raise(error: Exception) -> None:
    raise error


def _trace_row(trace: Any, *, has_tokens: bool) -> tuple[Any, ...] | None:
    """Return a trace as a row of `raw.trace_schema`, or None if it is not needed.

    A trace is needed if MLflow computed a cost for it. With `has_tokens`, a trace that has tokens is needed too.
    """
    metadata = trace.trace_metadata
    cost = _finite(_figures(metadata.get("mlflow.trace.cost")).get("total_cost"))
    tokens = _figures(metadata.get("mlflow.trace.tokenUsage"))
    counts = [tokens[k] if isinstance(tokens.get(k), int) else -1 for k in ("input_tokens", "output_tokens")]
    if cost is None and not (has_tokens and max(counts) > 0):
        return None
    user = metadata.get("mlflow.user", trace.tags.get("mlflow.user")) or ""
    source_run, trace_user = metadata.get("mlflow.sourceRun") or "", metadata.get("mlflow.trace.user") or ""
    return trace.trace_id, trace.experiment_id or "", source_run, trace_user, user, trace.request_time or 0, *counts, cost


def _figures(text: str | None) -> dict[str, Any]:
    """Return the JSON object in a trace's metadata, or an empty one if the text is not a JSON object."""
    try:
        found = parse_json(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def _document(values: dict[str, Any]) -> str:
    """Return a map as JSON text with its keys in byte order."""
    known = {str(k): str(v) for k, v in values.items() if v is not None}
    return json.dumps({k: known[k] for k in sorted(known, key=lambda k: k.encode("utf-8", "surrogatepass"))}, ensure_ascii=False)


def _use_keys(run: Any) -> str:
    """Return the run's utilization and power metrics with their last steps, in the form described at `raw.RUN_TEXT`."""
    found = {m.key: m.step for m in run.data._metric_objs if m.key.startswith("system/") and m.key.endswith((raw.USE_KEY, raw.POWER_KEY))}
    return raw.AFTER.join(f"{key}{raw.BETWEEN}{step}" for key, step in found.items())


def _step_keys(run: Any) -> str:
    """Return metrics that show whether a long run was stopped and resumed, in the form described at `raw.RUN_TEXT`."""
    start, end = run.info.start_time or 0, run.info.end_time or 0
    if end and end - start <= raw.LONG_MS:
        return ""
    found: dict[int, str] = {}
    for metric in run.data._metric_objs:
        if metric.step > 0 and not is_cost_metric(metric.key, metric.step):
            found[metric.step] = min(metric.key, found.get(metric.step, metric.key))
    return raw.AFTER.join(f"{found[step]}{raw.BETWEEN}{step}" for step in sorted(found, reverse=True)[: raw.STEP_KEYS])


def _last_metric_ms(run: Any, believed_ms: int) -> int:
    """Return the newest accepted time of the run's metrics, in epoch milliseconds; 0 if its end is accepted or it has no metrics."""
    if 0 != (run.info.end_time or 0) <= believed_ms:
        return 0
    times = (m.timestamp or 0 for m in run.data._metric_objs if not is_cost_metric(m.key, m.step))
    return max((time for time in times if time <= believed_ms), default=0)


def _to_batch(runs: Iterable[Any], believed_ms: int) -> pa.RecordBatch:
    rows = [
        (
            r.info.run_id,
            r.info.experiment_id or "",
            r.info.run_name or "",
            r.info.user_id or "",
            r.info.status or "",
            r.info.lifecycle_stage or "",
            r.info.artifact_uri or "",
            _document(r.data.tags),
            _document(r.data.params),
            raw.AFTER.join(f"{key}{raw.BETWEEN}{value}" for key, value in r.data.params.items() if value is not None),
            _use_keys(r),
            _step_keys(r),
            r.info.start_time or 0,
            r.info.end_time or 0,
            _last_metric_ms(r, believed_ms),
        )
        for r in runs
    ]
    return raw.rows_to_batch(rows, raw.run_schema())
