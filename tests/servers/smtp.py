"""A real SMTP server (aiosmtpd) on 127.0.0.1 with TLS, logins, refusals and lost replies. It can also SIGKILL its client at a chosen moment.

`script` tells it what to do. `accepted` holds the messages that it took responsibility for.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Script:
    """What the server does: replies by recipient address, and `before` and `after`, which it calls with the name of a moment."""

    mail_reply: str | None = None
    rcpt_replies: dict[str, str] = field(default_factory=dict)
    data_reply: str | None = None
    keep_before_reply: bool = False  # queue the message, and only then answer data_reply, which makes clients send it again
    hang_up_after_data: bool = False
    drop_mid_data: bool = False  # close the connection while the message arrives
    stall_at: str = ""  # a moment ("ehlo", "mail", "rcpt", "body_received", "queued") at which the server is silent for `stall_seconds`
    stall_seconds: float = 0
    at: Callable[[str], None] = lambda moment: None


@dataclass
class Accepted:
    """A message that the server accepted completely."""

    sender: str
    recipients: list[str]
    raw: bytes
    was_encrypted: bool
    login: str | None

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.raw, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed


class Handler:
    """Handle messages as the script says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.accepted: list[Accepted] = []
        self.commands: list[str] = []

    async def _reach(self, moment: str) -> None:
        self.script.at(moment)
        if self.script.stall_at == moment:
            await asyncio.sleep(self.script.stall_seconds)

    async def handle_EHLO(self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]) -> list[str]:
        self.commands.append(f"EHLO {hostname}")
        await self._reach("ehlo")
        session.host_name = hostname
        return responses

    async def handle_MAIL(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]) -> str:
        self.commands.append(f"MAIL {address}")
        await self._reach("mail")
        if self.script.mail_reply:
            return self.script.mail_reply
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]) -> str:
        self.commands.append(f"RCPT {address}")
        await self._reach("rcpt")
        reply = self.script.rcpt_replies.get(address)
        if reply and not reply.startswith("2"):
            return reply
        envelope.rcpt_tos.append(address)
        return reply or "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        assert envelope.mail_from is not None
        self.commands.append("DATA")
        await self._reach("body_received")
        assert server.transport is not None
        is_encrypted = server.transport.get_extra_info("ssl_object") is not None
        taken = Accepted(envelope.mail_from, list(envelope.rcpt_tos), envelope.content, is_encrypted, getattr(session, "login", None))
        reply = self.script.data_reply
        if reply is None or reply.startswith("2") or self.script.keep_before_reply:
            self.accepted.append(taken)
        await self._reach("queued")
        if self.script.hang_up_after_data:
            server.transport.abort()
            await asyncio.sleep(0.05)
        return reply or "250 queued"


class ScriptedSMTP(SMTP):
    """An SMTP server that can hang up in the middle of a message."""

    script: Script

    def data_received(self, data: bytes) -> None:
        if self.script.drop_mid_data and b"Message-ID:" in data:
            assert self.transport is not None
            self.transport.abort()
            return
        super().data_received(data)


class Server(Controller):
    """The server in a thread. `tls` is none, starttls or implicit. `login` is the required (user, password)."""

    def __init__(
        self, script: Script, *, tls: str = "none", context: ssl.SSLContext | None = None, login: tuple[str, str] | None = None
    ) -> None:
        self._tls, self._context, self._login = tls, context, login
        self.script_handler = Handler(script)
        super().__init__(
            self.script_handler, hostname="127.0.0.1", port=0, ssl_context=context if tls == "implicit" else None, ready_timeout=20
        )

    def factory(self) -> SMTP:
        def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
            given = (data.login.decode(), data.password.decode())
            session.login = given[0]  # type: ignore[attr-defined]  # kept for the test to see
            return AuthResult(success=given == self._login, handled=False)

        server = ScriptedSMTP(
            self.script_handler,
            hostname="mail.test",
            tls_context=self._context if self._tls == "starttls" else None,
            require_starttls=self._tls == "starttls",
            authenticator=authenticate if self._login else None,
            auth_required=self._login is not None and self._tls == "starttls",
            auth_require_tls=self._tls == "starttls",
        )
        server.script = self.script_handler.script
        return server

    def _trigger_server(self) -> None:
        """Replace aiosmtpd's own check, which needs a fixed port. Here the port is known only once the server listens."""
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        super()._trigger_server()

    @property
    def accepted(self) -> list[Accepted]:
        return self.script_handler.accepted

    @property
    def commands(self) -> list[str]:
        return self.script_handler.commands


@contextmanager
def smtp_server(
    script: Script | None = None, *, tls: str = "none", context: ssl.SSLContext | None = None, login: tuple[str, str] | None = None
) -> Iterator[Server]:
    """Start a server and yield it; `server.port` is its port."""
    server = Server(script or Script(), tls=tls, context=context, login=login)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def endless_server(line: bytes = b"2") -> Iterator[int]:
    """Yield a port that sends `line` to every client ten times a second, without end. No timeout of a single answer stops it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, suppress(OSError):
                    while True:
                        client.sendall(line)
                        time.sleep(0.1)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def make_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Create a self-signed certificate for 127.0.0.1 and localhost. Return the server's context, and the file that clients must trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "cert.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    return context, certificate_file


def killer(moment: str, pid_file: Path) -> Callable[[str], None]:
    """Return a function for Script.at. At a moment, it SIGKILLs the process whose id is in `pid_file`, once, and waits until it is gone."""
    state = {"armed": True}

    def at(reached: str) -> None:
        if reached == moment and state["armed"]:
            state["armed"] = False
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGKILL)
            while _is_running(pid):
                time.sleep(0.005)

    return at


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
