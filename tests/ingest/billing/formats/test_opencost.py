"""OpenCost's three outputs: their weights, their idle cost, which files count, and how the pipeline treats a source that is not a bill."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from runspend import pipeline
from runspend.config.settings import BillSource, Settings, load_settings
from runspend.core.errors import ConfigError, SourceRefused
from runspend.ingest.billing import Read, read_weights
from runspend.interfaces import doctor
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from tests.focus_files import NOW, Nights, nights, row, write_bytes, write_csv

DAY = ("2026-10-05T00:00:00Z", "2026-10-06T00:00:00Z")
LAST_SECOND = ("2026-10-05T00:00:00Z", "2026-10-05T23:59:59Z")
WHOLE_DAY = {"ChargePeriodStart": DAY[0], "ChargePeriodEnd": DAY[1]}
NODE = "i-0abcdef0123456789"
RUN = "0123456789abcdef0123456789abcdef"


def allocation(
    pod: str, cpu: float | str = 0, ram: float | str = 0, *, at: tuple[str, str] = DAY, node: str | None = NODE, **other: Any
) -> dict[str, Any]:
    """Return one allocation as the API writes it. `__idle__` and `__unmounted__` have no namespace."""
    labels = other.pop("labels", None)
    where = {"cluster": "ml", **({"node": "ip-10-0-0-1", "providerID": node} if node else {})}
    what = (
        {}
        if pod.startswith("__")
        else {"namespace": "train", "pod": pod, "container": "main", "controller": "job", "controllerKind": "job"}
    )
    properties = {**where, **what, **({"labels": labels} if labels else {})}
    return {
        "name": "/".join(["ml", "ip-10-0-0-1", "train", pod, "main"] if what else ["ml", pod]),
        "properties": properties,
        "window": {"start": at[0], "end": at[1]},
        "start": at[0],
        "end": at[1],
        "cpuCost": cpu, "cpuCostAdjustment": 0, "gpuCost": 0, "gpuCostAdjustment": 0, "ramCost": ram, "ramCostAdjustment": 0,
        "pvCost": 9, "networkCost": 9, "sharedCost": 9, "totalCost": 99,
        **other,
    }  # fmt: skip


def answer(*steps: Sequence[dict[str, Any]]) -> bytes:
    """Return an answer of `/allocation`."""
    return json.dumps({"code": 200, "status": "success", "data": [{each["name"]: each for each in step} for step in steps]}).encode()


def flat(what: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested objects as columns with dotted names."""
    found: dict[str, Any] = {}
    for key, value in what.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


def parquet(path: Path, *allocations: dict[str, Any]) -> Path:
    """Write allocations as the Parquet exporter flattens and renames them."""
    names = {"start": "running_start_time", "end": "running_end_time", "properties.labels.team": "label.team"}
    rows = [{names.get(k, k): float(v) if k.endswith("Cost") else v for k, v in flat(each).items()} for each in allocations]
    columns = sorted({name for each in rows for name in each})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([{name: each.get(name) for name in columns} for each in rows]), path)
    return path


def csv_export(*pods: Mapping[str, Any], label: str = "Label_mlflow_run_id") -> bytes:
    """Return the CSV export, which names neither cluster nor machine."""
    header = [
        "Date",
        "Namespace",
        "ControllerKind",
        "ControllerName",
        "Pod",
        "Container",
        "CPUCost",
        "RAMCost",
        "NetworkCost",
        "PVCost",
        "GPUCost",
        "TotalCost",
        label,
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="0", lineterminator="\n")
    writer.writeheader()
    writer.writerows({"Date": "2026-10-05", "Namespace": "train", "Container": "main", label: "", **pod} for pod in pods)
    return out.getvalue().encode()


def read(folder: Path, **settings: Any) -> Read:
    source = BillSource.model_validate({"name": "k8s", "format": "opencost", "uri": str(folder / "opencost"), **settings})
    return read_weights(source, workdir=folder / "work-of-weights", progress=lambda line: None)


def split(tmp_path: Path, rows: Sequence[dict[str, str]], **settings: Any) -> tuple[Nights, dict[str, Any]]:
    """Return a bill split by the files in the folder `opencost`, and the warnings of the load."""
    bill = nights(tmp_path, write_csv(tmp_path / "bills" / "part.csv", rows, header=sorted({name for each in rows for name in each})))
    return bill, bill.load(weights=[read(tmp_path, **settings).weights]).extra["warnings"]


def parts(bill: Nights, column: str = "effective_cost") -> dict[Any, Decimal]:
    sums: dict[Any, Decimal] = defaultdict(Decimal)
    for each in bill.lines():
        sums[each["allocated_resource_name"]] += each[column]
    return dict(sums)


# --- formats -----------------------------------------------------------------------------------------------------------


def test_the_api_and_the_parquet_exporter_give_the_same_weights(tmp_path: Path) -> None:
    """A weight is CPU, GPU and memory cost with adjustments.

    Disks and network have lines of their own, and containers of a pod are one part.
    """
    allocations = [
        allocation("a", 2.5, 1.5, labels={"mlflow_run_id": RUN, "team": "vision"}),
        allocation("b", 3, 1, gpuCost=3, ramCostAdjustment=-1),
        allocation("__idle__", 1),
    ]
    write_bytes(tmp_path / "one" / "opencost" / "answer.json", answer(allocations))
    parquet(tmp_path / "two" / "opencost" / "k8s.parquet", *allocations)
    for folder in (tmp_path / "one", tmp_path / "two"):
        bill, _ = split(folder, [row("11.00", **WHOLE_DAY, ResourceId=NODE)])
        assert parts(bill) == {"a": Decimal("4.00"), "b": Decimal("6.00"), None: Decimal("1.00")}
        by_name = {each["allocated_resource_name"]: each for each in bill.lines()}
        assert (by_name["a"]["run_tag"], json.loads(by_name["a"]["allocated_tags"])["team"]) == (RUN, "vision")
        assert (by_name["a"]["allocated_resource_id"], by_name["a"]["resource_key"]) == ("k8s://ml/train/a", "k8s://ml/train/a")
        assert (by_name["a"]["allocated_method_id"], by_name["a"]["allocated_method_details"]) == ("opencost", '{"source":"k8s"}')
        assert (by_name[None]["resource_key"], by_name[None]["allocated_resource_id"], by_name[None]["allocated_tags"]) == (
            NODE,
            None,
            None,
        )
        assert {each["resource_id"] for each in bill.lines()} == {NODE}


def test_the_csv_export_splits_all_lines_that_the_setting_lines_selects(tmp_path: Path) -> None:
    """The export names no machine and no cluster. All machines of the cluster are split by the weights of the day."""
    pods = [{"Pod": "a", "CPUCost": "1.5", "RAMCost": "0.5", "Label_mlflow_run_id": RUN}, {"Pod": "b", "CPUCost": "2"}]
    write_bytes(tmp_path / "opencost" / "export.csv", csv_export(*pods))
    cluster = {"Tags": '{"aws:eks:cluster-name":"ml"}'}
    rows = [row("6.00", ResourceId="i-1", **cluster), row("2.00", ResourceId="i-2", **cluster), row("5.00", ResourceId="i-3")]
    bill, _ = split(tmp_path, rows, lines={"tag.aws:eks:cluster-name": "ml"}, idle="share")
    assert parts(bill) == {"a": Decimal("4.00"), "b": Decimal("4.00"), None: Decimal("5.00")}
    assert sorted((each["resource_id"], each["effective_cost"]) for each in bill.lines() if each["run_tag"] == RUN) == [
        ("i-1", 3),
        ("i-2", 1),
    ]


def test_the_lines_may_be_those_of_an_instance_type(tmp_path: Path) -> None:
    """Weights are split before Runspend describes machines, but the type of a line is already known. Its case does not matter."""
    write_bytes(tmp_path / "opencost" / "export.csv", csv_export({"Pod": "a", "CPUCost": "1"}))
    large = {"SkuPriceDetails": '{"InstanceType":"m5.large"}'}
    rows = [row("6.00", ResourceId="i-1", **large), row("5.00", ResourceId="i-2", SkuPriceDetails='{"InstanceType":"c5.large"}')]
    bill, _ = split(tmp_path, rows, lines={"instance_type": "M5.*"}, idle="share")
    assert parts(bill) == {"a": Decimal("6.00"), None: Decimal("5.00")}


def test_without_lines_weights_must_name_machines(tmp_path: Path) -> None:
    """If a pod names no machine, its machine would lack it, and its cost would count as idle."""
    write_bytes(tmp_path / "opencost" / "export.csv", csv_export({"Pod": "a", "CPUCost": "1"}))
    with pytest.raises(SourceRefused, match=r"1 allocations do not name a machine, such as a\. Ask OpenCost without `aggregate`"):
        read(tmp_path)


def test_opencosts_own_examples_are_read(tmp_path: Path, samples: Path) -> None:
    """The examples are three namespaces for a week and one pod on two days. Rounding makes 1.77811 of 1.77816."""
    for name in ("allocation-example-output.json", "export-sample.csv"):
        (tmp_path / name / "opencost").mkdir(parents=True)
        shutil.copy(samples / "opencost" / name, tmp_path / name / "opencost")
    found = read(tmp_path / "allocation-example-output.json", lines={"service": "*"})
    costs = {each["part_name"]: each["weight"] for each in found.weights.rows.to_pylist()}
    assert costs == {"kube-system": Decimal("1.52743"), "opencost": Decimal("0.10936"), "prometheus": Decimal("0.14136")}
    assert (found.rows, found.clusters, found.has_idle) == (3, ("default-cluster",), False)
    found = read(tmp_path / "export-sample.csv", lines={"service": "*"})
    assert [each["weight"] for each in found.weights.rows.to_pylist()] == [Decimal("0.010493746736011505")] * 2
    assert found.covered_until == datetime(2023, 1, 3, tzinfo=timezone.utc)
    assert json.loads(found.weights.rows.to_pylist()[0]["part_tags"]) == {"app": "opencost", "team": "my-team", "component": "server"}


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        (
            "a.json",
            b'{"code":500,"message":"no data for window"}',
            r"it is not an answer of OpenCost's /allocation, which has a list `data` \(no data for window\)",
        ),
        ("a.json", b'{"a":' * 20_000 + b"1" + b"}" * 20_000, r"not an answer of OpenCost's /allocation, which has a list `data`\. Save"),
        ("a.json", b'{"data": [', "it is not JSON"),
        ("a.csv", b"Date,Pod\n2026-10-05,a\n", "header"),
        ("a.csv", csv_export({"Pod": "a", "CPUCost": "much"}), "unreadable, row 1: its time or its cost cannot be read"),
        ("a.csv", csv_export({"Pod": "a", "CPUCost": "1", "Date": "5/10/26"}), "unreadable, row 1"),
    ],
)
def test_a_file_that_cannot_be_read_refuses_the_source(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    """If some weights were missing, other pods would get their money."""
    write_bytes(tmp_path / "opencost" / name, data)
    with pytest.raises(SourceRefused, match=why):
        read(tmp_path, lines={"service": "*"})


def test_allocations_in_the_place_of_a_bill_are_refused(tmp_path: Path) -> None:
    bill = nights(tmp_path, write_bytes(tmp_path / "bills" / "export.csv", csv_export({"Pod": "a", "CPUCost": "1"})))
    with pytest.raises(SourceRefused, match="OpenCost allocations, which are not a bill"):
        bill.load()


# --- rounding and idle cost --------------------------------------------------------------------------------------------


def test_costs_that_the_api_rounds_to_zero_have_no_weight_but_exports_keep_them(tmp_path: Path) -> None:
    """In the CSV, 1,000 steps of 0.0000049 weigh 0.0049.

    The API's five decimals make each of them 0, which is counted, and the line is not split.
    """
    small = [{"Pod": "a", "Container": f"c{n}", "CPUCost": "0.0000049"} for n in range(1000)]
    write_bytes(tmp_path / "csv" / "opencost" / "export.csv", csv_export(*small, {"Pod": "b", "CPUCost": "0.0051"}))
    bill, _ = split(tmp_path / "csv", [row("100.00", **WHOLE_DAY)], lines={"service": "*"}, idle="share")
    assert parts(bill) == {"a": Decimal("49.00"), "b": Decimal("51.00")}
    write_bytes(tmp_path / "api" / "opencost" / "answer.json", answer([allocation("a", round(0.0000049, 5))]))
    found = read(tmp_path / "api")
    assert (found.rows, dict(found.skip_reasons)) == (0, {"weights of no cost": 1})
    bill, _ = split(tmp_path / "api", [row("100.00", **WHOLE_DAY, ResourceId=NODE)])
    assert parts(bill) == {None: Decimal("100.00")}


def test_idle_cost_is_a_separate_part_of_the_node(tmp_path: Path) -> None:
    """Pods for 7.00 and idle cost of 3.00 sum to the node's 10.00, also if the window lacks its last second."""
    for name, window in (("day", DAY), ("second", LAST_SECOND)):
        allocations = [allocation("a", 4, at=window), allocation("b", 3, at=window), allocation("__idle__", 3, at=window)]
        write_bytes(tmp_path / name / "opencost" / "answer.json", answer(allocations))
        bill, _ = split(tmp_path / name, [row("10.00", **WHOLE_DAY, ResourceId=NODE)])
        assert parts(bill) == {"a": Decimal("4.00"), "b": Decimal("3.00"), None: Decimal("3.00")}


def test_every_hour_of_a_window_without_its_last_second_is_split(tmp_path: Path) -> None:
    allocations = [allocation("a", 4, at=LAST_SECOND), allocation("b", 3, at=LAST_SECOND), allocation("__idle__", 3, at=LAST_SECOND)]
    write_bytes(tmp_path / "opencost" / "answer.json", answer(allocations))
    ends = [f"2026-10-05T{h:02d}:00:00Z" for h in range(1, 24)] + [DAY[1]]
    rows = [row("10.00", ResourceId=NODE, ChargePeriodStart=f"2026-10-05T{h:02d}:00:00Z", ChargePeriodEnd=ends[h]) for h in range(24)]
    bill, _ = split(tmp_path, rows)
    assert bill.total() == 240
    assert {name: round(cost, 4) for name, cost in parts(bill).items()} == {"a": 96, "b": 72, None: 72}
    assert len(bill.lines()) == 24 * 3  # the last hour is split too


@pytest.mark.parametrize(
    ("idle", "cost", "expected"),
    [
        ("keep", "10.00", {"a": "4.00", "b": "3.00", None: "3.00"}),  # the rest of the machine's cost is idle
        ("share", "10.00", {"a": "5.7142857142857142857142", "b": "4.2857142857142857142858"}),  # `share` was chosen explicitly
        ("keep", "3.50", {"a": "2.00", "b": "1.50"}),  # the pods claim more than the machine costs: scaled, with a warning
    ],
)
def test_without_an_idle_row_idle_cost_stays_idle_unless_pods_share_it(
    tmp_path: Path, idle: str, cost: str, expected: dict[Any, str]
) -> None:
    write_bytes(tmp_path / "opencost" / "answer.json", answer([allocation("a", 4), allocation("b", 3)]))
    bill, reported = split(tmp_path, [row(cost, **WHOLE_DAY, ResourceId=NODE)], idle=idle)
    assert parts(bill) == {name: Decimal(each) for name, each in expected.items()}
    assert reported.get("windows_whose_pods_claim_more_than_the_machine_cost", 0) == (cost == "3.50")
    assert {json.loads(each["allocated_method_details"]).get("is_scaled", False) for each in bill.lines()} == {cost == "3.50"}


def test_traffic_is_split_like_its_machine_and_does_not_make_it_idle(tmp_path: Path) -> None:
    """Pods for 7.00 on a machine for 10.00 leave 3.00 idle. The machine's traffic for 2.00 is split in the same way."""
    write_bytes(tmp_path / "opencost" / "answer.json", answer([allocation("a", 7)]))
    day = {**WHOLE_DAY, "ResourceId": NODE}
    bill, _ = split(tmp_path, [row("10.00", **day, ServiceCategory="Compute"), row("2.00", **day, ServiceCategory="Networking")])
    assert parts(bill) == {"a": Decimal("8.40"), None: Decimal("3.60")}


def test_stated_idle_cost_is_shared_if_sharing_is_on(tmp_path: Path) -> None:
    write_bytes(tmp_path / "opencost" / "answer.json", answer([allocation("a", 4), allocation("b", 4), allocation("__idle__", 2)]))
    bill, _ = split(tmp_path, [row("10.00", **WHOLE_DAY, ResourceId=NODE)], idle="share")
    assert parts(bill) == {"a": Decimal("5.00"), "b": Decimal("5.00")}


def test_rows_of_no_machine_are_dropped_and_counted(tmp_path: Path) -> None:
    """These are volumes that no pod mounts, idle cost of a whole cluster, and weights of zero or less."""
    odd = [allocation("__unmounted__", 5, node=None), allocation("__idle__", 5, node=None), allocation("c", -1), allocation("d", 0)]
    write_bytes(tmp_path / "opencost" / "answer.json", answer([allocation("a", 10), *odd]))
    found = read(tmp_path)
    assert dict(found.skip_reasons) == {
        "volumes that no pod mounts": 1, "weights below zero": 1, "weights of no cost": 1,
        "idle of a whole cluster (OpenCost states it for each machine with idleByNode=true)": 1,
    }  # fmt: skip
    bill, _ = split(tmp_path, [row("10.00", **WHOLE_DAY, ResourceId=NODE)])
    assert parts(bill) == {"a": Decimal("10.00")}


# --- files -------------------------------------------------------------------------------------------------------------


def test_only_the_newest_export_of_a_step_counts(tmp_path: Path) -> None:
    old, new = answer([allocation("a", 9), allocation("b", 1)]), answer([allocation("a", 4), allocation("b", 6)])
    write_bytes(tmp_path / "opencost" / "z-first.json", old, at=datetime(2026, 10, 6, 1, tzinfo=timezone.utc))
    write_bytes(tmp_path / "opencost" / "a-second.json", new, at=datetime(2026, 10, 6, 2, tzinfo=timezone.utc))
    write_bytes(tmp_path / "opencost" / "b-copy.json", new, at=datetime(2026, 10, 6, 3, tzinfo=timezone.utc))
    assert read(tmp_path).skip_reasons["of a step that a newer file holds"] == 2
    bill, _ = split(tmp_path, [row("10.00", **WHOLE_DAY, ResourceId=NODE)])
    assert parts(bill) == {"a": Decimal("4.00"), "b": Decimal("6.00")}


def test_two_clusters_of_one_name_both_count(tmp_path: Path) -> None:
    """OpenCost names every cluster `cluster-one` until someone changes it. Files without a common machine replace nothing."""
    for name, node, pod in (("a", NODE, "a"), ("b", "i-0b", "b")):
        write_bytes(tmp_path / "opencost" / f"{name}.json", answer([allocation(pod, 4, node=node), allocation("__idle__", 6, node=node)]))
    assert "of a step that a newer file holds" not in read(tmp_path).skip_reasons
    bill, _ = split(tmp_path, [row("10.00", **WHOLE_DAY, ResourceId=node) for node in (NODE, "i-0b")])
    assert parts(bill) == {"a": Decimal("4.00"), "b": Decimal("4.00"), None: Decimal("12.00")}


@pytest.mark.parametrize("again", [NODE.upper().replace("I-", "i-"), f"aws:///eu-west-1a/{NODE}", None])
def test_an_export_that_names_the_machine_in_another_way_is_the_same_step(tmp_path: Path, again: str | None) -> None:
    """Without a provider id, its node has only a name; an export of idle cost alone has none either."""
    old, new = [allocation("a", 9), allocation("b", 1)], [allocation("a", 4, node=again), allocation("b", 6, node=again)]
    if again is None:
        new = [{**each, "properties": {**each["properties"], "node": "ip-10-0-0-1"}} for each in new]
    for number, export in enumerate((old, new)):
        at = datetime(2026, 10, 6, number, tzinfo=timezone.utc)
        write_bytes(tmp_path / "opencost" / f"{number}.json", answer(export), at=at)
    assert read(tmp_path).skip_reasons["of a step that a newer file holds"] == 2


def test_steps_that_overlap_are_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "opencost" / "day.json", answer([allocation("a", 1)]))
    write_bytes(tmp_path / "opencost" / "hour.json", answer([allocation("a", 1, at=("2026-10-05T10:00:00Z", "2026-10-05T11:00:00Z"))]))
    with pytest.raises(
        SourceRefused, match=r"its steps 2026-10-05 00:00:00 to 2026-10-06 00:00:00 and 2026-10-05 10:00:00 to 2026-10-05 11:00:00"
    ):
        read(tmp_path)


def test_the_order_of_files_and_rows_changes_nothing(tmp_path: Path) -> None:
    hours = [(f"2026-10-05T{h:02d}:00:00Z", f"2026-10-05T{h + 1:02d}:00:00Z") for h in range(4)]
    steps = [[allocation("a", h + 1, at=at), allocation("b", 2, at=at), allocation("__idle__", 0.5, at=at)] for h, at in enumerate(hours)]
    for n, step in enumerate(steps):
        write_bytes(tmp_path / "one" / "opencost" / f"{n}.json", answer(step))
    write_bytes(tmp_path / "two" / "opencost" / "all.jsonl", b"\n".join(answer(step[::-1]) for step in steps[::-1]))
    rows = [row("7.00", ResourceId=NODE, ChargePeriodStart=start, ChargePeriodEnd=end) for start, end in hours]
    assert split(tmp_path / "one", rows)[0].lines() == split(tmp_path / "two", rows[::-1])[0].lines()


# --- in the pipeline ---------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with two bills and a source that splits one of them."""
    for name in ("aws", "other"):
        write_csv(tmp_path / "bills" / name / "part.csv", [row("10.00", **WHOLE_DAY, ResourceId=NODE, BillingAccountId=name)])
    write_bytes(tmp_path / "opencost" / "answer.json", answer([allocation("a", 4), allocation("b", 6)]))
    return write_config(tmp_path, splits=["aws"])


def write_config(folder: Path, **given: Any) -> Path:
    late = {"late_after": "400d"}
    billing = [
        {"name": "aws", "uri": "bills/aws", **late},
        {"name": "other", "uri": "bills/other", **late},
        {"name": "k8s", "format": "opencost", "uri": "opencost", **late, **given},
    ]
    path = folder / "runspend.yaml"
    path.write_text(yaml.safe_dump({"home": "home", "billing": billing, "mail": {"backend": "none"}}))
    return path


def published(settings: Settings, name: str) -> list[tuple[Any, Decimal]]:
    rows = open_warehouse(settings).read(Unit("billing_lines", "2026-10", name))
    assert rows is not None
    return sorted((each["allocated_resource_name"], each["effective_cost"]) for each in rows.to_pylist())


def sources(settings: Settings) -> dict[str, dict[str, Any]]:
    with open_warehouse(settings).reader() as reader:
        return {
            each["source"]: each
            for each in reader.query("select source, kind, state, row_count, covered_until, last_error from sources").to_pylist()
        }


def test_a_load_splits_the_bills_that_are_named(config: Path) -> None:
    """The source has a row in `sources`, but no lines and no periods. Another load changes nothing."""
    settings = load_settings(config)
    outcome = pipeline.load(settings, now=NOW)
    assert outcome.exit_code == 0, outcome.problems
    assert published(settings, "aws") == [("a", Decimal("4.00")), ("b", Decimal("6.00"))]
    assert published(settings, "other") == [(None, Decimal("10.00"))]
    reported = sources(settings)["k8s"]
    assert (reported["kind"], reported["state"], reported["row_count"]) == ("splits", "ok", 2)
    assert reported["covered_until"] == datetime(2026, 10, 6, tzinfo=timezone.utc)
    assert {unit.table for unit in open_warehouse(settings).states() if unit.writer == "k8s"} == {"sources"}
    assert pipeline.load(settings, now=NOW).changed == []


def test_a_source_without_splits_splits_every_bill(config: Path) -> None:
    settings = load_settings(write_config(config.parent))
    pipeline.load(settings, now=NOW)
    assert published(settings, "other") == published(settings, "aws") == [("a", Decimal("4.00")), ("b", Decimal("6.00"))]


@pytest.mark.parametrize("broken", ["gone", "cut", "empty"])
def test_a_source_that_cannot_be_read_keeps_the_bills_it_splits_as_they_were(config: Path, broken: str) -> None:
    """The exit code is 3. The split bill stays as it was although it has new rows, and the other bill is loaded."""
    settings = load_settings(config)
    pipeline.load(settings, now=NOW)
    folder = config.parent / "opencost"
    if broken == "gone":
        shutil.rmtree(folder)
    elif broken == "empty":
        (folder / "answer.json").unlink()
    else:
        write_bytes(folder / "answer.json", answer([allocation("a", 4)])[:40])
    for name in ("aws", "other"):
        write_csv(config.parent / "bills" / name / "part.csv", [row("20.00", **WHOLE_DAY, ResourceId=NODE, BillingAccountId=name)])
    outcome = pipeline.load(settings, now=NOW)
    assert outcome.exit_code == 3
    assert published(settings, "aws") == [("a", Decimal("4.00")), ("b", Decimal("6.00"))]
    assert published(settings, "other") == [(None, Decimal("20.00"))]
    reported = sources(settings)
    assert reported["aws"]["state"] == "refused" and "its lines are split by k8s, which cannot be read" in reported["aws"]["last_error"]
    assert reported["k8s"]["state"] == ("unreachable" if broken == "gone" else "refused")
    assert (reported["k8s"]["row_count"], reported["other"]["state"]) == (2, "ok")


def test_doctor_shows_the_number_of_weights(config: Path) -> None:
    settings = load_settings(config)
    given = [(f.level, f.text) for f in doctor.diagnose(settings, now=NOW) if f.name == "k8s"]
    assert (
        given[0][0] == "ok" and "opencost, 1 file, 2 weights of pods on 1 machine, cluster ml, complete to 06 Oct 00:00 UTC" in given[0][1]
    )
    assert any(level == "WARN" and "it has no __idle__ allocation" in text for level, text in given)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"splits": ["gcp"]}, "'gcp' is not a bill whose lines can be split. Bills are aws, other"),
        ({"splits": ["k8s"]}, "'k8s' is not a bill whose lines can be split"),
        ({"idle": "spread"}, "idle"),
        ({"delivery": "parts"}, "`delivery:` belongs to a bill"),
        ({"format": "focus", "lines": {"service": "*"}}, "`lines:` belongs to `format: opencost`"),
    ],
)
def test_mistakes_in_the_configuration_are_reported(config: Path, given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load_settings(write_config(config.parent, **given))


def test_a_bill_without_weights_of_its_month_is_not_split(tmp_path: Path) -> None:
    write_bytes(tmp_path / "opencost" / "answer.json", answer([allocation("a", 4, at=("2026-06-05T00:00:00Z", "2026-06-06T00:00:00Z"))]))
    bill, reported = split(tmp_path, [row("10.00", **WHOLE_DAY, ResourceId=NODE)])
    assert (parts(bill), reported) == ({None: Decimal("10.00")}, {})
