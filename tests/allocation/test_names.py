"""Which name that a run states means which name on the bill, for every kind of name in its shorter and longer forms.

Both sides are written as people and bills write them, and both engines give the same pairs.
"""

from __future__ import annotations

from collections import defaultdict

import duckdb
import pyarrow as pa
import pytest

from runspend.core.resource_keys import job_key_sql, resource_key_sql
from runspend.warehouse.dialect import duckdb_sql, parameter_names
from runspend.warehouse.sql_files import read_sql
from tests.allocation.chain import DAY, PACKAGE, arrow, make_run, query_reference
from tests.reference import GoogleSQL

SAGEMAKER = "arn:aws:sagemaker:{}:{}:training-job/{{0}}"
VERTEX = "projects/{}/locations/{}/customJobs/{{0}}"
AZURE = "/subscriptions/s/resourceGroups/{}/providers/Microsoft.MachineLearningServices/workspaces/{}/jobs/{{0}}"

# name_kind, names that runs state, names on the bill (templates of the short name), and what each statement finds: the positions of its
# names on the bill, and whether the match is sure.
Case = tuple[str, list[str], list[str], dict[int, tuple[list[int], bool]]]
CASES: dict[str, Case] = {
    "two accounts": ("job", [SAGEMAKER.format("us-east-1", 1)], [SAGEMAKER.format("us-east-1", 2)], {}),
    "two regions": ("job", [SAGEMAKER.format("us-east-1", 1)], [SAGEMAKER.format("eu-west-1", 1)], {}),
    "two kinds of job": ("job", [SAGEMAKER.format("us-east-1", 1)], ["arn:aws:sagemaker:us-east-1:1:processing-job/{0}"], {}),
    "one has no region": ("job", ["arn:aws:sagemaker::1:training-job/{0}"], [SAGEMAKER.format("us-east-1", 1)], {0: ([0], True)}),
    "one has no region, another account": ("job", ["arn:aws:sagemaker::2:training-job/{0}"], [SAGEMAKER.format("us-east-1", 1)], {}),
    "a name alone": ("job", ["{0}"], [SAGEMAKER.format("us-east-1", 1)], {0: ([0], True)}),
    "a name that two regions have": ("job", ["{0}"], [SAGEMAKER.format("us-east-1", 1), SAGEMAKER.format("eu-west-1", 1)], {0: ([0, 1], False)}),
    "equal names come first": ("job", [SAGEMAKER.format("us-east-1", 1), "{0}"], ["{0}", SAGEMAKER.format("us-east-1", 1)], {}),
    "two Batch regions": ("job", ["arn:aws:batch:us-east-1:1:job/{0}"], ["arn:aws:batch:us-east-2:1:job/{0}"], {}),
    "two projects": ("job", [VERTEX.format("p", "l")], [VERTEX.format("q", "l")], {}),
    "two locations": ("job", [VERTEX.format("p", "us-central1")], [VERTEX.format("p", "europe-west4")], {}),
    "two kinds of Vertex job": ("job", [VERTEX.format("p", "l")], ["projects/p/locations/l/trainingPipelines/{0}"], {}),
    "a project by number": ("job", [VERTEX.format("123", "l")], [VERTEX.format("p", "l")], {0: ([0], False)}),
    "two projects by number": ("job", [VERTEX.format("123", "l")], [VERTEX.format("124", "l")], {}),
    "two workspaces": ("job", [AZURE.format("g", "w1")], [AZURE.format("g", "w2")], {}),
    "two groups of one workspace name": ("job", [AZURE.format("g", "w")], [AZURE.format("h", "w")], {}),
    "a job's name in its workspace": ("job", ["{0}"], [AZURE.format("g", "w")], {0: ([0], True)}),
    "two clusters' numbers": ("job", ["hydra/7{1}"], ["medusa/7{1}"], {}),
    "a number alone": ("job", ["7{1}"], ["hydra/7{1}"], {0: ([0], True)}),
    "a number alone on the bill": ("job", ["hydra/7{1}"], ["7{1}"], {0: ([0], True)}),
    "a number two clusters' runs state": ("job", ["hydra/7{1}", "medusa/7{1}"], ["7{1}"], {0: ([0], False), 1: ([0], False)}),
    "the number itself is one of three": ("job", ["hydra/7{1}", "medusa/7{1}", "7{1}"], ["7{1}"], {0: ([0], False), 1: ([0], False), 2: ([0], False)}),
    "a slash in any other job": ("job", ["team/{0}"], ["{0}"], {}),
    "instances of two projects": ("machine", ["gce://p/us-central1-a/{0}"], ["//compute.googleapis.com/projects/q/zones/us-central1-a/instances/{0}"], {}),
    "instances of two zones": ("machine", ["gce://p/us-central1-a/{0}"], ["//compute.googleapis.com/projects/p/zones/us-central1-b/instances/{0}"], {}),
    "an instance's name alone": ("machine", ["{0}"], ["projects/p/zones/us-central1-b/instances/{0}"], {0: ([0], True)}),
    "a zone of the region": ("machine", ["gce://p/us-central1-a/{0}"], ["projects/p/regions/us-central1/instances/{0}"], {0: ([0], True)}),
    "a zone of another region": ("machine", ["gce://p/us-central2-a/{0}"], ["projects/p/regions/us-central1/instances/{0}"], {}),
    "a zone and none": ("machine", ["gce://p/us-central1-a/{0}"], ["projects/p/zones/-/instances/{0}"], {0: ([0], True)}),
    "no zone, another project": ("machine", ["gce://q/us-central1-a/{0}"], ["projects/p/zones/-/instances/{0}"], {}),
    "an instance's number": ("machine", ["12345678901234{1}"], ["projects/p/zones/us-central1-b/instances/12345678901234{1}"], {0: ([0], True)}),
    "a number and the project's": (
        "machine", ["projects/99/zones/us-central1-b/instances/22345678901234{1}"], ["projects/p/zones/us-central1-b/instances/22345678901234{1}"], {0: ([0], True)},
    ),
    "pods of two clusters": ("machine", ["arn:aws:eks:us-east-1:1:pod/blue/ns/{0}"], ["arn:aws:eks:us-east-1:1:pod/green/ns/{0}/uid"], {}),
    "pods of two accounts": ("machine", ["arn:aws:eks:us-east-1:1:pod/blue/ns/{0}"], ["arn:aws:eks:us-east-1:2:pod/blue/ns/{0}"], {}),
    "pods of OpenCost's clusters": ("machine", ["k8s://blue/ns/{0}"], ["k8s://green/ns/{0}"], {}),
    "a pod of EKS by its cluster": ("machine", ["k8s://blue/ns/{0}"], ["arn:aws:eks:us-east-1:1:pod/blue/ns/{0}"], {0: ([0], True)}),
    "a pod of EKS by another cluster": ("machine", ["k8s://green/ns/{0}"], ["arn:aws:eks:us-east-1:1:pod/blue/ns/{0}"], {}),
    "a pod by namespace and name": ("machine", ["ns/{0}"], ["k8s://blue/ns/{0}"], {0: ([0], True)}),
    "a pod of another namespace": ("machine", ["other/{0}"], ["k8s://blue/ns/{0}"], {}),
    "one pod on two bills": ("machine", ["ns/{0}"], ["k8s://blue/ns/{0}", "arn:aws:eks:us-east-1:1:pod/blue/ns/{0}"], {0: ([0, 1], True)}),
    "a pod two clusters have": ("machine", ["ns/{0}"], ["k8s://blue/ns/{0}", "k8s://green/ns/{0}"], {0: ([0, 1], False)}),
    "virtual machines of two subscriptions": (
        "machine", ["/subscriptions/a/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/{0}"],
        ["/subscriptions/b/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/{0}"], {},
    ),
    "a path of no cloud": ("machine", ["rack-1/{0}"], ["rack-2/{0}"], {}),
}  # fmt: skip


def canonical(name_kind: str, name: str) -> str:
    sql = job_key_sql("n") if name_kind == "job" else resource_key_sql("n")
    [(key,)] = duckdb.execute(f"select {sql} from (select ? as n)", [name]).fetchall()
    return str(key)


def names_of(case: str) -> tuple[list[str], list[str]]:
    """Return the names that runs state and those on the bill, with a short name and number that no other case has."""
    name_kind, stated, billed, _ = CASES[case]
    number = 100 + list(CASES).index(case)
    return tuple([canonical(name_kind, name.format(f"trainer-{number}", number)) for name in names] for names in (stated, billed))  # type: ignore[return-value]


def tables() -> dict[str, pa.Table]:
    runs, resources, bill = [], [], []
    for number, (case, (name_kind, _, _, _)) in enumerate(CASES.items()):
        stated, billed = names_of(case)
        bill += [{"name_kind": name_kind, "name": name} for name in dict.fromkeys(billed)]
        for n, name in enumerate(stated):
            run, its = make_run(
                id=f"{number}-{n}",
                at="00:00..01:00",
                on=[name] if name_kind == "machine" else [],
                **({"job_key": name} if name_kind == "job" else {}),
            )
            runs.append(run)
            resources += its
    keys = ("tracking_server", "run_id")
    return {
        "runs": arrow("runs", runs),
        "run_resources": arrow("run_resources", resources),
        "window_runs": pa.Table.from_pylist([{k: run[k] for k in keys} for run in runs]),
        "run_ancestors": pa.table({k: pa.array([], pa.string()) for k in ("tracking_server", "run_id", "ancestor_id")}),
        "bill_names": pa.Table.from_pylist([row | {"is_several": False, "is_of_only_workspace": False, "is_late": False} for row in bill]),
    }


Pairs = dict[str, dict[str, bool]]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """The names on the bill that each stated name means, and whether the match is sure. Both engines agree."""
    given = tables()
    with duckdb.connect() as con:
        for name, table in given.items():
            con.register(name, table)
        for name in ("matched_names", "run_names"):
            sql = read_sql(PACKAGE / "models", name)
            asked = {"period": DAY} if "period" in parameter_names(sql) else {}
            rows = con.execute(duckdb_sql(sql), asked).fetchall()
            theirs = query_reference(GoogleSQL(), sql, given, asked).rows
            assert sorted(map(repr, map(tuple, theirs))) == sorted(map(repr, rows))
            con.execute(f"create table {name} as {duckdb_sql(sql)}", asked)
            given[name] = con.table(name).to_arrow_table()
    found: Pairs = defaultdict(dict)
    for _, _, _, stated, billed, is_ambiguous in rows:
        assert found[stated].get(billed) in (None, not is_ambiguous)
        found[stated][billed] = not is_ambiguous
    return found


@pytest.mark.parametrize("case", CASES)
def test_names_are_compared_by_the_parts_that_both_have(pairs: Pairs, case: str) -> None:
    stated, billed = names_of(case)
    expected = {stated[n]: {billed[m]: is_sure for m in places} for n, (places, is_sure) in CASES[case][3].items()}
    assert {name: pairs[name] for name in stated if pairs.get(name)} == expected
