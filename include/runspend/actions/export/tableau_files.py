"""Write Tableau's files for an extract: a data source (.tds) for costs, one for runs, and a workbook (.twb) with a sheet per question.

Names, labels and descriptions come from the table definitions. Each file ends with a digest of its content, so that Runspend recognizes an
edited file and keeps it.

Source: Tableau "Document Schemas" (the XSD of workbooks). Column instances have the names that Tableau would give them, such as
`sum:effective_cost:qk`.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from xml.etree import ElementTree as xml

from runspend.schema.public_views import COSTS_FOR_DASHBOARDS
from runspend.schema.tables import RUN_COSTS, Column, Table

VERSION = "18.1"  # the version in files of all Tableau versions since 2018
USER = "http://www.tableausoftware.com/xml/user"
ABBREVIATIONS = {"gpu": "GPU", "cpu": "CPU", "id": "ID", "uri": "URI", "llm": "LLM", "gb": "GiB"}
# GoogleSQL type -> Tableau's type, role and kind of field
FIELDS = {
    "STRING": ("string", "dimension", "nominal"),
    "INT64": ("integer", "measure", "quantitative"),
    "FLOAT64": ("real", "measure", "quantitative"),
    "BOOL": ("boolean", "dimension", "nominal"),
    "DATE": ("date", "dimension", "ordinal"),
    "TIMESTAMP": ("datetime", "dimension", "ordinal"),
    "BIGNUMERIC": ("real", "measure", "quantitative"),
    "ARRAY<STRING>": ("string", "dimension", "nominal"),
}
MONEY, NUMBER, DAY, TIME = "n#,##0.00;-#,##0.00", "n#,##0.##;-#,##0.##", "*yyyy-MM-dd", "*yyyy-MM-dd HH:mm:ss"
FORMATS = {"BIGNUMERIC": MONEY, "FLOAT64": NUMBER, "DATE": DAY, "TIMESTAMP": TIME}


@dataclass(frozen=True)
class Calculation:
    """A measure that Tableau computes. `formula` is in Tableau's language. It is also SQL for Hyper if names get double quotes."""

    name: str
    label: str
    meaning: str
    formula: str
    format: str = MONEY


@dataclass(frozen=True)
class Source:
    """A data source: one table of the extract."""

    name: str
    label: str
    table: Table
    hidden: tuple[str, ...] = ()  # columns whose names end with one of these are hidden
    calculations: tuple[Calculation, ...] = ()

    @property
    def id(self) -> str:
        """The name that qualifies the fields of the data source."""
        return f"federated.{self.name}"


COSTS_SOURCE = Source(
    "runspend-costs",
    "Runspend costs",
    COSTS_FOR_DASHBOARDS,
    hidden=("_float", "_rounded", "build_id"),
    calculations=(
        Calculation(
            "idle_cost",
            "Idle cost",
            "Effective cost of paid-for time that no run used.",
            "CASE [part] WHEN 'idle' THEN [effective_cost] ELSE 0.0 END",
        ),
    ),
)
RUNS_SOURCE = Source(
    "runspend-runs",
    "Runspend runs",
    RUN_COSTS,
    hidden=("build_id", "_from"),
    calculations=(
        Calculation("machine_hours", "Machine hours", "machine_seconds in hours.", "[machine_seconds] / 3600.0", NUMBER),
        Calculation("gpu_hours", "GPU hours", "gpu_seconds in hours.", "[gpu_seconds] / 3600.0", NUMBER),
    ),
)
SOURCES = (COSTS_SOURCE, RUNS_SOURCE)


@dataclass(frozen=True)
class Sheet:
    """A worksheet. `rows` and `columns` are names of dimensions. Dates in `columns` are truncated to the unit `cut`.

    `only`: a dimension and the one value to show. `without`: a dimension and the value to exclude.
    """

    label: str
    source: Source
    mark: str  # Bar or Text
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    measure: str
    color: str = ""
    cut: str = ""  # Day or Month, the unit of the charge date
    only: tuple[str, str] | None = None
    without: tuple[str, str] | None = None
    top: tuple[str, int] | None = None  # a dimension, and how many of its largest values to show


SHEETS = (
    Sheet(
        "Cost by team and day", COSTS_SOURCE, "Bar", ("billing_currency",), ("charge_date",), "effective_cost", color="team", cut="Day",
        without=("part", "out of scope"),
    ),
    Sheet(
        "Cost by team and month", COSTS_SOURCE, "Text", ("billing_currency", "team"), ("charge_date",), "effective_cost", cut="Month",
        without=("part", "out of scope"),
    ),
    Sheet(
        "Idle cost by day", COSTS_SOURCE, "Bar", ("billing_currency",), ("charge_date",), "idle_cost", color="service_name", cut="Day",
        only=("part", "idle"),
    ),
    Sheet(
        "Top 50 runs", RUNS_SOURCE, "Bar", ("billing_currency", "run_id", "run_name", "experiment_name", "team"), (), "effective_cost",
        top=("run_id", 50),
    ),
)  # fmt: skip


def files_beside(extract: str) -> dict[str, bytes]:
    """Return the files to write next to an extract with this file name, by name."""
    stem = extract.removesuffix(".hyper")
    names = {source.name: f"{stem}{source.name.removeprefix('runspend')}.tds" for source in SOURCES}
    return {**{names[source.name]: _data_source_file(source, extract) for source in SOURCES}, f"{stem}.twb": workbook(extract)}


def workbook(extract: str) -> bytes:
    """Return the workbook for an extract. `extract`: the path of the extract relative to the workbook."""
    root = xml.Element("workbook", {"original-version": VERSION, "source-build": "0.0.0 (0000.0.0.0)", "version": VERSION})
    xml.SubElement(root, "document-format-change-manifest")
    sources = xml.SubElement(root, "datasources")
    for source in SOURCES:
        sources.append(_data_source(source, extract))
    sheets = xml.SubElement(root, "worksheets")
    for sheet in SHEETS:
        _add_sheet(sheets, sheet)
    windows = xml.SubElement(root, "windows")
    for number, sheet in enumerate(SHEETS):
        _add_window(windows, sheet, is_first=number == 0)
    return _text(root)


def is_unchanged(text: bytes) -> bool:
    """Return whether a file was not edited after any version of Runspend wrote it."""
    body, mark, end = text.rpartition(b"<!-- runspend ")
    return bool(mark) and end == f"{_digest(body)} -->\n".encode()


def label(name: str) -> str:
    """Return the label of a column: "Effective cost" for effective_cost."""
    words = [ABBREVIATIONS.get(word, word) for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _text(root: xml.Element) -> bytes:
    xml.indent(root)
    body = xml.tostring(root, "unicode").replace(f"<{root.tag} ", f"<{root.tag} xmlns:user='{USER}' ", 1)
    whole = f"<?xml version='1.0' encoding='utf-8' ?>\n{body}\n".encode()
    return whole + f"<!-- runspend {_digest(whole)} -->\n".encode()


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def _data_source_file(source: Source, extract: str) -> bytes:
    root = _data_source(source, extract)
    root.set("formatted-name", source.id)
    return _text(root)


def _data_source(source: Source, extract: str) -> xml.Element:
    found = xml.Element("datasource", {"caption": source.label, "inline": "true", "name": source.id, "version": VERSION})
    connection = xml.SubElement(found, "connection", {"class": "federated"})
    named = xml.SubElement(
        xml.SubElement(connection, "named-connections"), "named-connection", {"caption": "Runspend", "name": "hyper.runspend"}
    )
    xml.SubElement(
        named,
        "connection",
        {"authentication": "auth-none", "class": "hyper", "dbname": extract, "default-settings": "yes", "schema": "public", "sslmode": "", "tablename": source.table.name, "username": "tableau_internal_user"},
    )  # fmt: skip
    table = {"connection": "hyper.runspend", "name": source.table.name, "table": f"[public].[{source.table.name}]", "type": "table"}
    xml.SubElement(connection, "relation", table)
    xml.SubElement(found, "aliases", {"enabled": "yes"})
    for column in source.table.columns:
        found.append(_column(source, column, with_meaning=True))
    for calculation in source.calculations:
        found.append(_calculation(calculation, with_meaning=True))
    return found


def _column(source: Source, column: Column, *, with_meaning: bool = False) -> xml.Element:
    type_, role, kind = FIELDS[column.type]
    about = {"caption": label(column.name), "datatype": type_, "name": f"[{column.name}]", "role": role, "type": kind}
    if column.type in FORMATS:
        about["default-format"] = MONEY if column.name.endswith(("_cost_float", "_cost_rounded")) else FORMATS[column.type]
    if column.name.endswith(source.hidden):
        about["hidden"] = "true"
    return _described(xml.Element("column", about), column.meaning if with_meaning else "")


def _calculation(calculation: Calculation, *, with_meaning: bool = False) -> xml.Element:
    found = xml.Element(
        "column",
        {"caption": calculation.label, "datatype": "real", "default-format": calculation.format, "name": f"[{calculation.name}]", "role": "measure", "type": "quantitative"},
    )  # fmt: skip
    xml.SubElement(found, "calculation", {"class": "tableau", "formula": calculation.formula})
    return _described(found, calculation.meaning if with_meaning else "")


def _described(field: xml.Element, meaning: str) -> xml.Element:
    if meaning:
        xml.SubElement(xml.SubElement(xml.SubElement(field, "desc"), "formatted-text"), "run").text = meaning
    return field


@dataclass(frozen=True)
class _Instance:
    """A field as a sheet uses it: unchanged, summed, or truncated to days or months."""

    field: str
    derivation: str = "None"

    kind: str = "nominal"

    @property
    def name(self) -> str:
        prefix = {"None": "none", "Sum": "sum", "Day-Trunc": "tdy", "Month-Trunc": "tmn"}[self.derivation]
        return f"[{prefix}:{self.field}:{self.kind[0]}k]"

    def add_to(self, parent: xml.Element) -> None:
        about = {"column": f"[{self.field}]", "derivation": self.derivation, "name": self.name, "pivot": "key", "type": self.kind}
        xml.SubElement(parent, "column-instance", about)


def _add_sheet(parent: xml.Element, sheet: Sheet) -> None:
    def of(instance: _Instance) -> str:
        return f"[{sheet.source.id}].{instance.name}"

    measure = _Instance(sheet.measure, "Sum", "quantitative")
    rows = [_Instance(name) for name in sheet.rows]
    along = "ordinal" if sheet.mark == "Text" else "quantitative"  # a text table has one column per month, a bar chart has an axis
    columns = [_Instance(name, f"{sheet.cut}-Trunc", along) for name in sheet.columns]
    filtered = [_Instance(name) for name, _ in filter(None, (sheet.only, sheet.without))]
    colors = [_Instance(sheet.color)] if sheet.color else []
    used = [*columns, *rows, *colors, *filtered, measure]

    worksheet = xml.SubElement(parent, "worksheet", {"name": sheet.label})
    table = xml.SubElement(worksheet, "table")
    view = xml.SubElement(table, "view")
    xml.SubElement(xml.SubElement(view, "datasources"), "datasource", {"caption": sheet.source.label, "name": sheet.source.id})
    needs = xml.SubElement(view, "datasource-dependencies", {"datasource": sheet.source.id})
    for column in _columns_used(sheet, used):
        needs.append(column)
    for instance in dict.fromkeys(used):
        instance.add_to(needs)
    for instance in filtered:
        _add_filter(view, of(instance), instance.name, sheet)
    if sheet.top is not None:
        _add_top(view, of(_Instance(sheet.top[0])), sheet)
        xml.SubElement(view, "computed-sort", {"column": of(_Instance(sheet.top[0])), "direction": "DESC", "using": of(measure)})
    slices = [of(instance) for instance in filtered] + ([of(_Instance(sheet.top[0]))] if sheet.top else [])
    listed = xml.SubElement(view, "slices")
    for name in slices:
        xml.SubElement(listed, "column").text = name
    xml.SubElement(view, "aggregation", {"value": "true"})
    xml.SubElement(table, "style")
    pane = xml.SubElement(xml.SubElement(table, "panes"), "pane", {"selection-relaxation-option": "selection-relaxation-allow"})
    xml.SubElement(xml.SubElement(pane, "view"), "breakdown", {"value": "auto"})
    xml.SubElement(pane, "mark", {"class": sheet.mark})
    encodings = xml.SubElement(pane, "encodings")
    for instance in colors:
        xml.SubElement(encodings, "color", {"column": of(instance)})
    if sheet.mark == "Text":
        xml.SubElement(encodings, "text", {"column": of(measure)})
    shown = _shelf([of(instance) for instance in rows])
    if sheet.mark == "Bar" and columns:
        shown = f"({shown} * {of(measure)})"
    xml.SubElement(table, "rows").text = shown
    xml.SubElement(table, "cols").text = _shelf([of(instance) for instance in columns or [measure]])
    xml.SubElement(worksheet, "simple-id", {"uuid": _uuid(f"worksheet {sheet.label}")})


def _columns_used(sheet: Sheet, used: list[_Instance]) -> list[xml.Element]:
    """Return the fields of the sheet, including those that its calculations read."""
    calculations = {c.name: c for c in sheet.source.calculations}
    names = {instance.field for instance in used}
    names |= {name for c in calculations.values() if c.name in names for name in re.findall(r"\[(\w+)\]", c.formula)}
    found = [_column(sheet.source, column) for column in sheet.source.table.columns if column.name in names]
    return [*found, *(_calculation(c) for c in calculations.values() if c.name in names)]


def _add_filter(view: xml.Element, column: str, level: str, sheet: Sheet) -> None:
    """Add a filter that keeps one value (`only`), or excludes it (`without`)."""
    _, value = sheet.only or sheet.without or ("", "")
    member = {"function": "member", "level": level, "member": f'"{value}"'}
    found = xml.SubElement(view, "filter", {"class": "categorical", "column": column})
    if sheet.only:
        xml.SubElement(
            found,
            "groupfilter",
            {**member, "user:ui-domain": "database", "user:ui-enumeration": "inclusive", "user:ui-marker": "enumerate"},
        )
    else:
        marks = {"function": "except", "user:ui-domain": "database", "user:ui-enumeration": "exclusive", "user:ui-marker": "enumerate"}
        outer = xml.SubElement(found, "groupfilter", marks)
        xml.SubElement(outer, "groupfilter", {"function": "level-members", "level": level})
        xml.SubElement(outer, "groupfilter", member)


def _add_top(view: xml.Element, column: str, sheet: Sheet) -> None:
    """Add a filter that keeps the largest values of a dimension."""
    name, count = sheet.top or ("", 0)
    found = xml.SubElement(view, "filter", {"class": "categorical", "column": column})
    end = {
        "count": f"{count}",
        "end": "top",
        "function": "end",
        "units": "records",
        "user:ui-marker": "end",
        "user:ui-top-by-field": "true",
    }
    order = {"direction": "DESC", "expression": f"SUM([{sheet.measure}])", "function": "order", "user:ui-marker": "order"}
    members = {"function": "level-members", "level": _Instance(name).name, "user:ui-enumeration": "all", "user:ui-marker": "enumerate"}
    xml.SubElement(xml.SubElement(xml.SubElement(found, "groupfilter", end), "groupfilter", order), "groupfilter", members)


def _shelf(names: list[str]) -> str:
    """Return the names as one shelf expression. Tableau nests them in pairs."""
    if not names:
        return ""
    first, *rest = names
    return f"({first} / {_shelf(rest)})" if rest else first


def _add_window(parent: xml.Element, sheet: Sheet, *, is_first: bool) -> None:
    window = xml.SubElement(parent, "window", {"class": "worksheet", "name": sheet.label, **({"maximized": "true"} if is_first else {})})
    cards = xml.SubElement(window, "cards")
    for edge, strips in (("left", [("pages", "filters", "marks")]), ("top", [("columns",), ("rows",), ("title",)])):
        place = xml.SubElement(cards, "edge", {"name": edge})
        for strip in strips:
            size = "160" if edge == "left" else "2147483647"
            inside = xml.SubElement(place, "strip", {"size": size})
            for card in strip:
                xml.SubElement(inside, "card", {"type": card})
    xml.SubElement(window, "simple-id", {"uuid": _uuid(f"window {sheet.label}")})


def _uuid(name: str) -> str:
    """Return an identifier that is always the same for a name."""
    return f"{{{str(uuid.uuid5(uuid.NAMESPACE_URL, f'runspend {name}')).upper()}}}"
