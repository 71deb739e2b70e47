#!/usr/bin/python3
"""Stand-in for Mailpit: SMTP on 1025, and on 8025 the parts of its HTTP API that a rehearsal uses. Keeps mails next to MP_DATABASE."""

from __future__ import annotations

import email
import email.policy
import json
import os
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("MP_DATABASE", "/tmp/mailpit.db")).parent / "mails"


class Keeper:
    """Writes each mail into a file."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Handle one mail, as aiosmtpd's hook."""
        (FOLDER / f"{time.time_ns()}.eml").write_bytes(envelope.content)
        return "250 OK"


class Api(BaseHTTPRequestHandler):
    """/readyz and /api/v1/messages."""

    def do_GET(self) -> None:
        """Answer with the subjects of all mails, in order."""
        if self.path.startswith("/api/v1/messages"):
            mails = [email.message_from_bytes(f.read_bytes(), policy=email.policy.default) for f in sorted(FOLDER.glob("*.eml"))]
            body = json.dumps({"messages": [{"Subject": str(mail["Subject"]), "To": str(mail["To"])} for mail in mails]}).encode()
        else:
            body = b"ok"
        self.send_response(200 if self.path.startswith(("/readyz", "/api/v1/messages")) else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def main() -> None:
    """Run the server; `/mailpit readyz` asks whether the running one is ready."""
    if sys.argv[1:] == ["readyz"]:
        urllib.request.urlopen("http://127.0.0.1:8025/readyz", timeout=20).close()
        return
    sys.path.insert(0, "/opt/smtp")
    from aiosmtpd.controller import Controller

    FOLDER.mkdir(parents=True, exist_ok=True)
    Controller(Keeper(), hostname="0.0.0.0", port=1025).start()
    ThreadingHTTPServer(("0.0.0.0", 8025), Api).serve_forever()


if __name__ == "__main__":
    main()
