"""The archive plan: what a policy selects, what protects, what it saves. Unknown protects; nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from unit.alert_world import NOW, UTC, run, settings, warehouse

from runspend.actions import archive
from runspend.actions.archive.plan import Rates, Selection, bucket_of, judge_run, monthly_saving, parse_select, rates_of
from runspend.config import RetentionPolicy, Settings
from runspend.errors import ConfigError
from runspend.tables import TABLES

OLD = datetime(2026, 3, 1, 8, tzinfo=UTC)
AGED = {"start_time": OLD, "end_time": OLD + timedelta(hours=2)}
SERVER = {"name": "prod", "uri": "http://mlflow", "copy": {"tags": ["stage2", "team"]}}


def policy(**more: Any) -> RetentionPolicy:
    return RetentionPolicy.model_validate({"name": "cold", "select": {"unused_for": "90d"}, "action": "delete", **more})


def given_settings(home: Path, *policies: Mapping[str, Any], **more: Any) -> Settings:
    return settings(
        home,
        retention=[{"name": "cold", "select": {"unused_for": "90d"}, "action": "delete", **p} for p in policies],
        tracking=[SERVER],
        **more,
    )


def stored(run_id: str, size: int | None = 1000, **more: Any) -> dict[str, Any]:
    """One row of artifact_bytes."""
    return {
        "month": date(2026, 11, 1), "store": "s3://ml", "owner_kind": "run", "owner_id": run_id, "tracking_server": "prod", "workspace": "default", "storage_class": "STANDARD",
        "valid_from": datetime(2026, 11, 1, tzinfo=UTC), "valid_to": None, "objects": None if size is None else 3, "bytes": size, "newest_at": OLD, "is_complete": size is not None,
    } | more  # fmt: skip


def experiment(**more: Any) -> dict[str, Any]:
    return {
        "tracking_server": "prod",
        "workspace": "default",
        "experiment_id": "12",
        "experiment_name": "resnet-sweep",
        "lifecycle_stage": "active",
        "tags": "{}",
    } | more


def planned(root: Path, given: Settings, **tables: Any) -> list[dict[str, Any]]:
    with warehouse(root / f"w{len(list(root.glob('w*')))}", **{"experiments": [experiment()], **tables}) as reader:
        first = archive.plan(reader, given, NOW)
        assert first.schema == TABLES["archive_plan"].arrow_schema()
        assert archive.plan(reader, given, NOW).equals(first)
    return first.to_pylist()


def test_an_old_run_is_planned_with_bytes_and_reason(tmp_path: Path) -> None:
    """One row per run and storage class; the date before which nothing may happen is the grace away."""
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {"grace": "14d"}),
        runs=[run("a", **AGED)],
        artifact_bytes=[stored("a"), stored("a", 7, storage_class="GLACIER_IR")],
    )
    assert [(r["run_id"], r["storage_class"], r["state"], r["bytes"]) for r in rows] == [
        ("a", "GLACIER_IR", "planned", 7),
        ("a", "STANDARD", "planned", 1000),
    ]
    assert rows[0]["reason"] == "unused for 267 days"
    assert (rows[0]["unused_days"], rows[0]["earliest_at"], rows[0]["monthly_saving"]) == (267, NOW + timedelta(days=14), None)


@pytest.mark.parametrize(
    ("facts", "bytes_facts", "experiment_facts", "reason"),
    [
        ({"end_time": None, "run_status": "RUNNING"}, {}, {}, "it is running, or never said that it ended"),
        ({"run_status": "RUNNING"}, {}, {}, "it is running, or never said that it ended"),
        ({"end_time": None}, {}, {}, "it is running, or never said that it ended"),
        ({"purged_at": NOW}, {}, {}, "MLflow no longer shows the run: it may only be hidden"),
        ({"tags": '{"runspend.keep": ""}'}, {}, {}, "its tag runspend.keep"),
        ({"tags": '{"runspend.keep": "forever"}'}, {}, {}, "its tag runspend.keep"),
        ({}, {}, {"tags": '{"runspend.keep": "true"}'}, "its experiment's tag runspend.keep"),
        ({"tags": '{"stage": "Production "}'}, {}, {}, "its tag stage is production"),
        ({}, {}, {"tags": '{"stage": "production"}'}, "its experiment's tag stage is production"),
        ({"experiment_id": "99"}, {}, {}, "its experiment, which may protect it, is not known"),
        ({}, {"bytes": None}, {}, "its bytes are unknown: the listing did not finish"),
        ({}, {"is_complete": False}, {}, "its bytes are unknown: the listing did not finish"),
        ({"end_time": NOW - timedelta(days=89)}, {}, {}, "used 89 days ago, less than 90 days"),
        ({}, {"newest_at": NOW - timedelta(hours=3)}, {}, "used 3 h ago, less than 90 days"),
        ({"last_sign_at": NOW - timedelta(days=1)}, {}, {}, "used 1 day ago, less than 90 days"),
    ],
)
def test_what_protects(
    tmp_path: Path, facts: dict[str, Any], bytes_facts: dict[str, Any], experiment_facts: dict[str, Any], reason: str
) -> None:
    """Each protection is named; a protected row has no date and no saving."""
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {}),
        runs=[run("a", **{**AGED, **facts})],
        artifact_bytes=[stored("a", **bytes_facts)],
        experiments=[experiment(**experiment_facts)],
    )
    assert [(r["state"], r["reason"], r["earliest_at"], r["monthly_saving"]) for r in rows] == [("protected", reason, None, None)]


def test_keep_false_does_not_protect(tmp_path: Path) -> None:
    """`runspend.keep = false` is a no."""
    (row,) = planned(
        tmp_path, given_settings(tmp_path, {}), runs=[run("a", tags='{"runspend.keep": "false"}', **AGED)], artifact_bytes=[stored("a")]
    )
    assert row["state"] == "planned"


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({"experiment": "resnet-*"}, "ab"), ({"experiment": "resnet"}, ""), ({"user": ["ana", "b?n"]}, "ab"), ({"user": "ben"}, "b"), ({"status": "FAILED"}, "b"),
        ({"not_user": "ana"}, "bc"), ({"tag.team": "vis*"}, "a"), ({"not_tag.team": "vision"}, "bc"), ({"param.odd'key %": "1"}, "c"), ({"experiment_tag.kind": "x"}, "c"),
        ({"workspace": "default", "tracking": "prod"}, "abc"), ({"not_status": ["FAILED", "FINISHED"]}, "c"),
    ],
)  # fmt: skip
def test_selectors(tmp_path: Path, select: dict[str, Any], expected: str) -> None:
    """The keys of the selector language, and each with not_ before it; a missing value is not equal to anything."""
    runs = [
        run("a", tags='{"team": "vision"}', **AGED),
        run("b", user_name="ben", run_status="FAILED", tags='{"team": "nlp"}', **AGED),
        run("c", user_name=None, run_status="KILLED", experiment_id="13", experiment_name="other", params='{"odd\'key %": "1"}', **AGED),
    ]
    given = given_settings(tmp_path, {"select": {"unused_for": "90d", **select}})
    rows = planned(
        tmp_path,
        given,
        runs=runs,
        artifact_bytes=[stored(r["run_id"]) for r in runs],
        experiments=[experiment(), experiment(experiment_id="13", tags='{"kind": "x"}')],
    )
    assert "".join(r["run_id"] for r in rows) == expected
    assert {r["state"] for r in rows} <= {"planned"}


def test_what_cannot_be_decided_yet_is_listed_not_planned(tmp_path: Path) -> None:
    """`keep: best 3` and `kind: checkpoint` need facts that are not read yet: rows are protected, and a note says so."""
    given = given_settings(
        tmp_path, {"select": {"kind": "checkpoint", "unused_for": "90d"}, "keep": {"best": 3, "by": "val_loss", "order": "min"}}
    )
    (row,) = planned(tmp_path, given, runs=[run("a", **AGED)], artifact_bytes=[stored("a")])
    assert row["state"] == "protected"
    assert (
        row["reason"]
        == "not decidable yet: keep (best 3 by val_loss) needs metrics that are not read yet; which artifacts are of kind checkpoint is not known yet"
    )
    assert archive.plan_notes(given)[0].startswith("retention policy cold: nothing is planned, not decidable yet: keep (best 3")


def test_the_announced_date_stays_while_the_run_stays_planned(tmp_path: Path) -> None:
    """A later night does not push the date away; a run that was protected in between starts anew."""
    before = {"policy": "cold", "tracking_server": "prod", "workspace": "default", "storage_class": "STANDARD", "action": "delete"}
    announced = datetime(2026, 11, 30, tzinfo=UTC)
    plans = [
        before | {"month": date(2026, 10, 1), "run_id": "a", "state": "planned", "earliest_at": announced - timedelta(days=20)},
        before | {"month": date(2026, 11, 1), "run_id": "a", "state": "planned", "earliest_at": announced},
        before | {"month": date(2026, 10, 1), "run_id": "b", "state": "planned", "earliest_at": announced},
        before | {"month": date(2026, 11, 1), "run_id": "b", "state": "protected", "earliest_at": None},
    ]
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {}),
        runs=[run("a", **AGED), run("b", **AGED)],
        artifact_bytes=[stored("a"), stored("b")],
        archive_plan=plans,
    )
    assert [r["earliest_at"] for r in rows] == [announced, NOW + timedelta(days=30)]


def line(bucket: str, day: str, amount: str, **more: Any) -> dict[str, Any]:
    """One storage line of a bill."""
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return {
        "source": "aws", "billing_period": start.date().replace(day=1), "line_id": f"{bucket}{day}{amount}", "service_category": "Storage", "charge_category": "Usage",
        "resource_key": bucket, "charge_date": start.date(), "charge_period_start": start, "charge_period_end": start + timedelta(days=1), "billing_currency": "USD",
        "effective_cost": Decimal(amount), "consumed_unit": "GB-Mo",
    } | more  # fmt: skip


def test_saving_is_at_the_bills_own_rate(tmp_path: Path) -> None:
    """310.00 for the 31 days of October and 4,000 bytes in the bucket: 1,000 of them cost 77.50 a month; requests are no storage."""
    bill = [line("arn:aws:s3:::ml", f"2026-10-{day:02d}", "10") for day in range(1, 32)] + [
        line("ml", "2026-10-05", "999", consumed_unit="Requests"),
        line("ml", "2026-11-05", "999"),
    ]
    objects = [stored("a"), stored("other", 3000, owner_kind="other")]
    given = given_settings(
        tmp_path, {}, {"name": "tiered", "action": "tier", "to": "GLACIER_IR"}, {"name": "same", "action": "tier", "to": "STANDARD"}
    )
    rows = planned(tmp_path, given, runs=[run("a", **AGED)], artifact_bytes=objects, billing_lines=bill)
    assert {r["policy"]: r["monthly_saving"] for r in rows} == {"cold": Decimal("77.5"), "tiered": None, "same": Decimal(0)}
    assert {r["policy"]: r["currency"] for r in rows} == {"cold": "USD", "tiered": None, "same": "USD"}


def test_no_rate_where_the_bill_cannot_tell() -> None:
    """A store inside a bucket, unknown bytes, another currency, a refund: no rate, so no saving is claimed."""
    cost = {
        "resource_key": "ml",
        "billing_period": date(2026, 10, 1),
        "billing_currency": "USD",
        "effective_cost": Decimal(31),
        "day_count": 31,
        "longest_microseconds": 3_600_000_000,
    }
    bytes_ = {"store": "s3://ml", "month": date(2026, 10, 1), "storage_class": "STANDARD", "mean_bytes": 1000.0}
    assert rates_of([cost], [bytes_], "USD", NOW).by_bucket == {"ml": Decimal("0.031")}
    for costs, stores in (
        ([cost], [bytes_ | {"store": "s3://ml/mlflow"}]), ([cost], [bytes_ | {"mean_bytes": None}]), ([cost | {"billing_currency": "EUR"}], [bytes_]),
        ([cost | {"effective_cost": Decimal(-1)}], [bytes_]), ([cost], [bytes_ | {"mean_bytes": 0.0}]), ([cost], [bytes_, bytes_ | {"storage_class": "DEEP", "mean_bytes": None}]), ([], [bytes_]),
    ):  # fmt: skip
        assert rates_of(costs, stores, "USD", NOW).by_bucket == {}
    assert [bucket_of(u) for u in ("s3://ml", "s3://ml/", "gs://x", "s3://ml/a", "/srv/a", "file:///srv")] == [
        "ml",
        "ml",
        "x",
        None,
        None,
        None,
    ]
    half = rates_of([cost | {"billing_period": date(2026, 11, 1), "day_count": 15}], [bytes_], "USD", NOW)
    assert half.by_bucket == {"ml": Decimal("0.062")}


@pytest.mark.parametrize(
    "select",
    [{}, {"unused_for": "0d"}, {"unused_for": ""}, {"unused_for": "-90d"}, {"unused_for": "90"}, {"unused_for": "d"}, {"unused_for": "all"}, {"unused_for": None}, {"larger_than": "0"},
     {"larger_than": ""}, {"larger_than": "-1GB"}, {"larger_than": "big"}, {"everything": "yes"}, {"user": ""}, {"user": []}, {"user": None}, {"not_": "x"}, {"tag.": "x"}, {"kind": "run"}, {"unused_for": True}],
)  # fmt: skip
def test_spellings_that_could_mean_everything_are_refused(select: dict[str, Any]) -> None:
    """Twenty spellings of empty, zero, negative and all, as if the configuration had let them through: nothing is planned."""
    loose = RetentionPolicy.model_construct(name="cold", select=select, keep=None, action="delete", to=None, grace=timedelta(days=30))
    with pytest.raises(ConfigError, match="retention policy 'cold'"):
        parse_select(loose)


def test_sizes() -> None:
    """larger_than in bytes and units; a run of exactly that size is not larger."""
    assert [
        parse_select(RetentionPolicy.model_construct(name="c", select={"larger_than": s}, keep=None)).larger_than
        for s in ("10", "1kB", "1.5 GB", "2GiB")
    ] == [10, 1000, 1_500_000_000, 2 * 1024**3]
    selection = Selection({}, {}, None, None, 1000, None)
    known = {
        "end_time": OLD,
        "start_time": OLD,
        "last_sign_at": None,
        "newest_at": None,
        "run_status": "FINISHED",
        "purged_at": None,
        "is_experiment_unknown": False,
        "tracking_server": "prod",
    }
    known |= dict.fromkeys(("keep_tag", "experiment_keep_tag", "stage_tag", "experiment_stage_tag"))
    assert judge_run(selection, known | {"bytes": 1000}, NOW) is None
    found = judge_run(selection, known | {"bytes": 1001}, NOW)
    assert found is not None
    assert found.state == "planned"
    unknown = judge_run(selection, known | {"bytes": None}, NOW)
    assert unknown is not None
    assert unknown.state == "protected"


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.data())
def test_nothing_protected_is_ever_planned(data: st.DataObject) -> None:
    """For any mix of facts: planned only if every protection is absent and the run is old enough; the verdict never depends on anything else."""
    maybe = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731  # one expression
    facts = {
        "end_time": maybe(OLD, NOW - timedelta(days=89), None), "start_time": OLD, "last_sign_at": maybe(None, NOW), "newest_at": maybe(None, OLD, NOW - timedelta(days=90)),
        "run_status": maybe("FINISHED", "FAILED", "RUNNING", "SCHEDULED"), "purged_at": maybe(None, NOW), "is_experiment_unknown": maybe(False, True), "tracking_server": "prod",
        "keep_tag": maybe(None, "false", "1"), "experiment_keep_tag": maybe(None, ""), "stage_tag": maybe(None, "dev", "PRODUCTION"), "experiment_stage_tag": maybe(None, "production"),
        "bytes": maybe(None, 0, 10**15),
    }  # fmt: skip
    waits = maybe(None, "keep")
    verdict = judge_run(Selection({}, {}, timedelta(days=90), None, None, waits), facts, NOW)
    assert verdict is not None
    free = (
        facts["end_time"] == OLD and facts["last_sign_at"] is None and facts["run_status"] in ("FINISHED", "FAILED") and facts["purged_at"] is None
        and not facts["is_experiment_unknown"] and facts["keep_tag"] in (None, "false") and facts["experiment_keep_tag"] is None and facts["stage_tag"] != "PRODUCTION"
        and facts["experiment_stage_tag"] is None and facts["bytes"] is not None and waits is None
    )  # fmt: skip
    assert (verdict.state == "planned") == free


def test_saving_needs_one_store() -> None:
    """Bytes that lie in two stores have no single rate."""
    rates = Rates({"ml": Decimal("0.01")}, {}, "USD")
    row = {"bytes": 100, "store": "s3://ml", "store_count": 1}
    assert monthly_saving(policy(), row, rates) == 1
    assert monthly_saving(policy(), row | {"store_count": 2}, rates) is None
    assert monthly_saving(policy(action="archive", to="s3://cold"), row, rates) is None


def test_no_policy_no_rows(tmp_path: Path) -> None:
    """Nothing is planned unless a policy says so."""
    assert planned(tmp_path, settings(tmp_path), runs=[run("a", **AGED)], artifact_bytes=[stored("a")]) == []
    assert archive.plan_notes(settings(tmp_path)) == []
