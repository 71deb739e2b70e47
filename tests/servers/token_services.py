"""Token services on 127.0.0.1: AWS STS, and Google's token endpoint with IAM Credentials, as far as Airflow's hooks use them.

Sources: "AssumeRole" of the AWS STS API Reference; "Using OAuth 2.0 for Server to Server Applications" and
"projects.serviceAccounts.generateAccessToken" of Google. They do not check what a role may do.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

ASSUMED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<AssumedRoleUser><Arn>{role}/s</Arn><AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser>
<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>
<Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>
</AssumeRoleResult></AssumeRoleResponse>"""
REFUSED = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code>
<Message>User is not authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>"""


@dataclass
class TokenServices:
    """Their address, the requests that they received, and their answers: tokens with a lifetime of `life`, or a refusal."""

    address: str
    asked: list[dict[str, str]] = field(default_factory=list)
    life: timedelta = timedelta(hours=1)
    refuses: bool = False

    def answer(self, path: str, body: str) -> tuple[int, str]:
        """Return the status and the body of an answer."""
        end = datetime.now(timezone.utc) + self.life
        if path.startswith("/token"):
            self.asked.append({"path": path})
            return (200, json.dumps({"access_token": "of-the-key", "token_type": "Bearer", "expires_in": 3600}))
        if "generateAccessToken" in path:
            self.asked.append({"path": path})
            number = len(self.asked)
            return (200, json.dumps({"accessToken": f"of-the-target-{number}", "expireTime": f"{end:%Y-%m-%dT%H:%M:%SZ}"}))
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self.asked.append(form)
        if self.refuses:
            return 403, REFUSED
        number = len(self.asked)
        return 200, ASSUMED.format(
            role=form["RoleArn"], key=f"ASIA{number:012}", secret=f"secret-{number}", token=f"session-{number}", end=end
        )


@contextmanager
def serve_tokens() -> Iterator[TokenServices]:
    """Start them on a free port, and stop them at the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            status, text = services.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    services = TokenServices(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield services
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
