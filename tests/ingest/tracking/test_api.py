"""Read the API without MLflow's server: each server gets only its own credentials, and pages are complete while runs come and go."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runspend.config.settings import DimensionSettings, TrackingServer
from runspend.core.errors import SourceRefused, SourceUnreachable
from runspend.ingest.tracking import api, raw
from tests.extracts import extract_server

NOW = datetime(2026, 11, 25, 6, tzinfo=timezone.utc)


@contextmanager
def recording_server(status: int = 200) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Run a server without experiments that records the headers of every request."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b"3.17.2" if self.path == "/version" else json.dumps({"workspaces_enabled": False}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def read(tmp_path: Path, **server: Any) -> None:
    workdir = tmp_path / f"{server['name']}-{len(list(tmp_path.iterdir()))}"
    workdir.mkdir()
    extract_server(
        TrackingServer.model_validate(server), DimensionSettings(), now=NOW, previous=lambda t, p: None, workdir=workdir, load_id="load"
    )


def test_credentials_of_one_server_never_reach_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "from-the-environment")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "someone")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "else")
    before = dict(os.environ)
    with (
        recording_server() as (one, seen_by_one),
        recording_server() as (two, seen_by_two),
        recording_server() as (three, seen_by_three),
        recording_server() as (four, seen_by_four),
    ):
        for _ in range(2):
            read(tmp_path, name="one", uri=one, token="token-of-one")
            read(tmp_path, name="two", uri=two, username="u2", password="password-of-two")
            read(tmp_path, name="three", uri=three)
            read(tmp_path, name="four", uri=four.replace("://", "://u4:p4@"))
    assert {r.get("authorization") for r in seen_by_one} == {"Bearer token-of-one"}
    assert {r.get("authorization") for r in seen_by_two} == {"Basic dTI6cGFzc3dvcmQtb2YtdHdv"}
    assert {r.get("authorization") for r in seen_by_three} == {None}
    assert {r.get("authorization") for r in seen_by_four} == {"Basic dTQ6cDQ="}
    assert all(len(seen) > 3 for seen in (seen_by_one, seen_by_two, seen_by_three, seen_by_four))
    assert {k: v for k, v in os.environ.items() if k.startswith("MLFLOW_TRACKING")} == {
        k: v for k, v in before.items() if k.startswith("MLFLOW_TRACKING")
    }


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_reported_without_the_credentials(tmp_path: Path, status: int) -> None:
    with recording_server(status) as (uri, _), pytest.raises(SourceRefused, match="refused the credentials") as refused:
        read(tmp_path, name="prod", uri=uri, token="canary-token")
    assert "canary" not in str(refused.value)


def test_a_server_that_is_not_there_is_unreachable_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="cannot read prod") as failed:
        read(tmp_path, name="prod", uri="http://127.0.0.1:9", username="u", password="canary-pw")
    assert "canary-pw" not in str(failed.value)


def test_a_missing_folder_is_unreachable_and_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="there is no folder"):
        read(tmp_path, name="prod", uri=f"file://{tmp_path}/mlruns")
    assert not (tmp_path / "mlruns").exists()


class ChangingStore:
    """A store with MLflow's offset tokens, whose runs come and go between pages."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.runs = {f"stays {i}": self.some_time() for i in range(40)} | {f"goes {i}": self.some_time() for i in range(20)}
        self.asked = 0

    def some_time(self) -> int:
        return raw.month_bounds("2026-11")[0] + self.chance.randrange(30) * 1000

    def search_runs(self, ids: list[str], condition: str, view: Any, limit: int, order: list[str], token: str | None) -> Any:
        self.asked += 1
        first, after = (int(part.split()[-1]) for part in condition.split(" AND "))
        found = sorted((start, run_id) for run_id, start in self.runs.items() if first <= start < after)
        offset = int(token or 0)
        page = [SimpleNamespace(info=SimpleNamespace(run_id=run_id, start_time=start)) for start, run_id in found[offset : offset + limit]]
        for run_id in [r for r in self.runs if r.startswith("goes") and self.chance.random() < 0.2]:
            del self.runs[run_id]
        self.runs[f"comes {self.asked}"] = raw.month_bounds("2026-11")[0] + self.chance.randrange(100_000)
        return type("Page", (list,), {"token": str(offset + limit) if len(found) > offset + limit else None})(page)


def test_no_run_is_lost_or_doubled_while_runs_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE_RUNS", 7)
    monkeypatch.setattr(api, "_to_batch", lambda runs, believed_ms: SimpleNamespace(ids=[r.info.run_id for r in runs], num_rows=len(runs)))
    for seed in range(500):
        reader = api.ApiReader(TrackingServer(name="prod", uri="http://mlflow"), lambda text: None)
        reader._store = ChangingStore(random.Random(seed))
        reader._experiments = {None: ["1"]}
        read_ids = [i for batch in reader.read_runs(["2026-11"], raw.Keys((), ())) for i in batch.ids]  # type: ignore[attr-defined]
        assert len(read_ids) == len(set(read_ids)), seed
        assert {f"stays {i}" for i in range(40)} <= set(read_ids), seed
