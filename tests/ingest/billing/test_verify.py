"""Damaged and oversized files are refused before Runspend reads their rows."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from runspend.core.errors import SourceRefused
from runspend.ingest.billing import verify
from runspend.ingest.billing.verify import verify_file


def check(path: Path, stated: int | None = None) -> verify.VerifiedFile:
    return verify_file("bill", path.name, path, stated_bytes=stated, unpack_to=path.parent / "unpacked.csv")


def test_a_gzip_is_unpacked_and_its_digest_is_that_of_the_packed_bytes(tmp_path: Path) -> None:
    data = gzip.compress(b"a,b\n" * 400_000) + gzip.compress(b"c,d\n") + b"\0" * 100
    path = tmp_path / "x.csv.gz"
    path.write_bytes(data)
    found = check(path, len(data))
    assert found.readable.read_bytes() == b"a,b\n" * 400_000 + b"c,d\n"
    assert (found.sha256, found.bytes, found.kind) == (hashlib.sha256(data).hexdigest(), len(data), "csv")


@pytest.mark.parametrize("keep", [0, 1, 9, 10, 200, -1, -4, -8])
def test_a_cut_gzip_is_refused_wherever_it_is_cut(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"".join(b"%d,x\n" % n for n in range(1000)))[:keep])
    with pytest.raises(SourceRefused, match=r"x\.csv\.gz"):
        check(path)


def test_limits_hold_while_a_file_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runspend checks the ratio while it unpacks, so a decompression bomb never fills the disk."""
    monkeypatch.setattr(verify, "RATIO_FROM_BYTES", 4 << 20)
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"1234567,\n" * 20_000_000, 9))
    with pytest.raises(SourceRefused, match="unpacks to more than 250 times"):
        check(path)
    assert (tmp_path / "unpacked.csv").stat().st_size < 200 << 20


@pytest.mark.parametrize(("data", "why"), [(b"a\0b\n", "NUL"), (b"", "empty"), (b"a" * (17 << 20), "line of more than")])
def test_text_that_is_not_csv_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with pytest.raises(SourceRefused, match=why):
        check(path)
    packed = tmp_path / "x.csv.gz"
    packed.write_bytes(gzip.compress(data))
    with pytest.raises(SourceRefused, match=why):
        check(packed)


def test_long_lines_below_the_limit_pass_across_chunks(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes((b"a" * (15 << 20) + b"\n") * 2)
    assert check(path).bytes == 2 * ((15 << 20) + 1)


def test_a_file_of_another_size_than_stated_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n")
    with pytest.raises(SourceRefused, match="has 4 bytes, but the manifest states 5"):
        check(path, 5)


def test_a_damaged_parquet_footer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1" + b"rubbish" * 10 + b"PAR1")
    with pytest.raises(SourceRefused, match="Parquet cannot be opened"):
        check(path)
