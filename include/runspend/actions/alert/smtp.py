"""Send mail: as .eml files under home, or by SMTP.

Belongs here: how a finished message leaves, and the server's answer for each recipient. The choice of mails does not belong here. Airflow's
SmtpHook is not used for sending: it drops refused recipients and sends again mail that was already queued.
"""

from __future__ import annotations

import base64
import hashlib
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from runspend.actions.alert.message import Mail, as_bytes, sender_host
from runspend.config.mail import MailSettings
from runspend.config.types import CONNECTION, address_of
from runspend.core.own_files import write_whole
from runspend.core.redaction import redact_values

TIMEOUT_SECONDS = 30.0  # for one answer
# For all mails of one pipeline run: a server that answers one letter at a time, or stalls at each mail, cannot delay the run longer.
DEADLINE_SECONDS = 600.0
LOST_CONNECTIONS = 3
LONGEST_NAME = 200  # characters of a file name; file systems allow 255
# "Not you" (RFC 3463's 5.7, "relaying denied") is about the account or the network, not the address. Operators can fix it.
NO_LOGIN = (530, 534, 535, 538)  # RFC 4954
_OUR_FAULT = re.compile(rb"(?<![\d.])5\.7\.\d+(?!\.?\d)|\brelay", re.IGNORECASE)
# RFC 3463 and 7505 define these as faults of the address or the mail itself. Any other 5xx, above all a bare 550 (RFC 5321 4.2.2), may come
# from a policy, a blocklist or greylisting, and may change by the next day. Blocklists quote IP addresses: "5.1.1" inside one is not a
# code.
_FOR_GOOD = re.compile(rb"(?<![\d.])5\.(1\.([1236]|10)|3\.4|6\.\d+)(?!\.?\d)")


@dataclass(frozen=True)
class SendResult:
    """The other side's answer.

    `waiting` means: not known to be delivered, will be retried. `skipped` means: mail is switched off. `refused` is reported at once,
    and retried for some days unless it `is_final`.
    """

    state: Literal["accepted", "refused", "waiting", "skipped"]
    reply: str
    was_tried: bool = True  # False: Runspend gave up on the server before this mail
    is_final: bool = True
    is_put_off: bool = False  # waiting because of this recipient or mail (4xx), probably not because of the server or the sender
    wait: timedelta | None = None  # a chat's or pager's Retry-After


class Backend(Protocol):
    """Delivers one mail to some of its recipients (plain addresses) and returns each result."""

    def deliver(self, mail: Mail, recipients: Sequence[str]) -> dict[str, SendResult]:
        """Return one outcome per recipient. A mail server's refusal or silence never raises."""
        ...


def open_backend(settings: MailSettings, home: Path) -> AbstractContextManager[Backend]:
    """Return the backend that `mail.backend` names. No server is contacted before the first mail."""
    if settings.backend == "smtp":
        return SmtpBackend(settings)
    return FileBackend(home / "mail") if settings.backend == "file" else NoBackend()


class NoBackend(AbstractContextManager["NoBackend"]):
    """Mail is switched off. Every mail counts as handled, so switching mail on later does not send old mails."""

    def deliver(self, mail: Mail, recipients: Sequence[str]) -> dict[str, SendResult]:
        """Skip every recipient."""
        return dict.fromkeys(recipients, SendResult("skipped", "mail.backend is none"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class FileBackend(AbstractContextManager["FileBackend"]):
    """Writes one .eml file per mail, named by its Message-ID. The file is whole or absent, and writing it again changes nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def deliver(self, mail: Mail, recipients: Sequence[str]) -> dict[str, SendResult]:
        """Return `accepted` for every recipient, once the file and its folder are on disk."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", mail.message_id.strip("<>").rpartition("@")[0])
        if len(name) > LONGEST_NAME:
            name = f"{name[: LONGEST_NAME - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        path = self.folder / f"{name}.eml"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, as_bytes(mail))
        return dict.fromkeys(recipients, SendResult("accepted", str(path)))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class SmtpBackend(AbstractContextManager["SmtpBackend"]):
    """One connection for all mails of a pipeline run. It opens at the first mail, and reopens a few times if the server drops it."""

    def __init__(
        self, settings: MailSettings, timeout_seconds: float = TIMEOUT_SECONDS, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        """Set the time limits in seconds: for one answer, and for all mails together."""
        self.settings = settings
        self.timeout_seconds = timeout_seconds
        self.deadline_seconds = deadline_seconds
        self._smtp: smtplib.SMTP | None = None
        self._given_up: str | None = None
        self._lost = 0
        self._over = threading.Event()
        self._guard: threading.Thread | None = None

    def deliver(self, mail: Mail, recipients: Sequence[str]) -> dict[str, SendResult]:
        """Deliver one mail in one transaction. A 5xx for a recipient or the message is a refusal. Anything uncertain is waiting."""
        if self._given_up is not None:  # 500 mails must not wait for 500 timeouts
            return dict.fromkeys(recipients, SendResult("waiting", self._given_up, was_tried=False))
        outcomes: dict[str, SendResult] = {}
        try:
            self._transact(self._connected(), mail, recipients, outcomes)
        except (smtplib.SMTPException, OSError) as error:
            self._drop()
            reason = describe(error, self.settings)
            self._lost += 1
            if self._lost >= LOST_CONNECTIONS:
                self._give_up(reason)
            outcomes |= {r: SendResult("waiting", reason) for r in recipients if r not in outcomes}
        return outcomes

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._smtp is not None and kind is None:
            # all outcomes are recorded already, so a server that hangs up first changes nothing
            with suppress(smtplib.SMTPException, OSError):
                self._smtp.quit()
        self._drop()
        self._over.set()
        if self._guard is not None:
            self._guard.join()

    def _transact(self, smtp: smtplib.SMTP, mail: Mail, recipients: Sequence[str], outcomes: dict[str, SendResult]) -> None:
        code, reply = smtp.mail(address_of(mail.sender) or "runspend@localhost")
        if code != 250:
            # The account or the sender's address is wrong, not the mail. Nothing is lost: the mail goes out once that is fixed.
            self._give_up_transaction(code)
            outcomes |= dict.fromkeys(recipients, SendResult("waiting", f"the server refuses the sender: {_reply_text(code, reply)}"))
            return
        taken = []
        for recipient in recipients:
            code, reply = smtp.rcpt(recipient)
            if code == 421:
                raise smtplib.SMTPResponseException(code, reply)
            if code in (250, 251, 252):
                taken.append(recipient)
            else:
                is_ours = code in NO_LOGIN or (
                    _OUR_FAULT.search(reply) and not _FOR_GOOD.search(reply)
                )  # replies repeat addresses: relay@acme.com
                outcomes[recipient] = SendResult("waiting", _reply_text(code, reply)) if is_ours else _refusal(code, reply)
        if not taken:
            self._give_up_transaction(code)
            return
        try:
            code, reply = smtp.data(as_bytes(mail))
        except smtplib.SMTPDataError as error:  # DATA itself was not accepted, so nothing was sent
            code, reply = error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else error.smtp_error.encode()
        is_taken = 200 <= code < 300
        outcomes |= dict.fromkeys(taken, SendResult("accepted", _reply_text(code, reply)) if is_taken else _refusal(code, reply))
        if not is_taken:
            self._give_up_transaction(code)

    def _connected(self) -> smtplib.SMTP:
        if self._guard is None:
            self._guard = threading.Thread(target=self._cut_off, daemon=True)
            self._guard.start()
        if self._smtp is None:
            self._smtp = make_client(self.settings, self.timeout_seconds)  # the guard must see it before it waits for anything
            try:
                log_on(self._smtp, self.settings)
            except (smtplib.SMTPException, OSError) as error:
                self._give_up(describe(error, self.settings))  # an unreachable server is not contacted again for every mail
                raise
        return self._smtp

    def _give_up(self, why: str) -> None:
        self._given_up = self._given_up or why

    def _cut_off(self) -> None:
        """Run beside the sender, and close the connection at the deadline even if the sender is still waiting."""
        if self._over.wait(self.deadline_seconds):
            return
        self._give_up(f"{self.settings.host} took longer than {self.deadline_seconds:.0f} s for all mails")
        while not self._over.wait(0.2):
            sock = self._smtp.sock if self._smtp is not None else None
            if sock is not None:
                with suppress(OSError):  # it was closed at this moment
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _give_up_transaction(self, code: int) -> None:
        if code == 421 or self._smtp is None:
            self._drop()
        else:
            self._smtp.rset()

    def _drop(self) -> None:
        if self._smtp is not None:
            self._smtp.close()
            self._smtp = None


def make_client(settings: MailSettings, timeout_seconds: float = TIMEOUT_SECONDS) -> smtplib.SMTP:
    """Return a client for the configured server, not connected yet."""
    name = sender_host(settings.from_)  # used in EHLO; the default asks the resolver for this machine's name
    if settings.tls == "implicit":
        return smtplib.SMTP_SSL(local_hostname=name, timeout=timeout_seconds, context=ssl.create_default_context())
    return smtplib.SMTP(local_hostname=name, timeout=timeout_seconds)


def log_on(smtp: smtplib.SMTP, settings: MailSettings) -> None:
    """Connect with exactly the TLS and login that the settings ask for, never weaker. Raises smtplib's or the system's error."""
    if settings.connection or settings.host is None or settings.host.startswith(CONNECTION):
        raise smtplib.SMTPException("the mail server is an Airflow connection, which only a task of Airflow can read")
    smtp._host = settings.host  # type: ignore[attr-defined]  # to check certificates; only the constructor sets it, and that connects
    smtp.connect(settings.host, settings.port)
    if settings.tls == "starttls":
        smtp.starttls(context=ssl.create_default_context())  # raises if it is not offered: nothing is ever sent in plain text
    smtp.ehlo_or_helo_if_needed()
    if settings.username:
        _log_in(smtp, settings.username, settings.password.get_secret_value() if settings.password else "")


def _log_in(smtp: smtplib.SMTP, username: str, password: str) -> None:
    if f"{username}{password}".isascii():
        smtp.login(username, password)
        return
    # smtplib accepts only ASCII; PLAIN is UTF-8 (RFC 4616).
    code, reply = smtp.docmd("AUTH", "PLAIN " + base64.b64encode(f"\0{username}\0{password}".encode()).decode("ascii"))
    if code not in (235, 503):
        raise smtplib.SMTPAuthenticationError(code, reply)


def _refusal(code: int, reply: bytes) -> SendResult:
    """Classify an answer that is not an acceptance.

    A 4xx or an invalid code puts the recipient off, except 421, which ends the connection. A 5xx is a refusal, final if it is
    about the address or the mail.
    """
    if code < 500:
        return SendResult("waiting", _reply_text(code, reply), is_put_off=code != 421)
    return SendResult("refused", _reply_text(code, reply), is_final=bool(_FOR_GOOD.search(reply)))


def _reply_text(code: int, reply: bytes) -> str:
    return f"{code} {reply.decode('utf-8', 'replace')}"[:300]


def describe(error: Exception, settings: MailSettings) -> str:
    """Describe an error in words. A server's answer is quoted without the login, because some servers repeat the rejected command."""
    password = settings.password.get_secret_value() if settings.password else ""
    return redact_values(_describe(error, settings), [password, f"\0{settings.username}\0{password}"] if password else [])[:300]


def _describe(error: Exception, settings: MailSettings) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        reason = error.smtp_error if isinstance(error.smtp_error, bytes) else str(error.smtp_error).encode()
        return f"{error.smtp_code} {reason.decode('utf-8', 'replace')}"
    where = f"{settings.host}:{settings.port}"
    if isinstance(error, ssl.SSLError) or (settings.tls == "starttls" and isinstance(error, smtplib.SMTPNotSupportedError)):
        return f"no TLS with {where}, so nothing was sent: {error}"
    if isinstance(error, TimeoutError) or str(error).endswith("timed out"):  # smtplib reports most timeouts as a closed connection
        return f"{where} did not answer in time"
    return f"{where}: {type(error).__name__}: {error}"
