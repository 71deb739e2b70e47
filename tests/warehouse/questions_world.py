"""A small world in which every command of the product has something to tell, and the nights and commands of someone who works with it.

Two days of October 2026: machines that runs share, rent, wait for and leave idle, a pool, a job, disks, unallocated charges, a bill in
euros, a bill that is delivered again with other prices, budgets that are passed, artifacts that a policy would move. What is asked
of the engines on the way does not belong here.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from runspend import connect
from runspend.actions.annotate.wanted import are_versions_read, wanted_experiments, wanted_models, wanted_runs
from runspend.actions.archive.archive_records import Archive, ArchiveRecords
from runspend.actions.archive.items import Item
from runspend.actions.costs.query import newest_day
from runspend.actions.costs.runs import ChosenRuns, newest_build, read_run_costs
from runspend.actions.costs.sources import read_sources
from runspend.actions.costs.totals import TOTALS, read_totals
from runspend.actions.explain.figures import RunKey
from runspend.actions.explore import View, read_experiment, read_figures, read_home, read_machine, read_model, search
from runspend.allocation.scope_proposal import scope_proposal
from runspend.allocation.suggest.evidence import read_evidence
from runspend.allocation.suggest.nothing_found import why_nothing
from runspend.config.settings import Settings, load_settings
from runspend.pipeline.source_status import rebuilt_months
from runspend.warehouse.base import Reader
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.records import Records
from tests.benchmarks.accuracy.cluster import DAY, G5, HOUR, M5, MINUTE, NOBODY, P4D, SHARED, Line, bill_line
from tests.benchmarks.accuracy.files import write_bill, write_store
from tests.benchmarks.accuracy.worlds import Size, World, bill_the_rest, run_job
from tests.warehouse.questions_beside import BUCKET, bill_bucket, bill_september, record_bucket

EURO = {
    "BillingAccountId": "000033334444",
    "BillingCurrency": "EUR",
    "SubAccountId": "444455556666",
    "ProviderName": "Exoscale",
    "InvoiceIssuerName": "Exoscale",
}
FIRST, SECOND, LATER = "2026-10-06T06:00", "2026-10-07T06:00", "2027-02-20T06:00"
SETTINGS = {
    "home": "home",
    "currency": "USD",
    "tracking": [
        {"name": "lab", "uri": "sqlite:///mlflow.db", "copy": {"tags": ["team", "stage"], "params": ["lr"]}, "late_after": "400d"}
    ],
    "billing": [{"name": name, "format": "focus", "uri": f"bills/{name}", "late_after": "400d"} for name in ("bill", "euro")],
    "stores": [{"uri": "artifacts"}, {"uri": "cellar"}],
    "scope": {"include": [{"account": ["111122223333", "444455556666"]}]},
    "dimensions": {"team": ["run.tag.team", "experiment.tag.team", "line.tag.team"]},
    "pools": [{"name": "parts", "runs": {"experiment": "exp-9"}, "lines": {"tag.eks:nodegroup-name": "gpu-parts"}}],
    "sharing": {"shared": "proportional"},
    "rates": {
        "exchange": [{"from": "EUR", "to": "USD", "rate": "1.1731", "date": "2026-01-01"}],
        "prices": [{"instance_type": M5.name, "price": "0.9", "currency": "USD"}],
    },
    "budgets": [
        {"name": "all", "amount": 60, "actual": ["10%", "50%", "100%"], "forecast": [], "notify": ["ops@example.com"]},
        {
            "name": "vision",
            "for": {"team": ["vis*", "it's", "steady"]},
            "amount": 20,
            "actual": ["100%", "540%"],
            "notify": ["ops@example.com"],
        },
        {"name": "google", "for": {"provider": "AWS"}, "amount": 1, "every": "week", "forecast": [], "notify": ["ops@example.com"]},
        {
            "name": "compute",
            "for": {"cost_kind": "compute", "source": "b*"},
            "amount": 5,
            "every": "quarter",
            "forecast": [],
            "notify": ["ops@example.com"],
        },
        {"name": "runs", "for": {"tag.team": "vis*", "param.lr": "0.1"}, "amount": 30, "notify": ["ops@example.com"]},
        {"name": "steady", "for": {"team": "steady"}, "amount": 500, "notify": ["ops@example.com"]},
        {"name": "dearer", "for": {"team": "once"}, "amount": "9.5", "actual": ["100%"], "notify": ["ops@example.com"]},
        {"from": "experiment_tags", "notify": ["ops@example.com"]},
    ],
    "mail": {"backend": "file", "operators": ["ops@example.com"]},
    "sweeps": {"metric": "loss", "best": "min"},
    "archive": {"retention": "30d"},
    "retention": [
        {
            "name": "cold",
            "select": {"unused_for": "20d", "not_tag.stage": ["prod*", "x"], "experiment": "exp-*"},
            "action": "tier",
            "to": "COLD",
        },
        {"name": "team", "select": {"older_than": "20d", "tag.team": "it's", "user": "some*"}, "action": "delete"},
        {"name": "runs", "select": {"unused_for": "20d"}, "action": "prune"},
    ],
}
Command = Callable[..., str]


def make_world(folder: Path, schema: Path) -> World:
    """The files as they are before the first night; returns what it is made of."""
    world = World("questions", random.Random("questions"), Size(1, 2))
    begin = world.begin
    shared = world.machine(P4D, [(begin, begin + 5 * HOUR), (begin + DAY, begin + DAY + 2 * HOUR)], hands_out=8)
    for start, end, team in ((0, 150, "vision"), (60, 200, "vision"), (100, 290, "it's"), (1440, 1500, "")):
        run = world.run(
            begin + start * MINUTE,
            begin + end * MINUTE,
            shared,
            tags={"team": team} if team else {},
            params={"gpu_count": "2", "lr": "0.1"},
        )
        run.tags["mlflow.source.git.commit"] = "c0ffee"
    parent = world.run(begin + HOUR, begin + 4 * HOUR, shared)
    world.run(begin + 2 * HOUR, begin + 3 * HOUR, shared, states=False).tags["mlflow.parentRunId"] = parent.run_id
    ancestor = world.run(begin - 40 * DAY, begin - 40 * DAY + HOUR, tags={"team": "it's"})  # of an earlier month
    world.run(begin + 3 * HOUR, begin + 3 * HOUR + MINUTE).tags["mlflow.parentRunId"] = ancestor.run_id
    alive = world.run(
        begin + DAY + HOUR, None, last_metric=begin + 2 * DAY + 5 * HOUR, tags={"team": "vision", "runspend.instance_id": shared.name}
    )
    alive.params |= {"gpu_count": "1", "lr": "0.1"}
    world.run(begin + 2 * DAY + 6 * HOUR + 5 * MINUTE, None, tags={"runspend.instance_id": shared.name})  # after the second night
    rented = world.machine(P4D, [(begin, begin + 2 * HOUR)], tags={"mlflow_run_id": world.run(begin, begin + HOUR).run_id})
    world.machine(G5, [(begin, begin + 2 * HOUR)], tags={"mlflow_run_id": "f" * 32, "team": "nlp"})
    world.machine(G5, [(begin, begin + 3 * HOUR)], tags={"eks:nodegroup-name": "gpu-spare", "Name": "a"})
    world.machine(M5, [(begin, begin + 2 * HOUR)], tags={"purpose": "notebooks"})
    world.machine(G5, [(begin, begin + 4 * HOUR)], tags={"eks:nodegroup-name": "gpu-parts"})
    for start, end in ((10, 100), (50, 170)):
        world.run(begin + start * MINUTE, begin + end * MINUTE).experiment = "exp-9"
    world.run(begin, begin + 2 * HOUR, params={"instance_type": M5.name})
    world.run(begin + 5 * HOUR, begin + 6 * HOUR).tags["runspend.instance_id"] = "i-0000000000000000f"  # of no bill
    world.run(begin + 7 * HOUR, begin + 8 * HOUR).tags["runspend.instance_id"] = rented.name  # of another time
    bill_teams(world)
    bill_september(world)
    world.run(begin + 3 * HOUR, begin + 3 * HOUR)
    world.bill_machines()
    run_job(world, "700001", begin + 9 * HOUR, is_sagemaker=False)
    world.billed = len(world.machines)
    for hour in range(3):
        disk = {
            "ResourceId": "arn:aws:ec2:eu-west-1:111122223333:volume/vol-1",
            "ServiceName": "Amazon EBS",
            "ServiceCategory": "Storage",
            "SkuId": "gp3",
        }
        tags = json.dumps({"runspend.attached_to": shared.name})
        world.lines.append(
            bill_line(
                begin + hour * HOUR,
                begin + (hour + 1) * HOUR,
                Decimal("0.066"),
                {SHARED: Fraction(1)},
                **disk,
                ConsumedQuantity="0.68",
                ConsumedUnit="GB-Months",
                Tags=tags,
            )
        )
    world.lines.append(
        bill_line(
            begin,
            begin + 2 * DAY,
            Decimal("12.5"),
            {SHARED: Fraction(1)},
            ChargeCategory="Purchase",
            ServiceName="AWS Support (Business)",
            SkuId="support",
        )
    )
    world.experiment_tags[alive.experiment] = {"runspend.budget": "900 USD / month"}
    world.experiment_tags["exp-9"] = {"runspend.budget": "50 USD / month", "owner": "ops@example.com"}
    bill_bucket(world)
    bill_the_rest(world)
    del world.lines[-42:]  # of the other department's database six hours are enough
    (folder / "artifacts").mkdir(parents=True)
    (folder / "cellar").mkdir()
    (folder / "bills").mkdir()
    write_store(schema, folder / "mlflow.db", world, (folder / "artifacts").as_uri())
    with sqlite3.connect(folder / "mlflow.db") as db:
        db.execute("update runs set status = 'FAILED' where run_uuid = ?", [world.runs[1].run_id])
        db.execute("update runs set start_time = null where run_uuid = ?", [world.runs[-1].run_id])
        db.execute(
            "update runs set artifact_uri = replace(artifact_uri, '/artifacts', '//artifacts') where run_uuid = ?", [world.runs[3].run_id]
        )
        db.execute("update runs set artifact_uri = ? where run_uuid = ?", [f"s3://{BUCKET}/runs/{alive.run_id}/artifacts", alive.run_id])
        db.execute("insert into registered_models (name) values ('net')")
        version = "insert into model_versions (name, version, creation_time, current_stage, source, run_id, status) values ('net', 1, ?, 'None', '', ?, 'READY')"
        db.execute(version, [(world.begin + DAY) * 1000, parent.run_id])
        keep_files(folder, [row[0] for row in db.execute("select artifact_uri from runs where end_time is not null order by run_uuid")])
    db.close()
    (folder / "runspend.yaml").write_text(json.dumps(SETTINGS), encoding="utf-8")  # JSON is YAML
    return world


def bill_teams(world: World) -> None:
    """One team has a small cost every day since September and one expensive run. The other has a single day, which a later bill lowers."""
    for team, cost, days in (("steady", "1", range(-35, 1)), ("once", "10", range(1))):
        for day in days:
            start = world.begin + day * DAY
            tags = json.dumps({"team": team})
            world.lines.append(
                bill_line(start, start + DAY, Decimal(cost), {NOBODY: Fraction(1)}, ResourceId=f"vol-{team}", SkuId="gp3", Tags=tags)
            )
    world.run(world.begin + 3 * HOUR, None, last_metric=world.begin + DAY, tags={"team": "once"})
    until = world.begin + 2 * DAY  # to where the bill reaches, so that the day is whole
    start = until - 2 * HOUR
    world.run(start, until, world.machine(P4D, [(start, until)]), tags={"team": "steady"})


def keep_files(folder: Path, uris: list[str]) -> None:
    """A file in the artifacts of some runs, and one without an owner."""
    for number, uri in enumerate([*uris, (folder / "artifacts" / "1" / ("e" * 32) / "artifacts").as_uri()]):
        place = Path(uri.removeprefix("file://"))
        place.mkdir(parents=True)
        (place / "weights").write_bytes(b"x" * (number + 1))


def deliver(folder: Path, world: World, *, until: int, is_dearer: bool = False) -> None:
    """Both bills as far as they reach, the first time at other prices."""
    lines = [line for line in world.lines if line.row["ChargePeriodStart"] < f"2026-10-{5 + until // DAY:02d}"]
    if is_dearer:
        lines = [
            Line(
                line.row
                | {c: str(Decimal(line.row[c]) * Decimal("1.1")) for c in ("ListCost", "ContractedCost", "EffectiveCost", "BilledCost")},
                line.shares,
            )
            for line in lines
        ]
    write_bill(folder / "bills" / "bill", lines, "", "1.2")
    euro = [
        bill_line(
            world.begin + h * DAY // 2,
            world.begin + (h + 1) * DAY // 2,
            Decimal("0.70"),
            {NOBODY: Fraction(1)},
            ResourceId=f"exo-{h % 2}",
            **EURO,
        )
        for h in range(4)
    ]
    euro[0].row["BilledCost"] = "a lot"  # for the quarantine
    write_bill(folder / "bills" / "euro", euro, "", "1.2")


def record_archive(folder: Path, run_id: str) -> None:
    """What `archive apply` leaves of a run: its artifacts are not in their place, they went to the archive in September."""
    place = folder_of(folder, run_id)
    shutil.rmtree(place)
    prefix, when = place.relative_to(folder / "artifacts").as_posix(), "2026-09-10T06:00:00+00:00"
    item = Item(
        policy="old", policy_digest="0" * 8, action="archive", to=str(folder / "cellar"), tracking_server="lab", workspace="default", owner_kind="run", owner_id=run_id,
        experiment_id=prefix.partition("/")[0], run_id=run_id, artifact_uri=place.as_uri(), store=str(folder / "artifacts"), prefix=prefix, storage_class=None, objects=1, bytes=9,
    )  # fmt: skip
    ArchiveRecords(Records(folder / "home")).save(
        Archive("a" * 32, item, when, state="archived", to=item.to, objects=1, bytes=9, ended_at=when)
    )


def folder_of(folder: Path, run_id: str) -> Path:
    """Return the folder of a run's artifacts."""
    return next((folder / "artifacts").glob(f"*/{run_id}/artifacts"))


def add_late_run(folder: Path, machine: str) -> str:
    """A run of October on a machine of the bill that MLflow has only now; returns its id."""
    with sqlite3.connect(folder / "mlflow.db") as db:
        db.execute("create temp table late as select * from runs where end_time is not null order by run_uuid limit 1")
        db.execute("update late set run_uuid = ?", ["late" * 8])
        db.execute("insert into runs select * from late")
        db.execute("insert into tags (key, value, run_uuid) values ('runspend.instance_id', ?, ?)", [machine, "late" * 8])
    db.close()
    return "late" * 8


def explore(reader: Reader, settings: Settings) -> None:
    """What pages of the cost explorer ask: every step, order and kind of group."""
    newest = newest_day(reader)
    assert newest is not None
    search(reader, "e")
    assert read_model(reader, settings, "net") is not None
    assert read_experiment(reader, settings, "exp-0") is not None
    read_home(reader, settings, Records(settings.home), datetime.fromisoformat(f"{SECOND}+00:00"), currency="USD")
    day = f"{newest}"  # compared with the day before
    for query in (
        {"from": day},
        {"by": "team,experiment", "sort": "-change", "every": "week", "from": day},
        {"by": "service,region", "sort": "name", "every": "month", "compare": "none"},
        {"by": "user,kind", "sort": "cost", "team": "vision", "top": "2", "from": day},
        {"by": "source", "sort": "-name", "currency": "USD", "from": day},
        {"by": "allocated_to", "allocated_to": "run", "measure": "billed", "every": "month", "compare": "none"},
        {"by": "model", "every": "month", "compare": "none"},
        {"by": "team,service", "spread": "1", "from": "2026-10-06"},
        {"by": "team,instance_type", "currency": "USD", "from": day},
    ):
        read_figures(reader, settings, View.of(list(query.items()), newest), newest)
    machines = read_figures(reader, settings, View.of([("by", "machine,run"), ("from", "2026-10-06")], newest), newest).groups
    read_machine(reader, settings, next(group.values[0] for group in machines if group.values[0]))


def ask_as_programs(reader: Reader) -> None:
    """What the HTTP API and the DAGs ask and no command here: pages of runs, one run, the state of sources, why there is no pool, totals."""
    assert newest_build(reader) is not None
    rows = read_run_costs(reader, ChosenRuns(limit=3, offset=1)).to_pylist()
    read_run_costs(reader, ChosenRuns(run=RunKey(*(rows[0][name] for name in ("tracking_server", "workspace", "run_id")))))
    read_sources(reader)
    found = read_evidence(reader, date(2026, 10, 1), "USD")
    assert found is not None
    why_nothing(reader, date(2026, 10, 1), replace(found, machines=(), runs=()), 0)
    assert scope_proposal(reader, date(2026, 10, 1)).entries  # as without a scope, beside other months
    for asset in TOTALS:
        assert read_totals(reader, asset).num_rows, asset


def work(folder: Path, world: World, run: Command) -> None:
    """Nights, questions, an export, a rename: `run` is given the words of a command line."""
    config = ("--config", str(folder / "runspend.yaml"))
    record_archive(folder, next(one.run_id for one in world.runs if one.start < world.begin))
    deliver(folder, world, until=DAY, is_dearer=True)
    run("nightly", *config, "--now", FIRST)
    record_bucket(folder / "runspend.yaml")
    deliver(folder, world, until=2 * DAY)
    shutil.rmtree(folder_of(folder, world.runs[0].run_id))  # by no policy: its bytes are gone
    run("nightly", *config, "--now", SECOND)
    rebuilt_months(open_warehouse(load_settings(folder / "runspend.yaml")), "lab")  # what an extract through MLflow's API asks first
    with open_warehouse(load_settings(folder / "runspend.yaml")).reader() as reader:  # what `annotate` asks before it writes
        wanted_runs(reader, "lab", "")
        wanted_experiments(reader, "lab", datetime.fromisoformat(f"{SECOND}+00:00"))
        wanted_models(reader, "lab")
        are_versions_read(reader, "lab")
        explore(reader, load_settings(folder / "runspend.yaml"))
        ask_as_programs(reader)
    library = connect(folder / "runspend.yaml")
    library.run_costs(since="2026-10-06", until="2026-10-06")
    now = (*config, "--now", SECOND)
    for words in (
        ["--by", "team,experiment"],
        ["--by", "kind,allocated_to,day", "--since", "2026-10", "--measure", "list"],
        ["--by", "source", "--each-currency"],
        ["--since", "2026-10"],
        ["--since", "2030-01"],
        ["--by", "kind", "--period", "2026-10", "--until", "2026-10-20"],
        ["--by", "owner", "--since", "2026-10-02", "--where", "team=", "--where", "team=vision", "--where", "kind=compute"],
    ):
        run("costs", *words, *now)
    run("statement", "--team", "all", "--period", "2026-10", "--no-pdf", *now)
    for words in (["--by", "source,service"], ["--by", "day", "--since", "2026-10", "--measure", "billed"]):
        run("costs", "--as-of", "2026-10-06", *words, *now)
    run("costs", "--as-of", "2020-01-01", *now)
    for words in ([], ["--param", "lr=0.1"], ["--param", "epochs=3"]):
        run("forecast", "--experiment", "exp-0", *words, *now)
    run("live", *now)
    run("live", *config, "--now", SECOND.replace("06:00", "06:30"))
    run("live", "nothing", *now)
    run("export", "prices", *now)
    run("doctor", "--quick", *now)
    run("check", *now)
    run("suggest", *now)
    for one in (*world.runs[4:16], *world.runs[-3:], "0" * 8):
        run("explain", one if isinstance(one, str) else one.run_id, "--history", *now)
    run("explain", world.runs[0].run_id, "--period", "2026-10", *now)
    lines = json.loads(
        run(
            "sql",
            "select min(b.line_id) as one, min(c.line_id) as pooled from billing_lines b cross join charge_lines c",
            "--json",
            "--quiet",
            *now,
        )
    )[0]
    for words in (
        ["--resource", world.machines[0].name],
        ["--resource", "exo"],
        ["--line", lines["one"][:8]],
        ["--line", lines["pooled"]],
        ["run-10"],
    ):
        run("explain", *words, *now)
    for scope, version in (("all", "1.3"), ("platform", "1.4")):
        run(
            "export",
            "focus",
            "--period",
            "2026-10",
            "--scope",
            scope,
            "--focus-version",
            version,
            "--out",
            str(folder / f"{scope}.csv"),
            *now,
        )
    run("archive", "plan", *now)
    run("budgets", "list", *now)
    run("warehouse", "copy", "--from", str(folder / "home" / "warehouse"), "--to", str(folder / "copy"), *now)
    run("nightly", *config, "--now", LATER)  # the month is closed by then
    late = add_late_run(folder, world.machines[0].name)
    for step in ("extract", "allocate"):
        run(step, *config, "--now", LATER)
    run("status", *config, "--now", LATER)
    run("explain", late, *config, "--now", LATER)
    archived = next(one.run_id for one in world.runs if one.start < world.begin)
    for one in (late, archived, min((folder / "artifacts").glob("*/*/artifacts/weights")).parents[1].name):
        run("archive", "why", one, *config, "--now", LATER)
    run("archive", "keep", late, *config, "--now", LATER)
    (folder / "runspend.yaml").write_text(json.dumps(SETTINGS).replace('"euro"', '"swiss"').replace('"lab"', '"labs"'), encoding="utf-8")
    for names in (("euro", "swiss"), ("lab", "labs")):
        run("sources", "rename", *names, *config, "--now", LATER)
    run("alert", *config, "--now", LATER)  # its records follow the new names
    settings = {name: value for name, value in SETTINGS.items() if name != "scope"}
    (folder / "runspend.yaml").write_text(json.dumps(settings), encoding="utf-8")
    run("doctor", *config, "--now", LATER)
