"""Who can read the files that Runspend writes: other accounts of the machine cannot, but members of the configured group can.

The tests use other accounts through `setpriv`, which needs root. Without root, they check only file modes.
"""

from __future__ import annotations

import grp
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runspend.config.file_modes import use_file_modes, wider_than
from runspend.config.settings import Settings
from runspend.core.errors import ConfigError
from runspend.interfaces.doctor import check_home
from tests.command import run_here
from tests.tiny_world import make_tiny_world

NOW = ("--now", "2026-11-04T06:00")
NOBODY = 65534
is_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="another account can only be tried by root, with setpriv"
)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can enter, like /srv. pytest closes its own folders whenever another test run begins."""
    with tempfile.TemporaryDirectory(prefix="runspend-modes-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def run_all(folder: Path, store: Path, **files: object) -> Path:
    """Run the pipeline, an export, the demo and `init`, which write all kinds of files. Return the home."""
    config = make_tiny_world(folder / "world", store)
    if files:
        config.write_text(json.dumps({**json.loads(config.read_text()), "files": files}))
    run_here("nightly", "--config", str(config), *NOW, cwd=folder, code=None)
    run_here(
        "export",
        "focus",
        "--config",
        str(config),
        "--period",
        "2026-11",
        "--out",
        str(folder / "world" / "home" / "focus.csv"),
        *NOW,
        cwd=folder,
    )
    run_here("init", "--config", str(folder / "world" / "home" / "new.yaml"), cwd=folder)
    return config.parent / "home"


def modes(home: Path) -> dict[str, int]:
    return {str(path.relative_to(home.parent)): stat.S_IMODE(path.lstat().st_mode) for path in (home, *home.rglob("*"))}


def can_read(path: Path, *groups: int) -> bool:
    """Return whether an account that owns no file and has only these groups can read a file or list a folder."""
    group = ["--regid", str(NOBODY), "--groups", ",".join(map(str, groups))] if groups else ["--regid", str(NOBODY), "--clear-groups"]
    command = ["setpriv", "--reuid", str(NOBODY), *group, "sh", "-c", 'if [ -d "$1" ]; then ls "$1"; else cat "$1"; fi', "sh", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_by_default_everything_is_the_accounts_own(open_folder: Path, store: Path) -> None:
    """Folders have mode 0700 and files 0600: tables, states, records, reports, mails, exports and a new configuration."""
    home = run_all(open_folder, store)
    found = modes(home)
    assert {name for name, mode in found.items() if mode & 0o077} == set()
    kinds = {Path(name).suffix for name in found}
    assert {".parquet", ".json", ".html", ".csv", ".yaml"} <= kinds
    assert {mode for name, mode in found.items() if (home.parent / name).is_file()} == {0o600}
    assert {mode for name, mode in found.items() if (home.parent / name).is_dir()} == {0o700}
    if os.geteuid() == 0 and shutil.which("setpriv"):
        assert not any(can_read(path) for path in (home, *list(home.rglob("*.html"))[:1], *list(home.rglob("*.parquet"))[:1]))


@is_root
def test_only_a_group_that_is_named_may_read(open_folder: Path, store: Path) -> None:
    """Everything under home belongs to the group, through its folders. Files written before a configuration is read do not."""
    file, folder = 0o640, 0o2750
    group = next(found.gr_gid for found in grp.getgrall() if found.gr_gid not in (0, NOBODY))
    home = run_all(open_folder, store, group=grp.getgrgid(group).gr_name)
    assert stat.S_IMODE(home.stat().st_mode) == folder
    wrong = {
        str(path): oct(path.lstat().st_mode)
        for path in home.rglob("*")
        if path.name != "new.yaml"
        and (stat.S_IMODE(path.lstat().st_mode) != (folder if path.is_dir() else file) or path.lstat().st_gid != group)
    }
    assert wrong == {}
    page, table = next(home.rglob("2026-11.html")), next(home.rglob("cost_daily/**/*.parquet"))
    assert can_read(page, group)
    assert can_read(table, group)
    assert not can_read(page)
    assert not can_read(table)
    assert not can_read(home)


MAKE_WITH_UMASKS = """
import os, sys
from pathlib import Path
from runspend.config.file_modes import use_file_modes
from runspend.config.settings import Settings
for umask in sys.argv[2:]:
    if child := os.fork():  # the modes hold for a whole process
        if os.waitpid(child, 0)[1]:
            sys.exit(f"failed with umask {umask}")
        continue
    os.umask(int(umask))
    home = Path(sys.argv[1], umask)
    use_file_modes(Settings.model_validate({"home": home, "files": {"group": str(os.getegid()), "access": "write"}}))
    (home / "file").touch()
    (home / "folder").mkdir()
    sys.exit()
"""


def test_nothing_is_wider_than_the_umask_allows(tmp_path: Path) -> None:
    """A group gets at most the permissions that the umask of the caller allows."""
    umasks = (0o022, 0o027, 0o077, 0o007, 0o000)
    subprocess.run([sys.executable, "-c", MAKE_WITH_UMASKS, str(tmp_path), *map(str, umasks)], check=True)
    for umask in umasks:
        home = tmp_path / str(umask)
        for name in ("file", "folder"):
            mode = stat.S_IMODE((home / name).stat().st_mode) & 0o777
            assert mode == (0o666 if name == "file" else 0o777) & ~(umask | 0o007), (umask, name)
        assert not home.stat().st_mode & umask


WRONG = {
    "no-such-group-here": {"group": "no-such-group-here"},
    "`access` needs a group": {"access": "write"},
    "name of a group is needed": {"group": "a b"},
    "read": {"group": "root", "access": "all"},
}


@pytest.mark.parametrize(("text", "files"), WRONG.items())
def test_a_group_that_cannot_be_used_is_an_error_in_words(tmp_path: Path, text: str, files: dict[str, object]) -> None:
    """The exit code is 2, and nothing was written."""
    (tmp_path / "runspend.yaml").write_text(json.dumps({"home": "home", "files": files}))
    done = run_here("nightly", cwd=tmp_path, code=2)
    assert any(part in done.stderr for part in text.split("|"))
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


@is_root
def test_an_account_outside_the_group_gets_a_clear_error(open_folder: Path) -> None:
    """Such an account cannot give files to the group."""
    group = next(found for found in grp.getgrall() if found.gr_gid not in (0, NOBODY))
    place = open_folder / "open"
    place.mkdir()
    place.chmod(0o777)

    def as_nobody() -> None:
        os.setgroups([])
        os.setegid(NOBODY)
        os.seteuid(NOBODY)

    own_groups = os.getgroups()
    try:
        as_nobody()
        with pytest.raises(ConfigError, match="not in that group"):
            use_file_modes(Settings.model_validate({"home": place / "home", "files": {"group": group.gr_name}}))
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(own_groups)


def test_doctor_says_what_is_wider_and_how_to_narrow_it(tmp_path: Path) -> None:
    """Existing files keep their modes. The suggested command narrows them, and doctor then reports nothing."""
    home = tmp_path / "home"
    (home / "reports").mkdir(parents=True)
    (home / "reports" / "page.html").write_text("a page")
    (home / "private").mkdir(mode=0o700)
    (home / "private" / "open.txt").write_text("nobody gets here")
    for path in (home, home / "reports"):
        path.chmod(0o755)
    (home / "reports" / "page.html").chmod(0o644)
    given = Settings.model_validate({"home": home})
    before = modes(home)
    [finding] = [f for f in check_home(given) if f.name == "files"]
    assert finding.level == "WARN"
    assert "3 files and folders" in finding.text
    assert modes(home) == before
    subprocess.run(finding.text.partition("Run: ")[2], shell=True, check=True)  # as a user would copy it
    assert [f for f in check_home(given) if f.name == "files"] == []
    shared = Settings.model_validate({"home": home, "files": {"group": str(os.getegid())}})
    home.chmod(0o777)
    assert wider_than(home, shared)[0] == 1
    [finding] = [f for f in check_home(shared) if f.name == "files"]
    subprocess.run(finding.text.partition("Run: ")[2], shell=True, check=True)
    assert wider_than(home, shared) == (0, None)
    assert stat.S_IMODE((home / "reports").stat().st_mode) == 0o2750
    assert stat.S_IMODE((home / "reports" / "page.html").stat().st_mode) == 0o640


MADE_BEFORE = {
    "private": (0o700, False),
    "of its account's group": (0o750, False),
    "of another group, handed down": (0o2750, False),
    "open to all": (0o2751, True),
}


@is_root
@pytest.mark.parametrize("name", MADE_BEFORE)
def test_a_home_that_was_made_before_shares_nothing_with_a_wrong_group(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its files stay private, and a warning and doctor say so. The suggested command gives them to the group from then on."""
    mode, is_the_groups = MADE_BEFORE[name]
    named, other = [found.gr_gid for found in grp.getgrall() if found.gr_gid not in (0, NOBODY)][:2]
    home = tmp_path / "home"
    home.mkdir()
    (home / "page.html").write_text("a page")
    (home / "page.html").chmod(0o600)
    os.chown(home, -1, named if is_the_groups else other if mode & 0o2000 else -1)
    home.chmod(mode)
    given = Settings.model_validate({"home": home, "files": {"group": str(named)}})
    use_file_modes(given)
    assert "they stay private" in caplog.text
    (home / "new").touch()
    assert stat.S_IMODE((home / "new").stat().st_mode) == 0o600
    [finding] = [f for f in check_home(given) if f.name == "files"]
    subprocess.run(finding.text.partition("Run: ")[2], shell=True, check=True)
    assert [f for f in check_home(given) if f.name == "files"] == []
    caplog.clear()
    use_file_modes(given)
    assert caplog.text == ""
    (home / "newer").touch()
    found = (home / "newer").stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (named, 0o640)
