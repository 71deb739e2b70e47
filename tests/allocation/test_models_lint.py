"""Rules for every model and check: a first line that states the grain, one place in the running order, known tables and parameters.

`tests/warehouse/test_dialect.py` shows that they are free of constructs that the engines answer differently.
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
SUMMARY_PARAMETERS = parameters_of_month(DAY).keys()


def test_every_file_is_run() -> None:
    """Every file is used, and no file is missing."""
    assert MODELS.keys() == {model.name for model in (*LEDGER, *SUMMARY, *ESTIMATE)}
    assert CHECKS.keys() == {*model_order.LEDGER_CHECKS, *model_order.RUN_CHECKS, *estimates.CHECKS}


def test_folders_are_in_running_order() -> None:
    """A model reads only models of its own folder or earlier folders, and each folder has a README with its inputs and outputs."""
    folders = {name: path.parent for name, path in sql_files(PACKAGE / "models").items()}
    makers: dict[str, set[str]] = {}
    for model in (*LEDGER, *SUMMARY, *ESTIMATE):
        makers.setdefault(model.target, set()).add(folders[model.name].name)
    for name, text in MODELS.items():
        later = {table for table in table_names(text) & makers.keys() if min(makers[table]) > folders[name].name}
        assert later == set(), name
    assert [folder for folder in {*folders.values()} if not (folder / "README.md").is_file()] == []


def test_a_shard_reads_lines_of_its_period_only() -> None:
    """In a shard, strings that only other periods have are null."""
    reading = {model.name for model in LEDGER if model.shard_by == "resource_key" and "billing_lines" in table_names(MODELS[model.name])}
    assert reading
    for name in reading:
        selects = [select for select in parse(MODELS[name]).find_all(exp.Select) if "billing_lines" in tables_of(select)]
        assert selects
        for select in selects:
            assert any(eq.sql("bigquery").endswith("billing_period = @period") for eq in select.args["where"].find_all(exp.EQ)), name


def tables_of(select: exp.Select) -> set[str]:
    """Return the tables that a query names in its own FROM and JOIN."""
    sources = [select.args["from_"].this, *(join.this for join in select.args.get("joins", []))]
    return {source.name for source in sources if isinstance(source, exp.Table)}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_begins_with_its_grain(name: str) -> None:
    """The first line says what one row is."""
    assert re.match(r"-- one row per \w", MODELS[name])


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_says_which_rows_it_returns(name: str) -> None:
    """The first line says what a returned row means. A check that did not filter by the period would fail for other months."""
    assert re.match(r"-- rows: \w", CHECKS[name])
    assert parameter_names(CHECKS[name]) == {"period"}
    assert table_names(CHECKS[name]) <= TABLES.keys()


@pytest.mark.parametrize(
    ("models", "parameters"),
    [(LEDGER, LEDGER_PARAMETERS), (SUMMARY, SUMMARY_PARAMETERS), (ESTIMATE, estimates.estimate_parameters(moment("06:00")).keys())],
    ids=["ledger", "summary", "estimate"],
)
def test_a_model_reads_only_tables_that_exist_before_it(models: list[model_order.Model], parameters: Collection[str]) -> None:
    """It reads tables of `schema/tables.py` and models before it, with the parameters of its step."""
    known = set(TABLES)
    for model in models:
        assert table_names(MODELS[model.name]) <= known, model.name
        assert parameter_names(MODELS[model.name]) <= parameters, model.name
        known.add(model.target)


@pytest.mark.parametrize("name", sorted({m.target for m in (*LEDGER, *ESTIMATE) if m.into is None}))
def test_temporary_rows_are_read(name: str) -> None:
    """If a model fills no table, another model must read it."""
    assert any(name in table_names(sql) for sql in MODELS.values())


@pytest.mark.parametrize("name", [*MODELS, *CHECKS])
def test_keywords_are_in_lower_case(name: str) -> None:
    """SQL is written in one way: capitals occur only in strings."""
    sql = re.sub(r"'[^']*'|--.*", "", (MODELS | CHECKS)[name])
    assert re.findall(r"\w*[A-Z]\w*", sql) == []


def words_of(node: exp.Expression) -> Iterator[str]:
    """Return the strings that an expression may become, as far as it contains them."""
    if isinstance(node, exp.Case):
        for branch in (*(case.args["true"] for case in node.args["ifs"]), node.args.get("default")):
            if branch is not None:
                yield from words_of(branch)
    elif isinstance(node, exp.Coalesce):
        for branch in (node.this, *node.expressions):
            yield from words_of(branch)
    elif isinstance(node, exp.Literal):
        yield node.this


@pytest.mark.parametrize(
    "column", ["allocated_to", "confidence", "cost_kind", "cost_status", "match_method", "reason", "run_end_rule", "weight_kind"]
)
def test_models_write_exactly_the_words_of_the_tables(column: str) -> None:
    """They write all words of `schema/tables.py` and no others."""
    said: set[str] = set()
    for sql in {MODELS[model.name] for model in (*LEDGER, *SUMMARY)}:
        for select in parse(sql).find_all(exp.Select):
            whole: exp.Expression = select  # a union has the column names of its first part
            while isinstance(whole.parent, exp.SetOperation):
                whole = whole.parent
            said |= {
                word
                for name, node in zip(whole.named_selects, select.selects, strict=False)
                if name == column
                for word in words_of(node.unalias())
            }
    said -= {"rest"}  # a later model replaces it
    said |= {"proportional", "even"} if column == "reason" else set()  # policies of `sharing`
    assert said == {word for table in TABLES.values() for c in table.columns if c.name == column for word in c.words}


@pytest.mark.parametrize("name", sorted({m.name for m in (*LEDGER, *SUMMARY, *ESTIMATE) if m.into is not None}))
def test_models_that_fill_a_table_name_every_column(name: str) -> None:
    """A model that fills a table names each of its columns. Its inner steps need not."""
    assert parse(MODELS[name]).named_selects
    assert "*" not in parse(MODELS[name]).named_selects
