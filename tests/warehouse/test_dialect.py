"""GoogleSQL on DuckDB: money keeps its digits, forbidden constructs are found, and every model and check is free of them."""

from __future__ import annotations

import importlib
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from sqlglot import exp

import runspend
from runspend.core.errors import UsageError
from runspend.warehouse.dialect import duckdb_sql, parameter_names, table_names
from runspend.warehouse.googlesql import Statement
from runspend.warehouse.sql_files import expand_macros, read_sql, sql_files
from tests.reference import GoogleSQL
from tests.sql_lint import lint

PACKAGE = Path(runspend.__file__).parent
FOLDERS = [PACKAGE / "allocation" / "models", PACKAGE / "allocation" / "checks"]
FILES = [(folder, name) for folder in FOLDERS for name in sql_files(folder)]


def run(sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as con:
        return con.sql(duckdb_sql(sql)).fetchall()


@pytest.mark.parametrize(("folder", "name"), FILES, ids=lambda part: getattr(part, "name", part))
def test_models_and_checks_are_free_of_forbidden_constructs(folder: Path, name: str) -> None:
    """Nothing in them is known to answer differently on the two engines."""
    assert lint(read_sql(folder, name)) == []


def test_there_are_models_and_checks() -> None:
    """The test above looks at something."""
    assert {folder.name for folder, _ in FILES} == {"models", "checks"}


def test_the_recipe_for_money_is_exact() -> None:
    """Whole units, then 18 decimals: the one way from a float to money that both engines take alike."""
    recipe = expand_macros("select exact_money(x) from (select 10.0 * (1 / 3) as x union all select -1234567.125)")
    written_out = (
        "cast(cast(trunc(x) as int64) + cast(round((x - trunc(x)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric)"
    )
    assert recipe.removeprefix("select ").startswith(written_out)
    assert lint(recipe) == []
    assert sorted(run(recipe)) == [(Decimal("-1234567.125"),), (Decimal("3.333333333333333056"),)]


def test_a_macros_argument_may_have_parentheses() -> None:
    """It ends where more parentheses are closed than opened; names that only end like a macro's are left alone."""
    found = expand_macros("select exact_money(a * (b + c)), price_money(d), not_exact_money(e)")
    assert found.startswith("select cast(cast(trunc(a * (b + c)) as int64) + cast(round((a * (b + c) - trunc(a * (b + c))) * 1e18)")
    assert "* 1e12) as int64) * bignumeric '0.000000000001' as bignumeric), not_exact_money(e)" in found
    with pytest.raises(ValueError, match="not closed"):
        expand_macros("select exact_money(a")


def test_the_end_of_a_run_and_its_rule_are_found_alike() -> None:
    """Of a run with an end, with a recent metric, with an old one, with none and a recent start, and with nothing."""
    known = "timestamp '2026-10-10 12:00:00+00'"
    at = {day: f"timestamp '2026-10-{day} 00:00:00+00'" for day in ("08", "09", "10", "11")}
    runs = [  # end, last sign of activity, start
        (at["09"], at["11"], at["08"]),
        ("null", "timestamp '2026-10-10 06:00:00+00'", at["08"]),
        ("null", at["11"], at["08"]),
        ("null", at["10"], at["08"]),
        ("null", "null", "timestamp '2026-10-10 06:00:00+00'"),
        ("null", "null", at["11"]),
        ("null", "null", at["10"]),
    ]
    rows = " union all ".join(
        f"select {number} as number, cast({end} as timestamp) as ended_at, cast({sign} as timestamp) as last_sign, {start} as start"
        for number, (end, sign, start) in enumerate(runs)
    )
    arguments = f"least(ended_at, timestamp '2100-01-01 00:00:00+00'), last_sign, start, {known}"
    sql = expand_macros(
        f"select number, run_end_rule({arguments}), format_timestamp('%d %H', run_end({arguments})) from ({rows}) order by number"
    )
    sql = sql.replace("@alive_hours", "6").replace("@silent_hours", "24")
    assert lint(sql) == []
    assert run(sql) == [
        (0, "stated", "09 00"),
        (1, "alive", "10 12"),
        (2, "alive", "11 00"),
        (3, "last_sign", "10 00"),
        (4, "started", "10 12"),
        (5, "started", "11 00"),
        (6, "silent", "11 00"),
    ]


# Names of providers and services on a bill -> its cloud.
LINE_CLOUDS = {
    "aws aws amazon bedrock": "aws", "aws anthropic claude sonnet (amazon bedrock edition)": "aws", "microsoft microsoft azure openai": "azure",
    "google cloud google cloud vertex ai": "google", "databricks databricks model_serving": "databricks", " microsoft azure databricks": "databricks",
    "openai openai api": "openai", "anthropic anthropic claude api": "vendor", " mistral ai ": "vendor", "  our gateway": "other", "  ": "other",
}  # fmt: skip
# Provider and model of a trace -> the cloud that bills the call. Autologging of MLflow and of frameworks, OpenTelemetry, price lists.
TRACE_CLOUDS = {
    ("bedrock", "claude"): "aws", ("amazon_bedrock", ""): "aws", ("aws.bedrock", ""): "aws", ("bedrockconverse", ""): "aws", ("aws", "anthropic.claude-3"): "aws",
    ("anthropic", "anthropic.claude-3-haiku"): "aws", ("us", "us.anthropic.claude-sonnet-4"): "aws", ("", "eu.meta.llama3-70b-instruct-v1:0"): "aws",
    ("arn:aws:bedrock:us-east-1:1:inference-profile/us", ""): "aws", ("azure", "my-deployment"): "azure", ("azure.ai.openai", "gpt-4o"): "azure", ("azureopenai", "gpt-4o"): "azure",
    ("gemini", "gemini-2.5-pro"): "google", ("vertex_ai", "claude-opus-4"): "google", ("google_genai", ""): "google", ("gcp.vertex_ai", ""): "google", ("", "gemini-2.5-flash"): "google",
    ("openai", "gpt-4o"): "openai", ("", "gpt-4o-mini"): "openai", ("openai", "ft:gpt-4o:acme"): "openai", ("openai", ""): "openai", ("", "o3"): "openai",
    ("openai", "claude-sonnet-4"): "any", ("openai", "gpt-oss-120b"): "any", ("anthropic", "claude-sonnet-4"): "any", ("mistral", "mistral-large"): "any", ("groq", "llama-3.1"): "any",
    ("litellm", "gpt-4o"): "any", ("oci", "cohere.command-r"): "any", ("", "our-own-model"): "any", ("", ""): "any", ("databricks", "databricks-claude-opus-4"): "databricks",
    ("", "databricks-meta-llama"): "databricks",
}  # fmt: skip


def test_clouds_of_bills_and_traces_are_found_alike(reference: GoogleSQL) -> None:
    """Both engines give bills and traces the same cloud. OpenAI's models are on Azure's bill too."""
    lines = " union all ".join(f"select '{names}' as names" for names in LINE_CLOUDS)
    traces = " union all ".join(f"select '{provider}' as provider, '{model}' as model" for provider, model in TRACE_CLOUDS)
    clouds = " union all ".join(f"select '{cloud}' as cloud" for cloud in ("aws", "azure", "openai", "vendor", "other"))
    for sql, expected in (
        (f"select names, line_cloud(names) as cloud from ({lines})", set(LINE_CLOUDS.items())),
        (f"select provider, model, trace_cloud(provider, model) as cloud from ({traces})", {(*call, cloud) for call, cloud in TRACE_CLOUDS.items()}),
        (f"select cloud from ({clouds}) where is_on_cloud('openai', cloud)", {("azure",), ("openai",), ("other",)}),
        (f"select cloud from ({clouds}) where is_on_cloud('aws', cloud)", {("aws",), ("other",)}),
        (f"select cloud from ({clouds}) where is_on_cloud('any', cloud)", {("aws",), ("azure",), ("openai",), ("vendor",), ("other",)}),
    ):  # fmt: skip
        statement = expand_macros(sql)
        assert lint(statement) == []
        assert set(run(statement)) == expected
        assert {tuple(row) for row in reference.query(statement).rows} == expected


def test_hours_and_months_are_found_alike() -> None:
    """A local day of 25 hours is a day; an hour belongs to the time that it begins, and one that begins at the end is left out."""
    begins = "timestamp '1970-01-02 00:30:00+00'"
    ends = {hours: f"timestamp_add({begins}, interval {hours} hour)" for hours in (1, 25, 26)}
    half = "timestamp '1970-01-02 02:00:00+00'"
    sql = expand_macros(
        f"select at_most_a_day({begins}, {ends[25]}), not at_most_a_day({begins}, {ends[26]}), hour_of({ends[1]}),"
        f" format_timestamp('%d %H', start_of_hour(hour_of_start + 1)), array_length(hours_between({begins}, {half})),"
        " cast('2026-01-01' as date) in (months_around(period)), cast('2025-11-01' as date) in (months_around(period))"
        " from (select 25 as hour_of_start, cast('2025-12-01' as date) as period)"
    )
    assert lint(sql) == []
    assert run(sql) == [(True, True, 25, "02 02", 2, True, True)]


@pytest.mark.parametrize(
    ("expression", "type_"),
    [
        ("cast('1.2345678901234567890123' as bignumeric)", "DECIMAL(23,22)"),
        ("cast(x as bignumeric)", "DECIMAL(38,22)"),
        ("cast(x as numeric)", "DECIMAL(38,9)"),
        ("bignumeric '12'", "DECIMAL(2,0)"),
        ("bignumeric '0.50'", "DECIMAL(2,2)"),
        ("bignumeric '-1e3'", "DECIMAL(4,0)"),
        ("cast(null as bignumeric)", "DECIMAL(38,22)"),
    ],
)
def test_decimals_keep_their_digits(expression: str, type_: str) -> None:
    """Types are wide enough for money; a literal has the type of its own digits, so that products fit."""
    translated = duckdb_sql(f"select {expression} as v from (select 1 as x)")
    with duckdb.connect() as con:
        assert con.sql(f"select column_type from (describe {translated})").fetchall() == [(type_,)]


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("concat(a, '/', b)", "x/y"),
        ("concat(a, '/', missing)", None),
        ("concat(a, '/', cast(missing as string))", None),
        ("concat(a, '/', replace(missing, 'x', 'y'))", None),
        ("concat(a, '/', lower(missing))", None),
        ("concat(a, '/', case when a = 'x' then missing else b end)", None),
        ("concat(a, '/', case when a = 'z' then b end)", None),
        ("concat(a, '/', coalesce(missing, '-'))", "x/-"),
        ("concat(a, '/', coalesce(concat('=', missing), '-'), case when a = 'x' then '|' else '' end)", "x/-|"),
        ("concat(a, '/', concat(a, b, missing))", None),
        ("concat(a, '/', safe_cast(a as int64))", None),
    ],
)
def test_a_concatenation_is_null_if_a_piece_is(expression: str, text: str | None) -> None:
    assert run(f"select {expression} from (select 'x' as a, 'y' as b, cast(null as string) as missing)") == [(text,)]


def test_a_concatenation_of_columns_is_one_call() -> None:
    """A chain of || copies the text once per piece."""
    assert "||" not in duckdb_sql("select concat(a, '/', coalesce(b, '-'), '/', replace(c, 'x', 'y')) as k from t")


def test_deeply_nested_concatenations_do_not_grow() -> None:
    expression = "a"
    for _ in range(8):
        expression = f"concat(lower({expression}), '/', b)"
    assert len(duckdb_sql(f"select {expression} as k from t")) < 500


@pytest.mark.parametrize(
    "index", ["timestamp_diff(b, a, microsecond)", "div(timestamp_diff(b, a, microsecond), 1)", "countif(true) over ()"]
)
def test_a_rewritten_expression_is_still_a_whole_number(index: str) -> None:
    """DuckDB counts places in a list from 1: sqlglot adds it to what it knows to be one."""
    times = "timestamp '2026-10-01 00:00:00' as a, timestamp '2026-10-01 00:00:00.000001' as b"
    assert run(f"select ['x', 'y', 'z'][offset({index})] from (select {times})") == [("y",)]


@pytest.mark.parametrize(
    ("end", "day"),
    [
        ("2026-10-02 00:00:00", date(2026, 10, 1)),
        ("2026-10-02 00:00:00.000001", date(2026, 10, 2)),
        ("1970-01-01 00:00:00", date(1969, 12, 31)),
        ("1969-12-31 00:00:00", date(1969, 12, 30)),
    ],
)
def test_the_last_day_of_a_time_range_is_in_utc(end: str, day: date) -> None:
    """It is found without a calendar, which DuckDB would ask for each row."""
    sql = f"select date(timestamp_sub(ends_at, interval 1 microsecond)) as day from (select timestamp '{end}+00' as ends_at)"
    assert "MAKE_TIMESTAMP" in duckdb_sql(sql)
    assert run(sql) == [(day,)]


@pytest.mark.parametrize(
    "expression", ["numeric '1e40'", "cast(x as numeric(40, 2))", "bignumeric '12345678901234567890123456789012345678901'"]
)
def test_more_digits_than_duckdb_has_are_refused(expression: str) -> None:
    with pytest.raises(UsageError, match="more digits than DuckDB's 38"):
        duckdb_sql(f"select {expression} as v from (select 1 as x)")


FORBIDDEN = {
    "timestamp_diff(a, b, hour)": "use microsecond",
    "timestamp_diff(a, b, day)": "use microsecond",
    "extract(dayofweek from d)": "use date_diff",
    "extract(hour from a)": "use date_diff",
    "format('%d', i)": "concat",
    "json_query(j, '$.k')": "json_value",
    "json_extract(j, '$.k')": "json_value",
    "string(parse_json(j).k)": "json_value",
    "json_value(j, k)": "settle key aliases",
    "to_json_string(struct(1 as a))": "outside SQL",
    "to_json(j)": "outside SQL",
    "upper(s)": "use lower",
    "s like 'a\\\\_b'": "use starts_with",
    "effective_cost / 2": "gives a float",
    "sum(effective_cost) / 2": "gives a float",
    "cast(x as bignumeric) / i": "gives a float",
    "div(cast(x as bignumeric), 2)": "gives a float",
    "avg(effective_cost)": "gives a float",
    "list_cost * effective_cost": "overflows",
    "cast(x as numeric(10, 2))": "leave them out",
    "cast(cast(x as float64) as bignumeric)": "through integers",
    "cast(x * 1e18 as bignumeric)": "through integers",
    "cast(a / b as bignumeric)": "through integers",
    "cast(1.5 as bignumeric)": "bignumeric '…'",
    "cast(effective_cost as string)": "outside SQL",
    "cast(cast(i as float64) as string)": "outside SQL",
    "array_agg(i limit 2)": "LIMIT inside ARRAY_AGG",
    "farm_fingerprint(s)": "no farm_fingerprint",
    "safe_add(i, 1)": "no safe_add",
    "sha256(s)": "hash outside SQL",
    "md5(s)": "hash outside SQL",
    "rand()": "other rows every time",
    "generate_uuid()": "other rows every time",
    "current_timestamp()": "pass @now",
    "current_date()": "pass @now",
    "max_by(a, b)": "no max_by",
    "contains_substr(s, 'a')": "use strpos",
    "approx_count_distinct(i)": "approximate",
    "count(*) filter (where i > 1)": "countif",
    "x = null": "is null",
    "i as at": "reserved in GoogleSQL",
    "i as overlaps": "reserved in DuckDB",
    "net.host(s)": "DuckDB has no",
    "i as rows": "reserved in GoogleSQL",
    "instr(s, 'a', 2)": "use strpos",
    "lax_string(j)": "no lax_string",
    "json_value(j, '$[\\'a.b\\']')": "not GoogleSQL",
    "extract(isoweek from d)": "use date_diff",
    "timestamp '2026-10-25 02:30:00 Europe/Berlin'": "keep all times in UTC",
    "timestamp('2026-10-25 02:30:00', 'Europe/Berlin')": "keep all times in UTC",
    "timestamp_trunc(a, day, 'Europe/Berlin')": "keep all times in UTC",
    "date_trunc(d, month)": "cast it as date",
    "date_add(d, interval 1 month)": "cast it as date",
    "timestamp_millis(i)": "cast it as timestamp",
    "parse_timestamp('%F', s)": "cast it as timestamp",
}


@pytest.mark.parametrize("expression", FORBIDDEN)
def test_forbidden_expressions_are_found(expression: str) -> None:
    """Each construct that was seen to differ is refused, with what to write instead."""
    found = lint(f"select {expression} from t")
    assert any(FORBIDDEN[expression] in reason for reason in found), found


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("select o from t, unnest(t.x) as v with offset as o", "put a rank"),
        ("select a from dataset.t", "bare table names"),
        ("with hash as (select a from t) select a from hash", "reserved in GoogleSQL"),
        ("select t.a from t left join u on t.a < u.b", "left join without an equality"),
        ("select t.a from t full join u on true", "full join without an equality"),
        ("select g, sum(a) as a from t group by g having sum(a) > 0", "having aggregates a"),
        ("select g, sum(a) as a from t group by g order by sum(a)", "order by aggregates a"),
        ("select g, sum(a) as a from t group by g qualify row_number() over (order by sum(a)) = 1", "qualify aggregates a"),
        ("select coalesce(s, '') as s, count(*) as n from t group by s", "group by s, a column and a result"),
        ("select a from t where exists (select 1 from u where u.b > t.a)", "write the join"),
        ("select a, (select max(u.b) from u where u.c = t.c) as b from t", "write the join"),
        ("select d from t union all select date_trunc(d, month) from t", "cast it as date"),
        ("select a from t where", "cannot read the SQL"),
    ],
)
def test_forbidden_shapes_are_found(sql: str, reason: str) -> None:
    """So are shapes of statements."""
    try:
        found = lint(sql)
    except UsageError as error:
        found = [str(error)]
    assert any(reason in text for text in found), found


ALLOWED = [
    "select div(timestamp_diff(a, b, microsecond), 1000000) as seconds from t",
    "select cast(cast(effective_cost as string) as float64) as effective_float from t",
    "select json_value(tags, '$.\"user:mlflow_run_id\"'), json_value(tags, @path) from t",
    "select effective_float * (upto / total_units) as x, safe_divide(a, b), mod(i, 7), div(i, 2), round(x * 1e18) from t",
    "select sum(effective_cost) - sum(list_cost), effective_cost * 2, i * bignumeric '0.01' from t",
    "select countif(a > b), string_agg(distinct s order by s), array_agg(struct(a, b) order by a)[offset(0)].a from t",
    "select * from t qualify row_number() over (partition by a order by b) = 1",
    "select last_value(a ignore nulls) over w from t window w as (partition by b order by c rows between unbounded preceding and 1 preceding)",
    "with recursive r as (select 1 as n union all select n + 1 from r where n < 5) select n from r",
    "select extract(year from d), cast(date_trunc(d, month) as date), timestamp_trunc(a, hour), date(a), starts_with(s, 'a'), s like 'a%' from t",
    "select x from t cross join unnest(t.ids) as x",
    "select g, sum(t.a) as a from t group by g having sum(t.a) > 0 order by a",
    "select coalesce(s, '') as s, i > 1 as is_big, count(*) as n from t group by coalesce(s, ''), is_big order by s",
    "select t.a from t left join u on u.b = t.b and u.c > t.c cross join (select max(v.d) as d from v) w",
    "select a from t where a in unnest(@some) and a in (select u.a from u) and exists (select 1 from u where u.b > 1)",
    "select (select max(x) from unnest(t.ids) as x where x < t.a) as v, cast(date_trunc(d, month) as date) as m from t",
    "select timestamp_trunc(timestamp '2026-01-01 00:00:00+00', month) as first, date_diff(d, date_add(d, interval 1 month), day) as last from t",
]


@pytest.mark.parametrize("sql", ALLOWED)
def test_what_models_need_is_allowed(sql: str) -> None:
    """The lint allows constructs that agree on both engines."""
    assert lint(sql) == []
    assert duckdb_sql(sql)


def test_only_names_from_outside_the_query_count_as_tables_and_parameters() -> None:
    """Names from outside only: CTEs, aliases and unnested columns are the query's own."""
    sql = "with a as (select * from runs r where start_month = @month) select * from a join billing_lines b on true cross join unnest(a.ids) as x where @now > b.t"
    assert table_names(sql) == {"runs", "billing_lines"}
    assert parameter_names(sql) == {"month", "now"}


@pytest.mark.parametrize(
    "sql",
    [
        "delete from t where true",
        "create table t as select 1",
        "drop table t",
        "select 1; select 2",
        "",
        "export data options() as select 1",
        "call x()",
    ],
)
def test_only_one_select_is_translated(sql: str) -> None:
    """Anything that is not one query is refused before it reaches the engine."""
    with pytest.raises(UsageError):
        duckdb_sql(sql)


def test_two_threads_may_ask_for_one_statement_at_once() -> None:
    """The cached tree is used once; later callers parse again."""

    class TakenMeanwhile(list[exp.Expression]):
        def __bool__(self) -> bool:
            return True

    statement = Statement("select 1 as n")
    statement._trees = TakenMeanwhile()
    assert statement.duckdb == "SELECT 1 AS n"


def test_sqlglots_compiled_build_will_do() -> None:
    """With `sqlglot[c]`, classes of sqlglot cannot be inherited from: no class of Runspend does."""
    modules = [
        importlib.import_module(f"runspend.warehouse.{path.stem}")
        for path in (PACKAGE / "warehouse").glob("*.py")
        if "sqlglot" in path.read_text(encoding="utf-8")
    ]
    ours = [
        value for module in modules for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
    ]
    assert Statement in ours
    assert [each for each in ours if any(base.__module__.startswith("sqlglot") for base in each.__mro__)] == []
