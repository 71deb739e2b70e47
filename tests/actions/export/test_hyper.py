"""A Tableau extract has the warehouse's rows and exact sums, and the workbook's queries have the ledger's answers.

A killed export leaves a whole file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pyarrow as pa
import pytest

from runspend.actions.export import hyper, tableau_files
from runspend.actions.export.hyper import Extract, export_hyper
from runspend.actions.export.tableau_files import SHEETS, SOURCES, Sheet
from runspend.actions.publish import open_content
from runspend.actions.publish.content import BUILDS
from runspend.core.errors import CheckFailed, MachineFailed, UsageError
from runspend.schema.published import PUBLISHED_TABLES
from runspend.schema.tables import COSTS, Table
from runspend.warehouse.factory import open_warehouse
from tests import access_world
from tests.actions.export.extracts import asked
from tests.actions.publish.seen import double_cost_daily
from tests.command import run_here
from tests.full_disk import full_disk

pytest.importorskip("tableauhyperapi", reason="tableauhyperapi has packages for x86-64 only")
REPOSITORY = Path(__file__).parents[3]
NOW = access_world.NOW
SCHEMA_PINS = Path(__file__).parent / "tableau-schema.txt"
XS = "{http://www.w3.org/2001/XMLSchema}"
# Schemas that the published schema imports but does not contain.
IMPORTED = {
    "http://www.tableausoftware.com/xml/user": "<xs:attributeGroup name='UserAttributes-AG'><xs:anyAttribute namespace='##any' processContents='lax'/></xs:attributeGroup>",
    "http://www.w3.org/XML/1998/namespace": "<xs:attribute name='base' type='xs:anyURI'/>",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the home of two teams, and its extract. Read-only."""
    folder = tmp_path_factory.mktemp("hyper")
    access_world.make_two_teams(folder)
    export(folder, folder / "runspend.hyper")
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return shutil.copytree(made, tmp_path / "home")


def export(home: Path, target: Path) -> Extract:
    with open_content(open_warehouse(f"{home}/warehouse")) as content:
        return export_hyper(content, target, NOW)


def ledger(home: Path, *questions: str) -> list[list[tuple[Any, ...]]]:
    with open_warehouse(f"{home}/warehouse").reader() as reader:
        return [[tuple(row.values()) for row in reader.query(sql).to_pylist()] for sql in questions]


def text_of(value: Any) -> str:
    """Return a value in a form that both sides can show."""
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, Decimal):
        return f"{value:.22f}"
    return re.sub(r"(\.\d*?)0+$|\+00:00$", r"\1", f"{value}").rstrip(".")


def rows_of(rows: list[Any]) -> list[list[str]]:
    return sorted([text_of(value) for value in row] for row in rows)


def test_an_extract_has_the_rows_of_the_warehouse(made: Path) -> None:
    """Rows are equal: decimals to the last digit, times in UTC, and nulls. Arrays become strings."""
    questions = [f"select {', '.join(c.name for c in table.columns)} from {table.name}" for table in PUBLISHED_TABLES]
    for table, found, wanted in zip(PUBLISHED_TABLES, asked(made / "runspend.hyper", *questions), ledger(made, *questions), strict=True):
        assert rows_of(found) == rows_of(wanted) and wanted, table.name
    (builds,) = asked(made / "runspend.hyper", f"select table_name, row_count, build_id from {BUILDS.name} where table_name = 'all'")
    with open_content(open_warehouse(f"{made}/warehouse")) as content:
        assert builds[0][2] == content.build_id


def test_columns_have_exact_types_and_descriptions(made: Path) -> None:
    (types,) = asked(
        made / "runspend.hyper",
        "select a.attname, format_type(a.atttypid, a.atttypmod), d.description from pg_catalog.pg_attribute a"
        " join pg_catalog.pg_class c on c.oid = a.attrelid"
        " join pg_catalog.pg_description d on d.objoid = c.oid and d.objsubid = a.attnum where c.relname = 'cost_daily'",
    )
    found = {name: (type_, meaning) for name, type_, meaning in types}
    assert found["effective_cost"] == ("numeric(38,22)", next(c.meaning for c in COSTS if c.name == "effective_cost"))
    assert found["charge_date"][0] == "date" and found["is_spread"][0] == "boolean"


def test_sums_are_the_ledgers_to_the_last_digit(made: Path) -> None:
    questions = [f"select billing_currency, {', '.join(f'sum({c.name})' for c in COSTS)} from {name} group by billing_currency"
                 for name in ("cost_allocations", "cost_daily", "costs_for_dashboards", "run_costs", "run_costs_daily")]  # fmt: skip
    found = [rows_of(rows) for rows in asked(made / "runspend.hyper", *questions)]
    assert found == [rows_of(rows) for rows in ledger(made, *questions)]
    assert found[0] == found[1] == found[2] and Decimal(found[0][0][1]) > 0


def query_of(sheet: Sheet, table: str) -> str:
    """Return a sheet's query in SQL of both engines."""
    formulas = {c.name: re.sub(r"\[(\w+)\]", r"\1", c.formula) for c in sheet.source.calculations}
    keys = [*dict.fromkeys((*sheet.rows, *([sheet.color] if sheet.color else [])))]
    cut = [f"cast(date_trunc('{sheet.cut.lower()}', {name}) as date)" for name in sheet.columns]
    where = [f"{name} = '{value}'" for name, value in filter(None, [sheet.only])]
    where += [f"{name} <> '{value}'" for name, value in filter(None, [sheet.without])]
    kept = f" where {' and '.join(where)}" if where else ""
    grouped = [*keys, *cut]
    measure = formulas.get(sheet.measure, sheet.measure)
    return f"select {', '.join(grouped)}, sum({measure}) as cost from {table}{kept} group by {', '.join(grouped)}"


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.label)
def test_a_sheets_question_has_the_ledgers_answer(sheet: Sheet, made: Path) -> None:
    """The sheet's own groups in Hyper have the same cost as in cost_allocations."""
    (found,) = asked(made / "runspend.hyper", query_of(sheet, sheet.source.table.name))
    inside = {"Idle cost by day": "allocated_to = 'idle'", "Top 50 runs": "allocated_to = 'run'"}.get(
        sheet.label, "allocated_to <> 'out_of_scope'"
    )
    ((total,),) = ledger(made, f"select sum(effective_cost) from cost_allocations where {inside}")[0:1]
    assert sum(row[-1] for row in found) == total[0] > 0 and len(found) > 1


def test_only_a_new_build_is_written(home: Path) -> None:
    """If the build is the same, nothing is written. Files next to it that someone changed are kept."""
    file = home / "runspend.hyper"
    before = file.stat().st_mtime_ns
    assert (again := export(home, file)).rows == {} and (again.written, again.kept) == ([], [])
    assert file.stat().st_mtime_ns == before
    (home / "runspend.twb").write_text("<workbook>mine</workbook>")
    (home / "runspend-costs.tds").unlink()
    double_cost_daily(home)
    second = export(home, file)
    assert second.build_id != again.build_id and second.rows["cost_daily"] > 0
    assert (second.written, second.kept) == ([home / "runspend-costs.tds"], [home / "runspend.twb"])
    assert (home / "runspend.twb").read_text() == "<workbook>mine</workbook>"


def test_files_of_others_are_never_replaced(home: Path) -> None:
    for name in ("mine.hyper", "mine.twbx"):
        (home / name).write_bytes(b"mine")
        with pytest.raises(UsageError, match="is not a file that `runspend export hyper` wrote"):
            export(home, home / name)
        assert (home / name).read_bytes() == b"mine"
    with pytest.raises(UsageError, match=r"must end in \.hyper or \.twbx"):
        export(home, home / "runspend.csv")
    with pytest.raises(UsageError, match="there is no folder"):
        export(home, home / "nowhere" / "runspend.hyper")


def test_a_full_disk_is_the_machines_fault(home: Path, tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk") as disk:
        with pytest.raises(MachineFailed, match=rf"cannot export to {disk}/costs\.hyper: the disk is full \({disk}\)\. Free space there"):
            export(home, disk / "costs.hyper")
        assert {path.name for path in disk.iterdir()} == {"filler", ".costs.hyper.lock"}


def test_a_packaged_workbook_has_the_extract_inside(home: Path) -> None:
    first = export(home, home / "costs.twbx")
    with zipfile.ZipFile(home / "costs.twbx") as archive:
        assert archive.namelist() == ["costs.twb", hyper.INSIDE]
        archive.extract(hyper.INSIDE, home)
        assert f'dbname="{hyper.INSIDE}"' in archive.read("costs.twb").decode()
    questions = ["select cast(sum(effective_cost) as text) from cost_daily"]
    assert asked(home / hyper.INSIDE, *questions) == asked(home / "runspend.hyper", *questions)
    assert export(home, home / "costs.twbx") == Extract(home / "costs.twbx", first.build_id)


def test_an_extract_that_lacks_rows_is_not_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, file = hyper._Export._copy, home / "lacking.hyper"
    monkeypatch.setattr(hyper._Export, "_copy", lambda self, connection, table, files: copy(self, connection, table, files) - 1)
    with pytest.raises(CheckFailed, match="hyper_export_equals_published"):
        export(home, file)
    assert [path.name for path in home.iterdir() if file.name in path.name] == [f".{file.name}.lock"]


def test_an_extract_with_other_sums_is_not_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export fails if the engine rounded an amount."""
    file = home / "rounded.hyper"
    monkeypatch.setattr(hyper, "TYPES", {**hyper.TYPES, "BIGNUMERIC": "numeric(38, 2)"})
    with pytest.raises(CheckFailed, match=r"measure=\w+_cost"):
        export(home, file)
    assert [path.name for path in home.iterdir() if file.name in path.name] == [f".{file.name}.lock"]


def test_a_killed_export_leaves_the_old_or_the_new_file(home: Path) -> None:
    file = home / "killed.hyper"
    points = ["export.hyper.cost_daily", "export.hyper.before_replace", "export.hyper.after_replace"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.actions.export.killed", f"{home}", f"{file}", json.dumps([points[0], "", "double", *points, ""])],
        cwd=REPOSITORY, env={**os.environ}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    nothing, old, changed, *killed, new = map(json.loads, done.stdout.splitlines())
    assert (nothing, changed) == ([], old) and old[0] != new[0] and old[1] != new[1]
    assert killed == [old, old, new]
    assert not file.with_name(f".{file.name}.exporting").exists()


def test_the_command_says_what_it_wrote(home: Path) -> None:
    (home / "runspend.yaml").write_text("home: .\n")
    command = ("export", "hyper", "--config", f"{home}/runspend.yaml", "--out")
    printed = run_here(*command, f"{home}/costs.hyper").stdout
    assert re.search(r"costs\.hyper: build [0-9a-f]{16}, rows of cost_daily \d", printed) and "costs-runs.tds: written" in printed
    assert run_here(*command, f"{home}/costs.hyper").stdout.strip().endswith(", unchanged")
    assert '"rows": {}' in run_here(*command, f"{home}/costs.hyper", "--json").stdout


# --- the data sources and the workbook ---


def documents() -> dict[str, xml.Element]:
    return {name: xml.fromstring(text) for name, text in tableau_files.files_beside("costs.hyper").items()}


def test_data_sources_describe_every_column_of_their_table() -> None:
    found = documents()
    assert list(found) == ["costs-costs.tds", "costs-runs.tds", "costs.twb"]
    for source, name in zip(SOURCES, found, strict=False):
        fields = {field.get("name", "").strip("[]"): field for field in found[name].iter("column")}
        assert {c.name for c in source.table.columns} | {c.name for c in source.calculations} == fields.keys()
        for column in source.table.columns:
            field = fields[column.name]
            assert "".join(field.itertext()).strip() == column.meaning and field.get("caption") == tableau_files.label(column.name)
        assert fields["effective_cost"].get("default-format") == "n#,##0.00;-#,##0.00"
        (extract,) = [c for c in found[name].iter("connection") if c.get("class") == "hyper"]
        assert (extract.get("dbname"), extract.get("tablename")) == ("costs.hyper", source.table.name)


def test_sheets_use_fields_that_they_declare() -> None:
    """Each name on a shelf, in a filter or in a sort refers to a declared column of the sheet's data source."""
    root = documents()["costs.twb"]
    sources = {source.id: source for source in SOURCES}
    sheets = root.findall("worksheets/worksheet")
    assert [sheet.get("name") for sheet in sheets] == [sheet.label for sheet in SHEETS]
    assert [window.get("name") for window in root.iter("window")] == [sheet.label for sheet in SHEETS]
    for sheet in sheets:
        (needs,) = sheet.iter("datasource-dependencies")
        source = sources[needs.get("datasource", "")]
        columns = {column.get("name") for column in needs.findall("column")}
        instances = {instance.get("name"): instance.get("column") for instance in needs.findall("column-instance")}
        assert columns <= {f"[{c.name}]" for c in (*source.table.columns, *source.calculations)}
        assert set(instances.values()) <= columns
        whole = xml.tostring(sheet, "unicode")
        used = set(re.findall(r"\[(federated\.[\w-]+)\]\.(\[[\w:]+\])", whole))
        assert len(used) >= 4 and {name for _, name in used} == instances.keys() and {name for name, _ in used} == {source.id}


def test_a_file_that_was_changed_is_known() -> None:
    text = tableau_files.workbook("x.hyper")
    assert tableau_files.is_unchanged(text)
    assert not tableau_files.is_unchanged(text.replace(b"Idle", b"Lazy", 1)) and not tableau_files.is_unchanged(b"<workbook/>")


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return Tableau's published schemas, from a package that contains them. Without a package index, the test is skipped with a message."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("not compared with Tableau's schema: there is no uv beside this Python")
    folder = tmp_path_factory.mktemp("schema")
    install = [uv, "pip", "install", "--quiet", "--target", f"{folder}", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    done = subprocess.run([*install, "--requirement", f"{SCHEMA_PINS}"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"not compared with Tableau's schema: it cannot be installed ({done.stderr.strip()[-200:]})")
    return sorted(folder.rglob("twb_*.xsd"))


def test_the_workbook_is_valid_by_tableaus_schema(schemas: list[Path], tmp_path: Path) -> None:
    """This holds for each version. The schema requires an element that Tableau leaves out in such workbooks, so the test adds it."""
    from lxml import etree

    assert len(schemas) >= 2
    explain = {"enabled-for-viewer": "true", "extreme-values-enabled-for-all": "true"}
    for path in schemas:
        schema = etree.fromstring(path.read_bytes())
        for number, imported in enumerate(schema.findall(f"{XS}import")):
            space = imported.get("namespace")
            stub = tmp_path / f"{number}.xsd"
            stub.write_text(f"<xs:schema xmlns:xs='{XS[1:-1]}' targetNamespace='{space}'>{IMPORTED[space]}</xs:schema>")
            imported.set("schemaLocation", f"{stub}")
        workbook = etree.fromstring(tableau_files.workbook("runspend.hyper"))
        etree.SubElement(etree.SubElement(workbook, "explain-data", explain), "explanation-types")
        checked = etree.XMLSchema(schema)
        assert checked.validate(workbook), f"{path.name}: {checked.error_log}"


def test_labels_are_for_people() -> None:
    shown = {name: tableau_files.label(name) for name in ("effective_cost", "gpu_seconds", "run_id", "artifact_uri")}
    assert list(shown.values()) == ["Effective cost", "GPU seconds", "Run ID", "Artifact URI"]
    names = [c.name for table in (source.table for source in SOURCES) for c in table.columns]
    assert all("_" not in tableau_files.label(name) for name in names)


def test_every_published_type_has_one_in_hyper_and_one_in_tableau() -> None:
    tables: tuple[Table, ...] = (*PUBLISHED_TABLES, BUILDS)
    types = {c.type for table in tables for c in table.columns}
    assert types <= hyper.TYPES.keys() and types <= tableau_files.FIELDS.keys()
    assert pa.types.is_decimal(BUILDS.arrow_schema().field("row_count").type) is False
