"""The inputs of cost tables are replaced while the tables are built. Runspend builds them again at once and sends the budget's mail."""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes, policy

import pytest

from runspend import pipeline
from runspend.config.settings import Settings, load_settings
from runspend.pipeline.allocate import BUILD_TRIES
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from tests.kept_world import KeptWorld
from tests.tiny_world import NOW, make_store


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> KeptWorld:
    """A tiny world whose sources are read and whose costs are not built yet."""
    folder = tmp_path_factory.mktemp("world")
    make_store(folder / "store")
    world = KeptWorld(folder, folder / "store")
    settings = load_settings(world.config)
    for step in (pipeline.extract, pipeline.load, pipeline.measure):
        step(settings, now=NOW)
    world.keep("read")
    return world


@pytest.fixture
def settings(world: KeptWorld) -> Settings:
    """The settings of that world."""
    return load_settings(world.put_back("read"))


def overtake(settings: Settings, times: int, messages: list[str]) -> Callable[[str], None]:
    """Return a callback that publishes new artifact bytes before each of the first `times` builds, as another process would."""

    warehouse = open_warehouse(settings)
    (unit,) = [unit for unit in warehouse.states("artifact_bytes") if unit.period == "2026-11"]
    rows = warehouse.read(unit)
    assert rows is not None

    def progress(words: str) -> None:
        messages.append(words)
        count = messages.count(words)
        if words == "allocate 2026-11: building" and count <= times:
            with warehouse.step("measure", f"again-{count}") as step:
                step.put(*unit, rows.slice(0, rows.num_rows - count % 2))  # alternately one row less and all rows
                assert step.publish()

    return progress


def is_built(settings: Settings) -> bool:
    """Return whether the month's ledger exists."""
    return Unit("cost_allocations", "2026-11", "all") in open_warehouse(settings).states("cost_allocations")


def mails(settings: Settings) -> list[str]:
    """Return the subjects of the mails under `home`."""
    return [message_from_bytes(file.read_bytes(), policy=policy.default)["Subject"] for file in (settings.home / "mail").rglob("*.eml")]


def test_a_build_that_was_overtaken_is_built_again(settings: Settings) -> None:
    """`measure` ends during allocation and starts no step. Without a second build, there would be no costs and no mail until the next morning."""
    messages: list[str] = []
    outcome = pipeline.settle(settings, now=NOW, progress=overtake(settings, 1, messages))
    assert messages.count("allocate 2026-11: building") == 2
    assert (outcome.exit_code, outcome.superseded) == (0, []) and "allocate 2026-11" in outcome.changed
    assert not [note for note in outcome.notes if "superseded" in note]
    assert is_built(settings)
    pipeline.alert(settings, now=NOW)
    assert [subject for subject in mails(settings) if "vision" in subject]


def test_a_named_month_that_was_overtaken_is_built_again(settings: Settings) -> None:
    """This also holds with `--period`, and if nothing else differs. Each build is reported once."""
    pipeline.settle(settings, now=NOW)
    messages: list[str] = []
    outcome = pipeline.settle(settings, now=NOW, periods=["2026-11"], progress=overtake(settings, 1, messages))
    assert messages.count("allocate 2026-11: building") == 2
    assert (outcome.exit_code, outcome.superseded, outcome.changed.count("allocate 2026-11")) == (0, [], 1)
    assert len(set(outcome.changed)) == len(outcome.changed) and not set(outcome.changed) & set(outcome.unchanged)


def test_allocation_alone_does_not_build_again(settings: Settings) -> None:
    """It shows that the race is real: Runspend drops one try, with the costs and the mail."""
    messages: list[str] = []
    outcome = pipeline.allocate(settings, now=NOW, progress=overtake(settings, 1, messages))
    assert outcome.superseded and not is_built(settings)
    pipeline.alert(settings, now=NOW)
    assert not [subject for subject in mails(settings) if "vision" in subject]


def test_a_build_that_is_always_overtaken_is_reported(settings: Settings) -> None:
    """After three tries, the build ends with a note, and Airflow's task tries again later."""
    messages: list[str] = []
    outcome = pipeline.settle(settings, now=NOW, progress=overtake(settings, 99, messages))
    assert messages.count("allocate 2026-11: building") == BUILD_TRIES
    assert [note for note in outcome.superseded if note.startswith("allocate 2026-11: superseded")]
    assert not is_built(settings)
