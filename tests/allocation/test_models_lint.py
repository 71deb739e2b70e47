"""What the house asks of every model and check: a first line that tells the grain, one place in the run, known tables and parameters.

That they are free of constructs which differ between the engines is tested beside the linter (`tests/warehouse/test_dialect.py`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import pytest
from sqlglot import exp

from runspend.allocation import estimates, model_order
from runspend.schema.tables import TABLES
from runspend.warehouse.dialect import parameter_names, table_names
from runspend.warehouse.googlesql import parse
from runspend.warehouse.sql_files import read_sql, sql_files
from tests.allocation.chain import DAY, PACKAGE, moment, parameters_of, parameters_of_month

LEDGER, SUMMARY = model_order.ledger_models("2026-10"), model_order.run_costs_models("2026-10")
ESTIMATE = estimates.estimate_models()
MODELS = {name: read_sql(PACKAGE / "models", name) for name in sql_files(PACKAGE / "models")}
CHECKS = {name: read_sql(PACKAGE / "checks", name) for name in sql_files(PACKAGE / "checks")}
NOTHING = {"billing_lines": [], "runs": []}
LEDGER_PARAMETERS = parameters_of(NOTHING, DAY).keys()
SUMMARY_PARAMETERS = parameters_of_month(NOTHING, DAY).keys()


def test_every_file_is_run() -> None:
    """Every model and every check is used, and none is missing."""
    assert MODELS.keys() == {model.name for model in (*LEDGER, *SUMMARY, *ESTIMATE)}
    assert CHECKS.keys() == {*model_order.LEDGER_CHECKS, *model_order.RUN_CHECKS, *estimates.CHECKS}


def test_folders_are_in_running_order() -> None:
    """A model reads only models of its own folder or of folders before it, and each folder says what goes in and out."""
    folders = {name: path.parent for name, path in sql_files(PACKAGE / "models").items()}
    makers: dict[str, set[str]] = {}
    for model in (*LEDGER, *SUMMARY, *ESTIMATE):
        makers.setdefault(model.target, set()).add(folders[model.name].name)
    for name, text in MODELS.items():
        later = {table for table in table_names(text) & makers.keys() if min(makers[table]) > folders[name].name}
        assert later == set(), name
    assert [folder for folder in {*folders.values()} if not (folder / "README.md").is_file()] == []


@pytest.mark.parametrize("name", MODELS)
def test_a_model_begins_with_its_grain(name: str) -> None:
    """The first line says what one row is."""
    assert re.match(r"-- one row per \w", MODELS[name])


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_says_which_rows_it_returns(name: str) -> None:
    """The first line says what a returned row means; a check that a parameter does not confine would fail for other months."""
    assert re.match(r"-- rows: \w", CHECKS[name])
    assert parameter_names(CHECKS[name]) == {"period"}
    assert table_names(CHECKS[name]) <= TABLES.keys()


@pytest.mark.parametrize(
    ("models", "parameters"),
    [(LEDGER, LEDGER_PARAMETERS), (SUMMARY, SUMMARY_PARAMETERS), (ESTIMATE, estimates.estimate_parameters(moment("06:00")).keys())],
    ids=["ledger", "summary", "estimate"],
)
def test_a_model_reads_only_tables_that_exist_by_then(models: list[model_order.Model], parameters: Collection[str]) -> None:
    """Tables of `schema/tables.py` and models before it, with the parameters its step has."""
    known = set(TABLES)
    for model in models:
        assert table_names(MODELS[model.name]) <= known, model.name
        assert parameter_names(MODELS[model.name]) <= parameters, model.name
        known.add(model.target)


@pytest.mark.parametrize("name", sorted({m.target for m in (*LEDGER, *ESTIMATE) if m.into is None}))
def test_temporary_rows_are_read(name: str) -> None:
    """A model that fills no table is there for another one."""
    assert any(name in table_names(sql) for sql in MODELS.values())


@pytest.mark.parametrize("name", [*MODELS, *CHECKS])
def test_keywords_are_small(name: str) -> None:
    """One way to write SQL: no capitals but in text."""
    sql = re.sub(r"'[^']*'|--.*", "", (MODELS | CHECKS)[name])
    assert re.findall(r"\w*[A-Z]\w*", sql) == []


def words_said(node: exp.Expression) -> Iterator[str]:
    """The texts an expression may be, as far as it says them itself."""
    if isinstance(node, exp.Case):
        for branch in (*(case.args["true"] for case in node.args["ifs"]), node.args.get("default")):
            if branch is not None:
                yield from words_said(branch)
    elif isinstance(node, exp.Coalesce):
        for branch in (node.this, *node.expressions):
            yield from words_said(branch)
    elif isinstance(node, exp.Literal):
        yield node.this


@pytest.mark.parametrize(
    "column", ["allocated_to", "confidence", "cost_kind", "cost_status", "match_method", "reason", "run_end_rule", "weight_kind"]
)
def test_models_say_the_words_of_the_tables(column: str) -> None:
    """All the words of `schema/tables.py` and no other: one that is missing there cannot be written."""
    said: set[str] = set()
    for sql in {MODELS[model.name] for model in (*LEDGER, *SUMMARY)}:
        for select in parse(sql).find_all(exp.Select):
            whole: exp.Expression = select  # a union has the names of its first part
            while isinstance(whole.parent, exp.SetOperation):
                whole = whole.parent
            said |= {
                word
                for name, node in zip(whole.named_selects, select.selects, strict=False)
                if name == column
                for word in words_said(node.unalias())
            }
    said -= {"rest"}  # of a pool: a later model assigns it
    said |= {"proportional", "even"} if column == "reason" else set()  # policies of `sharing`
    assert said == {word for table in TABLES.values() for c in table.columns if c.name == column for word in c.words}


@pytest.mark.parametrize("name", sorted({m.name for m in (*LEDGER, *SUMMARY, *ESTIMATE) if m.into is not None}))
def test_what_analysts_read_is_spelled_out(name: str) -> None:
    """A model that fills a table names every column of it. Its inner steps need not."""
    assert parse(MODELS[name]).named_selects
    assert "*" not in parse(MODELS[name]).named_selects
