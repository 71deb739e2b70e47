"""A company that has never tagged anything: an MLflow store full of autologged runs and nested searches, and its first AWS bill.

In its month, one GPU machine ("the box") is always on, and other machines are rented for each job. The bill also has unrelated charges:
databases and a web account. No run states its machine, so the world keeps the truth for tests. A seed determines times, prices, names and ids.
"""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tests.cur_files import line, write_cur
from tests.mlflow_store import make_schema

MONTH = datetime(2026, 10, 1, tzinfo=timezone.utc)
END = datetime(2026, 11, 1, tzinfo=timezone.utc)
NOW = "2026-11-04T06:00"
ML, WEB = "111122223333", "444455556666"
HOUR = timedelta(hours=1)
# Instance types of spot machines, and USD per hour.
SPOT = (("g5.2xlarge", 0.55), ("m5.4xlarge", 0.34), ("g4dn.xlarge", 0.21), ("c5.9xlarge", 0.68), ("r5.2xlarge", 0.22))
EXPERIMENTS = ("churn-xgb", "fraud-lgbm", "bert-finetune", "segment-unet", "forecast-tft", "ranker", "ocr-crnn", "asr-conformer")
PEOPLE = ("ana", "ben", "chloe", "dmitri", "emeka", "fatima")


@dataclass(frozen=True)
class Shape:
    """The kind of company, as parameters."""

    seed: int = 1
    runs: int = 115
    spot_groups: int = 1
    teams: int = 1  # with more than one, each team uses its own machines
    tagged: float = 0.0  # share of machines with a tag, in one of several spellings
    box_type: str = "p3.8xlarge"
    box_price: float = 5.10  # USD per hour
    box_busy: float = 0.75  # share of the month in which someone trains on the box
    by: str = "experiment"  # what determines a run's machines: its experiment or its user
    mixed: float = 0.0  # share of runs on machines other than the usual ones
    is_nightly: bool = False  # jobs start at the same time every night
    web_scales: bool = True  # the size of the web account follows the time of day
    has_gpus_stated: bool = False
    crowd: int = 1  # jobs at the same time on the box
    laptops: float = 0.0  # share of jobs on machines without a bill, in their own experiment
    has_node_groups: bool = False  # jobs run on cluster nodes, with the cloud's own tag
    is_fleet: bool = False  # a job takes any instance type that is cheap
    one_account: bool = False  # the web machines are in the ML account too
    web_gpus: bool = False  # the web account serves models on accelerators day and night


@dataclass
class Run:
    """One run and the machine that it really used."""

    run_id: str
    experiment: str
    user: str
    start: datetime
    end: datetime
    machine: str
    parent: str | None = None
    params: dict[str, str] = field(default_factory=dict)


@dataclass
class Machine:
    """One machine of the ML account, billed from `start` to `end`."""

    resource_id: str
    group: str
    instance_type: str
    price: float
    start: datetime
    end: datetime
    tags: dict[str, str]


@dataclass
class MixedWorld:
    """The whole world: its shape, the runs, the machines and the bill lines."""

    shape: Shape
    runs: list[Run]
    machines: list[Machine]
    lines: list[dict[str, str]]

    @property
    def machine_of(self) -> dict[str, str]:
        """The machine group of each run, by run id."""
        groups = {m.resource_id: m.group for m in self.machines}
        return {run.run_id: groups.get(run.machine, "laptop") for run in self.runs}

    @property
    def used_cost(self) -> float:
        """The most that runs can get, in USD: the cost of the time in which machines of the ML account had runs."""
        total = 0.0
        for machine in self.machines:
            until = machine.start
            for start, end in sorted((run.start, run.end) for run in self.runs if run.machine == machine.resource_id):
                total += max((end - max(start, until)) / HOUR, 0.0) * machine.price
                until = max(until, end)
        return total


def make_mixed_world(shape: Shape) -> MixedWorld:
    """Return the world of a shape. The same shape always gives the same world."""
    dice = random.Random(f"{shape}")
    box = Machine(_instance(dice), "box", shape.box_type, shape.box_price, MONTH, END, _tags(dice, shape, "gpu-box", "research"))
    runs, machines = _runs_and_machines(dice, shape, box)
    machines.insert(0, box)
    lines = [each for machine in machines for each in _machine_lines(dice, machine)]
    lines += _platform_lines(dice) + _web_lines(dice, shape)
    total = sum(float(each["line_item_unblended_cost"]) for each in lines)
    lines.append(_fee("Tax", f"{total * 0.07:.2f}", "AmazonEC2"))
    lines.append(_fee("Credit", "-150.00", "AmazonEC2"))
    dice.shuffle(lines)
    return MixedWorld(shape, runs, machines, lines)


def write_mixed_world(folder: Path, world: MixedWorld) -> tuple[str, Path]:
    """Write `mlflow.db` and `cur.csv.gz`. Return the tracking URI and the path of the bill."""
    folder.mkdir(parents=True, exist_ok=True)
    write_store(make_schema(folder / "mlflow.db"), world.runs)
    return f"sqlite:///{folder / 'mlflow.db'}", write_cur(folder / "cur.csv.gz", world.lines)


def _runs_and_machines(dice: random.Random, shape: Shape, box: Machine) -> tuple[list[Run], list[Machine]]:
    """Create jobs until there are enough runs. On the box, jobs follow each other; elsewhere, each has its own machine."""
    homes = _homes(dice, shape)
    spots = [(f"spot-{n}", *SPOT[(n + shape.seed) % len(SPOT)]) for n in range(shape.spot_groups)]
    runs: list[Run] = []
    machines: list[Machine] = []
    free = [MONTH + timedelta(hours=dice.uniform(0, 10)) for _ in range(shape.crowd)]
    box_jobs = max(3, shape.runs // 12)
    mean = (END - MONTH) / box_jobs * shape.crowd
    laptop = replace(box, resource_id="laptop")
    while len(runs) < shape.runs:
        experiment, user = dice.choice(EXPERIMENTS), dice.choice(PEOPLE)
        home = homes[experiment if shape.by == "experiment" else user]
        if dice.random() < shape.mixed:
            home = dice.randrange(-1, shape.spot_groups)
        if dice.random() < shape.laptops:
            start, length, machine, experiment = _job_start(dice, shape), timedelta(hours=dice.uniform(0.2, 4)), laptop, "playground"
        elif home < 0:
            place = dice.randrange(shape.crowd)
            length = min(mean * shape.box_busy * dice.uniform(0.4, 1.6), END - free[place] - HOUR)
            if length < HOUR:
                continue
            start, machine = free[place], box
            free[place] = start + length + mean * (1 - shape.box_busy) * dice.uniform(0.3, 1.7)
        else:
            length = timedelta(hours=dice.uniform(1.5, 14))
            start = _job_start(dice, shape)
            group, instance_type, price = spots[home]
            if shape.is_fleet:
                instance_type, price = dice.choice(SPOT)
            machine = Machine(
                _instance(dice), group, instance_type, price * dice.uniform(0.9, 1.1), start - timedelta(minutes=dice.uniform(3, 8)),
                start + length + timedelta(minutes=dice.uniform(2, 10)), _tags(dice, shape, f"job-{dice.randrange(10**6)}", group),
            )  # fmt: skip
            machines.append(machine)
        runs += _job(dice, shape, experiment, user, start, start + length, machine)
    return runs, machines


def _homes(dice: random.Random, shape: Shape) -> dict[str, int]:
    """Return -1 for each experiment or user on the box, and a machine group's number for the others. Each group has at least one."""
    names = list(EXPERIMENTS if shape.by == "experiment" else PEOPLE)
    dice.shuffle(names)
    places = [-1, *range(shape.spot_groups)]
    return {name: places[n % len(places)] if shape.teams > 1 or n < len(places) else dice.choice(places) for n, name in enumerate(names)}


def _job_start(dice: random.Random, shape: Shape) -> datetime:
    day = MONTH + timedelta(days=dice.randrange(30))
    if shape.is_nightly:
        return day + timedelta(hours=1, minutes=dice.uniform(10, 20))
    return day + timedelta(hours=min(23.0, max(0.5, dice.gauss(14, 4))))


def _job(dice: random.Random, shape: Shape, experiment: str, user: str, start: datetime, end: datetime, machine: Machine) -> list[Run]:
    """Return one run or, in 40% of cases, a search: a parent run and its children."""
    params = {"lr": f"{dice.uniform(0, 1):.4f}", "epochs": str(dice.randrange(1, 50))}
    if shape.has_gpus_stated and machine.instance_type[0] in "pg":
        params["gpu_count"] = "4" if machine.group == "box" else "1"
    first = Run(f"{dice.getrandbits(128):032x}", experiment, user, start, end, machine.resource_id, None, params)
    if dice.random() < 0.6:
        return [first]
    number = dice.randrange(3, 7)
    marks = sorted(start + (end - start) * dice.random() for _ in range(number - 1))
    spans = zip([start, *marks], [*marks, end], strict=True)
    gap = timedelta(seconds=20)
    children = [
        Run(f"{dice.getrandbits(128):032x}", experiment, user, a + gap, b, machine.resource_id, first.run_id, params)
        for a, b in spans
        if b - a > 2 * gap
    ]
    return [first, *children]


def _instance(dice: random.Random) -> str:
    return f"i-{dice.getrandbits(68):017x}"


def _tags(dice: random.Random, shape: Shape, name: str, group: str) -> dict[str, str]:
    """Return a name for every machine, and for some a tag with their group, in one of several spellings."""
    tags = {"user_name": name}
    if dice.random() < shape.tagged:
        tags[dice.choice(("user_team", "user_team", "user_project", "user_cost_center"))] = dice.choice((group, group.upper(), group))
    if shape.has_node_groups and group != "research":
        tags["eks_nodegroup_name"] = f"pool-{group}"
    return tags


def _machine_lines(dice: random.Random, machine: Machine) -> list[dict[str, str]]:
    """Return one line per clock hour, for the part in which the machine existed, and one line per day for its disk."""
    found = []
    is_spot = machine.group != "box"
    hour = machine.start.replace(minute=0, second=0, microsecond=0)
    volume = f"vol-{dice.getrandbits(68):017x}"
    while hour < machine.end:
        part = (min(machine.end, hour + HOUR) - max(machine.start, hour)) / HOUR
        found.append(
            line(
                cost=f"{part * machine.price:.10f}", line_item_usage_account_id=ML, line_item_resource_id=machine.resource_id,
                line_item_usage_type=f"{'SpotUsage' if is_spot else 'BoxUsage'}:{machine.instance_type}", product_instance_type=machine.instance_type,
                line_item_usage_amount=f"{part:.8f}", resource_tags=json.dumps(machine.tags), **_hours(hour, hour + HOUR),
            )
        )  # fmt: skip
        hour += HOUR
    day = machine.start.replace(hour=0, minute=0, second=0, microsecond=0)
    while day < machine.end:
        found.append(
            _plain(
                "AmazonEC2",
                "EBS:VolumeUsage.gp3",
                0.02 if is_spot else 0.9,
                ML,
                volume,
                day,
                "GB-Mo",
                "Storage",
                **{"resource_tags": json.dumps(machine.tags)},
            )
        )
        day += timedelta(days=1)
    return found


def _platform_lines(dice: random.Random) -> list[dict[str, str]]:
    """Return other charges of the ML account: buckets, a database, a control plane, a gateway and third-party models."""
    found = []
    for day in range(31):
        at = MONTH + timedelta(days=day)
        found.append(_plain("AmazonS3", "TimedStorage-ByteHrs", 1.3, ML, "acme-mlflow", at, "GB-Mo", "Storage"))
        found.append(
            _plain(
                "AmazonBedrock", "USE1-Claude-input-tokens", dice.uniform(2, 9), ML, "anthropic.claude", at, "1K tokens", "Amazon Bedrock"
            )
        )
        for hour in range(0, 24, 4):
            begin = at + timedelta(hours=hour)
            found.append(
                _plain(
                    "AmazonRDS",
                    "InstanceUsage:db.t4g.medium",
                    0.065 * 4,
                    ML,
                    f"arn:aws:rds:us-east-1:{ML}:db:mlflow",
                    begin,
                    "Hrs",
                    "Database Instance",
                    hours=4,
                )
            )
            found.append(
                _plain(
                    "AmazonEKS",
                    "USE1-AmazonEKS-Hours:perCluster",
                    0.10 * 4,
                    ML,
                    f"arn:aws:eks:us-east-1:{ML}:cluster/ml",
                    begin,
                    "Hours",
                    "Compute",
                    hours=4,
                )
            )
            found.append(
                _plain(
                    "AmazonEC2",
                    "NatGateway-Hours",
                    0.045 * 4,
                    ML,
                    f"arn:aws:ec2:us-east-1:{ML}:natgateway/nat-0a1b2c3d4e5f60718",
                    begin,
                    "Hrs",
                    "NAT Gateway",
                    hours=4,
                )
            )
    return found


def _web_lines(dice: random.Random, shape: Shape) -> list[dict[str, str]]:
    """Return the lines of another account. Its machines serve pages day and night, with more machines by day."""
    found = []
    machines = [_instance(dice) for _ in range(6)]
    account = ML if shape.one_account else WEB
    for hour in range(31 * 24):
        at = MONTH + timedelta(hours=hour)
        if shape.web_gpus:
            found.append(_web_line(account, at, machines[5], "g4dn.xlarge", "0.5260000000", "inference"))
        wanted = 2 if not shape.web_scales or not 7 <= at.hour < 20 else dice.randrange(2, 5)
        for number in range(wanted):
            found.append(_web_line(account, at, machines[number], "m5.large", "0.0960000000", "web"))
    return found


def _web_line(account: str, at: datetime, machine: str, instance_type: str, cost: str, name: str) -> dict[str, str]:
    return line(
        cost=cost, line_item_usage_account_id=account, line_item_resource_id=machine, line_item_usage_type=f"BoxUsage:{instance_type}",
        product_instance_type=instance_type, resource_tags=json.dumps({"user_name": name}), **_hours(at, at + HOUR),
    )  # fmt: skip


def _hours(start: datetime, end: datetime) -> dict[str, str]:
    return {"line_item_usage_start_date": f"{start:%Y-%m-%dT%H:%M:%SZ}", "line_item_usage_end_date": f"{end:%Y-%m-%dT%H:%M:%SZ}"}


def _plain(
    code: str, usage: str, cost: float, account: str, resource: str, start: datetime, unit: str, family: str, hours: int = 24, **more: str
) -> dict[str, str]:
    return line(
        cost=f"{cost:.10f}", line_item_usage_account_id=account, line_item_product_code=code, product_servicecode=code, line_item_usage_type=usage, line_item_operation="",
        line_item_resource_id=resource, product_instance_type="", product_product_family=family, pricing_unit=unit, line_item_usage_amount=str(hours),
        **_hours(start, start + timedelta(hours=hours)), **more,
    )  # fmt: skip


def _fee(kind: str, cost: str, code: str) -> dict[str, str]:
    return line(
        kind, cost, line_item_usage_account_id=ML, line_item_product_code=code, product_servicecode=code, line_item_resource_id="", line_item_usage_type=kind,
        line_item_operation="", product_instance_type="", product_product_family="", pricing_unit="", line_item_usage_amount="1", **_hours(MONTH, END),
    )  # fmt: skip


def write_store(path: Path, runs: list[Run]) -> None:
    """Write runs as MLflow's autolog does: user, source and parent are tags; there are params, but no machine."""
    experiments = {name: number for number, name in enumerate(sorted({run.experiment for run in runs}), 1)}
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany(
            "insert into experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time, workspace) values (?, ?, ?, 'active', 0, 0, 'default')",
            [(number, name, f"s3://acme-mlflow/{number}") for name, number in experiments.items()],
        )
        db.executemany(
            "insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
            " values (?, ?, 'LOCAL', ?, '', ?, 'FINISHED', ?, ?, '', 'active', ?, ?)",
            [
                (
                    run.run_id, f"run-{number}", f"{run.experiment}/train.py", run.user, _milliseconds(run.start), _milliseconds(run.end),
                    f"s3://acme-mlflow/{experiments[run.experiment]}/{run.run_id}/artifacts", experiments[run.experiment],
                )
                for number, run in enumerate(runs)
            ],
        )  # fmt: skip
        tags = [(key, value, run.run_id) for run in runs for key, value in _run_tags(run).items()]
        db.executemany("insert into tags (key, value, run_uuid) values (?, ?, ?)", tags)
        db.executemany(
            "insert into params (key, value, run_uuid) values (?, ?, ?)",
            [(k, v, run.run_id) for run in runs for k, v in run.params.items()],
        )


def _run_tags(run: Run) -> dict[str, str]:
    parent = {"mlflow.parentRunId": run.parent} if run.parent else {}
    return {
        "mlflow.user": run.user,
        "mlflow.source.name": f"{run.experiment}/train.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.autologging": "sklearn",
        **parent,
    }


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
