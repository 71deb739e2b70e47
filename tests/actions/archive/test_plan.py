"""The archive plan: what a policy selects, and everything that protects data. Unknown facts protect. The plan changes nothing."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.archive import plan_notes
from runspend.actions.archive.items import Item
from runspend.actions.archive.plan import item_of, plan_items
from runspend.actions.archive.selection import parse_select
from runspend.config.retention import SELECT_KEYS
from runspend.config.settings import RetentionPolicy
from runspend.core.errors import ConfigError
from runspend.storage.objects import KEEPS_VERSIONS
from tests.actions.archive.policy_world import (
    AGED,
    KEY,
    NOW,
    OLD,
    UTC,
    experiment,
    given_settings,
    model,
    planned,
    reads,
    run,
    stored,
    use,
    version,
    warehouse,
)

METRICS = {"metric": "loss", "start_month": date(2026, 3, 1), "is_last": True, **KEY}


def states(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return "planned" or the protecting reason, by owner."""
    return {row["owner_id"]: row["reason"] if row["state"] == "protected" else row["state"] for row in rows}


def test_an_old_run_is_planned_with_bytes_and_reason(tmp_path: Path) -> None:
    """There is one row per folder, for all storage classes of its bytes. The archive acts on its item."""
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {}),
        runs=[run("a", artifact_uri="s3://ml/12/a/artifacts", **AGED)],
        artifact_bytes=[stored("a"), stored("a", 7, storage_class="GLACIER_IR")],
    )
    assert [(r["run_id"], r["storage_class"], r["state"], r["objects"], r["bytes"]) for r in rows] == [("a", None, "planned", 6, 1007)]
    assert (rows[0]["reason"], rows[0]["unused_days"], rows[0]["monthly_saving"], rows[0]["owner"]) == (
        "unused for 267 days",
        267,
        None,
        "ana",
    )
    item = item_of(rows[0])
    assert item == Item(
        "cold",
        rows[0]["policy_digest"],
        "archive",
        "s3://cold",
        "prod",
        "default",
        "run",
        "a",
        "12",
        "a",
        "s3://ml/12/a/artifacts",
        "s3://ml",
        "12/a/artifacts",
        None,
        6,
        1007,
    )
    assert item.key == rows[0]["item_key"]


def test_only_current_objects_count(tmp_path: Path) -> None:
    """Earlier measurements, earlier months of a store and objects that are not MLflow's do not count."""
    closed = stored("a", 5, valid_from=OLD, valid_to=NOW - timedelta(days=1))
    before = stored("b", 7, month=date(2026, 10, 1))
    (row,) = planned(
        tmp_path, given_settings(tmp_path, {}), runs=[run("a", **AGED), run("b", **AGED)], artifact_bytes=[stored("a"), closed, before]
    )
    assert (row["owner_id"], row["objects"], row["bytes"]) == ("a", 3, 1000)


PROTECTS: list[
    tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]
] = [  # changes to a run, to its bytes and to its experiment, and the reason
    ({"end_time": None, "run_status": "RUNNING"}, {}, {}, "it is running, or its end is missing"),
    ({"run_status": "RUNNING"}, {}, {}, "it is running, or its end is missing"),
    ({"end_time": None}, {}, {}, "it is running, or its end is missing"),
    ({"purged_at": NOW}, {}, {}, "MLflow no longer shows the run: it may only be hidden"),
    ({"tags": '{"runspend.keep": ""}'}, {}, {}, "its tag runspend.keep"),
    ({"tags": '{"runspend.keep": "forever"}'}, {}, {}, "its tag runspend.keep"),
    ({"tags": '{"runspend.keep": "2026-11-24"}'}, {}, {}, "its tag runspend.keep"),
    ({}, {}, {"tags": '{"runspend.keep": "true"}'}, "its experiment's tag runspend.keep"),
    ({"tags": '{"runspend.hold": "case 17"}'}, {}, {}, "legal hold: tag runspend.hold"),
    ({}, {}, {"tags": '{"runspend.hold": ""}'}, "legal hold: its experiment's tag runspend.hold"),
    ({"tags": '{"stage": "Production "}'}, {}, {}, "its tag stage is production"),
    ({}, {}, {"tags": '{"stage": "production"}'}, "its experiment's tag stage is production"),
    ({}, {"experiment_id": "99"}, {}, "its experiment, which may protect it, is not known"),
    ({}, {"bytes": None}, {}, "its bytes are unknown: the listing did not finish"),
    ({}, {"objects": None}, {}, "its bytes are unknown: the listing did not finish"),
    ({}, {"is_complete": False}, {}, "its bytes are unknown: the listing did not finish"),
    ({}, {"store": "s3://gone"}, {}, "its store is no longer in `stores`"),
]


def test_each_protection_is_named_and_has_no_money(tmp_path: Path) -> None:
    """A protected row has no saving and no cost."""
    facts = {f"r{n}": case for n, case in enumerate(PROTECTS)}
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {}),
        runs=[run(name, **{**AGED, "experiment_id": name, **of_run}) for name, (of_run, *_) in facts.items()],
        artifact_bytes=[stored(name, **{"experiment_id": name, **of_bytes}) for name, (_, of_bytes, *_) in facts.items()],
        experiments=[experiment(experiment_id=name, **of_experiment) for name, (_, _, of_experiment, _) in facts.items()],
    )
    found = {r["owner_id"]: (r["state"], r["reason"], r["monthly_saving"], r["action_cost"]) for r in rows}
    assert found == {name: ("protected", reason, None, None) for name, (*_, reason) in facts.items()} and len(rows) == len(facts)


def test_bytes_of_an_unknown_run_stay(tmp_path: Path) -> None:
    """If the store was measured before MLflow was read, or after MLflow forgot the run, the owner of the bytes is unknown."""
    rows = planned(tmp_path, given_settings(tmp_path, {}), runs=[run("a", **AGED)], artifact_bytes=[stored("z")])
    assert states(rows)["z"].startswith("its run is not known")


def test_all_that_protects_is_named(tmp_path: Path) -> None:
    """A user who removes one protection must see all others."""
    (row,) = planned(
        tmp_path, given_settings(tmp_path, {}), runs=[run("a", tags='{"runspend.keep": "1", "stage": "production"}', **AGED)], artifact_bytes=[stored("a")],
        model_versions=[version("fraud", 7, run_id="a", aliases='["champion","eu"]')],
    )  # fmt: skip
    assert row["reason"] == "its tag runspend.keep; its tag stage is production; it made a model: alias champion, eu on fraud/7"


@pytest.mark.parametrize(
    "tags",
    [
        '{"runspend.keep": "false"}',
        '{"runspend.keep": " No "}',
        '{"runspend.keep": "2026-11-23"}',
        '{"runspend.hold": "0"}',
        '{"stage": "dev"}',
    ],
)
def test_tags_that_say_no_do_not_protect(tmp_path: Path, tags: str) -> None:
    """The values are `false` and dates in the past."""
    assert states(planned(tmp_path, given_settings(tmp_path, {}), runs=[run("a", tags=tags, **AGED)], artifact_bytes=[stored("a")])) == {
        "a": "planned"
    }


def test_the_margin_protects_under_every_policy(tmp_path: Path) -> None:
    """A file that is younger than the margin, or dated in the future, may still be changing."""
    policy = {"select": {"experiment": "resnet*"}}
    runs = [run(name, **AGED) for name in "abc"]
    found = [
        stored("a", newest_at=NOW - timedelta(days=6)),
        stored("b", newest_at=NOW - timedelta(days=8)),
        stored("c", newest_at=NOW + timedelta(days=400)),
    ]
    assert states(planned(tmp_path, given_settings(tmp_path, policy), runs=runs, artifact_bytes=found)) == {
        "a": "its newest file was written on 2026-11-18, within the margin",
        "b": "planned",
        "c": "its newest file was written on 2027-12-29, within the margin",
    }


def test_recently_used_runs_are_not_selected(tmp_path: Path) -> None:
    """The last use is the latest of end, metric and newest file. For a model, runs that used it count too. If it is unknown, the run is protected."""
    lately = NOW - timedelta(days=89)
    runs = [
        run("a", start_time=OLD, end_time=lately), run("b", **AGED), run("c", **AGED, last_sign_at=lately), run("d", **AGED),
        run("e", start_time=datetime(1970, 1, 1, tzinfo=UTC), end_time=datetime(1970, 1, 1, tzinfo=UTC)), run("reader", start_time=OLD, end_time=lately),
        run("f", **AGED | {"future_end_time": lately}),  # a future end is ignored, and makes nothing due earlier
    ]  # fmt: skip
    found = [
        stored("a"),
        stored("f"),
        stored("b", newest_at=lately),
        stored("c"),
        stored("d"),
        stored("e", newest_at=None, oldest_at=None),
        model("m-1"),
        model("m-2"),
    ]
    uses = [use("d", "m-1"), use("d", "m-2"), use("reader", "m-1", "input")]
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {"select": {"unused_for": "90d", "kind": ["run", "model"]}}),
        runs=runs,
        artifact_bytes=found,
        model_uses=uses,
    )
    assert states(rows) == {"d": "planned", "m-2": "planned", "e": "when it was last used is unknown"}


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({"experiment": "resnet-*"}, "ab"), ({"experiment": "resnet"}, ""), ({"user": ["ana", "b?n"]}, "ab"), ({"user": "ben"}, "b"), ({"status": "FAILED"}, "b"),
        ({"not_user": "ana"}, "bc"), ({"tag.team": "vis*"}, "a"), ({"not_tag.team": "vision"}, "bc"), ({"param.odd'key %": "1"}, "c"), ({"experiment_tag.kind": "x"}, "c"),
        ({"workspace": "default", "tracking": "prod"}, "abc"), ({"not_status": ["FAILED", "FINISHED"]}, "c"), ({"team": ["vision", "n*"]}, "ab"), ({"not_team": "vision"}, "bc"),
        ({"project": "p"}, "a"), ({"cost_center": "17"}, "b"), ({"owner": "*@acme.com"}, "c"), ({"larger_than": "1kB"}, "bc"), ({"larger_than": "1 KiB", "owner": "c*"}, "c"), ({"older_than": "200d"}, "abc"),
        ({"older_than": "1000d"}, ""),
    ],
)  # fmt: skip
def test_a_policy_plans_what_its_selector_names(tmp_path: Path, select: dict[str, Any], expected: str) -> None:
    """The test covers the keys of selectors and policies, also with not_. A missing value is not equal to anything."""
    runs = [
        run("a", tags='{"team": "vision"}', team="vision", project="p", **AGED),
        run("b", user_name="ben", run_status="FAILED", tags='{"team": "nlp"}', team="nlp", cost_center="17", **AGED),
        run(
            "c",
            user_name=None,
            run_status="KILLED",
            experiment_id="13",
            experiment_name="other",
            team=None,
            owner="c@acme.com",
            params='{"odd\'key %": "1"}',
            **AGED,
        ),
    ]
    rows = planned(
        tmp_path, given_settings(tmp_path, {"select": {"unused_for": "90d", **select}}), runs=runs,
        artifact_bytes=[stored("a"), stored("b", 1001), stored("c", 2000, experiment_id="13", prefix="13/c/artifacts")],
        experiments=[experiment(), experiment(experiment_id="13", tags='{"kind": "x"}')],
    )  # fmt: skip
    assert "".join(r["run_id"] for r in rows) == expected
    assert {r["state"] for r in rows} <= {"planned"}


def test_every_select_key_is_a_condition(tmp_path: Path) -> None:
    """The plan uses every key that the configuration accepts."""
    runs = [run("a", project="p", cost_center="c", owner="o", **AGED)]
    for key in SELECT_KEYS:
        assert (
            planned(
                tmp_path,
                given_settings(tmp_path, {"select": {"unused_for": "90d", key: "nobody"}}),
                runs=runs,
                artifact_bytes=[stored("a")],
            )
            == []
        ), key


def test_a_policy_selects_runs_unless_it_names_kinds(tmp_path: Path) -> None:
    """A checkpoint is a model that its run logged at a step."""
    runs = [run("a", **AGED), run("b", **AGED)]
    found = [
        stored("a"), model("m-plain"), model("m-1"), model("m-2"), stored("tr-1", owner_kind="trace", prefix="12/traces/tr-1/artifacts"),
        stored("77/x/artifacts", owner_kind="orphan", tracking_server=None, workspace=None, experiment_id="77", prefix="77/x/artifacts", confirmed_at=NOW),
        stored("junk", owner_kind="other", prefix="junk"),
    ]  # fmt: skip
    uses = [use("a", "m-plain"), use("b", "m-1"), use("b", "m-2", step=5)]
    for kind, expected in {
        "run": {"a"}, "model": {"m-plain", "m-1", "m-2"}, "checkpoint": {"m-1", "m-2"}, "trace": {"tr-1"}, "orphan": {"77/x/artifacts"},
        ("run", "orphan"): {"a", "77/x/artifacts"},
    }.items():  # fmt: skip
        policy = {"select": {"unused_for": "90d", "kind": list(kind) if isinstance(kind, tuple) else kind}}
        assert states(
            planned(tmp_path, given_settings(tmp_path, policy), runs=runs, artifact_bytes=found, model_uses=uses)
        ) == dict.fromkeys(expected, "planned"), kind
    assert set(states(planned(tmp_path, given_settings(tmp_path, {}), runs=runs, artifact_bytes=found, model_uses=uses))) == {"a"}


# --- what is in use ------------------------------------------------------------------------------------------------------

LINEAGE = [
    # base made m-base, which tuned used. tuned made m-tuned (registered) and m-sibling. other made m-other, which no protected run used.
    use("base", "m-base"), use("tuned", "m-base", "input"), use("tuned", "m-tuned"), use("tuned", "m-sibling"), use("other", "m-other"), use("reader", "m-other", "input"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "label"),
    [
        (version("fraud", 7, model_id="m-tuned", aliases='["champion"]'), "alias champion on fraud/7"),
        (version("fraud", 7, model_id="m-tuned"), "registered as fraud/7"),
        (version("fraud", 7, model_id="m-tuned", stage="Production"), "registered as fraud/7 in stage Production"),
        (version("fraud", 7, model_id="m-tuned", stage="Archived", run_id="tuned"), "registered as fraud/7"),
    ],
)
def test_lineage_to_live_models_protects(tmp_path: Path, found: dict[str, Any], label: str) -> None:
    """A registered version protects its model, the model's run, and all models and runs that led to it. It does not protect a sibling checkpoint."""
    runs = [run(name, **AGED) for name in ("base", "tuned", "other", "reader")]
    folders = [stored(name) for name in ("base", "tuned", "other", "reader")] + [
        model(name) for name in ("m-base", "m-tuned", "m-sibling", "m-other")
    ]
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {"select": {"unused_for": "90d", "kind": ["run", "model"]}}),
        runs=runs,
        artifact_bytes=folders,
        model_uses=LINEAGE,
        model_versions=[found],
    )
    assert states(rows) == {
        "base": f"a run that led to a live model used its output: {label}", "tuned": f"it made a model: {label}", "other": "planned", "reader": "planned",
        "m-base": f"used by a run that led to a live model: {label}", "m-tuned": label, "m-sibling": "planned", "m-other": "planned",
    }  # fmt: skip


def test_a_version_known_by_its_folder_alone_protects(tmp_path: Path) -> None:
    """MLflow 2 registers a folder inside a run's folder, and a copied version points to another run's. The folder decides, in any spelling."""
    runs = [run(name, **AGED) for name in "abcd"]
    versions = [
        version("old", 1, source_uri="s3://ml/12/a/artifacts/model"), version("copy", 1, source_uri="mlflow-artifacts:/12/b/artifacts"),
        version("wide", 1, source_uri="s3://ml/12/c/"), version("near", 1, source_uri="s3://ml/12/d/artifacts2"),
    ]  # fmt: skip
    rows = planned(
        tmp_path, given_settings(tmp_path, {}), runs=runs, artifact_bytes=[stored(name) for name in "abcd"], model_versions=versions
    )
    assert states(rows) == {"a": "registered as old/1", "b": "registered as copy/1", "c": "registered as wide/1", "d": "planned"}


def test_a_shared_folder_is_protected(tmp_path: Path) -> None:
    """Two runs may share a folder, or a run or model may be inside another run's. run1 and run10 are not related."""
    place = "s3://ml/12"
    runs = [
        run("a", artifact_uri=f"{place}/a/artifacts", **AGED), run("twin", artifact_uri="mlflow-artifacts://host/12/a/artifacts", **AGED),
        run("outer", artifact_uri=f"{place}/outer/artifacts", **AGED), run("inner", artifact_uri=f"{place}/outer/artifacts/sub/inner", **AGED),
        run("run1", artifact_uri=f"{place}/run1", **AGED), run("run10", artifact_uri=f"{place}/run10", **AGED), run("own", artifact_uri=f"{place}/own/artifacts", **AGED),
    ]  # fmt: skip
    owners = [{**KEY, "owner_kind": "logged_model", "owner_id": "m-1", "experiment_id": "12", "uri": f"{place}/own/artifacts/m-1"}]
    found = [
        stored("a"),
        stored("outer"),
        stored("inner", prefix="12/outer/artifacts/sub/inner"),
        stored("run1", prefix="12/run1"),
        stored("run10", prefix="12/run10"),
        stored("own"),
    ]
    rows = planned(tmp_path, given_settings(tmp_path, {}), runs=runs, artifact_bytes=found, artifact_owners=owners)
    assert states(rows) == {
        "a": "shares its folder with run twin", "outer": "run inner is inside its folder", "inner": "is inside the folder of run outer", "run1": "planned", "run10": "planned",
        "own": "logged model m-1 is inside its folder",
    }  # fmt: skip


def test_local_folders_are_compared_without_their_scheme(tmp_path: Path) -> None:
    """file:///srv/files/… and /srv/files/… are the same folder."""
    runs = [run("a", artifact_uri="file:///srv/files/12/a/artifacts", **AGED), run("b", artifact_uri="/srv/files/12/a/artifacts/", **AGED)]
    rows = planned(
        tmp_path, given_settings(tmp_path, {}), runs=runs, artifact_bytes=[stored("a", store="/srv/files", storage_class="LOCAL")]
    )
    assert states(rows) == {"a": "shares its folder with run b"}


SPELLINGS = [
    "s3://ml/N/a b/", "s3://ml/N//a b", "s3://ml/N/a%20b", "s3a://ml/N/a b", "s3n://ml/N/a b/", "S3://ML/N/a b", "s3://ml/N/x/../a b", "s3://ml/./N/a b", "s3://ml/N/%61%20b",
    "s3:///ml/N/a b", "mlflow-artifacts:/N/a%20b", "mlflow-artifacts://host/N//a b/", "s3://ml/N/a b?x", "s3://ml/N\\a b",
]  # fmt: skip
LOCAL_SPELLINGS = [
    "file:/srv/files/N/a b",
    "file:///srv/files/N/a%20b/",
    "file://localhost/srv/files/N//a b",
    "/srv/files/./N/a b",
    "/srv//files/N/a b",
    "FILE:///srv/files/N/x/../a b",
]


def test_a_folder_that_is_spelled_in_two_ways_is_one(tmp_path: Path) -> None:
    """Such a folder is protected, and so are the folders inside and around it."""
    odd = [run(f"odd{n}", artifact_uri=uri.replace("N", str(n)), **AGED) for n, uri in enumerate(SPELLINGS)]
    own = [run(f"own{n}", artifact_uri=f"s3://ml/{n}/a b", **AGED) for n in range(len(odd))]
    near = [run(f"near{n}", artifact_uri=f"s3://ml/{n}/a b2", **AGED) for n in range(len(odd))]
    found = [stored(f"{who}{n}", prefix=f"{n}/{name}") for who, name in (("own", "a b"), ("near", "a b2")) for n in range(len(odd))]
    shared = {f"own{n}": f"shares its folder with run odd{n}" for n in range(len(odd))}
    assert states(planned(tmp_path, given_settings(tmp_path, {}), runs=[*odd, *own, *near], artifact_bytes=found)) == {
        **shared,
        **{f"near{n}": "planned" for n in range(len(odd))},
    }
    orphan = {"owner_kind": "orphan", "tracking_server": None, "workspace": None, "experiment_id": None, "confirmed_at": NOW}
    for prefix, reason in (
        ("{}/a b", "shares its folder with run odd{}"),
        ("{}/a b/c", "is inside the folder of run odd{}"),
        ("{}", "run odd{} is inside its folder"),
    ):
        nobodys = [stored(f"orphan{n}", prefix=prefix.format(n), **orphan) for n in range(len(odd))]
        rows = planned(
            tmp_path, given_settings(tmp_path, {"select": {"unused_for": "90d", "kind": "orphan"}}), runs=odd, artifact_bytes=nobodys
        )
        assert states(rows) == {f"orphan{n}": reason.format(n) for n in range(len(odd))}, prefix


@pytest.mark.parametrize("store", ["/srv/files", "file:///srv/files/", "/srv//files"])
def test_a_local_folder_that_is_spelled_in_two_ways_is_one(tmp_path: Path, store: str) -> None:
    """The store's path may have several spellings too."""
    odd = [run(f"odd{n}", artifact_uri=uri.replace("N", str(n)), **AGED) for n, uri in enumerate(LOCAL_SPELLINGS)]
    own = [run(f"own{n}", artifact_uri=f"/srv/files/{n}/a b", **AGED) for n in range(len(odd))]
    found = [stored(f"own{n}", store=store, prefix=f"{n}/a b", storage_class="LOCAL") for n in range(len(odd))]
    given = given_settings(tmp_path, {}, stores=[{"uri": store}, {"uri": "s3://cold"}])
    assert states(planned(tmp_path, given, runs=[*odd, *own], artifact_bytes=found)) == {
        f"own{n}": f"shares its folder with run odd{n}" for n in range(len(odd))
    }


def test_stores_and_server_roots_match_in_other_spellings(tmp_path: Path) -> None:
    """Azure has three names for a container."""
    place = "box@account.dfs.core.windows.net"
    given = given_settings(
        tmp_path, {}, stores=[{"uri": "wasbs://box@account.blob.core.windows.net/ml"}, {"uri": "s3://cold"}],
        tracking=[{"name": "prod", "uri": "http://mlflow", "artifacts": f"abfs://{place}/ml/"}],
    )  # fmt: skip
    runs = [
        run("a", artifact_uri=f"abfss://{place}/ml/12/a/artifacts", **AGED),
        run("b", artifact_uri="mlflow-artifacts:/12/a/artifacts", **AGED),
    ]
    found = [stored("a", store="wasbs://box@account.blob.core.windows.net/ml")]
    assert states(planned(tmp_path, given, runs=runs, artifact_bytes=found)) == {"a": "shares its folder with run b"}


def test_an_odd_spelling_protects_no_stranger(tmp_path: Path) -> None:
    """An odd spelling of the run's own folder, or of a model's folder inside it, protects nothing. Registered versions protect what they name."""
    runs = [run("a", artifact_uri="s3a://ml/12/a/artifacts/", **AGED), run("b", **AGED)]
    owners = [{**KEY, "owner_kind": "logged_model", "owner_id": "m-1", "experiment_id": "12", "uri": "s3a://ml/12/models/m-1//artifacts"}]
    policy = {"select": {"unused_for": "90d", "kind": ["run", "model"]}}
    found = [stored("a"), stored("b"), model("m-1"), stored("m-2", owner_kind="logged_model", prefix="12/a/artifacts/m-2")]
    tables: dict[str, Any] = {
        "runs": runs,
        "artifact_bytes": found,
        "artifact_owners": owners,
        "model_uses": [use("a", "m-1"), use("a", "m-2")],
    }
    assert states(planned(tmp_path, given_settings(tmp_path, policy), **tables)) == dict.fromkeys(["a", "b", "m-1", "m-2"], "planned")
    versions = [
        version("fraud", 7, source_uri="s3://ml/12/b//artifacts/model", aliases='["champion"]'),
        version("far", 1, source_uri="models:/m-1"),
        version("hdfs", 1, source_uri="hdfs://ml/12/a"),
    ]
    assert states(planned(tmp_path, given_settings(tmp_path, policy), model_versions=versions, **tables)) == {
        "a": "planned",
        "b": "alias champion on fraud/7",
        "m-1": "planned",
        "m-2": "planned",
    }


def test_running_relatives_protect(tmp_path: Path) -> None:
    """A running parent or child, a running user of the model, and its running maker protect."""
    runs = [
        run("parent", **AGED), run("child", parent_run_id="parent", start_time=OLD, end_time=None, run_status="RUNNING"), run("grown", parent_run_id="live", **AGED),
        run("live", start_time=OLD, end_time=None, run_status="RUNNING"), run("maker", **AGED),
    ]  # fmt: skip
    uses = [use("maker", "m-1"), use("live", "m-1", "input"), use("live", "m-2")]
    found = [stored("parent"), stored("grown"), stored("maker"), model("m-1"), model("m-2")]
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {"select": {"experiment": "resnet*", "kind": ["run", "model"]}}),
        runs=runs,
        artifact_bytes=found,
        model_uses=uses,
    )
    assert states(rows) == {
        "parent": "a child run is running: child", "grown": "its parent run is running: live", "maker": "planned", "m-1": "in use by a run that is running: live",
        "m-2": "its run is running, or its end is missing",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["model_versions", "model_uses"])
@pytest.mark.parametrize("how", ["unknown", "missing", "other workspace"])
def test_an_unreadable_registry_protects_all_runs(tmp_path: Path, kind: str, how: str) -> None:
    """The registry returned an error, was never read, or was read in another workspace."""
    rows = [row for row in reads() if row["kind"] != kind]
    rows += (
        []
        if how == "missing"
        else [
            {**KEY, "kind": kind, "state": "unknown" if how == "unknown" else "ok"}
            | ({"workspace": "b"} if how == "other workspace" else {})
        ]
    )
    orphan = stored(
        "77/x/artifacts",
        owner_kind="orphan",
        tracking_server=None,
        workspace=None,
        experiment_id="77",
        prefix="77/x/artifacts",
        confirmed_at=NOW,
    )
    policy = {"select": {"unused_for": "90d", "kind": ["run", "orphan"]}}
    found = planned(
        tmp_path, given_settings(tmp_path, policy), runs=[run("a", **AGED)], artifact_bytes=[stored("a"), orphan], tracking_reads=rows
    )
    assert set(states(found).values()) == {"whether a model needs it is not known: the registry or the use of models was not read"}


def test_an_orphan_is_planned_once_it_is_certain(tmp_path: Path) -> None:
    """A second listing must also show no owner. A registered version may still need the folder."""
    orphan = {"owner_kind": "orphan", "tracking_server": None, "workspace": None, "experiment_id": "77"}
    found = [
        stored(f"77/{name}/artifacts", prefix=f"77/{name}/artifacts", **orphan, confirmed_at=at)
        for name, at in (("new", None), ("sure", NOW), ("used", NOW))
    ]
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {"select": {"unused_for": "90d", "kind": "orphan"}}),
        artifact_bytes=found,
        model_versions=[version("fraud", 1, source_uri="s3://ml/77/used/artifacts/model")],
    )
    assert states(rows) == {
        "77/new/artifacts": "whether it has an owner is not certain yet",
        "77/sure/artifacts": "planned",
        "77/used/artifacts": "registered as fraud/1",
    }
    assert item_of(rows[0]).tracking_server == ""


# --- what a policy keeps -------------------------------------------------------------------------------------------------


def checkpoints(values: list[float | None]) -> dict[str, Any]:
    """Return a run with one checkpoint per step, each with a value of `loss`."""
    names = [f"m-{step}" for step in range(len(values))]
    return {
        "runs": [run("a", **AGED)],
        "artifact_bytes": [model(name) for name in names],
        "model_uses": [use("a", name, step=step) for step, name in enumerate(names)],
        "run_metrics": [
            {**METRICS, "run_id": "a", "model_id": f"m-{step}", "step": step, "value": value}
            for step, value in enumerate(values)
            if value is not None
        ],
    }


@pytest.mark.parametrize(
    ("keep", "values", "planned_steps"),
    [
        ({"best": 2, "by": "loss", "order": "min"}, [5.0, 1.0, 3.0, 2.0], {0, 2}),
        ({"best": 1, "by": "loss", "order": "max"}, [5.0, 1.0, 3.0, 2.0], {1, 2, 3}),
        ({"last": 2}, [5.0, 1.0, 3.0, 2.0], {0, 1}),
        ({"best": 1, "by": "loss", "order": "min", "last": 1}, [5.0, 1.0, 3.0, 2.0], {0, 2}),
        ({"best": 1, "by": "loss", "order": "min"}, [1.0, 1.0, 3.0, 1.0], {2}),  # checkpoints as good as the best are also kept
        ({"best": 1, "by": "loss", "order": "min"}, [1.0, None, 3.0, 4.0], {2, 3}),  # a checkpoint without a value cannot be ranked
        ({"best": 9, "by": "loss", "order": "min"}, [1.0, 2.0, 3.0, 4.0], set()),
    ],
)
def test_the_best_and_the_last_checkpoints_are_kept(
    tmp_path: Path, keep: dict[str, Any], values: list[float | None], planned_steps: set[int]
) -> None:
    """The metric is that of the checkpoint itself."""
    policy = {"select": {"kind": "checkpoint", "unused_for": "90d"}, "keep": keep}
    rows = planned(tmp_path, given_settings(tmp_path, policy), **checkpoints(values))
    assert {name for name, state in states(rows).items() if state == "planned"} == {f"m-{step}" for step in planned_steps}
    assert len(rows) == len(values)


def test_young_checkpoints_count_among_the_best(tmp_path: Path) -> None:
    """The run's two best checkpoints count, even if they are too young to be selected."""
    world = checkpoints([5.0, 4.0, 1.0, 2.0])
    world["artifact_bytes"] = [model(f"m-{step}", newest_at=OLD if step < 2 else NOW) for step in range(4)]
    policy = {"select": {"kind": "checkpoint", "unused_for": "90d"}, "keep": {"best": 2, "by": "loss", "order": "min"}}
    assert states(planned(tmp_path, given_settings(tmp_path, policy), **world)) == {"m-0": "planned", "m-1": "planned"}


def test_a_checkpoint_without_metrics_of_its_own_has_the_runs_at_its_step(tmp_path: Path) -> None:
    """A training loop logs the loss to the run. Only the value at the checkpoint's step counts."""
    world = checkpoints([None, None, None])
    world["run_metrics"] = [
        {**METRICS, "run_id": "a", "model_id": "", "step": step, "value": value, "is_last": step == 9}
        for step, value in ((0, 3.0), (1, 2.0), (9, 1.0))
    ]
    policy = {"select": {"kind": "checkpoint", "unused_for": "90d"}, "keep": {"best": 1, "by": "loss", "order": "min"}}
    assert states(planned(tmp_path, given_settings(tmp_path, policy), **world)) == {
        "m-0": "planned",
        "m-1": "among the best 1 by loss",
        "m-2": "no loss of it is known, by which the best are kept",
    }


def test_the_best_runs_of_each_experiment_are_kept(tmp_path: Path) -> None:
    """The last value of the metric counts. Each experiment has its own best runs."""
    runs = [
        run(name, start_time=OLD + timedelta(days=n), end_time=OLD + timedelta(days=n, hours=1), experiment_id=experiment_id)
        for n, (name, experiment_id) in enumerate(zip("abcd", ["12", "12", "12", "13"], strict=True))
    ]
    values = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 9.0}
    metrics = [{**METRICS, "run_id": name, "model_id": "", "step": 5, "value": value} for name, value in values.items()]
    metrics.append({**METRICS, "run_id": "a", "model_id": "", "step": 1, "value": 0.1, "is_last": False})
    found = [stored(name, experiment_id="13" if name == "d" else "12") for name in "abcd"]
    policy = {"keep": {"best": 1, "by": "loss", "order": "min"}}
    rows = planned(
        tmp_path,
        given_settings(tmp_path, policy),
        runs=runs,
        artifact_bytes=found,
        run_metrics=metrics,
        experiments=[experiment(), experiment(experiment_id="13")],
    )
    assert states(rows) == {"a": "planned", "b": "among the best 1 by loss", "c": "planned", "d": "among the best 1 by loss"}
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {"keep": {"last": 1}}),
        runs=runs,
        artifact_bytes=found,
        experiments=[experiment(), experiment(experiment_id="13")],
    )
    assert states(rows) == {"a": "planned", "b": "planned", "c": "among the last 1", "d": "among the last 1"}


def test_metrics_that_were_not_read_keep_everything(tmp_path: Path) -> None:
    """An incomplete list of values protects all checkpoints."""
    policy = {"select": {"kind": "checkpoint", "unused_for": "90d"}, "keep": {"best": 1, "by": "loss", "order": "min"}}
    half = [row for row in reads() if row["kind"] != "run_metrics"] + reads(state="unknown")[2:]
    rows = planned(tmp_path, given_settings(tmp_path, policy), **checkpoints([1.0, 2.0]), tracking_reads=half)
    assert {row["state"] for row in rows} == {"protected"}


# --- actions -------------------------------------------------------------------------------------------------------------


def test_a_folder_already_at_its_target_is_not_planned(tmp_path: Path) -> None:
    """A folder that is already in the class or in the archive store is not planned. A folder that is only partly in the class is."""
    runs = [run(name, **AGED) for name in "abc"]
    found = [stored("a", storage_class="GLACIER_IR"), stored("b", storage_class="GLACIER_IR"), stored("b"), stored("c", store="s3://cold/")]
    assert set(
        states(planned(tmp_path, given_settings(tmp_path, {"action": "tier", "to": "GLACIER_IR"}), runs=runs, artifact_bytes=found))
    ) == {"b", "c"}
    stores = [{"uri": "s3://ml"}, {"uri": "s3://cold/"}]
    assert set(states(planned(tmp_path, given_settings(tmp_path, {}, stores=stores), runs=runs, artifact_bytes=found))) == {"a", "b"}


def test_a_folder_has_no_classes(tmp_path: Path) -> None:
    """The folder cannot be tiered, and the plan gives this reason."""
    found = [stored("a", store="/srv/files", storage_class="LOCAL")]
    rows = planned(
        tmp_path, given_settings(tmp_path, {"action": "tier", "to": "GLACIER_IR"}), runs=[run("a", **AGED)], artifact_bytes=found
    )
    assert states(rows) == {"a": "a folder of a file system has no storage classes"}


def test_a_bucket_that_keeps_versions_is_not_tiered(tmp_path: Path) -> None:
    """This applies only to a bucket in which versions were seen. It can still be archived."""
    runs = [run(name, **AGED) for name in "ab"]
    found = [
        stored("a"),
        stored("b", store="s3://cold"),
        stored("x", 0, store="s3://cold", owner_kind="other", objects=0, noncurrent_objects=2),
    ]
    stores = [{"uri": "s3://ml"}, {"uri": "s3://cold"}]
    rows = planned(
        tmp_path, given_settings(tmp_path, {"action": "tier", "to": "GLACIER_IR"}, stores=stores), runs=runs, artifact_bytes=found
    )
    assert {row["run_id"]: row["state"] for row in rows} == {"a": "planned", "b": "protected"}
    assert states(rows)["b"] == KEEPS_VERSIONS
    moved = planned(tmp_path, given_settings(tmp_path, {"to": "s3://ml"}, stores=stores), runs=runs, artifact_bytes=found)
    assert [(row["run_id"], row["state"]) for row in moved] == [("b", "planned")]


def archived(owner_id: str, **more: Any) -> dict[str, Any]:
    """Return one row of archives."""
    return {
        "month": date(2025, 1, 1), "archive_id": f"id-{owner_id}", "policy": "cold", "action": "archive", "state": "archived", "store": "s3://ml", "prefix": f"12/{owner_id}/artifacts", "target": "s3://cold",
        "folder": f"runspend-archive/v1/prod/12/{owner_id}/id-{owner_id}", "owner_kind": "run", "owner_id": owner_id, **KEY, "run_id": owner_id, "experiment_id": "12", "objects": 3, "bytes": 1000,
        "begun_at": datetime(2025, 1, 1, tzinfo=UTC), "ended_at": datetime(2025, 1, 1, tzinfo=UTC),
    } | more  # fmt: skip


def test_only_archives_are_deleted_and_only_after_their_retention(tmp_path: Path) -> None:
    """Files in the original place of an archived folder are never deleted. What protects a run protects its archive.

    A partial archive is deleted like any other, but an open one never is.
    """
    runs = [
        run("a", **AGED),
        run("b", **AGED),
        run("kept", tags='{"runspend.keep": "1"}', **AGED),
        run("live", **AGED),
        run("half", **AGED),
        run("begun", **AGED),
        run("nothing", **AGED),
        run("gone", **AGED),
    ]
    archives = [
        archived("a"), archived("b", ended_at=NOW - timedelta(days=364)), archived("kept"), archived("live"), archived("half", state="partial"), archived("begun", state="open", ended_at=None),
        archived("nothing", state="partial", objects=0, bytes=0), archived("gone", state="deleted"),
        archived("a", archive_id="t", action="tier", target=None, folder=None),
    ]  # fmt: skip
    given = given_settings(tmp_path, {"action": "delete"})
    rows = planned(
        tmp_path,
        given,
        runs=runs,
        archives=archives,
        artifact_bytes=[stored("a"), stored("x")],
        model_versions=[version("fraud", 1, run_id="live")],
    )
    assert states(rows) == {
        "a": "planned",
        "half": "planned",
        "kept": "its tag runspend.keep",
        "live": "it made a model: registered as fraud/1",
    }
    item = item_of(rows[0])
    assert (item.action, item.store, item.prefix, item.to, item.bytes) == (
        "delete",
        "s3://cold",
        "runspend-archive/v1/prod/12/a/id-a",
        None,
        1000,
    )


def test_the_first_policy_that_selects_a_folder_acts_on_it(tmp_path: Path) -> None:
    """Two policies never act on the same folder. If the first keeps it, the second may act on it."""
    best = {"keep": {"last": 1}}
    runs = [run("a", **AGED), run("b", start_time=OLD + timedelta(days=1), end_time=OLD + timedelta(days=1))]
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {"name": "one", **best}, {"name": "two", "action": "tier", "to": "GLACIER_IR"}),
        runs=runs,
        artifact_bytes=[stored("a"), stored("b")],
    )
    assert [(r["policy"], r["owner_id"], r["state"], r["reason"]) for r in rows] == [
        ("one", "a", "planned", "unused for 267 days"), ("one", "b", "protected", "among the last 1"),
        ("two", "a", "protected", "policy one acts on it first"), ("two", "b", "planned", "unused for 266 days"),
    ]  # fmt: skip


def test_a_changed_policy_has_another_digest(tmp_path: Path) -> None:
    """The digest covers everything that the policy's decisions depend on, and its archive store."""
    world: dict[str, Any] = {"runs": [run("a", **AGED)], "artifact_bytes": [stored("a")]}
    digests = {
        planned(tmp_path, given_settings(tmp_path, policy, **more), **world)[0]["policy_digest"]
        for policy, more in (
            ({}, {}), ({"grace": "14d"}, {}), ({"select": {"unused_for": "91d"}}, {}), ({"action": "tier", "to": "COLD"}, {}), ({}, {"archive": {"to": "/srv/files"}}), ({"to": "s3://cold"}, {}),
        )
    }  # fmt: skip
    assert len(digests) == 6


@pytest.mark.parametrize(
    "select",
    [{}, {"unused_for": "0d"}, {"unused_for": ""}, {"unused_for": "-90d"}, {"unused_for": "90"}, {"unused_for": "d"}, {"unused_for": "all"}, {"unused_for": None}, {"larger_than": "0"},
     {"larger_than": ""}, {"larger_than": "-1GB"}, {"larger_than": "big"}, {"everything": "yes"}, {"user": ""}, {"user": []}, {"user": None}, {"not_": "x"}, {"tag.": "x"}, {"kind": ["run"]}, {"unused_for": True},
     {"user": ["*"]}],
)  # fmt: skip
def test_spellings_that_could_mean_everything_are_refused(select: dict[str, Any]) -> None:
    """These are empty, zero, negative and 'all' values that the configuration did not refuse. Nothing is planned."""
    loose = RetentionPolicy.model_construct(name="cold", select=select, keep=None, action="archive", to=None, grace=timedelta(days=30))
    with pytest.raises(ConfigError, match="retention policy 'cold'"):
        parse_select(loose)


def test_protected_runs_are_never_planned(tmp_path: Path) -> None:
    """All 480 mixes of facts are planned together. A run is planned only if nothing protects it."""
    expected, runs, found, versions = set(), [], [], []
    tags = ("{}", '{"runspend.keep": "false"}', '{"runspend.keep": "1"}', '{"runspend.hold": "x"}', '{"stage": "PRODUCTION"}')
    mixes = product((OLD, None), ("FINISHED", "RUNNING"), (None, NOW), tags, (0, 10**15, None), ("12", "99"), (False, True))
    for number, (ended, status, purged, tag, size, experiment_id, is_registered) in enumerate(mixes):
        name = f"r{number:03}"
        runs.append(run(name, start_time=OLD, end_time=ended, run_status=status, purged_at=purged, tags=tag))
        found.append(stored(name, size, experiment_id=experiment_id))
        versions += [version(f"model-{name}", 1, run_id=name)] if is_registered else []
        if (
            ended == OLD
            and status == "FINISHED"
            and purged is None
            and tag in tags[:2]
            and size is not None
            and experiment_id == "12"
            and not is_registered
        ):
            expected.add(name)
    rows = planned(tmp_path, given_settings(tmp_path, {}), runs=runs, artifact_bytes=found, model_versions=versions)
    assert {r["owner_id"] for r in rows if r["state"] == "planned"} == expected
    assert len(rows) == len(runs) == 480


def test_without_a_policy_the_plan_has_no_rows(tmp_path: Path) -> None:
    """Without a mail server, nothing can become due, and a note reports this."""
    assert planned(tmp_path, given_settings(tmp_path), runs=[run("a", **AGED)], artifact_bytes=[stored("a")]) == []
    assert plan_notes(given_settings(tmp_path)) == []
    assert plan_notes(given_settings(tmp_path, {})) == [
        "archive: mail.backend sends no mail, so no grace period begins and nothing becomes due"
    ]


def test_the_number_of_queries_does_not_depend_on_the_number_of_folders(tmp_path: Path) -> None:
    """The plan runs the same few queries for any number of runs. A second plan is identical."""
    asked = []
    with warehouse(
        tmp_path / "w",
        runs=[run(f"{n:05}", **AGED) for n in range(300)],
        artifact_bytes=[stored(f"{n:05}") for n in range(300)],
        experiments=[experiment()],
        tracking_reads=reads(),
    ) as reader:

        class Counting:
            def query(self, sql: str, parameters: Any = None, *, native: bool = False) -> Any:
                asked.append(sql)
                return reader.query(sql, parameters, native=native)

            def batches(self, sql: str, parameters: Any = None, *, rows: int) -> Any:
                return self.query(sql, parameters).to_batches(max_chunksize=7)

        counting: Any = Counting()
        plan = plan_items(counting, given_settings(tmp_path, {}), NOW)
        assert plan.num_rows == 300
        assert len(asked) == 4
        assert plan_items(reader, given_settings(tmp_path, {}), NOW).equals(plan)
