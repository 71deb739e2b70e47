"""The mails that operators get about a source. They distinguish a source that did not answer from a source that Runspend refused."""

from __future__ import annotations

import socket
from datetime import datetime, timedelta, timezone
from email import message_from_bytes, policy
from pathlib import Path

from runspend import pipeline
from runspend.config.settings import load_settings
from tests.mlflow_store import make_schema

NOW = datetime(2026, 11, 4, 6, tzinfo=timezone.utc)
CONFIG = """
tracking: [{{name: prod, uri: "http://127.0.0.1:{port}"}}]
billing: [{{name: aws, uri: bills}}, {{name: gone, uri: nowhere}}]
mail: {{backend: file, operators: [oncall@example.com]}}
"""


def test_a_server_that_is_down_is_unreachable_and_a_broken_bill_refused(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, but not listening
        closed.bind(("127.0.0.1", 0))
        config = tmp_path / "runspend.yaml"
        config.write_text(CONFIG.format(port=closed.getsockname()[1]), encoding="utf-8")
        (tmp_path / "bills").mkdir()
        (tmp_path / "bills" / "part.csv").write_text("no,bill\n1,2\n", encoding="utf-8")
        settings = load_settings(config)
        down = pipeline.extract(settings, now=NOW)
    refused = pipeline.load(settings, now=NOW)
    assert (down.exit_code, refused.exit_code) == (3, 3)
    mails = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in (settings.home / "mail").glob("*.eml")]
    subjects = sorted(str(mail["Subject"]) for mail in mails)
    assert [subject.split(":")[0] for subject in subjects] == ["[runspend] REFUSED", "[runspend] UNREACHABLE", "[runspend] UNREACHABLE"]
    assert "aws" in subjects[0] and sorted(subject.split()[2].rstrip(":") for subject in subjects[1:]) == ["gone", "prod"]
    assert {str(mail["X-Runspend-Kind"]) for mail in mails} == {"refused", "unreachable"}
    (problem,) = down.problems
    assert problem.endswith("It was never read, so none of its runs are known.")
    assert not any("last good data" in mail.get_body(("plain",)).get_content() for mail in mails)


def test_data_of_an_earlier_read_stay_when_a_server_goes_down(tmp_path: Path) -> None:
    """If Runspend has read the server before, the problem states that the last good data stay."""
    store = tmp_path / "mlflow.db"
    make_schema(store)
    config = tmp_path / "runspend.yaml"
    config.write_text(f'tracking: [{{name: prod, uri: "sqlite:///{store}"}}]\n', encoding="utf-8")
    settings = load_settings(config)
    assert pipeline.extract(settings, now=NOW).exit_code == 0
    store.unlink()
    (problem,) = pipeline.extract(settings, now=NOW + timedelta(days=1)).problems
    assert problem.endswith("Its last good data stay.")
