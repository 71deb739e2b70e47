"""SLURM's job lists with a rate card: the cost of what each job was allocated, day by day, without duplicates or gaps."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import BillSource, load_settings
from runspend.core.errors import ConfigError, SourceRefused
from runspend.ingest.billing import probe_source
from runspend.ingest.billing.formats import slurm
from tests.focus_files import NOW, Nights, only, write_bytes

UTC = timezone.utc
CARD = {"prices": {"gpu": "1.20", "cpu": "0.02", "mem_gb": "0.002"}}
TINY = Decimal("0.0000000001")
HEADER = "JobIDRaw|JobID|JobName|Account|User|Partition|Cluster|State|Start|End|ElapsedRaw|AllocTRES|NodeList"
JOB = {
    "JobIDRaw": "100", "JobName": "train", "Account": "vision", "User": "ana", "Partition": "gpu", "Cluster": "hydra", "State": "COMPLETED",
    "Start": "2026-10-05T08:00:00", "End": "2026-10-05T10:00:00", "AllocTRES": "billing=8,cpu=8,gres/gpu=2,gres/gpu:a100=2,mem=64G,node=1",
    "NodeList": "n1",
}  # fmt: skip


def job(**other: str) -> dict[str, str]:
    """Return a row of sacct. The elapsed seconds are End minus Start, and JobID is JobIDRaw unless stated."""
    row = {**JOB, **other}
    row.setdefault("JobID", row["JobIDRaw"])
    if "ElapsedRaw" not in row:
        row["ElapsedRaw"] = str(int((datetime.fromisoformat(row["End"]) - datetime.fromisoformat(row["Start"])).total_seconds()))
    return row


def text(rows: Sequence[Mapping[str, str]], header: str = HEADER) -> bytes:
    return "\n".join([header, *("|".join(row.get(name, "") for name in header.split("|")) for row in rows), ""]).encode()


def source(folder: Path, card: Mapping[str, Any] = CARD, **more: Any) -> BillSource:
    return BillSource.model_validate({"name": "hpc", "format": "slurm", "uri": str(folder), "currency": "EUR", "slurm": card, **more})


def loaded(
    tmp_path: Path, rows: Sequence[Mapping[str, str]], card: Mapping[str, Any] = CARD, name: str = "jobs.txt", **more: Any
) -> Nights:
    write_bytes(tmp_path / "sacct" / name, text(rows))
    nights = Nights(tmp_path / "work", source(tmp_path / "sacct", card, **more))
    nights.load()
    return nights


def test_a_job_costs_what_it_was_allocated(tmp_path: Path) -> None:
    """8 cores, 64 GiB and 2 GPUs (which AllocTRES names twice) for 2 hours cost 2 x (0.16 + 0.128 + 2.40)."""
    [line] = loaded(tmp_path, [job()]).lines()
    assert line["billed_cost"] == line["effective_cost"] == line["list_cost"] == line["contracted_cost"] == Decimal("5.376")
    assert (line["charge_period_start"], line["charge_period_end"]) == (
        datetime(2026, 10, 5, 8, tzinfo=UTC),
        datetime(2026, 10, 5, 10, tzinfo=UTC),
    )
    assert (line["resource_id"], line["job_key"], line["sub_account_id"], line["billing_account_id"]) == (
        "100",
        "hydra/100",
        "vision",
        "hydra",
    )
    assert (line["machine_gpus"], line["machine_cpus"], line["machine_memory_gb"]) == (2, 8, 64.0)
    assert (line["billing_currency"], line["service_category"], line["billed_nanoseconds"]) == ("EUR", "Compute", 7200 * 10**9)
    assert json.loads(line["tags"]) == {"slurm_job_id": "100", "user": "ana", "partition": "gpu", "cluster": "hydra", "job_name": "train"}


@pytest.mark.parametrize(
    ("tres", "hourly"),
    [
        ("cpu=8,mem=64G,node=1", "0.288"),
        ("cpu=8,gres/gpu:a100=2", "2.56"),  # only by type
        ("cpu=8,gres/gpu:a100=2,gres/gpu:t4=1", "3.76"),
        ("cpu=8,gres/gpu=3,gres/gpu:a100=2,gres/gpu:t4=1", "3.76"),
        ("cpu=1,mem=512M", "0.021"),
        ("cpu=1,mem=512", "0.021"),
        ("cpu=1,mem=187.50G", "0.395"),
        ("cpu=1,mem=1T", "2.068"),
        ("cpu=1,mem=1572864K", "0.023"),
        ("cpu=1,energy=12345,gres/shard=4", "0.02"),
        ("gres/gpu=1", "1.20"),
    ],
)
def test_alloctres_has_the_resources_of_a_job(tmp_path: Path, tres: str, hourly: str) -> None:
    """It has cores, memory in any unit, and GPUs of all types. Each counts once."""
    assert loaded(tmp_path, [job(AllocTRES=tres)]).total() == 2 * Decimal(hourly)


def test_partitions_and_gpu_types_may_have_their_own_prices(tmp_path: Path) -> None:
    """A GPU type's price comes before the general price, and a partition's prices before both. Other prices are the general ones."""
    card = {
        "prices": {"gpu": "1.20", "cpu": "0.02", "node": "0.50", "gpu_types": {"H100": "4"}},
        "partitions": {"debug": {"gpu": 0, "cpu": "0.01"}, "big": {"gpu_types": {"a100": "3"}}},
    }
    tres = "cpu=10,node=2,gres/gpu=6,gres/gpu:a100=2,gres/gpu:h100=3,gres/gpu:t4=1"
    rows = [job(JobIDRaw=str(i), Partition=partition, AllocTRES=tres) for i, partition in enumerate(("gpu", "debug", "big"))]
    costs = {line["resource_id"]: line["billed_cost"] / 2 for line in loaded(tmp_path, rows, card).lines()}
    assert costs == {
        "0": Decimal("0.2") + 1 + 3 * Decimal("1.2") + 12,
        "1": Decimal("0.1") + 1,
        "2": Decimal("0.2") + 1 + Decimal("1.2") + 2 * 3 + 12,
    }


def test_a_job_may_be_priced_by_slurms_billing_units(tmp_path: Path) -> None:
    """A site that weighs resources in slurm.conf needs no other price."""
    assert loaded(tmp_path, [job()], {"prices": {"billing": "0.125"}}).total() == 2


def test_a_cost_is_rounded_once(tmp_path: Path) -> None:
    """A core at 0.02 an hour costs 0.00000555… for one second and 0.00001111… for two, rounded to ten decimals."""
    rows = [job(JobIDRaw=str(seconds), End=f"2026-10-05T08:00:0{seconds}", AllocTRES="cpu=1") for seconds in (1, 2)]
    costs = {line["resource_id"]: line["billed_cost"] for line in loaded(tmp_path, rows).lines()}
    assert costs == {"1": Decimal("0.0000055556"), "2": Decimal("0.0000111111")}


def test_days_and_months_cut_a_job_and_sum_to_it(tmp_path: Path) -> None:
    """The job takes 54 hours, 37 minutes and 11 seconds over the end of October, at a price that seconds do not divide evenly."""
    rows = [job(Start="2026-10-30T20:12:19", End="2026-11-02T02:49:30", AllocTRES="cpu=7,mem=1000M,gres/gpu=1")]
    nights = loaded(tmp_path, rows)
    lines = [*nights.lines("2026-10"), *nights.lines("2026-11")]
    starts = sorted(line["charge_period_start"] for line in lines)
    assert starts == [
        datetime(2026, 10, 30, 20, 12, 19, tzinfo=UTC),
        *(datetime(2026, 10, 31, tzinfo=UTC) + timedelta(days=i) for i in range(3)),
    ]
    seconds = 54 * 3600 + 37 * 60 + 11
    hourly = Decimal("1.20") + Decimal("0.14") + Decimal(1000) / 1024 * Decimal("0.002")
    assert sum(line["billed_cost"] for line in lines) == (hourly * seconds / 3600).quantize(TINY, ROUND_HALF_UP)
    assert sum(line["billed_nanoseconds"] for line in lines) == seconds * 10**9
    whole_day = next(line for line in lines if line["charge_period_start"] == datetime(2026, 10, 31, tzinfo=UTC))
    assert abs(whole_day["billed_cost"] - hourly * 24) <= TINY
    assert {line["billing_period"].isoformat() for line in nights.lines("2026-11")} == {"2026-11-01"}
    assert len({line["line_id"] for line in lines}) == 4


def test_steps_are_part_of_their_job_and_counted(tmp_path: Path) -> None:
    """sacct without -X also lists steps. Jobs that were cancelled while they waited, or failed at once, used nothing."""
    rows = [
        job(),
        job(JobIDRaw="100.batch", JobName="batch", User="", Partition=""),
        job(JobIDRaw="100.extern"), job(JobIDRaw="100.0"),
        job(JobIDRaw="101", State="CANCELLED by 1000", Start="Unknown", End="2026-10-05T09:00:00", ElapsedRaw="0", AllocTRES=""),
        job(JobIDRaw="102", State="CANCELLED by 1000", Start="None", End="2026-10-05T09:00:00", ElapsedRaw="0", AllocTRES=""),
        job(JobIDRaw="103", State="PENDING", Start="Unknown", End="Unknown", ElapsedRaw="0", AllocTRES=""),
        job(JobIDRaw="104", State="FAILED", End="2026-10-05T08:00:00"),
    ]  # fmt: skip
    write_bytes(tmp_path / "sacct" / "jobs.txt", text(rows))
    nights = Nights(tmp_path / "work", source(tmp_path / "sacct"))
    load = nights.load()
    assert [line["resource_id"] for line in nights.lines()] == ["100"]
    assert only(load).extra["quarantined"] == 0
    assert only(load).extra["skip_reasons"] == {"steps, which are part of their job": 3, "jobs that have not run": 4}


def test_a_job_that_was_requeued_ran_twice(tmp_path: Path) -> None:
    """sacct --duplicates lists both executions, with one id and different times."""
    rows = [job(State="NODE_FAIL", End="2026-10-05T09:00:00"), job(Start="2026-10-05T12:00:00", End="2026-10-05T14:00:00")]
    nights = loaded(tmp_path, rows)
    assert sorted(line["billed_cost"] for line in nights.lines()) == [Decimal("2.688"), Decimal("5.376")]
    assert {line["job_key"] for line in nights.lines()} == {"hydra/100"}


def test_array_tasks_and_parts_of_heterogeneous_jobs(tmp_path: Path) -> None:
    """A task has its own id, which its SLURM_JOB_ID states. All parts of a heterogeneous job state the id of their leader."""
    rows = [
        job(JobIDRaw="200", JobID="200_1"), job(JobIDRaw="201", JobID="200_2"), job(JobIDRaw="300", JobID="300+0"), job(JobIDRaw="301", JobID="300+1"),
    ]  # fmt: skip
    lines = {line["resource_id"]: line for line in loaded(tmp_path, rows).lines()}
    assert {resource: line["job_key"] for resource, line in lines.items()} == {
        "200": "hydra/200",
        "201": "hydra/201",
        "300": "hydra/300",
        "301": "hydra/300",
    }
    assert {line["resource_key"] for line in lines.values()} == {"hydra/200", "hydra/201", "hydra/300", "hydra/301"}
    assert json.loads(lines["201"]["tags"])["slurm_array_job_id"] == "200"
    assert "slurm_array_job_id" not in json.loads(lines["300"]["tags"])


def test_a_running_job_is_charged_for_its_elapsed_time(tmp_path: Path) -> None:
    """Its elapsed seconds are those until sacct ran. The file of the next day has more."""
    running = job(State="RUNNING", End="Unknown", ElapsedRaw="3600")
    nights = loaded(tmp_path, [running])
    [line] = nights.lines()
    assert (line["billed_cost"], line["charge_period_end"]) == (Decimal("2.688"), datetime(2026, 10, 5, 9, tzinfo=UTC))
    write_bytes(tmp_path / "sacct" / "jobs.txt", text([{**running, "ElapsedRaw": "7200"}]))
    assert only(nights.load()).state == "loaded"
    assert nights.total() == Decimal("5.376")


def test_suspended_time_is_not_charged(tmp_path: Path) -> None:
    """Elapsed is then less than End - Start. The line has the cost of the elapsed time, over the whole time."""
    [line] = loaded(tmp_path, [job(ElapsedRaw="1800")]).lines()
    assert (line["billed_cost"], line["billed_nanoseconds"]) == (Decimal("1.344"), 1800 * 10**9)
    assert line["charge_period_end"] == datetime(2026, 10, 5, 10, tzinfo=UTC)


def test_times_are_in_the_zone_the_source_states(tmp_path: Path) -> None:
    """sacct writes local time without a zone. It is UTC unless the source states a zone, and a written offset wins."""
    berlin = {**CARD, "timezone": "Europe/Berlin"}
    rows = [job(), job(JobIDRaw="101", Start="2026-10-05T08:00:00+0000", End="2026-10-05T10:00:00Z", ElapsedRaw="7200")]
    starts = {line["resource_id"]: line["charge_period_start"].hour for line in loaded(tmp_path, rows, berlin).lines()}
    assert starts == {"100": 6, "101": 8}


def test_a_job_in_the_repeated_hour_costs_its_elapsed_time(tmp_path: Path) -> None:
    """In Berlin 02:30 occurs twice on 25 October. The clock is ambiguous, but the elapsed seconds are not."""
    rows = [job(Start="2026-10-25T02:50:00", End="2026-10-25T02:10:00", ElapsedRaw="1200")]
    nights = loaded(tmp_path, rows, {**CARD, "timezone": "Europe/Berlin"})
    assert nights.total() == Decimal("2.688") / 3


def test_a_job_in_the_repeated_hour_ran_when_its_seconds_fit(tmp_path: Path) -> None:
    """In Berlin, 02:00 to 03:00 is 00:00 to 01:00 UTC and then 01:00 to 02:00 UTC. A job that fits both is in the second."""
    jobs = {
        "1": ("02:30", "02:20", 3000, (0, 30), (1, 20)),
        "2": ("01:50", "02:20", 1800, (23, 50), (0, 20)),
        "3": ("02:10", "03:10", 7200, (0, 10), (2, 10)),
        "4": ("02:10", "03:10", 3600, (1, 10), (2, 10)),
        "5": ("02:10", "02:50", 2400, (1, 10), (1, 50)),
    }
    rows = [
        job(JobIDRaw=name, Start=f"2026-10-25T{start}:00", End=f"2026-10-25T{end}:00", ElapsedRaw=str(seconds))
        for name, (start, end, seconds, *_) in jobs.items()
    ]
    nights = loaded(tmp_path, rows, {**CARD, "timezone": "Europe/Berlin"})
    times: dict[str, list[datetime]] = {}
    for line in nights.lines():
        times.setdefault(line["resource_id"], []).extend((line["charge_period_start"], line["charge_period_end"]))
    found = {name: tuple((t.hour, t.minute) for t in (min(those), max(those))) for name, those in times.items()}
    assert found == {name: (first, last) for name, (_, _, _, first, last) in jobs.items()}


def test_a_file_is_charged_for_the_month_it_is_named_after(tmp_path: Path) -> None:
    """sacct lists a job over the end of a month in both months. Each file has its own part, cut in the zone of the times."""
    card = {**CARD, "timezone": "Europe/Berlin"}
    both = job(JobIDRaw="7", Start="2026-10-31T22:00:00", End="2026-11-01T06:00:00", AllocTRES="cpu=50")
    write_bytes(tmp_path / "sacct" / "hydra-2026-10.txt", text([job(), both]))
    write_bytes(
        tmp_path / "sacct" / "hydra-2026-11.txt", text([both, job(JobIDRaw="8", Start="2026-11-01T00:10:00", End="2026-11-01T00:40:00")])
    )
    nights = Nights(tmp_path / "work", source(tmp_path / "sacct", card))
    load = nights.load()
    assert [period.state for period in load.periods] == ["loaded", "loaded"]
    assert nights.total("2026-10") == Decimal("5.376") + 2
    assert nights.total("2026-11") == 6 + Decimal("1.344")
    early = [line for line in nights.lines("2026-11") if line["charge_period_start"] < datetime(2026, 11, 1, tzinfo=UTC)]
    assert {line["resource_id"] for line in early} == {"7", "8"}, "the first hour of Berlin's November is still October in UTC"


def test_a_daily_file_is_charged_for_the_day_in_its_name(tmp_path: Path) -> None:
    """With `one_file_per: day`, the day in the name counts, even if the lists of two days have the same bytes."""
    night = job(Start="2026-10-05T22:00:00", End="2026-10-07T01:00:00", AllocTRES="cpu=50")
    for day in ("2026-10-05", "2026-10-06", "2026-10-07"):
        write_bytes(tmp_path / "sacct" / f"jobs.{day}.txt.gz", gzip.compress(text([night]), mtime=0), at=NOW)
    nights = Nights(tmp_path / "work", source(tmp_path / "sacct", {**CARD, "one_file_per": "day"}))
    nights.load()
    assert nights.total() == 2 + 24 + 1
    assert only(nights.load()).state == "unchanged"
    (tmp_path / "sacct" / "jobs.2026-10-07.txt.gz").rename(tmp_path / "sacct" / "jobs.2026-10-08.txt.gz")
    assert only(nights.load()).state == "loaded"
    assert nights.total() == 2 + 24


@pytest.mark.parametrize(
    ("name", "per", "expected"),
    [
        ("2026-10.txt", "month", "2026-10"),
        ("hydra/jobs_2026-10.psv.gz", "month", "2026-10"),
        ("2026-10-05.txt", "month", None),
        ("2026-10-05.txt", "day", "2026-10-05"),
        ("2026-10.txt", "day", None),
        ("2026-13.txt", "month", None),
        ("2026-02-30.txt", "day", None),
        ("2026-10/jobs.txt", "month", None),
        ("12026-10.txt", "month", None),
    ],
)
def test_a_file_name_may_state_its_month_or_day(tmp_path: Path, name: str, per: str, expected: str | None) -> None:
    """Only a whole month or day in the file's name counts."""
    assert slurm.stands_for(source(tmp_path, {**CARD, "one_file_per": per}), name) == expected


def test_files_without_a_month_in_their_name_are_not_added_up(tmp_path: Path) -> None:
    """Two dumps of the same day may list the same jobs."""
    nights = loaded(tmp_path, [job()])
    write_bytes(tmp_path / "sacct" / "again.txt", text([job(), job(JobIDRaw="101")]))
    refused = only(nights.load())
    assert refused.state == "refused" and "the same bill twice" in str(refused.error)
    assert nights.total() == Decimal("5.376")


def test_a_month_without_jobs_yet_is_not_an_error(tmp_path: Path) -> None:
    """The first list of a month may be empty, or have only a waiting job. Nothing is billed or refused, and October stays."""
    nights = loaded(tmp_path, [job()], name="2026-10.txt")
    waiting = job(JobIDRaw="9", State="PENDING", Start="Unknown", End="Unknown", ElapsedRaw="0", AllocTRES="")
    for rows in ([], [waiting]):
        write_bytes(tmp_path / "sacct" / "2026-11.txt", text(rows))
        load = nights.load()
        assert load.error is None and [(p.period, p.state) for p in load.periods] == [("2026-10", "unchanged")]
        alone = Nights(tmp_path / "alone", source(tmp_path / "sacct" / "2026-11.txt"))
        assert alone.load().periods == []
    assert nights.total() == Decimal("5.376")


def test_new_prices_are_a_new_version(tmp_path: Path) -> None:
    """The same files cost something else with another rate card, from their first day on."""
    nights = loaded(tmp_path, [job()])
    dearer = source(tmp_path / "sacct", {"prices": {"gpu": "1.30", "cpu": "0.02", "mem_gb": "0.002"}})
    assert only(nights.load(source=dearer)).state == "loaded"
    assert nights.total() == Decimal("5.776")
    assert only(nights.load(source=dearer)).state == "unchanged"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"ElapsedRaw": "01:00:00"}, "ElapsedRaw is '01:00:00', which is not a number of seconds"),
        ({"Start": "Oct 05 08:00", "ElapsedRaw": "3600"}, "Start is 'Oct 05 08:00', which is not a time such as 2026-10-01T08:00:00"),
        ({"Start": "Unknown", "ElapsedRaw": "3600"}, "Start is 'Unknown', which is not a time"),
        ({"AllocTRES": ""}, "AllocTRES is empty, which is not a list such as cpu=8"),
        ({"AllocTRES": "cpu=99999999999999999999"}, "AllocTRES is 'cpu=99999999999999999999', which is not"),
        ({"AllocTRES": "cpu=9223372036854775807"}, "AllocTRES is 'cpu=9223372036854775807', which is not"),
        ({"AllocTRES": "cpu=1,mem=9999999999999P"}, "AllocTRES is 'cpu=1,mem=9999999999999P', which is not"),
        ({"AllocTRES": "gres/gpu:a100=2147483647,gres/gpu:t4=2147483647"}, "AllocTRES is 'gres/gpu:a100=2147483647"),
        ({"Start": "294246-12-31T00:00:00", "ElapsedRaw": "99999999"}, "Start is '294246-12-31T00:00:00', which is not"),
        ({"AllocTRES": "cpu=8,mem=1.2.3G"}, "AllocTRES is 'cpu=8,mem=1.2.3G', which is not"),
        ({"End": "2036-10-05T10:00:00", "ElapsedRaw": "60"}, "End is '2036-10-05T10:00:00', which is not within three years of Start"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_set_aside_whole(tmp_path: Path, bad: dict[str, str], reason: str) -> None:
    """Runspend keeps the row with its number and the reason, and loads the others."""
    nights = loaded(tmp_path, [job(), job(JobIDRaw="666", **bad)])
    assert nights.total() == Decimal("5.376")
    [aside] = nights.rows("billing_quarantine")
    assert (aside["row_number"], json.loads(aside["raw"])["JobIDRaw"]) == (2, "666")
    assert aside["reason"].startswith(reason)


def test_job_names_may_contain_quotes_but_not_the_separator(tmp_path: Path) -> None:
    """A quote does not hide what follows it. A name that contains the separator is refused with its line."""
    rows = [job(JobName='"resnet'), job(JobIDRaw="101", JobName='he said "go"'), job(JobIDRaw="102", JobName="größe, x;y\\t")]
    nights = loaded(tmp_path, rows)
    assert {line["resource_id"]: line["resource_name"] for line in nights.lines()} == {
        "100": "'resnet",
        "101": "he said 'go'",
        "102": "größe, x;y\\t",
    }
    assert (tmp_path / "sacct" / "jobs.txt").read_bytes() == text(rows)
    write_bytes(tmp_path / "sacct" / "jobs.txt", text([job(), job(JobIDRaw="101", JobName="a|b")]))
    assert "it has 14 fields, but the header has 13" in str(only(nights.load()).error)


def test_a_job_name_in_quotes_is_the_same_in_every_file(tmp_path: Path) -> None:
    for number in ("100", "101", "102"):
        write_bytes(tmp_path / f"sacct/{number}.txt", text([job(JobIDRaw=number, JobName='"resnet"')]))
    nights = Nights(tmp_path / "work", source(tmp_path / "sacct", delivery="parts"))
    nights.load()
    assert {line["resource_id"]: line["resource_name"] for line in nights.lines()} == dict.fromkeys(("100", "101", "102"), "'resnet'")


def test_auto_recognizes_the_format_by_its_header(tmp_path: Path) -> None:
    """With `slurm:` prices, such a CSV needs no `format`. Without prices it is refused, with a fix."""
    path = write_bytes(tmp_path / "jobs.csv", text([job()]))
    assert slurm.matches(HEADER.split("|")) and not slurm.matches(["JobID", "Start", "End"])
    priced = source(path, format="auto")
    assert probe_source(priced)["format"] == "slurm"
    assert probe_source(priced)["billed"] == {"EUR": Decimal("5.376")}
    with pytest.raises(SourceRefused, match="it lists jobs of SLURM, and the bill has no `slurm:` with their prices"):
        Nights(tmp_path / "work", BillSource(name="bill", uri=str(path))).load()


def test_a_list_that_lacks_columns_is_refused_with_their_names(tmp_path: Path) -> None:
    """The error names the columns to add."""
    write_bytes(tmp_path / "sacct" / "jobs.txt", text([job()], "JobIDRaw|Start|AllocTRES"))
    with pytest.raises(SourceRefused, match=r"it lacks ElapsedRaw\. Add them to the export"):
        Nights(tmp_path / "work", source(tmp_path / "sacct")).load()


def test_a_list_with_the_required_columns_is_enough(tmp_path: Path) -> None:
    """Four columns are enough to compute costs."""
    write_bytes(tmp_path / "sacct" / "jobs.txt", text([job()], "JobID|Start|ElapsedRaw|AllocTRES"))
    nights = Nights(tmp_path / "work", source(tmp_path / "sacct"))
    nights.load()
    [line] = nights.lines()
    assert (line["billed_cost"], line["job_key"], line["billing_account_id"], line["sub_account_id"]) == (
        Decimal("5.376"),
        "100",
        "hpc",
        None,
    )


@pytest.mark.parametrize(
    ("slurm_block", "says"),
    [
        ("", "`format: slurm` needs `slurm:`, the prices of jobs' resources"),
        ("slurm: {prices: {}}", "it has no price. Write at least one of `gpu`"),
        ("slurm: {prices: {gpus: 1}}", "slurm.prices.gpus: unknown key. Did you mean `gpu`?"),
        ("slurm: {prices: {gpu: -1}}", "slurm.prices.gpu: it should be greater than or equal to 0"),
        ("slurm: {prices: {gpu: 10000}}", "a price below 10,000 with at most 10 decimals is needed"),
        ("slurm: {prices: {gpu: '0.00000000001'}}", "a price below 10,000 with at most 10 decimals is needed"),
        ("slurm: {prices: {gpu: 1}, timezone: Berlin}", "the name of a time zone is needed, such as UTC or Europe/Berlin"),
        ("slurm: {prices: {gpu: 1}, partitions: {a: {cpus: 1}}}", "slurm.partitions.a.cpus: unknown key. Did you mean `cpu`?"),
    ],
)
def test_mistakes_are_reported_where_they_are(tmp_path: Path, slurm_block: str, says: str) -> None:
    """The error has the line, the key and the allowed values."""
    path = tmp_path / "runspend.yaml"
    path.write_text(f"billing:\n  - name: hpc\n    format: slurm\n    uri: sacct\n    {slurm_block}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_settings(path, {})
    assert says in str(raised.value)
