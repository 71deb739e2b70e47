"""Plan the demo company: which runs used which machine, drawn at random from a fixed seed. Writes nothing.

The plan has five teams, 60 machines and 45 days. It contains the difficult cases of real companies: parallel, nested, multi-node,
failed and never-ended runs, children without machines, runs that state no machine, machines rented for one run, machines that stay
up idle after their runs, and partial hours.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)
BEGIN = datetime(2026, 10, 10, tzinfo=timezone.utc)
BILLED_UNTIL = datetime(2026, 11, 22, 23, tzinfo=timezone.utc)


@dataclass(frozen=True)
class MachineType:
    """A machine type, its list price per hour and its hardware."""

    name: str
    provider: str
    price: str
    gpus: int
    cpus: int
    memory_gb: int


P4D = MachineType("p4d.24xlarge", "AWS", "24.5760000000", 8, 96, 1152)
G5 = MachineType("g5.12xlarge", "AWS", "5.6720000000", 4, 48, 192)
M5 = MachineType("m5.4xlarge", "AWS", "0.7680000000", 0, 16, 64)
A2 = MachineType("a2-highgpu-1g", "Google Cloud", "3.6730850000", 1, 12, 85)
N1 = MachineType("n1-standard-8", "Google Cloud", "0.3799980000", 0, 8, 30)


@dataclass(frozen=True)
class Machine:
    """One machine, with the id that its runs state and the id on the bill."""

    resource_id: str
    billed_as: str
    kind: MachineType
    team: str


@dataclass
class Run:
    """One run to be written to MLflow."""

    name: str
    server: str
    experiment: str
    user: str
    start: datetime
    end: datetime | None
    status: str
    machines: list[Machine] = field(default_factory=list)
    states_machine: bool = True
    gpus: int | None = None
    last_sign: datetime | None = None
    children: list[Run] = field(default_factory=list)
    is_tagged_on_bill: bool = False
    artifact_kilobytes: int = 0


@dataclass(frozen=True)
class Team:
    """A team: its experiments, users and machines, the number of its jobs, and the shortest and longest job in hours."""

    name: str
    server: str
    experiments: tuple[str, ...]
    users: tuple[str, ...]
    pool: tuple[tuple[MachineType, int], ...]
    jobs: int
    hours: tuple[float, float]


TEAMS = (
    Team("vision", "prod", ("resnet-sweep", "vit-pretrain"), ("ana", "ben"), ((G5, 14), (P4D, 4)), 64, (1.0, 9.0)),
    Team("nlp", "prod", ("bert-finetune", "llm-distill"), ("chen", "dana"), ((P4D, 6), (G5, 8)), 34, (1.0, 8.0)),
    Team("forecasting", "prod", ("demand-daily", "prices"), ("eva",), ((M5, 12),), 60, (0.5, 5.0)),
    Team("recsys", "research", ("two-tower", "ranker"), ("farid", "gil"), ((A2, 10),), 44, (1.0, 12.0)),
    Team("platform", "research", ("smoke-tests",), ("root",), ((N1, 6),), 30, (0.1, 1.5)),
)

SEED = 20261124


@dataclass
class Plan:
    """The demo company: its machines, the uptimes of each machine by resource id, and its runs."""

    machines: list[Machine]
    uptimes: dict[str, list[tuple[datetime, datetime]]]
    runs: list[Run]

    def count_runs(self) -> int:
        """Return the number of runs, including children."""
        return sum(1 + len(run.children) for run in self.runs)


def draw_plan() -> Plan:
    """Return the plan of SEED. Every call returns the same plan."""
    draw = random.Random(SEED)
    plan = Plan([], {}, [])
    for team in TEAMS:
        pool = [_machine(draw, team, kind) for kind, count in team.pool for _ in range(count)]
        plan.machines += pool
        free = {m.resource_id: BEGIN + timedelta(minutes=draw.randrange(0, 24 * 60)) for m in pool}
        for number in range(team.jobs):
            _draw_job(draw, plan, team, pool, free, number)
    plan.uptimes = {resource: _merged(spans) for resource, spans in plan.uptimes.items()}
    return plan


def _machine(draw: random.Random, team: Team, kind: MachineType) -> Machine:
    if kind.provider == "AWS":
        instance = f"i-{draw.getrandbits(68):017x}"
        return Machine(instance, f"arn:aws:ec2:eu-west-1:111122223333:instance/{instance}", kind, team.name)
    number = str(draw.randrange(10**18, 10**19))
    return Machine(number, f"//compute.googleapis.com/projects/acme-ml/zones/europe-west4-a/instances/{number}", kind, team.name)


def _draw_job(draw: random.Random, plan: Plan, team: Team, pool: list[Machine], free: dict[str, datetime], number: int) -> None:
    """Draw one job and add it to `plan`: its shape, its machines, its start and end, and the uptime of the machines before and after it.

    The job starts when all its machines are free.
    """
    spread = (NOW - BEGIN) / team.jobs
    earliest = BEGIN + number * spread + timedelta(minutes=draw.randrange(0, 600))
    shape = draw.choices(("single", "parallel", "nested", "multi_node", "failed", "unstated", "rented"), (30, 16, 16, 8, 14, 8, 8))[0]
    chosen = sorted(draw.sample(pool, 1 if shape != "multi_node" else min(3, len(pool))), key=lambda m: m.resource_id)
    start = max([earliest, *(free[m.resource_id] for m in chosen)])
    end = start + timedelta(hours=draw.uniform(*team.hours))
    if start >= NOW - timedelta(minutes=30):
        return
    is_open = end > BILLED_UNTIL - timedelta(hours=2) and draw.random() < 0.7
    runs = _draw_runs(draw, team, shape, chosen, start, end, number, is_open=is_open)
    plan.runs += runs
    for machine in chosen:
        boot, tail = timedelta(minutes=draw.randrange(2, 9)), timedelta(minutes=draw.choice((5, 10, 20, 45, 90, 240)))
        plan.uptimes.setdefault(machine.resource_id, []).append((start - boot, end + tail))
        free[machine.resource_id] = end + tail


def _draw_runs(
    draw: random.Random, team: Team, shape: str, machines: list[Machine], start: datetime, end: datetime, number: int, *, is_open: bool
) -> list[Run]:
    experiment, user = draw.choice(team.experiments), draw.choice(team.users)
    gpus = machines[0].kind.gpus

    def run(label: str, begin: datetime, stop: datetime | None, status: str = "FINISHED", **more: object) -> Run:
        size = draw.choice((0, 1, 4, 16, 64))
        return Run(f"{experiment}-{label}", team.server, experiment, user, begin, stop, status, artifact_kilobytes=size, **more)  # type: ignore[arg-type]  # the fields of Run, by name

    length = end - start
    if is_open and end > NOW:
        return [run(f"{number}-open", start, None, "RUNNING", machines=machines, gpus=gpus or None, last_sign=NOW - timedelta(minutes=2))]
    if shape == "parallel":
        parts = draw.randrange(2, 5)
        ends = [start + length * draw.uniform(0.6, 1.0) for _ in range(parts - 1)] + [end]
        each = max(1, gpus // parts) if gpus else None
        return [run(f"{number}-{i}", start + length * (0.02 * i), stop, machines=machines, gpus=each) for i, stop in enumerate(ends)]
    if shape == "nested":
        parent = run(f"{number}-sweep", start, end, machines=machines)
        parts = draw.randrange(3, 7)
        for i in range(parts):
            begin = start + length * (0.05 + 0.9 * i / parts)
            stop = start + length * (0.05 + 0.9 * (i + draw.uniform(0.7, 1.3)) / parts)
            own = i % 2 == 0  # every second child states no machine, so it gets the machine of its parent
            status = "FAILED" if draw.random() < 0.15 else "FINISHED"
            parent.children.append(run(f"{number}-trial-{i}", begin, min(stop, end), status, machines=machines, states_machine=own))
        return [parent]
    if shape == "failed":
        if draw.random() < 0.2:  # a run that died without an end time: only its last metric shows how long it ran
            return [run(f"{number}-lost", start, None, "RUNNING", machines=machines, last_sign=start + length * 0.4)]
        return [
            run(
                f"{number}",
                start,
                start + length * draw.uniform(0.1, 0.9),
                draw.choice(("FAILED", "KILLED")),
                machines=machines,
                gpus=gpus or None,
            )
        ]
    if shape == "unstated":
        return [run(f"{number}-laptop", start, end, machines=machines, states_machine=False)]
    return [run(f"{number}", start, end, machines=machines, gpus=gpus or None, is_tagged_on_bill=shape == "rented")]


def _merged(spans: list[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Return the spans in order, with overlapping spans merged."""
    merged: list[tuple[datetime, datetime]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
