"""Fixtures that several files of this folder use."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.servers.s3 import S3Server


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """Create an empty bucket for one test."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    client = s3_server.client()
    client.create_bucket(Bucket=name)
    yield name
    client.close()
