"""Monitors pipeline runs: records finished steps, notifies operators if steps are missing, and calls the heartbeat if all went well.

Code that runs around the steps of `__init__.py` and needs no warehouse belongs here. `actions/alert/` evaluates the records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from runspend.config.settings import Settings, redact
from runspend.config.types import address_of
from runspend.core.errors import CheckFailed, PartialFailure, RecordRefused, RunspendError, SourceError, UsageError, WarehouseDamaged
from runspend.core.machine_faults import machine_failed
from runspend.core.step_result import Outcome
from runspend.core.text import counted

if TYPE_CHECKING:
    from runspend.actions.alert.outbox import Delivery


def note_step(settings: Settings, name: str, outcome: Outcome, now: datetime) -> None:
    """Record that a step has finished. If a check failed, the step does not count as finished, because the tables are still old.

    Damage does not matter here: operators get a separate mail about it.
    """
    from runspend.actions.alert.freshness import note_done
    from runspend.warehouse.records import Records

    was_done = CheckFailed not in outcome.kinds
    note_done(Records(settings.home), name, "step", now, was_done=was_done, is_good=outcome.exit_code == 0)


def tell_stale(settings: Settings, outcome: Outcome, now: datetime) -> None:
    """Mail operators about sources and steps that have not run for too long. Only the records under `home` are used."""
    from runspend.actions.alert import operators
    from runspend.actions.alert.freshness import judge_freshness
    from runspend.warehouse.records import Records

    records = Records(settings.home)
    stale = judge_freshness(settings, records, now)
    for one in stale:
        outcome.fail(SourceError(one.name, one.text))
    note_undelivered(outcome, operators.tell_stale(settings, records, stale, now))


@contextmanager
def mailing_what_ends(settings: Settings, step: str, now: datetime) -> Iterator[None]:
    """Mail operators about errors that no step reports: a refused Runspend file, or a failed machine."""
    with telling_of_the_machine(settings, step, now):
        try:
            yield
        except RecordRefused as error:
            tell_refused_file(settings, error, now)
            raise


def tell_refused_file(settings: Settings, error: RecordRefused, now: datetime) -> None:
    """Mail operators about a refused file. The mail is sent even if records are refused too."""
    from runspend.actions.alert import operators
    from runspend.warehouse.records import Records

    why = redact(str(error), settings)
    with suppress(RecordRefused):  # the caller already handles the refused file
        operators.notify(
            settings, Records(settings.home), "REFUSED", f"file {error.file}", now, why,
            advice=operators.Advice(
                still_works="Runspend did not use the file: it moved, removed and sent nothing. Costs stay as they are until you fix it.",
                do=[("Check permissions", f"ls -la {error.file}"), ("Check the status", "runspend status")],
                next_try="Runspend checks again in the next pipeline run.",
            ),
        )  # fmt: skip


@contextmanager
def telling_of_the_warehouse(settings: Settings, outcome: Outcome, now: datetime) -> Iterator[None]:
    """Mail operators about an error that prevents the evaluation of budgets, then raise it. The mail needs no warehouse."""
    from runspend.actions.alert import operators
    from runspend.actions.alert.outbox import send_outbox
    from runspend.warehouse.records import Records

    try:
        yield
    except RecordRefused:
        raise  # operators get a separate mail about the file
    except Exception as error:
        if machine_failed(error) is not None:
            raise  # operators get a separate mail, which needs no disk
        why = redact(f"{type(error).__name__}: {error}", settings)
        records = Records(settings.home)
        # Operators get a separate mail about damage, which names every damaged unit.
        notices = [] if isinstance(error, WarehouseDamaged) else operators.notify(
            settings, records, "NOT JUDGED", "warehouse", now, f"Runspend could not judge any budget: {why}",
            advice=operators.Advice(
                subject="all budgets", still_works="Nothing was changed. Runspend still sends queued mail.",
                do=[("Find the problem", "runspend doctor"), ("Judge again", "runspend alert")],
                next_try="Runspend tries again within 6 hours under Airflow, otherwise in the next pipeline run.",
            ),
        )  # fmt: skip
        note_undelivered(outcome, [*notices, *send_outbox(settings, records, now)])
        raise


@contextmanager
def telling_of_the_machine(settings: Settings, step: str, now: datetime) -> Iterator[None]:
    """Convert an error of the machine (a full, read-only or broken disk) to MachineFailed with one sentence.

    Operators get a mail, for which no disk is needed.
    """
    try:
        yield
    except Exception as error:
        failed = machine_failed(error, f"finish {step}")
        if failed is None:
            raise
        _mail_machine_failed(settings, step, redact(str(failed), settings), now)
        raise failed from error


def _mail_machine_failed(settings: Settings, step: str, text: str, now: datetime) -> None:
    """Mail operators about a failed machine. An error of the mail is ignored, so that it does not hide the error of the machine."""
    from runspend.actions.alert import operators
    from runspend.warehouse.records import Records

    with suppress(OSError, RunspendError):
        operators.notify(
            settings, Records(settings.home), "MACHINE FAILED", f"machine/{step}", now, text,
            advice=operators.Advice(
                still_works="Published tables stay readable. Nothing incomplete was published.",
                do=[("Check the disks", "df -h; df -i; mount; dmesg"), ("Run it again", f"runspend {step}")],
                next_try="The next pipeline run completes the work.",
            ),
        )  # fmt: skip


def tell_not_annotated(settings: Settings, outcome: Outcome, server: str, problem: str, again: str, now: datetime) -> None:
    """Mail operators that MLflow does not show all costs. `again`: the command that writes or removes the rest."""
    from runspend.actions.alert import operators
    from runspend.warehouse.records import Records

    notices = operators.notify(
        settings, Records(settings.home), "NOT ANNOTATED", f"{server}/annotate", now, redact(problem, settings),
        advice=operators.Advice(
            still_works="Costs, reports and alerts are not affected. MLflow shows the costs that were written before.",
            do=[("Check the server", "runspend doctor"), ("Do the rest", again)],
            next_try="" if "--remove" in again else "The next pipeline run writes the rest.",
        ),
    )  # fmt: skip
    note_undelivered(outcome, notices)


def tell_not_published(settings: Settings, outcome: Outcome, target: str, problem: str, now: datetime) -> None:
    """Mail operators that a target of `publish` still contains an older build."""
    from runspend.actions.alert import operators
    from runspend.warehouse.records import Records

    notices = operators.notify(
        settings, Records(settings.home), "NOT PUBLISHED", f"{target}/publish", now, redact(problem, settings),
        advice=operators.Advice(
            still_works="Costs, reports and alerts are not affected. Tools that read the target show the costs of an earlier pipeline run.",
            do=[("Publish again", f"runspend publish --target {target}")],
            next_try="The next pipeline run publishes again.",
        ),
    )  # fmt: skip
    note_undelivered(outcome, notices)


def ring_heartbeat(settings: Settings, outcome: Outcome, now: datetime) -> None:
    """Call `mail.heartbeat` once for each pipeline run that succeeded. If the call fails, later steps and runs repeat it."""
    from runspend.actions.alert.freshness import last_good_pipeline_run
    from runspend.actions.alert.posting import ring
    from runspend.warehouse.records import Records

    if settings.mail.heartbeat is None or outcome.exit_code != 0:
        return
    records = Records(settings.home)
    newest = last_good_pipeline_run(settings, records)
    last_call = records.get("heartbeats", "last")
    if newest is None or (last_call is not None and last_call[0]["night"] == newest):
        return
    answer = ring(settings.mail.heartbeat.get_secret_value())
    if answer.state != "accepted":
        failures = [f"heartbeat: {answer.state}, {answer.reply}"]
        outcome.fail(
            PartialFailure(f"cannot call mail.heartbeat: {answer.reply}. Check the address. The pipeline run itself succeeded.", failures)
        )
        return
    value = {"night": newest, "at": now.isoformat()}
    if last_call is None:
        records.create("heartbeats", "last", value)
    else:
        records.replace("heartbeats", "last", value, last_call[1])


def note_undelivered(outcome: Outcome, deliveries: Sequence[Delivery]) -> None:
    """Report each mail that was not delivered as a separate problem."""
    if failures := [failure for delivery in deliveries if (failure := delivery.failure) is not None]:
        outcome.fail(
            PartialFailure(f"cannot deliver {counted(len(failures), 'mail')}: {failures[0]}. Fix mail in runspend.yaml.", failures)
        )


def send_test_mail(settings: Settings, address: str, now: datetime) -> Outcome:
    """Send one test mail to an address, chat or pager. It is sent immediately, without the outbox.

    Raises UsageError if `address` is not a mail address or a channel.
    """
    from runspend.actions.alert.channels import post_test
    from runspend.actions.alert.smtp import open_backend
    from runspend.actions.alert.test_mail import write_test_mail

    outcome, channels = Outcome("alert"), settings.mail.posts_to
    to = address if address in channels else address_of(address)
    if to is None:
        raise UsageError(
            f"cannot send a test mail to {address!r}: it is not an address that mail can be sent to, or a channel of mail.channels"
            f" ({', '.join(channels) or 'none'}). Nothing was sent."
        )
    mail = write_test_mail(settings, to, now)
    if to in channels:
        result = post_test(settings.mail, to, mail, now)
    else:
        with open_backend(settings.mail, settings.home) as backend:
            result = backend.deliver(mail, [to])[to]
    if result.state == "accepted":
        outcome.changed.append(f"mail {mail.message_id} to {to}: {result.reply}")
    else:
        outcome.fail(
            PartialFailure(
                f"cannot deliver the test mail to {to}: {result.state}, {result.reply}. Fix mail in runspend.yaml.", [result.reply]
            )
        )
    return outcome
