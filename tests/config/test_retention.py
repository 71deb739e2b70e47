"""`retention` and `archive` of runspend.yaml: valid values, and the refusal of every value that could mean all, none or at once."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runspend import pipeline
from runspend.config.retention import KINDS, RetentionKeep, RetentionPolicy, narrows
from runspend.config.settings import show_settings
from runspend.interfaces import cli
from tests.settings_builder import read_settings, refused

STORES = "stores:\n  - {uri: s3://warm}\n  - {uri: s3://cold, measure: none}\n"
POLICY = "retention:\n  - name: a\n    select: {unused_for: 90d}\n    action: archive\n    to: s3://cold\n"


def test_defaults_of_retention_are_safe(tmp_path: Path) -> None:
    """Without a policy, Runspend takes no action. By default there are caps, a margin and a retention of archives, and nothing can be deleted."""
    settings = read_settings(tmp_path, STORES)
    archive = settings.archive
    assert settings.retention == []
    assert (archive.to, archive.max_objects, archive.max_bytes, archive.max_percent) == (None, 100_000, 10**12, Decimal("0.2"))
    assert (archive.margin, archive.clock_skew, archive.retention) == (timedelta(days=7), timedelta(minutes=5), timedelta(days=365))
    assert [store.delete_credentials for store in settings.stores] == [None, None]
    assert read_settings(tmp_path, STORES + POLICY).retention[0].grace == timedelta(days=30)


# Empty, zero, negative, "all" and other values that some program has read as "everything" or "at once", as written in the file.
EVERYTHING = [
    "''",
    "0",
    "-1",
    "all",
    "ALL",
    "unlimited",
    "none",
    "null",
    "~",
    "'*'",
    "inf",
    "nan",
    "true",
    "false",
    "[]",
    "{}",
    "'0%'",
    "'100%'",
    "'-5%'",
    "'${EMPTY}'",
    "'${UNSET}'",
    "stop@1",
]
CAPS = ("max_objects", "max_bytes", "max_percent", "margin", "clock_skew", "retention")


@pytest.mark.parametrize("written", EVERYTHING)
@pytest.mark.parametrize(
    "key",
    [*(f"archive.{cap}" for cap in CAPS), "grace", "unused_for", "older_than", "larger_than", "saves_more_than", "best", "last", "kind"],
)
def test_nothing_can_be_spelled_that_means_everything(tmp_path: Path, key: str, written: str) -> None:
    """Caps, ages, amounts and numbers to keep refuse every such value. The error names the line and the key."""
    if key.startswith("archive."):
        text = f"{STORES}archive: {{{key.removeprefix('archive.')}: {written}}}\n{POLICY}"
    elif key == "grace":
        text = f"{STORES}{POLICY}    grace: {written}\n"
    elif key in ("best", "last"):
        text = f"{STORES}{POLICY}    keep: {{{key}: {written}, by: loss, order: min}}\n"
    else:
        text = f"{STORES}{POLICY}".replace("unused_for: 90d", f"{key}: {written}")
    message = refused(tmp_path, text, {"EMPTY": ""})
    place = {"grace": "retention[0].grace", "best": "retention[0].keep", "last": "retention[0].keep"}.get(
        key, key if "." in key else "retention[0].select"
    )
    assert f"{tmp_path}/runspend.yaml, line " in message
    assert place in message


@pytest.mark.parametrize("select", ["''", "{}", "all", "'*'", "[]", "null", "{kind: run}", f"{{kind: [{', '.join(KINDS)}]}}", "{kind: runs}", "{kind: '*'}", "{kind: all}", "{team: '*'}", "{team: ''}",
                                    "{experiment: '**'}", "{tag.team: ['?*', '*']}", "{tag.team: '*'}", "{not_team: vision}", "{tracking: all}", "{not_unused_for: 90d}", "{kind: orphan, not_status: FAILED}"])  # fmt: skip
def test_a_selector_of_everything_is_refused(tmp_path: Path, select: str) -> None:
    """`select` as a whole refuses these values too."""
    assert "retention[0].select" in refused(tmp_path, STORES + POLICY.replace("{unused_for: 90d}", select))


@pytest.mark.parametrize(
    "written",
    [
        "{max_objects: all}",
        "{max_bytes: 0}",
        "{max_percent: 0}",
        "{max_percent: ''}",
        "{margin: -1d}",
        "{to: s3://elsewhere}",
        "{to: ''}",
        "all",
    ],
)
def test_a_refused_file_exits_with_2_and_no_store_is_read(
    tmp_path: Path, written: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command stops when it reads the file, before it opens a warehouse or a store."""
    opened: list[Any] = []
    monkeypatch.setattr("runspend.pipeline.archive.open_warehouse", lambda *given, **more: opened.append(given))
    for name in ("archive_plan", "archive_notify", "archive_apply"):
        monkeypatch.setattr(pipeline, name, lambda *given, **more: opened.append(given))
    (tmp_path / "runspend.yaml").write_text(f"{STORES}archive: {written}\n{POLICY}", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["runspend", "archive", "plan", "--config", str(tmp_path / "runspend.yaml")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "cannot read" in capsys.readouterr().err
    assert opened == []


def test_every_key_is_accepted(tmp_path: Path) -> None:
    """Every allowed key is accepted, and the output of `runspend config` reads back as the same policy."""
    text = """
stores:
  - {uri: s3://warm, delete_credentials: archiver}
  - {uri: s3://cold}
  - {uri: files, delete_credentials: local}
archive: {to: s3://cold/, max_objects: 5000, max_bytes: 2TiB, max_percent: 12.5%, margin: 14d, clock_skew: 90s, retention: 730d}
retention:
  - name: checkpoints
    select: {kind: [checkpoint, model], unused_for: 90d, team: [vision, nlp], not_owner: ana, experiment: "resnet*", tag.phase: old, saves_more_than: 5 USD / month}
    keep: {best: 3, by: val_loss, order: min, last: 2}
    action: archive
    grace: 7d
  - {name: gone, select: {older_than: 1w, status: FAILED}, action: delete}
  - {name: cold, select: {larger_than: 1 GB}, action: tier, to: GLACIER_IR, keep: {last: 1}}
"""
    settings = read_settings(tmp_path, text)
    policy = settings.retention[0]
    assert policy.keep is not None
    assert (policy.keep.best, policy.keep.last, policy.kinds) == (3, 2, ["checkpoint", "model"])
    assert policy.select["saves_more_than"] == "5 USD"
    assert policy.select["team"] == ["vision", "nlp"]
    assert (settings.archive.max_percent, settings.archive.max_bytes, settings.archive.clock_skew) == (
        Decimal("0.125"),
        2 * 1024**4,
        timedelta(seconds=90),
    )
    assert settings.retention[1].kinds == ["run"]
    (tmp_path / "again").mkdir()
    assert read_settings(tmp_path / "again", show_settings(settings)).model_dump() == settings.model_dump()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{STORES}{POLICY}    grace: 6d 23h\n", "retention[0].grace: a length of time of at least 7d is needed, because owners must have time to object"),
        (f"{STORES}archive: {{retention: 29d}}\n", "archive.retention: a length of time of at least 30d is needed"),
        (f"{STORES}archive: {{margin: 23h}}\n", "archive.margin: a length of time of at least 24h is needed"),
        (f"{STORES}archive: {{clock_skew: 2h}}\n", "archive.clock_skew: a length of time of at most 1h is needed"),
        (f"{STORES}archive: {{to: s3://col}}\n", "archive.to: it is not a store of this file. Add its `uri` to `stores`"),
        (f"{STORES}{POLICY}".replace("    to: s3://cold\n", ""), "retention[0]: `action: archive` needs a store for archives"),
        (f"{STORES}{POLICY}".replace("s3://cold\n", "s3://other\n"), "`action: archive` needs a store for archives"),
        (f"{STORES}archive: {{to: s3://cold, storage_class: DEEP_ARCHIVE}}\n", "archive.storage_class: DEEP_ARCHIVE cannot be read immediately, and Runspend reads every copy back"),
        (f"{STORES}archive: {{storage_class: glacier}}\n{POLICY}", "for policy a: GLACIER cannot be read immediately"),
        (f"{STORES}archive: {{storage_class: ''}}\n", "archive.storage_class: a storage class of the archive store is needed"),
        (f"{STORES}archive: {{storage_class: 5}}\n", "archive.storage_class: a storage class of the archive store is needed"),
        ("stores: [{uri: /srv/files}]\narchive: {to: /srv/files, storage_class: COOL}\n", "/srv/files is a folder, which has no storage classes"),
        (f"{STORES}{POLICY}".replace("archive\n", "delete\n"), "`to` belongs to `tier` and `archive`"),
        (f"{STORES}{POLICY}    keep: {{best: 3}}\n", "`best`, `by` and `order` belong together"),
        (f"{STORES}{POLICY}    keep: {{by: loss, order: min, last: 1}}\n", "`best`, `by` and `order` belong together"),
        (f"{STORES}{POLICY}    keep: {{}}\n", "`keep` would keep nothing"),
        (f"{STORES}{POLICY}".replace("unused_for: 90d", "saves_more_than: 5 EUR"), "saves_more_than is not in `currency`, USD"),
        ("stores: [{uri: s3://a, delete_credentials: ''}]\n", "deleting needs its own credentials"),
        ("stores: [{uri: s3://a, delete_credentials: local}]\n", "deleting needs its own credentials"),
        ("stores: [{uri: files, delete_credentials: archiver}]\n", "deleting needs its own credentials: `local` for a folder"),
        ("stores: [{uri: 'file:///srv/files', delete_credentials: archiver}]\n", "deleting needs its own credentials: `local` for a folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_the_allowed_values(tmp_path: Path, text: str, expected: str) -> None:
    """One sentence states how to correct the file."""
    assert expected in refused(tmp_path, text)


@given(
    st.dictionaries(
        st.sampled_from(["team", "user", "tag.x", "not_team", "kind"]),
        st.lists(st.sampled_from(["*", "?", "**", "all", "ALL"]), min_size=1),
        max_size=4,
    )
)
def test_no_mix_of_wildcards_narrows_a_selection(select: dict[str, list[str]]) -> None:
    """Patterns that match everything do not narrow a selection, for any key or combination."""
    assert not narrows(select)


def test_policies_can_be_made_in_code() -> None:
    """Tests and the demo build policies this way. A parsed policy can be parsed again."""
    policy = RetentionPolicy(
        name="a", select={"unused_for": timedelta(days=90), "kind": ["run"]}, action="tier", to="COLD", keep=RetentionKeep(last=2)
    )
    assert RetentionPolicy.model_validate(json.loads(policy.model_dump_json())) == policy
