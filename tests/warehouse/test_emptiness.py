"""Which queries certainly have no rows if some tables have none. DuckDB must agree, with rows in all other tables."""

from __future__ import annotations

import duckdb
import pytest

from runspend.warehouse.dialect import duckdb_sql, has_no_rows

CERTAIN = {
    "a table": ("select x from a", "a"),
    "an alias": ("select t.x from a t", "a"),
    "a query in FROM": ("select x from (select x from a where x > 0) t", "a"),
    "the left side of a join": ("select a.x from a join b on a.x = b.x", "a"),
    "the right side of a join": ("select a.x from a inner join b using (x)", "b"),
    "a cross join": ("select a.x from a cross join b", "b"),
    "a comma": ("select a.x from a, b", "b"),
    "the third of three": ("select a.x from a join b using (x) join c using (x)", "c"),
    "the left side of a left join": ("select a.x from a left join b using (x)", "a"),
    "the right side of a right join": ("select b.x from a right join b using (x)", "b"),
    "a left join after a join": ("select a.x from a join b using (x) left join c using (x)", "b"),
    "both sides of a full join": ("select a.x from a full join b using (x)", "a b"),
    "each hour of no row": ("select h from a cross join unnest(generate_array(1, 3)) as h", "a"),
    "groups": ("select x, sum(y) from a group by x", "a"),
    "groups of two columns": ("select x, y, count(*) from a group by 1, 2 having count(*) >= 0", "a"),
    "a window": ("select x, sum(y) over (partition by x) as s, row_number() over (order by y) as n from a", "a"),
    "distinct rows": ("select distinct x from a order by x limit 5", "a"),
    "a sum of other rows in a column": ("select x, (select sum(y) from b) as s from a", "a"),
    "the rank of a row": ("select x from a where true qualify row_number() over (order by x) = 1", "a"),
    "both sides of a union": ("select x from a union all select x from b", "a b"),
    "a union of distinct rows": ("select x from a union distinct (select x from b)", "a b"),
    "a CTE": ("with t as (select x from a) select t.x from b join t using (x)", "a"),
    "a CTE of a CTE": ("with t as (select x from a), u as (select x from t) select x from u", "a"),
    "a CTE with other letters": ("with T as (select x from a) select x from t", "a"),
    "a CTE that is read with other letters": ("with t as (select x from a) select x from T", "a"),
    "a CTE in a query in FROM": ("select x from (with t as (select x from a) select x from t)", "a"),
    "a CTE that hides a CTE": ("with t as (select x from b) select x from (with t as (select x from a) select x from t)", "a"),
}  # fmt: skip
UNKNOWN = {
    "another table": ("select x from a", "b"),
    "no FROM": ("select 1 as x", "a b c"),
    "a count": ("select count(*) as n from a", "a"),
    "a sum beside a window": ("select sum(sum(y)) over () as s from a", "a"),
    "an aggregate in HAVING": ("select 1 as one from a having count(*) = 0", "a"),
    "an aggregate in a case": ("select case when max(x) is null then 1 end as m from a", "a"),
    "an aggregate that ignores nulls": ("select array_agg(x ignore nulls) as l from a", "a"),
    "an empty grouping set": ("select x, count(*) from a group by rollup (x)", "a"),
    "grouping sets": ("select x, count(*) from a group by grouping sets ((x), ())", "a"),
    "an empty group": ("select count(*) as n from a group by ()", "a"),
    "groups of all columns": ("select count(*) as n from a group by all", "a"),
    "the right side of a left join": ("select a.x from a left join b using (x)", "b"),
    "the left side of a right join": ("select b.x from a right join b using (x)", "a"),
    "one side of a full join": ("select b.x from a full join b using (x)", "a"),
    "the other side of a full join": ("select a.x from a full join b using (x)", "b"),
    "a full join after a join": ("select c.x from a join b using (x) full join c using (x)", "b"),
    "one side of a union": ("select x from a union all select x from b", "a"),
    "the other side of a union": ("select x from a union all select x from b", "b"),
    "a condition": ("select x from a where x not in (select x from b)", "b"),
    "a list of values": ("select x from unnest([1, 2]) as x", "a"),
    "a CTE that hides a table": ("with a as (select x from b) select x from a", "a"),
    "a CTE with other letters that hides a table": ("with A as (select x from b) select x from a", "a"),
    "a CTE in FROM that hides a table": ("select x from (with a as (select x from b) select x from a)", "a"),
    "a count in a CTE": ("with t as (select count(*) as n from a) select n from t", "a"),
    "a table of another schema": ("select x from other.a", "a"),
    "a recursive CTE": ("with recursive t as (select 1 as x union all select x + 1 from t where x < 3) select x from t", "a t"),
    "a difference": ("select x from a except distinct select x from b", "b"),
}  # fmt: skip


def count(query: str, empty: set[str]) -> int:
    """Return the rows of a query over three tables, of which some have no rows."""
    with duckdb.connect() as connection:
        connection.execute("create schema other")
        for table in ("a", "b", "c", "other.a"):
            connection.execute(f"create table {table} as select x, x * 10 as y from generate_series(1, 2) as t (x)")
            if table in empty:
                connection.execute(f"delete from {table}")
            else:  # other rows than those that every table has
                connection.execute(f"insert into {table} values ({ord(table[-1])}, 0)")
        return len(connection.sql(duckdb_sql(query)).fetchall())


@pytest.mark.parametrize(("query", "names"), CERTAIN.values(), ids=CERTAIN)
def test_a_query_that_certainly_has_no_rows(query: str, names: str) -> None:
    """It has none if these tables are empty, and some if one of them is not."""
    empty = set(names.split())
    assert has_no_rows(query, empty)
    assert count(query, empty) == 0
    for name in empty:
        assert not has_no_rows(query, empty - {name})
        assert count(query, empty - {name}) > 0


@pytest.mark.parametrize(("query", "names"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_query_that_has_rows_although_tables_are_empty(query: str, names: str) -> None:
    """The answer is no, and the query has rows."""
    empty = set(names.split())
    assert not has_no_rows(query, empty)
    assert count(query, empty) > 0


@pytest.mark.parametrize(
    "query",
    [
        "select x from a tablesample system (10 percent)",
        "select as struct x from a",
        "select unknown_function(x) as n from a",
        "select * from (select x, y from a) pivot (sum(y) for x in (1, 2))",
        "select * from (select x, y from a) unpivot (v for k in (x, y))",
        "select x from a intersect distinct select x from b",
        "with recursive t as (select x from a), a as (select x from c) select x from t",
    ],
)
def test_a_form_that_is_not_known_is_never_certain(query: str) -> None:
    """Models do not use it, and it was never checked."""
    assert not has_no_rows(query, {"a", "b"})
