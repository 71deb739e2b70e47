"""Strings as people read them: numbers with their nouns, and shortened paths. Addresses and names are not shortened."""

from __future__ import annotations

import pytest

from runspend.core.text import counted, short_place, short_places


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/srv/mlflow/prod/artifacts", "…/prod/artifacts"), ("file:///srv/mlflow/prod/artifacts/", "…/prod/artifacts"), ("/mlruns", "/mlruns"), ("/data/mlruns", "/data/mlruns"),
        ("s3://acme/a/b/c", "s3://acme/a/b/c"), ("aws", "aws"), ("cost tables", "cost tables"),
    ],
)  # fmt: skip
def test_a_path_is_named_by_its_end(name: str, shown: str) -> None:
    assert short_place(name) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read /srv/bills/aws/part-1.csv: denied", "cannot read …/aws/part-1.csv: denied"), ("'/a/b/c/d', /e/f/g", "'…/c/d', …/f/g"),
        ("see https://costs.acme.com/run/a/b/c", "see https://costs.acme.com/run/a/b/c"), ("s3://bucket/a/b/c", "s3://bucket/a/b/c"), ("12/11/10/9", "12/11/10/9"),
    ],
)  # fmt: skip
def test_paths_in_a_sentence_are_cut(text: str, shown: str) -> None:
    assert short_places(text) == shown


@pytest.mark.parametrize(
    ("number", "nouns", "shown"),
    [(1, ("row",), "1 row"), (0, ("row",), "0 rows"), (1200, ("row",), "1,200 rows"), (2, ("copy", "copies"), "2 copies")],
)
def test_a_number_has_its_noun_in_singular_or_plural(number: int, nouns: tuple[str, ...], shown: str) -> None:
    assert counted(number, *nouns) == shown
