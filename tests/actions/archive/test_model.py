"""The archive against a model of users' files: after every store call, each byte is in its place or can be restored.

After any faults, two undisturbed runs finish the work, and a third does nothing.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from runspend.actions.archive.context import NOTE_NAMES, Tools
from runspend.actions.archive.restore import restore
from runspend.core.errors import SourceError, UsageError
from tests.archive_world import CALLS, KINDS, Killed, World

NAMES = st.sampled_from(["a", "model/MLmodel", "model/weights.bin", "ünï/ø.txt", "empty/", "deep/er/x"])
BODIES = st.sampled_from([b"", b"hello", b"other", b"0" * 4000])
# Which call fails, and how. An undisturbed archive run over two objects makes about forty calls.
FAULTS = st.dictionaries(
    st.tuples(st.sampled_from(CALLS), st.integers(1, 4)) | st.integers(1, 60), st.sampled_from(KINDS), min_size=1, max_size=3
)


SPOILED = ("short", "flipped", "lie")


class ArchiveMachine(RuleBasedStateMachine):
    """Users write, remove, protect and restore files. The archive runs, with and without faults."""

    @initialize(names=st.sets(NAMES, min_size=1), body=BODIES)
    def begin(self, names: set[str], body: bytes) -> None:
        self.world = World()
        self.world.faults.after = self.nothing_is_lost
        self.owned: dict[str, bytes] = {}
        for number, name in enumerate(sorted(names)):
            self.write(name, body + bytes([number]), 400)

    def nothing_is_lost(self) -> None:
        here, restorable = self.world.here(), None
        for name, body in self.owned.items():
            if here.get(name) != body:
                restorable = self.world.restorable() if restorable is None else restorable
                assert restorable.get(name) == body, f"{name} is in no place: here {here.get(name)!r}, archive {restorable.get(name)!r}"

    @rule(name=NAMES, body=BODIES, days=st.sampled_from([400, 30, 0]))
    def write(self, name: str, body: bytes, days: int) -> None:
        body = b"" if name.endswith("/") else body
        self.world.put(name, body, self.world.now - timedelta(days=days))
        self.owned[name] = body

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.owned)))
        self.world.source.objects.pop(f"1/run1/artifacts/{name}", None)
        del self.owned[name]

    @rule(days=st.sampled_from([1, 10, 40]))
    def wait(self, days: int) -> None:
        self.world.advance(days=days)

    @rule(protection=st.sampled_from([None, None, None, "alias champion on fraud/7"]))
    def protect(self, protection: str | None) -> None:
        self.world.protection = protection

    @rule(may_delete=st.sampled_from([True, True, False]))
    def lend_or_take_credentials(self, may_delete: bool) -> None:
        self.world.may_delete = may_delete

    @rule(plan=FAULTS)
    def run(self, plan: dict[int | tuple[str, int], str]) -> None:
        before = dict(self.world.source.objects)
        self.world.apply_faulty(plan)
        if self.world.protection is not None or not self.world.may_delete:
            own = {key for key in before if NOTE_NAMES.fullmatch(key.rsplit("/", 1)[1])}
            assert before.keys() - own <= self.world.source.objects.keys(), "something was deleted that may not be"

    @rule(plan=st.just({}) | FAULTS)
    def bring_back(self, plan: dict[int | tuple[str, int], str]) -> None:
        """Restore the run. Without faults, all files of users are in their places afterwards."""
        world = self.world
        world.advance(seconds=1)
        # A store that silently keeps wrong bytes spoils restored files; test_returned.py shows that Runspend reports this.
        world.faults.plan, world.faults.calls = {call: "refused" if kind in SPOILED else kind for call, kind in plan.items()}, 0
        world.faults.made.clear()
        try:
            restore("run1", world.settings, records=world.records, now=world.now, tools=Tools(open_store=world.open, workers=1))
        except (Killed, SourceError, UsageError):
            return
        finally:
            world.faults.plan, world.faults.is_dead = {}, False
            world._take_lease_of_the_dead()
        if not plan:
            assert self.owned.items() <= world.here().items()

    @rule(call=st.sampled_from(CALLS), number=st.integers(1, 3), kind=st.sampled_from(KINDS))
    def run_with_one_fault(self, call: str, number: int, kind: str) -> None:
        self.run({(call, number): kind})

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.come_to_an_end()
        finally:
            self.world.close()

    def come_to_an_end(self) -> None:
        self.world.protection, self.world.may_delete = None, True
        self.world.advance(days=30)
        results = [[(result.state, result.reason) for result in self.world.apply()] for _ in range(2)]
        assert self.world.here() == {}, results
        assert self.owned.items() <= self.world.restorable().items(), results
        self.world.apply()
        assert self.world.changes_made == 0, (self.world.faults.made, results)


TestArchive = ArchiveMachine.TestCase
TestArchive.settings = settings(max_examples=60, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))


def test_a_note_cut_short_is_an_artifact_like_any_other() -> None:
    world = World()
    try:
        world.put("a", b"a")
        world.apply_faulty({(f"write {world.source.uri}", 1): "short"})
        world.advance(days=30)
        assert [[result.state for result in world.apply()] for _ in range(2)] == [["archived"], ["nothing"]]
        assert world.here() == {} and world.restorable()["a"] == b"a"
        assert world.changes_made == 0
    finally:
        world.close()


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_a_long_search_finds_no_lost_file() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        ArchiveMachine,
        settings=settings(max_examples=5_000, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)),
    )
