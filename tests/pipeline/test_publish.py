"""The step `publish`: its report, its independent targets, and its part in the pipeline run's summary."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from runspend.config.settings import Settings, load_settings
from runspend.core.errors import ConfigError, UsageError
from runspend.core.step_result import Outcome
from runspend.interfaces.nightly_summary import _published
from runspend.pipeline import publish
from tests import access_world
from tests.command import run_here

GONE = "{name: grafana, kind: postgres, uri: 'postgresql://u:canary-1@127.0.0.1:9/db'}"
LAPTOP = "{name: laptop, kind: duckdb, file: costs.duckdb}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publish-step")
    access_world.make_two_teams(folder / "home")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "home", tmp_path / "home")
    return tmp_path


def settings_of(folder: Path, *targets: str) -> Settings:
    listed = "".join(f"\n- {target}" for target in targets)
    (folder / "runspend.yaml").write_text(f"home: home\npublish:{listed or ' []'}\nmail: {{backend: file, operators: [ops@example.com]}}\n")
    return load_settings(folder / "runspend.yaml", {})


def test_one_target_does_not_stop_another(folder: Path) -> None:
    """The failed target keeps its data, and operators get one mail, without the password."""
    settings = settings_of(folder, GONE, LAPTOP)
    outcome = publish(settings, now=access_world.NOW)
    assert (outcome.exit_code, outcome.is_worth_retrying) == (3, True)
    (problem,) = outcome.problems
    assert problem.startswith("cannot publish to grafana: ") and "canary-1" not in problem
    (label,) = outcome.changed
    assert label.startswith("publish laptop: build ") and "costs_for_dashboards" in label
    (note,) = (note for note in outcome.notes if note.startswith("costs_for_dashboards of 2026-10: effective_cost_rounded differs"))
    assert " USD in total, by at most " in note
    mails = [path.read_text() for path in (folder / "home" / "mail").rglob("*.eml")]
    assert len(mails) == 1 and "NOT PUBLISHED" in mails[0] and "canary-1" not in mails[0]
    night = _published(settings, outcome)
    assert night == (("✓", label.removeprefix("publish ")), ("⚠", "grafana: not published"))
    again = publish(settings, now=access_world.NOW, targets=["laptop"])
    assert (again.exit_code, again.changed, again.notes) == (0, [], [])
    assert [label.split(",")[0] for label in again.unchanged] == [label.split(",")[0]]
    assert _published(settings, again)[0][1].endswith(", unchanged")


def test_the_rounding_of_costs_is_computed_only_for_targets_with_costs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the computation fails, the publish still succeeds with a note."""
    outcome = publish(settings_of(folder, LAPTOP.replace("}", ", tables: [alerts]}")), now=access_world.NOW)
    assert outcome.changed and outcome.notes == []
    full = OSError(errno.ENOSPC, "No space left on device", "/scratch")
    monkeypatch.setattr("runspend.actions.publish.content.Content.rounding", Mock(side_effect=full))
    outcome = publish(settings_of(folder, LAPTOP), now=access_world.NOW)
    (note,) = outcome.notes
    assert outcome.exit_code == 0 and outcome.changed
    assert note.startswith("how far rounded costs are from the ledger could not be computed: the disk is full (/scratch).")


def test_an_empty_warehouse_empties_no_target(folder: Path) -> None:
    """After a lost volume or with a wrong `home`, other users' copies stay, and the command reports it."""
    publish(settings_of(folder, LAPTOP), now=access_world.NOW)
    before = (folder / "costs.duckdb").read_bytes()
    shutil.rmtree(folder / "home")
    (folder / "home").mkdir()
    outcome = publish(settings_of(folder, LAPTOP), now=access_world.NOW)
    assert (outcome.exit_code, outcome.changed, outcome.unchanged) == (0, [], [])
    assert outcome.notes == ["the warehouse has no tables yet: nothing was copied, and targets keep what they have. Run: runspend nightly"]
    assert (folder / "costs.duckdb").read_bytes() == before


def test_a_copy_keeps_the_permissions_that_someone_gave_it(folder: Path) -> None:
    publish(settings_of(folder, LAPTOP), now=access_world.NOW)
    (folder / "costs.duckdb").chmod(0o644)
    target = LAPTOP.replace("}", ", tables: [run_costs]}")
    (label,) = publish(settings_of(folder, target), now=access_world.NOW).changed
    assert label.startswith("publish laptop: ") and (folder / "costs.duckdb").stat().st_mode & 0o777 == 0o644


def test_a_path_that_cannot_be_a_file_does_not_stop_the_others(folder: Path) -> None:
    (folder / "a.txt").write_text("a file")
    wrong = "{name: wrong, kind: duckdb, file: a.txt/costs.duckdb}"
    outcome = publish(settings_of(folder, wrong, LAPTOP), now=access_world.NOW)
    assert outcome.exit_code == 3 and [label.split(":")[0] for label in outcome.changed] == ["publish laptop"]
    (problem,) = outcome.problems
    assert problem.startswith("cannot publish to wrong: ") and "a.txt" in problem


def test_a_file_that_others_hold_does_not_stop_the_others(folder: Path) -> None:
    """Another program has a DuckDB file open for writing, and a link replaces a lock file."""
    settings = settings_of(folder, *(LAPTOP.replace("laptop", name).replace("costs", name) for name in ("held", "linked", "free")))
    publish(settings, now=access_world.NOW, targets=["held"])
    (folder / ".linked.duckdb.lock").symlink_to(folder / "elsewhere")
    hold = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, f"{folder}/held.duckdb"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin and program.stdout and program.stdout.readline()
        outcome = publish(settings, now=access_world.NOW)
        program.stdin.close()
    assert outcome.exit_code == 3 and [label.split(":")[0] for label in outcome.changed] == ["publish free"]
    held, linked = outcome.problems
    assert "or a program has it open for writing" in held and ".linked.duckdb.lock" in linked


def test_the_publish_command_names_what_changed(folder: Path) -> None:
    settings_of(folder, LAPTOP)
    config = ("--config", str(folder / "runspend.yaml"), "--now", "2026-10-04T06:00")
    assert "changed  publish laptop: build" in run_here("publish", "--target", "laptop", *config).stdout
    assert "1 unchanged" in run_here("publish", *config).stdout
    assert "target of `publish`" in run_here("publish", "--target", "nothing", *config, code=2).stderr
    settings_of(folder)
    assert "nothing was copied" in run_here("publish", *config).stdout


def test_an_unknown_target_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="laptop"):
        publish(settings_of(folder, LAPTOP), now=access_world.NOW, targets=["lap"])


def test_a_run_without_targets_reports_it() -> None:
    assert _published(Settings(), Outcome("nightly")) == ()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("{name: a, kind: postgress, uri: x}", "publish[0]: `kind` must be postgres, duckdb or iceberg."),
        ("{name: a, uri: x}", "publish[0]: `kind` must be"),
        ("{name: a, kind: postgres, uri: 'mysql://u:canary-2@h'}", "publish[0].uri: a PostgreSQL address is needed"),
        ("{name: a, kind: postgres, uri: 'postgresql://u:can/ary-2@h/d'}", "publish[0].uri: its user or password has a special character"),
        ("{name: a, kind: postgres, uri: 'postgresql://u:canary-2#3@h/d'}", "Write / as %2F"),
        ("{name: a, kind: postgres, uri: 'postgresql://u:canary-2?3@h/d'}", "# as %23"),
        ("{name: a, kind: postgres, uri: 'postgresql://h/d', schema: pg_x}", "publish[0].schema: the name of a schema"),
        ("{name: a, kind: postgres, uri: 'postgresql://h/d', shema: x}", "publish[0].shema: unknown key. Did you mean `schema`?"),
        ("{name: a, kind: duckdb, file: 's3://b/x'}", "publish[0].file: the path of a file on this machine is needed"),
        ("{name: a, kind: iceberg, catalog: {x: y}}", "publish[0]: `catalog` needs `type`"),
        (f"{LAPTOP}\n- {LAPTOP.replace('laptop', 'LAPTOP')}", "publish[1].name: the name 'LAPTOP' is already taken by publish[0]"),
    ],
)
def test_mistakes_are_explained(target: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_of(tmp_path, target)
    assert why in str(refused.value) and "canary-2" not in str(refused.value)


def test_secrets_of_a_catalog_are_hidden(tmp_path: Path) -> None:
    catalog = "{type: sql, uri: 'postgresql://u:canary-3@h/d', s3.secret-access-key: canary-4, s3.path-style-access: true, n: 3}"
    settings_of(tmp_path, f"{{name: a, kind: iceberg, catalog: {catalog}}}")
    shown = run_here("config", "--config", str(tmp_path / "runspend.yaml")).stdout
    assert "canary" not in shown and '"s3.path-style-access": "true"' in shown
    (target,) = load_settings(tmp_path / "runspend.yaml", {}).publish
    assert "canary" not in repr(target) and target.properties["s3.secret-access-key"] == "canary-4"  # type: ignore[union-attr]
