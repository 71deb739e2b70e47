"""Shared code of the DAGs: assets, defaults, calls of a pipeline step by a task, and failure mail.

The work of a step does not belong here. Nothing runs when a DAG file is parsed. Tasks pass data to each other through the warehouse.
They return only names and sentences.
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

# Airflow does not change URIs with an x- scheme. Other schemes may belong to a provider.
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
    """The step did all possible work and kept the results, but has problems. A retry would not help. Operators already got a mail."""


class NoAnswer(AirflowException):
    """A source did not answer, or the machine failed. All other work was done and kept. Airflow retries. Operators already got a mail."""


class Superseded(AirflowException):
    """An input changed during every try to build tables from it, so the old tables stay. Airflow retries, because no event would."""


def tell_operators(context: Any) -> None:
    """Mail `mail.operators` that a task failed after its last try, once per task and day. The mail needs no warehouse."""
    if isinstance(context.get("exception"), (NotAllDone, NoAnswer, Superseded)):
        return  # the step has already mailed the cause to operators, or no action is needed
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


# A backfill and a manual run could run the same task at once in spite of `max_active_runs`. `max_active_tis_per_dag` prevents that.
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
    """Return the schedule of a step's DAG: its timetable, these assets, or both. The timetable covers lost asset events."""
    timetable = clock(name)
    if timetable is None or assets is None:
        return timetable if assets is None else assets
    return AssetOrTimeSchedule(timetable=timetable, assets=assets)


class StepOperator(DecoratedOperator, PythonOperator):
    """A task that calls one step. After the call, `lineage` has the datasets that the step read and wrote."""

    custom_operator_name = "@step"
    template_fields: Sequence[str] = ("op_args", "op_kwargs")
    template_fields_renderers = {"op_args": "py", "op_kwargs": "py"}  # noqa: RUF012 (Airflow's own form)
    lineage: Lineage | None = None

    def __init__(self, *, python_callable: Any, op_args: Any, op_kwargs: Any, **options: Any) -> None:
        given = {"python_callable": python_callable, "op_args": op_args, "op_kwargs": op_kwargs}
        super().__init__(kwargs_to_upstream=given, **given, **options)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the datasets for OpenLineage. Airflow's OpenLineage provider calls this method, even after a failure."""
        return None if self.lineage is None else self.lineage.facets()


def step(function: Callable[..., list[str]]) -> Any:
    """Return a task that calls one step, made from a function. It runs in the pool of the tasks that query the warehouse."""
    return task_decorator_factory(function, decorated_operator_class=StepOperator, pool=pool(), doc_md=function.__doc__)


def one_each(function: Callable[[str], list[str]]) -> Any:
    """Return a task like `step`, to be mapped over names. Airflow shows the names.

    Several of these tasks may run at once, because each replaces only its own units.
    """
    options = {"map_index_template": "{{ task.op_kwargs['name'] }}", "max_active_tis_per_dag": None}
    return task_decorator_factory(function, decorated_operator_class=StepOperator, pool=pool(), doc_md=function.__doc__, **options)


def run_step(work: Callable[..., Any], *names: Sequence[str], **options: Any) -> list[str]:
    """Call one step of the pipeline. Return the names of changed units.

    Raises an Airflow exception if the step has a problem; its completed work is kept. The outcome is also stored under the key `outcome`,
    for users who look at the task and for `run_pipeline.py`.
    """
    context = get_current_context()
    try:
        settings, now = read_settings(), read_now(context)
        use_file_modes(settings)
        context["task"].lineage = lineage_of(settings, work.__name__, *names)
        with telling_of_the_machine(settings, work.__name__, now):
            outcome = work(settings, *names, now=now, **options)
    except MachineFailed as error:  # retried: the disk may be repaired soon
        _leave_outcome(context, error)
        raise NoAnswer(str(error)) from error
    except UsageError as error:  # the configuration or a parameter is wrong: a retry would not help
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
    """Return the time of the DAG run.

    Raises AirflowFailException for an unknown parameter. Otherwise, a misspelled parameter would silently have its default value.
    """
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
    """Return the warehouse's totals for an asset in a form for JSON, with amounts as strings.

    If they cannot be read, return only `error`. If `access` is set, return only `hidden`, because every Airflow user can see asset events.
    """
    from runspend.actions.costs.totals import as_json, read_totals
    from runspend.warehouse.factory import open_warehouse

    try:
        settings = read_settings()
        if settings.access is not None:
            return {"hidden": "access"}
        with open_warehouse(settings).reader() as reader:
            return {"totals": as_json(read_totals(reader, name.partition("/")[2]))}
    except Exception as error:  # noqa: BLE001 (the event must be emitted anyway)
        log.warning("The event of %s has no totals: %s", name, error)
        return {"error": type(error).__name__}


def end_with(asset: Asset, work: Any) -> None:
    """Add the last two tasks of a DAG that emits an asset.

    The first emits the asset, even if tasks failed. The second fails the DAG run if any task failed.
    """

    @task(outlets=[asset], trigger_rule="all_done", task_display_name="emit the asset")
    def published(outlet_events: Any = None) -> None:
        """Emit the asset, with totals in the event. This task is not mapped: a mapped task would emit it after the first success."""
        outlet_events[asset].extra = totals(asset.name)

    @task(trigger_rule="one_failed", retries=0, on_failure_callback=None, task_display_name="fail if a task failed")
    def watcher() -> None:
        """Fail the DAG run if any earlier task failed. Otherwise, this task is skipped."""
        raise AirflowFailException("A task of this run failed. Its log shows the reason. All other work was done.")

    work >> [published(), watcher()]
