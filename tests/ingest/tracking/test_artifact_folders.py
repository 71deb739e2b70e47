"""Spellings of artifact folders: those of one folder are equal, and those of different folders are not.

SQL knows which it can compare unchanged.
"""

from __future__ import annotations

import re

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runspend.ingest.tracking.artifact_folders import REGULAR, find_folders, is_same_or_inside, like_pattern, main_folder

SAME = {
    "s3://ml/12/a b/artifacts": [
        "s3://ml/12/a b/artifacts/", "s3://ml//12///a b/artifacts", "s3://ml/12/a%20b/artifacts", "s3://ml/12/a%2520b/artifacts", "s3a://ml/12/a b/artifacts", "s3n://ml/12/a b/artifacts",
        "S3://ml/12/a b/artifacts", "s3://ML/12/a b/artifacts", "s3://key@ml/12/a b/artifacts", "s3:/ml/12/a b/artifacts", "s3:///ml/12/a b/artifacts", "s3://ml/12/./a b/x/../artifacts",
        "s3://ml/12/%2e%2e/12/a b/artifacts", "s3://ml/../12/a b/artifacts", "s3://ml/12\\a b\\artifacts", "s3://ml/12/a b/artifacts?versionId=1", "s3://ml/12/a b/artifacts#x",
        "s3://ml/12/%61 b/artifacts", "mlflow-artifacts:/12/a b/artifacts", "mlflow-artifacts://host:5000/12/a b/artifacts", "mlflow-artifacts:///12/a%20b/artifacts/",
    ],
    "/srv/files/ü/a": [
        "file:///srv/files/ü/a", "file:/srv/files/ü/a", "file:////srv/files/ü/a/", "FILE:///srv/files/ü/a", "file://localhost/srv/files/ü/a", "/srv//files/ü/a", "/srv/files/x/../ü/a",
        "file:///srv/files/%C3%BC/a", "file:///srv/files/u%CC%88/a", "/srv/files/u\u0308/a", "//srv/files/ü/a",
    ],
    "gs://ml/12/a": ["GS://ML/12/a", "gs://ml/12//a/", "gs:/ml/12/a"],
    "abfss://box@account.dfs.core.windows.net/12/a": [
        "abfs://box@account.dfs.core.windows.net/12/a", "wasbs://box@account.blob.core.windows.net/12/a/", "https://account.blob.core.windows.net/box/12/a", "https://ACCOUNT.dfs.core.windows.net/box//12/a",
        "abfss://box@Account.DFS.core.windows.net/12/%61",
    ],
    "s3://ml": ["s3://ml/", "s3://ml//", "s3://ml/x/..", "s3a://ML"],
}  # fmt: skip
APART = [
    "s3://ml/12/run1", "s3://ml/12/run10", "s3://ml/12/Run1", "s3://ml2/12/run1", "gs://ml/12/run1", "/ml/12/run1", "s3://ml/12/run1/sub", "s3://ml/12/run%311x", "mlruns/12/run1", "dbfs:/ml/12/run1",
    "hdfs://ml/12/run1", "abfss://ml@account.dfs.core.windows.net/12/run1", "abfss://ml@other.dfs.core.windows.net/12/run1", "mlflow-artifacts:/12/run1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "spelling"), [(folder, spelling) for folder, spellings in SAME.items() for spelling in [folder, *spellings]]
)
def test_spellings_of_one_folder_are_equal(folder: str, spelling: str) -> None:
    """Spellings differ in escapes, slashes, dots, schemes, the case of hosts, and accents as one character or two."""
    assert folder in find_folders(spelling, "s3://ml/")


def test_different_folders_stay_apart() -> None:
    """Siblings, other buckets and other clouds are different folders, so no folder protects an unrelated one."""
    for one in APART:
        for other in APART:
            assert (one == other) is not find_folders(one).isdisjoint(find_folders(other)), (one, other)


def test_without_a_uri_there_is_no_folder() -> None:
    """Without a URI there is no folder."""
    assert find_folders(None) == find_folders("") == frozenset()


def test_a_folder_is_inside_another_only_after_a_slash() -> None:
    """run10 is not inside run1."""
    assert [is_same_or_inside(folder, "/a/run1") for folder in ("/a/run1", "/a/run1/x", "/a/run10", "/a")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("uri", "folder"), [("s3://ml/", "s3://ml"), ("s3a://ML/x%20y/", "s3://ml/x%20y"), ("file:///srv/a%20b/", "/srv/a b"), ("/srv/a%20b", "/srv/a%20b"), ("/", "")]
)  # fmt: skip
def test_the_configuration_is_read_in_one_way(uri: str, folder: str) -> None:
    """`%20` is an escape only in a file: URI. In a bucket's key and in a plain path it is three characters."""
    assert main_folder(uri) == folder


TEXTS = [
    *SAME, *(spelling for spellings in SAME.values() for spelling in spellings), *APART, "", "/", "/a/.", "/a/..", "/a/...", "/a/.b", "/a/..b", "/./a", "/a/b.", "/a/", "/a//b", "/a]b[c", "/a-b_c,d+e=f@g!h'i",
    "/a^b~c", "/a%b", "/a\\b", "/a\tb", "s3://Ml/a", "s3://ml", "s3://-ml/a", "gs://m.l-1_/a", "https://account.blob.core.windows.net/box/a", "/a\n",
]  # fmt: skip


def test_both_engines_find_the_same_texts_regular() -> None:
    """RE2 and Python find the same texts regular, and a regular text means only itself."""
    with duckdb.connect() as connection:
        for text in TEXTS:
            found = connection.execute("select regexp_matches($1, $2)", [text, REGULAR]).fetchone()
            is_regular = re.fullmatch(REGULAR.removesuffix("$"), text) is not None
            assert found == (is_regular,), text
            assert not is_regular or find_folders(text) <= {text}, text


@given(st.from_regex(re.compile(REGULAR.removesuffix("$")), fullmatch=True))
def test_regular_texts_mean_themselves(text: str) -> None:
    """SQL may therefore compare them unchanged."""
    assert find_folders(text) == ({text} if text else frozenset())


@pytest.mark.parametrize("spelling", SAME["s3://ml/12/a b/artifacts"])
def test_a_search_finds_every_spelling_without_escaped_letters(spelling: str) -> None:
    """If the folder's name contains the run's id, the pattern is only the id."""
    pattern = like_pattern("s3://ml/12/a b/artifacts", "0" * 32)
    assert pattern == "%12%a%b%artifacts%"
    assert ("%61" in spelling) is not bool(re.fullmatch(pattern.replace("%", ".*"), spelling))
    assert like_pattern("s3://ML-bucket/1/a%20b/", "0" * 32) == "%1%a%b%"
    assert like_pattern(f"s3://ml/12/{'0' * 32}/artifacts", "0" * 32) == f"%{'0' * 32}%"
