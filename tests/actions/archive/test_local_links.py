"""Folders of a local store that another path also reaches. Each kind of link protects its target, and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.archive.local_links import Lead, LocalLinks, find_local_links
from runspend.config.settings import Settings
from tests.actions.archive.policy_world import AGED, given_settings, planned, reads, run, stored

A, B, C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A store with the folders of two runs in it."""
    for run_id in (A, B):
        (tmp_path / "store/1" / run_id / "artifacts/model").mkdir(parents=True)
        (tmp_path / "store/1" / run_id / "artifacts/model/weights").write_bytes(b"w")
    return tmp_path / "store"


def kept(top: Path, owners: dict[str, Any], store: Path | None = None) -> dict[str, str]:
    """Return why the plan keeps each of the two runs, for a policy that selects both. `owners` are more runs, with their URIs."""
    uri = str(store or top)
    settings = given_settings(
        top.parent,
        {"select": {"unused_for": "90d"}},
        stores=[{"uri": uri}, {"uri": str(top.parent / "cold")}],
        archive={"to": str(top.parent / "cold")},
    )
    uris = {A: f"{uri}/1/{A}/artifacts", B: f"{uri}/1/{B}/artifacts"} | owners
    runs = [run(run_id, artifact_uri=found, experiment_id="12", **AGED) for run_id, found in uris.items()]
    bytes_ = [stored(run_id, store=uri, prefix=f"1/{run_id}/artifacts", storage_class="LOCAL") for run_id in (A, B)]
    rows = planned(top.parent, settings, runs=runs, artifact_bytes=bytes_, tracking_reads=reads())
    return {row["owner_id"]: row["reason"] for row in rows if row["state"] == "protected"}


def test_plain_folders_are_not_kept(top: Path) -> None:
    assert kept(top, {}) == {}


@pytest.mark.parametrize(
    ("links", "uri"),
    [
        ({"1/link": f"{A}"}, "{top}/1/link/artifacts"),  # a link to another run's folder
        ({"1/link": f"{A}/artifacts"}, "{top}/1/link"),
        ({"1/link": f"{A}/artifacts"}, "file://{top}/1/link/"),
        ({"up": ".."}, f"{{top}}/up/store/1/{A}/artifacts"),  # through a link to a parent folder
        ({"x": "y", "y": "z", "z": f"1/{A}"}, "{top}/x/artifacts"),  # a chain of links
        ({"../outside": f"store/1/{A}"}, "{top}/../outside/artifacts"),  # from outside the store
        ({"1/link": f"{A}/artifacts"}, "{top}/1/link/model"),  # into the other run's folder
        ({"../elsewhere": "store"}, f"{{up}}/elsewhere/1/{A}/artifacts/model"),
    ],
    ids=["run", "artifacts", "file uri", "parent", "chain", "outside", "inside", "store"],
)
def test_a_run_that_is_reached_through_a_link_keeps_its_files(top: Path, links: dict[str, str], uri: str) -> None:
    """The folder behind the link is protected, and the reason names the path. Other folders are not, unless the link leads to a folder around them."""
    for name, target in links.items():
        (top / name).symlink_to(target)
    found = kept(top, {C: uri.format(top=top, up=top.parent)})
    assert A in found and ("leads to it" in found[A] or "leads into it" in found[A] or "shares" in found[A]), found
    assert B not in found or ".." in links.values(), found


def test_a_link_inside_another_runs_folder_protects_its_target(top: Path) -> None:
    (top / "1" / B / "artifacts/base").symlink_to(f"../../{A}/artifacts/model/weights")
    found = kept(top, {})
    assert f"the symbolic link {top}/1/{B}/artifacts/base leads into it" in found[A]


def test_a_link_around_everything_protects_everything_by_name(top: Path) -> None:
    (top / "all").symlink_to(".")
    found = kept(top, {})
    assert set(found) == {A, B} and all(f"the symbolic link {top}/all leads to a folder around it" in reason for reason in found.values())


def test_links_that_lead_nowhere_or_away_protect_nothing(top: Path) -> None:
    """The links are dangling, circular, or lead out of the store or to a folder without a run."""
    (top / "dangling").symlink_to("1/never")
    (top / "round").symlink_to("round")
    (top / "away").symlink_to("/usr/share")
    (top / "1/beside").mkdir()
    (top / "beside").symlink_to("1/beside")
    assert kept(top, {}) == {}
    assert kept(top, {C: f"{top}/dangling/artifacts"}) == {}


def test_a_store_that_is_a_link_itself_keeps_nothing(top: Path) -> None:
    """Every path goes through that link. Each leads to the run that owns it."""
    (top.parent / "mnt").symlink_to("store")
    assert kept(top, {}, store=top.parent / "mnt") == {}
    assert A in kept(top, {C: f"{top}/1/{A}/artifacts"}, store=top.parent / "mnt")


def test_the_same_folder_mounted_elsewhere_is_found(top: Path) -> None:
    """The test uses a bind mount, if this machine allows one."""
    other = top.parent / "mounted"
    other.mkdir()
    if subprocess.run(["mount", "--bind", str(top), str(other)], capture_output=True, check=False).returncode:
        pytest.skip("no bind mounts here")
    try:
        assert set(kept(top, {C: f"{other}/1/{A}/artifacts"})) == {A}
    finally:
        subprocess.run(["umount", str(other)], check=True)


def test_own_paths_do_not_count(top: Path) -> None:
    """If several links lead to a folder, the reason does not name the folder's own path."""
    links = LocalLinks({"s": str(top)}, [Lead(str(top / "1" / A), "own", A), Lead(str(top / "1" / A), "other", B)])
    row = {"store": "s", "prefix": f"1/{A}", "owner_id": A, "run_id": A}
    assert links.reasons(row) == ["other leads to it"]
    assert links.reasons(row | {"store": "t"}) == []


def test_a_store_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"home": str(tmp_path), "stores": [{"uri": str(tmp_path / "never")}, {"uri": "s3://b"}, {"uri": "ftp://x"}]}
    )
    assert find_local_links(settings, []).reasons({"store": str(tmp_path / "never"), "prefix": "1", "owner_id": "a", "run_id": "a"}) == []
    assert os.path.exists(tmp_path)
