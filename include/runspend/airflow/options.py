"""Reads the section [runspend] of Airflow's configuration: schedules, owner, pool, and the path of runspend.yaml.

DAG files read these options when they are parsed, without I/O. Only tasks read runspend.yaml. If it has a mistake, the task that needs it
fails with a mail, and the DAGs stay visible. Airflow lists the options with `airflow config list --section runspend`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runspend.core.errors import ConfigError

SECTION = "runspend"
NO_CLOCK = "none"
PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")  # presets that CronTriggerTimetable supports
SCHEDULES = {  # step -> its default schedule
    "extract": "0 4 * * *",
    "measure": "0 4 * * *",
    "load": "0 4 * * *",
    "allocate": "0 6 * * *",
    "alert": "0 */6 * * *",
    "archive": "0 8 * * 1",
    "report": "0 7 * * *",
    "publish": "30 */6 * * *",
    "annotate": "0 8 * * *",
}


def _option(description: str, default: str | None, example: str | None) -> dict[str, str | None]:
    return {"description": description, "version_added": "0.1.0", "type": "string", "example": example, "default": default}


OPTIONS: Mapping[str, Mapping[str, str | None]] = {
    "config": _option("Path of runspend.yaml. $RUNSPEND_CONFIG comes first, ./runspend.yaml last.", None, "/etc/runspend/runspend.yaml"),
    "owner": _option("Owner of every task.", "runspend", "platform-team"),
    "pool": _option("Pool of the tasks that query the warehouse. It must exist. $RUNSPEND_POOL sets it too.", "default_pool", "runspend"),
    "timezone": _option("Time zone of the schedules.", "UTC", "Europe/Berlin"),
    **{
        f"schedule_{step}": _option(
            f"Schedule of the DAG of `{step}`: a cron expression, or none. Updated assets also start the DAG.", cron, "30 5 * * 1-5"
        )
        for step, cron in SCHEDULES.items()
    },
}


def option(name: str) -> str | None:
    """Return the value of an option in the section, or its default."""
    from airflow.configuration import conf

    value = conf.get(SECTION, name, fallback=None)
    return str(value).strip() if value and str(value).strip() else OPTIONS[name]["default"]


def pool() -> str:
    """Return the pool of the tasks that query the warehouse. It limits how many of them query BigQuery at the same time."""
    return os.environ.get("RUNSPEND_POOL") or str(option("pool"))


def config_path() -> Path | None:
    """Return the path of runspend.yaml from the option `config`. None means $RUNSPEND_CONFIG or ./runspend.yaml."""
    given = None if os.environ.get("RUNSPEND_CONFIG") else option("config")
    return None if given is None else Path(given)


def clock(step: str) -> Any:
    """Return the timetable of a step's schedule. None if the step has no schedule.

    Raises ConfigError if the schedule is not a cron expression or the time zone is unknown.
    """
    from airflow.sdk import CronTriggerTimetable

    name = f"schedule_{step}"
    cron, zone = str(option(name)), str(option("timezone"))
    if cron.lower() == NO_CLOCK:
        return None
    if cron != OPTIONS[name]["default"] or zone != OPTIONS["timezone"]["default"]:
        _check(name, cron, zone)
    return CronTriggerTimetable(cron, timezone=zone)


@cache
def _check(name: str, cron: str, zone: str) -> None:
    from zoneinfo import ZoneInfo

    from croniter import croniter

    where = f"section [{SECTION}] of Airflow's configuration"
    try:
        ZoneInfo(zone)
    except (LookupError, OSError, ValueError):
        raise ConfigError(
            f"cannot use timezone {zone!r} in {where}: it is not a time zone. Write one such as UTC or Europe/Berlin."
        ) from None
    if cron not in PRESETS and not (len(cron.split()) == 5 and croniter.is_valid(cron)):
        raise ConfigError(
            f"cannot use {name} {cron!r} in {where}: it is not a cron expression. Write one such as {OPTIONS[name]['default']!r}, or {NO_CLOCK}."
        )
