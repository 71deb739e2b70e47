"""An address fully describes a view, and can be read back. A wrong one is refused, and the message lists what is allowed."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runspend.actions.explore.view import FILTERS, GROUPS, OTHER_KEYS, View
from runspend.core.errors import UsageError
from runspend.core.text import without_person

NEWEST = date(2026, 11, 22)
DAYS = st.dates(date(2024, 1, 1), date(2026, 12, 31))


def view(query: str) -> View:
    """Return the view of an address."""
    return View.of(parse_qsl(query, keep_blank_values=True), NEWEST)


def test_without_a_query_the_newest_month_is_shown_by_team_and_compared_with_the_same_days_before() -> None:
    found = view("")
    assert (found.since, found.last, found.by, found.measure) == (date(2026, 11, 1), NEWEST, ("team",), "effective")
    assert found.previous == (date(2026, 10, 1), date(2026, 10, 23))


@pytest.mark.parametrize(
    ("query", "begin", "until"),
    [
        ("from=2026-10-01&to=2026-10-31", "2026-09-01", "2026-10-01"),  # a whole month is compared with the whole month before
        ("from=2026-03-01&to=2026-03-30", "2026-02-01", "2026-03-01"),  # the comparison never overlaps the view itself
        ("from=2026-01-01&to=2026-03-31", "2025-10-01", "2026-01-01"),  # a quarter
        ("from=2026-09-01&to=2026-10-10", "2026-07-01", "2026-08-11"),
        ("from=2026-10-05&to=2026-10-11", "2026-09-28", "2026-10-05"),  # a week
        ("from=2026-10-05&to=2026-10-05", "2026-10-04", "2026-10-05"),
    ],
)
def test_a_view_is_compared_with_as_much_time_before(query: str, begin: str, until: str) -> None:
    assert view(query).previous == (date.fromisoformat(begin), date.fromisoformat(until))


@given(
    begin=DAYS,
    days=st.integers(1, 1000),
    by=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=2, unique=True),
    where=st.dictionaries(
        st.sampled_from([key for key in FILTERS if key != "allocated_to"]),
        st.lists(
            st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20), min_size=1, max_size=3, unique=True
        ),
        max_size=4,
    ),
    measure=st.sampled_from(["effective", "billed", "contracted", "list"]),
    every=st.sampled_from(["day", "week", "month"]),
    order=st.sampled_from(["-cost", "cost", "name", "-name", "-change", "change"]),
    is_compared=st.booleans(),
    top=st.integers(1, 1000),
)
def test_an_address_is_the_whole_view(begin: date, days: int, where: dict[str, list[str]], **fields: object) -> None:
    by = tuple(fields.pop("by"))  # type: ignore[call-overload]
    until = date.fromordinal(begin.toordinal() + days)
    found = View(since=begin, until=until, by=by, where={k: tuple(v) for k, v in where.items()}, **fields)  # type: ignore[arg-type]
    if found.top * len(found.steps) > 60_000:
        with pytest.raises(UsageError, match="steps at once"):
            view(found.address())
        return
    assert View.of(parse_qsl(found.address(), keep_blank_values=True), date(2030, 1, 1)) == found
    steps = found.steps
    assert steps[0] <= found.since
    assert steps[-1] <= found.last
    assert len(set(steps)) == len(steps)


@given(st.lists(st.tuples(st.sampled_from([*OTHER_KEYS, *FILTERS, "x"]) | st.text(max_size=5), st.text(max_size=12)), max_size=6))
def test_any_address_is_read_or_refused_in_a_sentence(query: list[tuple[str, str]]) -> None:
    with suppress(UsageError):
        found = View.of(query, NEWEST)
        assert found.since <= found.last


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("by=foo", "cannot read by='foo': allowed values are team, project,"),
        ("by=team,experiment,user", "at most two dimensions"),
        ("from=2026-13-01", "cannot read from='2026-13-01': it must be a day such as 2026-10-31"),
        ("from=2026-11-02&to=2026-11-01", "the last day is before the first"),
        ("from=2000-01-01", "at most 1,100"),
        ("measure=net", "allowed values are effective, billed, contracted, list"),
        ("measure=list&measure=billed", "measure is given 2 times"),
        ("top=0", "a number from 1 to 1,000"),
        ("allocated_to=nobody", "allowed values are run, logged_model, orphan, idle, shared, unallocated, out_of_scope"),
        ("where=vision", "write where=KEY=VALUE"),
        ("where=foo=1", "cannot read where='foo'"),
        ("tema=vision", "'tema' is unknown"),
        (f"team={'x' * 5001}", "at most 5000 characters"),
        ("by=currency", "cannot read by='currency'"),
        ("from=2024-06-01&every=day&top=1000", "cannot show 1,000 rows in 905 steps at once"),
        ("team=a%00b", "cannot select team"),
    ],
)
def test_a_wrong_address_is_refused_with_what_is_allowed(query: str, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        view(query)
    assert why in str(refused.value)


def test_names_of_people_can_be_hidden() -> None:
    for query in ([("by", "user")], [("owner", "ben")], [("where", "user=ben")]):
        with pytest.raises(UsageError):
            View.of(query, NEWEST, hidden=("owner", "user"))


def test_a_dimension_without_a_value_is_a_filter_and_another_empty_field_is_not() -> None:
    assert view("team=&from=&where=").where == {"team": ("",)}
    assert view("where=team%3Dvision&team=nlp").where == {"team": ("nlp", "vision")}


def test_days_that_no_bill_has_reached_are_not_compared() -> None:
    assert view("from=2026-11-01&to=2026-11-22").is_compared
    assert not view("from=2026-11-01&to=2026-11-30").is_compared


def test_names_of_experiments_lose_their_persons() -> None:
    assert without_person("/Users/anna@acme.example/llm") == "/Users/…/llm"
    assert without_person("/Workspace/Users/anna@acme.example/llm") == "/Workspace/Users/…/llm"
    assert without_person("experiment /Repos/anna b@acme.example/llm") == "experiment /Repos/…/llm"
    assert without_person("/Shared/llm") == "/Shared/llm"
