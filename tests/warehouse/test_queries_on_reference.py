"""Every query that Python sends to a warehouse is valid GoogleSQL: Google's reference implementation runs it unchanged and returns the same rows.

The test runs the commands of `questions_world.py` once, records their queries with the tables they read, and repeats them. It covers
every place in the package that queries. `tests/allocation` compares the rows of models and checks.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

import runspend
from runspend.core.errors import UsageError
from runspend.interfaces.cli import cli
from runspend.schema.public_views import ROUNDED, VIEWS
from runspend.warehouse.dialect import parameter_names, table_names
from runspend.warehouse.googlesql import parse
from runspend.warehouse.parquet import reader as published
from tests.benchmarks.accuracy.files import make_schema
from tests.reference import GoogleSQL, exact_rows, exact_value, googlesql_type
from tests.sql_lint import lint
from tests.warehouse import questions_world

pytestmark = pytest.mark.timeout(1800)  # the reference implementation interprets each query

PACKAGE = Path(runspend.__file__).parent
Site = tuple[str, int]  # file in the package, line

# Places whose queries no command of the world reaches, with the reason.
UNREACHED = {
    "actions/archive/protection.py": "asked and judged in tests/actions/archive/test_reference.py: `archive apply` goes by the machine's clock",
    "pipeline/archive_moving.py": "as actions/archive/protection.py",
    "actions/archive/mlflow_tags.py": "as actions/archive/protection.py",
    "ingest/billing/remote/bigquery.py": "Google's client, which reads a bill: no reader of a warehouse",
    "ingest/tracking/database.py": "MLflow's own database, in the SQL of SQLite or PostgreSQL: no reader of a warehouse",
    "ingest/tracking/links_database.py": "as ingest/tracking/database.py",
    "actions/archive/enclosing.py": "asked on DuckDB alone, in tests/actions/archive/test_notices.py: no folder of this world encloses another",
    "ingest/billing/measured_power.py": "asked and judged in tests/ingest/billing/test_measured_power.py, which has machines that were measured",
}
# Queries that find nothing in a healthy world, by a part of their text.
EMPTY = (
    "having sum(b.list_cost) != 0",  # bills that do not add up
    "select 1 as found from cost_daily",  # a name that is no longer used
    ") where false",  # reads only the columns
    "as month from",  # a table without rows under the name that is no longer used
    "with hashed as",  # monthly sums of an empty table
    """json_value(r.params, '$."epochs"') = @param_0""",  # a param that no run has
)
# Queries that the lint would refuse although they are right, by a part of their text, with the reason.
LINTED = {"with hashed as": "sums over a table's rows: of hashes as hexadecimal text, of decimals without the zeros they end in"}


@dataclass
class Question:
    """A query, the tables that it read, and DuckDB's answer."""

    sql: str
    parameters: dict[str, Any]
    tables: dict[str, pa.Table]
    rows: pa.Table
    site: Site


@dataclass
class Listener:
    """Record the queries that go through a reader's two methods."""

    asked: dict[tuple[Any, ...], Question] = field(default_factory=dict)  # the same query over the same rows is recorded once
    sites: set[Site] = field(default_factory=set)
    tables: dict[tuple[Any, ...], tuple[pa.Table, int]] = field(default_factory=dict)  # the rows of these files, and their hash

    def listen(self, patch: pytest.MonkeyPatch) -> None:
        """Record every query from now on."""
        query, open_reader = published.SqlReader.query, published.ParquetReader.__init__

        def opened(reader: Any, units: Mapping[Any, Path], *others: Any, **named: Any) -> None:
            open_reader(reader, units, *others, **named)
            reader.files = [(unit.table, path.stat().st_ino, path.stat().st_mtime_ns) for unit, path in sorted(units.items())]

        def heard(reader: Any, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
            assert not native
            names = sorted(table_names(sql))
            shown = reader.__dict__.setdefault("shown", {})  # a reader's view does not change
            for name in names:
                if name not in shown:
                    shown[name] = self._shown(reader, name, query)
            rows, site = query(reader, sql, parameters), calling_site()
            self.sites.add(site)
            key = (sql, repr(parameters), *(shown[name][1] for name in names))
            self.asked.setdefault(key, Question(sql, dict(parameters or {}), {name: shown[name][0] for name in names}, rows, site))
            return rows

        def heard_batches(reader: Any, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
            return iter(heard(reader, sql, parameters).to_batches(max_chunksize=rows))

        patch.setattr(published.ParquetReader, "__init__", opened)
        patch.setattr(published.SqlReader, "query", heard)
        patch.setattr(published.SqlReader, "batches", heard_batches)

    def _shown(self, reader: Any, name: str, query: Any) -> tuple[pa.Table, int]:
        """Return the rows of a table and their hash. Files are read again only if they change. They contain no rows in another currency."""
        key = (name, *(file for file in getattr(reader, "files", ()) if file[0] == name))
        if key not in self.tables or not hasattr(reader, "files"):
            table = query(reader, f"select * from {name}")
            self.tables[key] = table, hash(repr(table.to_pydict()))
        return self.tables[key]

    @property
    def questions(self) -> list[Question]:
        return list(self.asked.values())


def calling_site() -> Site:
    """Return the line of the package that sends the query."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE) and path.parent.name != "warehouse":
            return path.relative_to(PACKAGE).as_posix(), frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    raise AssertionError("asked by nobody of the package")


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Listener:
    """All queries sent while the world's commands run."""
    root = tmp_path_factory.mktemp("questions")
    folder = root / "world"
    folder.mkdir()
    world = questions_world.make_world(folder, make_schema(root / "schema.db"))
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        listener.listen(patch)
        patch.chdir(folder)

        def run(*words: str) -> str:
            done = CliRunner().invoke(cli, list(words))
            assert done.exception is None or isinstance(done.exception, (SystemExit, UsageError)), (words, done.exception)
            return done.output

        questions_world.work(folder, world, run)
    return listener


@pytest.fixture(scope="module")
def questions(heard: Listener) -> list[Question]:
    return heard.questions


def texts_of(questions: list[Question]) -> dict[str, list[Question]]:
    """Return each text with its queries, those with the most rows first."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.sql, []).append(question)
    return {sql: sorted(many, key=lambda q: -q.rows.num_rows) for sql, many in found.items()}


def difference(question: Question, reference: GoogleSQL) -> str | None:
    """Return how the reference's answer differs, or None. Names, types and rows must be equal, and their order if the query defines it."""
    from zetasql.core.exceptions import ServerError

    words = set(re.findall(r"\w+", question.sql))
    is_starred = re.search(r"select( \w+\.)? ?\*", question.sql) is not None
    tables = {
        name: table if is_starred else table.select([c for c in table.column_names if c in words])
        for name, table in question.tables.items()
    }
    try:
        theirs = reference.query(question.sql, tables, {name: question.parameters[name] for name in parameter_names(question.sql)})
    except ServerError as error:
        return f"refused: {error}"
    columns = [(f.name, googlesql_type(f.type)) for f in question.rows.schema]
    if columns != theirs.columns:
        return f"columns are {theirs.columns}, DuckDB's {columns}"
    ours = [tuple(row.values()) for row in question.rows.to_pylist()]
    if exact_rows(ours) != exact_rows(theirs.rows):
        return f"rows are {exact_rows(theirs.rows)[:3]}, DuckDB's {exact_rows(ours)[:3]}"
    in_order = [[tuple(exact_value(v) for v in row) for row in rows] for rows in (ours, theirs.rows)]
    is_ordered = parse(question.sql).args.get("order") is not None
    return "rows stand in another order" if is_ordered and in_order[0] != in_order[1] else None


def test_the_reference_gives_the_same_rows(questions: list[Question], reference: GoogleSQL) -> None:
    """Each unchanged text returns the same columns, types and rows over its tables, to the last decimal."""
    compared = [many[0] for many in texts_of(questions).values()]
    assert len(compared) > 120
    found = [(q.site, q.sql, described) for q in compared if (described := difference(q, reference)) is not None]
    assert found == []


def test_every_text_passes_the_lint(questions: list[Question]) -> None:
    """Queries follow the rules of models. The reference implementation also runs the exceptions."""
    assert {sql: found for sql in texts_of(questions) if not any(text in sql for text in LINTED) and (found := lint(sql))} == {}
    assert all(any(text in sql and lint(sql) for sql in texts_of(questions)) for text in LINTED)  # each exception must still be needed


def test_every_parameter_has_a_type(questions: list[Question]) -> None:
    """None and empty lists do not show BigQuery a type."""
    for question in questions:
        for name, value in question.parameters.items():
            elements = value if isinstance(value, list) else [value]
            kinds = {type(element) for element in elements}
            assert len(kinds) == 1 and kinds <= {str, int, date, datetime}, (question.site, name, value)
        assert question.parameters.keys() == parameter_names(question.sql), question.site


def test_every_text_had_rows(questions: list[Question]) -> None:
    """Two engines that return no rows do not prove anything."""
    empty = {sql: many[0].site for sql, many in texts_of(questions).items() if not many[0].rows.num_rows}
    assert {sql: site for sql, site in empty.items() if not any(text in sql for text in EMPTY)} == {}


def places_that_ask() -> dict[str, tuple[str, int, int]]:
    """Return each call of `.query(` or `.batches(` in the package: "file function" with its first and last line."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        text = path.read_text(encoding="utf-8")
        if name.startswith("warehouse/") or not re.search(r"\.(query|batches)\(", text):
            continue
        tree = ast.parse(text)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("query", "batches"):
                inside = [f.name for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
                found[f"{name} {inside[-1] if inside else '-'} {node.lineno}"] = (name, node.lineno, node.end_lineno or node.lineno)
    return found


def test_every_call_that_queries_is_covered(heard: Listener) -> None:
    """A command of the world reaches every call that passes a string to a reader, or the call is listed with a reason."""
    left = {
        place
        for place, (name, first, last) in places_that_ask().items()
        if not any((name, line) in heard.sites for line in range(first, last + 1))
    }
    assert {place for place in left if not any(place.startswith(start) for start in UNREACHED)} == set()
    assert all(any(place.startswith(start) for place in left) for start in UNREACHED)  # each exception must still be needed
    assert len(heard.sites) > 40


def test_every_file_of_questions_was_asked(questions: list[Question]) -> None:
    """Each SQL file for readers begins with a comment, and a recorded query contains it.

    The package does not query the public views; test_team_views_on_reference.py does. PostgreSQL's catalog is not a warehouse.
    """
    folders = [
        PACKAGE / "actions",
        PACKAGE / "schema",
        *(p for p in (PACKAGE / "allocation").iterdir() if p.name not in ("models", "checks")),
    ]
    found = [path for folder in folders for path in sorted(folder.rglob("*.sql"))]
    files = [path for path in found if path.stem not in {*VIEWS, ROUNDED} and path.parent.name != "postgres"]
    comments = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8").splitlines()[0] for path in files}
    assert len(set(comments.values())) == len(files) > 40
    asked = "\n".join(texts_of(questions))
    assert [name for name, comment in comments.items() if comment not in asked] == []
