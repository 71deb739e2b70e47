"""Shared code of the DAGs: assets, defaults, calls of a pipeline step by a task, and failure mail.

Work of a step does not belong here, and nothing runs when a file is parsed. Data travels through the warehouse; a task passes
on only names and sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from logging import getLogger
from typing import Any

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import Asset, AssetOrTimeSchedule, Param, get_current_context, task
from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from runspend.airflow.connections import read_mail_settings, read_settings
from runspend.airflow.lineage import Lineage, lineage_of
from runspend.airflow.options import clock, option, pool
from runspend.config.file_modes import use_file_modes
from runspend.core.errors import MachineFailed, RecordRefused, RunspendError, UsageError
from runspend.pipeline.monitoring import tell_refused_file, telling_of_the_machine

log = getLogger(__name__)

# The scheme is x-runspend because Airflow leaves such URIs as they are; any other scheme may belong to a provider.
RUNS = Asset("runspend/runs", "x-runspend://runs", group="runspend")
BILLS = Asset("runspend/bills", "x-runspend://bills", group="runspend")
ARTIFACT_BYTES = Asset("runspend/artifact_bytes", "x-runspend://artifact_bytes", group="runspend")
COSTS = Asset("runspend/costs", "x-runspend://costs", group="runspend")

NOW = Param(
    None,
    type=["null", "string"],
    format="date-time",
    description="Pretend it is this time (UTC). Default: the start of the current hour; in a backfill, the run's logical date.",
)
PERIODS = Param(
    None,
    type=["null", "array"],
    items={"type": "string", "pattern": r"^\d{4}-(0[1-9]|1[0-2])$"},
    description="Billing periods (YYYY-MM) to rebuild even if their inputs are unchanged. Default: those whose inputs changed.",
)


class NotAllDone(AirflowFailException):
    """The step did what it could and kept the results; the problems are listed. A retry would not help, and operators have their mail."""


class NoAnswer(AirflowException):
    """A source did not answer; everything else was done and kept. Airflow retries; operators have their mail."""


class Superseded(AirflowException):
    """An input changed on every try while tables were built from it; the old tables stay. Airflow retries, since no event would."""


def tell_operators(context: Any) -> None:
    """Mail `mail.operators` that a task failed for the last time, once per task and day. Needs no warehouse."""
    if isinstance(context.get("exception"), (NotAllDone, NoAnswer, Superseded)):
        return  # the step mailed operators itself, with the cause, or they need not act
    from runspend.actions.alert import operators
    from runspend.warehouse.records import Records

    ti, settings = context["task_instance"], read_mail_settings()
    use_file_modes(settings)
    name = f"{ti.dag_id}.{ti.task_id}"
    operators.notify(
        settings,
        Records(settings.home),
        "DAG FAILED",
        name,
        start_of_hour(),
        f"{name} failed after {ti.try_number} tries.",
        details=[f"{type(context.get('exception')).__name__}: {context.get('exception')}", f"run {ti.run_id}"],
        advice=operators.Advice(
            do=[("Read the log", str(getattr(ti, "log_url", "") or "in Airflow")), ("Check the status", "runspend status")]
        ),
    )


# `max_active_runs` alone does not keep a task from running twice (a backfill and a manual run); one task per DAG does.
DAG_OPTIONS: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "catchup": False,
    "max_active_runs": 1,
    "tags": ["runspend"],
    "default_args": {
        "owner": option("owner"),
        "retries": 2,
        "retry_delay": timedelta(minutes=5),
        "execution_timeout": timedelta(hours=3),
        "max_active_tis_per_dag": 1,
        "on_failure_callback": tell_operators,
    },
}


def start_of_hour() -> datetime:
    """Return the start of the current hour, UTC."""
    return datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)


def schedule(name: str, assets: Any = None) -> Any:
    """Return what starts the DAG of a step: its clock, or these assets, or both. The clock covers for a lost event."""
    timetable = clock(name)
    if timetable is None or assets is None:
        return timetable if assets is None else assets
    return AssetOrTimeSchedule(timetable=timetable, assets=assets)


class StepOperator(DecoratedOperator, PythonOperator):
    """A task that calls one step. It knows afterwards which datasets the step read and wrote."""

    custom_operator_name = "@step"
    template_fields: Sequence[str] = ("op_args", "op_kwargs")
    template_fields_renderers = {"op_args": "py", "op_kwargs": "py"}  # noqa: RUF012 (Airflow's own form)
    lineage: Lineage | None = None

    def __init__(self, *, python_callable: Any, op_args: Any, op_kwargs: Any, **options: Any) -> None:
        given = {"python_callable": python_callable, "op_args": op_args, "op_kwargs": op_kwargs}
        super().__init__(kwargs_to_upstream=given, **given, **options)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the datasets, for OpenLineage. OpenLineage's provider asks if it is installed, even after a failure."""
        return None if self.lineage is None else self.lineage.facets()


def step(function: Callable[..., list[str]]) -> Any:
    """Make a function a task that calls one step, in the pool of the tasks that query the warehouse."""
    return task_decorator_factory(function, decorated_operator_class=StepOperator, pool=pool(), doc_md=function.__doc__)


def one_each(function: Callable[[str], list[str]]) -> Any:
    """Turn a function into such a task, mapped over names. Airflow shows each name, and several run at once, because each replaces its own units."""
    options = {"map_index_template": "{{ task.op_kwargs['name'] }}", "max_active_tis_per_dag": None}
    return task_decorator_factory(function, decorated_operator_class=StepOperator, pool=pool(), doc_md=function.__doc__, **options)


def run_step(work: Callable[..., Any], *names: Sequence[str], **options: Any) -> list[str]:
    """Call one step of the pipeline; return the names of changed units. Fails, with its work kept, if something is wrong.

    Its outcome is also stored under the key `outcome`, for people who look at the task and for `run_pipeline.py`.
    """
    context = get_current_context()
    try:
        settings, now = read_settings(), read_now(context)
        use_file_modes(settings)
        context["task"].lineage = lineage_of(settings, work.__name__, *names)
        with telling_of_the_machine(settings, work.__name__, now):
            outcome = work(settings, *names, now=now, **options)
    except MachineFailed as error:  # a disk may be repaired in a minute
        _leave_outcome(context, error)
        raise NoAnswer(str(error)) from error
    except UsageError as error:  # the configuration or the parameters: a retry would not help
        _leave_outcome(context, error)
        raise AirflowFailException(str(error)) from error
    except RecordRefused as error:  # a retry would not help here either
        tell_refused_file(settings, error, now)
        _leave_outcome(context, error)
        raise NotAllDone(str(error)) from error
    context["ti"].xcom_push("outcome", {key: getattr(outcome, key) for key in ("exit_code", "changed", "unchanged", "problems", "notes")})
    if outcome.exit_code:
        raise (NoAnswer if outcome.is_worth_retrying else NotAllDone)("\n".join(outcome.problems))
    if outcome.superseded:
        raise Superseded("\n".join(outcome.superseded))
    return list(outcome.changed)


def _leave_outcome(context: Any, error: RunspendError) -> None:
    context["ti"].xcom_push("outcome", {"exit_code": error.exit_code, "problems": [str(error)]})


def read_now(context: Any) -> datetime:
    """Return the DAG run's time. Refuses parameters the DAG does not have: a misspelled one must not silently use its default."""
    run = context["dag_run"]
    unknown = sorted(set(run.conf or {}) - set(context["dag"].params))
    if unknown:
        raise AirflowFailException(
            f"cannot use parameter {', '.join(unknown)}: this DAG has {', '.join(context['dag'].params)}. Nothing was done."
        )
    given = context["params"]["now"]
    moment = datetime.fromisoformat(given) if given else run.logical_date if run.run_type == "backfill" else start_of_hour()
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def totals(name: str) -> dict[str, Any]:
    """Return the warehouse's totals of an asset, as JSON with amounts as strings.

    Only `error` if it cannot be read. Only `hidden` if `access` says who sees which costs: everyone who can log in sees events.
    """
    from runspend.actions.costs.totals import as_json, read_totals
    from runspend.warehouse.factory import open_warehouse

    try:
        settings = read_settings()
        if settings.access is not None:
            return {"hidden": "access"}
        with open_warehouse(settings).reader() as reader:
            return {"totals": as_json(read_totals(reader, name.partition("/")[2]))}
    except Exception as error:  # noqa: BLE001 (the event is due anyway)
        log.warning("The event of %s has no totals: %s", name, error)
        return {"error": type(error).__name__}


def end_with(asset: Asset, work: Any) -> None:
    """Add the last two tasks of a DAG that feeds others: one emits the asset in any case; one fails the DAG run if anything failed."""

    @task(outlets=[asset], trigger_rule="all_done", task_display_name="emit the asset")
    def published(outlet_events: Any = None) -> None:
        """Emit the asset, with totals for readers of its events. Not mapped: Airflow emits at the first success of a mapped task."""
        outlet_events[asset].extra = totals(asset.name)

    @task(trigger_rule="one_failed", retries=0, on_failure_callback=None, task_display_name="fail if a task failed")
    def watcher() -> None:
        """Fail the DAG run if anything before it failed; skipped otherwise."""
        raise AirflowFailException("A task of this run failed: see it for the reason. All other work was done.")

    work >> [published(), watcher()]
