"""The access log states who asked what and when. It contains no searched values unless it is configured to."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import pwd
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlglot.tokens import TokenType

from runspend.config.access_log import log_page, log_statement, without_values
from runspend.config.settings import Settings, load_settings
from runspend.interfaces.web import LOOPBACK, create_app
from runspend.interfaces.web.page_log import PageLog
from runspend.schema.tables import TABLES
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.actions.explain import explain_world as w
from tests.command import run_here
from tests.faults.world import PERIOD, rows_of
from tests.interfaces.web.test_app import request

USER = pwd.getpwuid(os.getuid()).pw_name


def settings_of(folder: Path, **access_log: Any) -> Settings:
    """Return settings with a log in a folder that does not exist yet."""
    return Settings.model_validate({"home": folder, "access_log": {"file": str(folder / "logs" / "access.jsonl"), **access_log}})


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the logged entries."""
    return [json.loads(line) for line in (folder / "logs" / "access.jsonl").read_text(encoding="ascii").splitlines()]


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a warehouse with a run that has charges."""
    root = tmp_path_factory.mktemp("explained") / "warehouse"
    w.make_explained(root)
    return root


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        (
            "select team, sum(effective_cost) from cost_daily where owner = 'ann@corp.example'",
            "select team , sum ( effective_cost ) from cost_daily where owner = ? ? . ?",
        ),
        ("select 1 -- ann", "select ? - - ?"),
        ("select * from runs where run_id in (\"ann\", `bob`, r'c\\'dora', $$eve$$, 0x1F, 1.5)", None),
        ("SELECT /* ann */ Max(Run_Id) from RUNS; select 'bob''cy'", None),
        ("select '''ann''' || e'\\'bob' || \"\"\"cy\"\"\"", None),
        ("select 'ann", None),
        (
            "select sum(cost) from runs where owner = 'delete' and team = 'project'",
            "select sum ( ? ) from runs where owner = ? and team = ?",
        ),
        ('select 1 from runs where owner = "delete" or team = `project`', "select ? from runs where owner = ? or team = ?"),
        ("select 1 /* delete */ -- project\n# delete\nfrom runs where owner = $$delete$$", None),
    ],
)
def test_no_value_of_a_statement_is_left(statement: str, shown: str | None) -> None:
    """The log contains no value of a statement, for all kinds of quotes, comments and escapes."""
    found = without_values(statement)
    assert shown is None or found == shown
    assert not any(name in found.lower() for name in ("delete", "project", "ann", "bob", "cy", "dora", "eve", "1", "5", "corp"))


def test_statements_of_people_are_logged(tmp_path: Path) -> None:
    """`runspend sql` logs the user, the dialect, and the number of rows or the error. Only the file's owner can read it."""
    with ParquetWarehouse(tmp_path / "home" / "warehouse").step("fill", "b") as step:
        step.put("runs", PERIOD, "prod", rows_of(TABLES["runs"]))
        step.publish()
    (tmp_path / "runspend.yaml").write_text("home: home\naccess_log: {file: logs/access.jsonl}\n", encoding="utf-8")
    command = ("sql", "--quiet", "--config", str(tmp_path / "runspend.yaml"))
    run_here(*command, "select run_id from runs where run_name = 'secret one'")
    run_here(*command, "--native", "copy (select 'secret two') to 'x'", code=2)
    first, second = lines(tmp_path)
    assert (first["who"], first["kind"], first["dialect"], first["rows"], first["error"]) == (USER, "sql", "googlesql", 0, None)
    assert first["what"] == "select run_id from runs where run_name = ? ?"
    assert (second["dialect"], second["rows"], second["error"]) == ("native", None, "SqlRefused")
    assert "secret" not in (tmp_path / "logs" / "access.jsonl").read_text()
    assert (tmp_path / "logs" / "access.jsonl").stat().st_mode & 0o777 == 0o600
    (tmp_path / "runspend.yaml").write_text("home: home\naccess_log: {file: logs/access.jsonl, values: true}\n", encoding="utf-8")
    run_here(*command, "select run_id from runs where run_name = 'secret one'")
    assert lines(tmp_path)[2]["what"] == "select run_id from runs where run_name = 'secret one'"


def test_nothing_is_logged_unless_asked_for(tmp_path: Path) -> None:
    """The access log is off by default."""
    log_statement(Settings(home=tmp_path), "select 1", native=False, rows=1)
    assert Settings(home=tmp_path).access_log is None and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [False, True])
def test_pages_are_logged_with_who_asked(tmp_path: Path, explained: Path, values: bool) -> None:
    """An entry has the guard's name, the address or its pattern, the status, and how many charges the page shows."""
    settings = Settings.model_validate(
        {**settings_of(tmp_path, values=values).model_dump(include={"home", "access_log"}), "warehouse": {"uri": str(explained)}}
    )

    def vera() -> str:
        return "vera"

    app = create_app(settings, guard=vera)
    request(app, f"/run/{w.BIG}?note=secret")
    request(app, "/run/secret-run")
    request(app, "/secret-page")
    found = lines(tmp_path)
    assert [(line["who"], line["kind"], line["status"]) for line in found] == [
        ("vera", "page", 200),
        ("vera", "page", 404),
        ("vera", "page", 404),
    ]
    assert found[0]["rows"] > 0 and found[1]["rows"] is None
    whats = [line["what"] for line in found]
    assert whats == ([f"/run/{w.BIG}", "/run/secret-run", "/secret-page"] if values else ["/run/{run_id}", "/run/{run_id}", "/{path:path}"])
    assert "note" not in (tmp_path / "logs" / "access.jsonl").read_text()


@pytest.mark.parametrize(("method", "host", "status"), [("POST", "localhost", 405), ("GET", "rebound.example", 403)])
def test_refused_requests_are_logged(tmp_path: Path, method: str, host: str, status: int) -> None:
    """For another method or host, Runspend does not look up the user and logs no value of the address."""
    app = create_app(settings_of(tmp_path), hosts=("localhost",))
    assert request(app, "/run/secret-run", method=method, host=host).status_code == status
    [line] = lines(tmp_path)
    assert (line["who"], line["what"], line["status"]) == (None, "/{path:path}", status)


@pytest.mark.parametrize("hostile", ["a\nb", 'a"}\n{"who": "root"', "a\u2028b", "\x1b[2J", "\ud800", "x" * 100_000, "\0"])
def test_hostile_text_makes_no_extra_line(tmp_path: Path, hostile: str) -> None:
    """Each entry is exactly one line of ASCII."""
    settings = settings_of(tmp_path, values=True)
    log_page(settings, who=hostile, pattern="/", path=hostile, status=200, rows=None)
    [line] = lines(tmp_path)
    assert line["who"] == hostile[:4000] and line["what"] == hostile[:4000]


def _write_many(folder: Path, number: int) -> None:
    for count in range(200):
        log_page(
            settings_of(folder, values=True), who=f"writer-{number}", pattern="/", path="/" + "x" * (count * 19), status=count, rows=None
        )


def test_several_writers_do_not_mix_their_lines(tmp_path: Path) -> None:
    """Four processes write at the same time. Each line is whole, and none is lost."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = lines(tmp_path)
    assert sorted((line["who"], line["status"]) for line in found) == sorted((f"writer-{n}", c) for n in range(4) for c in range(200))


@pytest.mark.parametrize("trouble", ["link", "folder", "full"])
def test_a_log_that_cannot_be_written_is_a_warning(tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    """Runspend warns and does not follow a link."""
    decoy, file = tmp_path / "decoy", tmp_path / "logs" / "access.jsonl"
    file.parent.mkdir()
    decoy.write_text("as it was")
    settings = settings_of(tmp_path)
    if trouble == "link":
        file.symlink_to(decoy)
    elif trouble == "folder":
        file.mkdir()
    elif trouble == "full":
        settings = Settings.model_validate({"home": tmp_path, "access_log": {"file": "/dev/full"}})
    log_page(settings, who="vera", pattern="/", path="/", status=200, rows=None)
    assert "cannot write the access log" in caplog.text
    assert decoy.read_text() == "as it was"


def test_the_log_path_is_relative_to_the_configuration(tmp_path: Path) -> None:
    """A relative path of the log is relative to runspend.yaml, like every other path in it."""
    (tmp_path / "runspend.yaml").write_text("access_log: {file: logs/a.jsonl}\n", encoding="utf-8")
    log = load_settings(tmp_path / "runspend.yaml").access_log
    assert log is not None and log.file == tmp_path / "logs" / "a.jsonl" and not log.values


QUOTES = ("'", '"', "`", "'''", '"""', "$$", "$a$", "\\", "--", "/*", "*/", "#", "\n", "r", "e")


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(QUOTES), max_size=6), st.sampled_from(["'", '"']))
def test_a_literal_is_left_out_after_any_text(before: list[str], quote: str) -> None:
    """If DuckDB or GoogleSQL reads a word as part of a literal, the log does not contain it."""
    statement = f"{''.join(before)} {quote}delete{quote}"
    for dialect in ("duckdb", "bigquery"):
        try:
            tokens = sqlglot.tokenize(statement, read=dialect)
        except sqlglot.errors.TokenError:
            continue
        if any(
            "delete" in token.text
            and token.token_type in (TokenType.STRING, TokenType.IDENTIFIER, TokenType.HEREDOC_STRING, TokenType.RAW_STRING)
            for token in tokens
        ):
            assert "delete" not in without_values(statement), dialect


def test_pages_that_were_refused_or_failed_are_logged(tmp_path: Path, explained: Path) -> None:
    """Runspend logs a wrong host, another method, and a page that failed with an unexpected error."""
    settings = Settings.model_validate(
        {**settings_of(tmp_path).model_dump(include={"home", "access_log"}), "warehouse": {"uri": str(explained)}}
    )

    def broken() -> str:
        raise KeyError("a bug")

    request(create_app(settings, hosts=LOOPBACK), "/", host="evil.example")
    request(create_app(settings), "/", method="POST")
    with pytest.raises(KeyError):
        request(create_app(settings, guard=broken), "/")
    assert [line["status"] for line in lines(tmp_path)] == [403, 405, 500]


def test_a_log_on_a_blocked_disk_delays_one_page_for_a_moment(tmp_path: Path) -> None:
    """A pipe without a reader blocks as such a disk does. Pages are still answered, and the lines are written when it responds again."""
    (tmp_path / "logs").mkdir()
    pipe = tmp_path / "logs" / "access.jsonl"
    os.mkfifo(pipe)
    app = create_app(settings_of(tmp_path))
    for _ in range(3):
        assert request(app, "/icon.svg").status_code == 200
    found = b""
    with pipe.open("rb") as reader:
        while found.count(b"\n") < 3:
            found += reader.read(1) or b""
    assert [json.loads(line)["status"] for line in found.splitlines()] == [200, 200, 200]


def test_lines_that_cannot_be_written_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """When too many lines wait, Runspend drops the newest ones and reports it in the server's log."""
    release = threading.Event()
    page_log, written = PageLog(wait=0.05, most=3), []

    async def note_five() -> None:
        await page_log.note(lambda: (release.wait(), written.append(0))[0])
        for number in range(1, 5):
            await page_log.note(partial(written.append, number))

    asyncio.run(note_five())
    release.set()
    page_log._pool.shutdown()
    assert written == [0, 1, 2]
    assert caplog.text.count("cannot write the access log: 3 lines wait") == 2
