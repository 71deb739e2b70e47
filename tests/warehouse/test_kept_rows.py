"""Rows that further questions are asked of: exact, readable by one name each, and gone afterwards."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

from runspend.core.errors import RunspendError
from runspend.warehouse.kept_rows import keep

SMALLEST = Decimal("0.0000000000000000000001")


def charges(*costs: Decimal | None) -> pa.Table:
    days = [date(2026, 10, 1 + n) for n in range(len(costs))]
    return pa.table({"day": days, "cost": pa.array(costs, pa.decimal128(38, 22))})


def test_sums_are_exact_and_in_the_same_type() -> None:
    with keep({"kept": charges(Decimal(10) ** 15, SMALLEST, None)}) as rows:
        found = rows.query("select sum(cost) as cost, count(*) as days from kept where day >= @first", {"first": date(2026, 10, 1)})
    assert found.to_pylist() == [{"cost": Decimal("1000000000000000.0000000000000000000001"), "days": 3}]
    assert found.schema.field("cost").type == pa.decimal128(38, 22)


def test_several_tables_are_joined() -> None:
    with keep({"kept": charges(Decimal(1)), "others": charges(Decimal(2), Decimal(3))}) as rows:
        found = rows.query("select o.cost from kept k join others o on o.day = k.day")
    assert found["cost"].to_pylist() == [Decimal(2)]


def test_the_next_rows_know_nothing_of_these() -> None:
    """An engine that is lent again is empty, also after an error; tables of the warehouse are not in it."""
    for sql in ("select * from kept", "select * from cost_daily", "select nothing from others"):
        with keep({"kept": charges(Decimal(1))}):
            pass
        with keep({"others": charges()}) as rows, pytest.raises(RunspendError):
            rows.query(sql)
    with keep({"others": charges()}) as rows:
        assert rows.query("select count(*) as n from others")["n"].to_pylist() == [0]
