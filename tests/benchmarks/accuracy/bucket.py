"""The S3 bucket of a world, on the tests' server. It holds the objects that the world defines for a pipeline run.

`worlds.py` decides which objects there are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.benchmarks.accuracy.worlds import Night
from tests.servers.s3 import S3Server


def open_bucket(server: S3Server, name: str) -> Callable[[Night], None]:
    """Create a bucket. The returned function puts a night's objects into it and deletes all others."""
    client = server.client()
    client.create_bucket(Bucket=name)

    def put(night: Night) -> None:
        found = {item["Key"] for page in client.get_paginator("list_objects_v2").paginate(Bucket=name) for item in page.get("Contents", [])}
        for key in found - {item.key for item in night.objects}:
            client.delete_object(Bucket=name, Key=key)
        with ThreadPoolExecutor(8) as pool:
            for done in [
                pool.submit(client.put_object, Bucket=name, Key=o.key, Body=b"\0" * o.size, StorageClass=o.storage_class)
                for o in night.objects
            ]:
                done.result()

    return put
