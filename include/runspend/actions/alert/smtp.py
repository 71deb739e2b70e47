"""Send mail by SMTP, or write it to .eml files in the folder `mail` of Runspend's home.

Belongs here: how a finished message is sent, and the server's answer for each recipient. `outbox.py` chooses the mails to send. Airflow's
SmtpHook is not used: it does not report refused recipients, and it sends mail again that the server has already queued.
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
# Limit for all mails of one pipeline run. A server that sends one byte at a time, or stalls at each mail, cannot delay the run any further.
DEADLINE_SECONDS = 600.0
LOST_CONNECTIONS = 3
LONGEST_NAME = 200  # characters of a file name; file systems allow 255
# These codes mean that the sender's account or network is wrong, not the recipient's address. The same is true for 5.7.x of RFC 3463 and for
# "relaying denied". Operators can fix that, so the mail waits.
NO_LOGIN = (530, 534, 535, 538)  # RFC 4954
_OUR_FAULT = re.compile(rb"(?<![\d.])5\.7\.\d+(?!\.?\d)|\brelay", re.IGNORECASE)
# RFC 3463 and RFC 7505 define these codes as faults of the address or the mail itself. Any other 5xx may come from a policy, a blocklist or
# greylisting, and may change by the next day. This is most common for a 550 without such a code (RFC 5321, section 4.2.2). Replies of
# blocklists may contain IP addresses, so "5.1.1" inside an IP address does not count as a code.
_FOR_GOOD = re.compile(rb"(?<![\d.])5\.(1\.([1236]|10)|3\.4|6\.\d+)(?!\.?\d)")


@dataclass(frozen=True)
class SendResult:
    """The result of one attempt for one recipient: the answer of the mail server, chat or pager.

    `waiting`: the message is not known to be delivered, and Runspend retries. `skipped`: mail is switched off. `refused`: operators get a
    report at once, and Runspend retries for some days unless `is_final`.
    """

    state: Literal["accepted", "refused", "waiting", "skipped"]
    reply: str
    was_tried: bool = True  # False: Runspend gave up on the server before this mail
    is_final: bool = True
    is_put_off: bool = False  # the server deferred this recipient or mail (4xx); the server and the sender are probably fine
    wait: timedelta | None = None  # Retry-After of a chat or pager


class Backend(Protocol):
    """A way to deliver mail, such as SMTP."""

    def deliver(self, mail: Mail, recipients: Sequence[str]) -> dict[str, SendResult]:
        """Deliver one mail to these plain addresses and return one outcome per address. A refusal or a timeout raises no error."""
        ...


def open_backend(settings: MailSettings, home: Path) -> AbstractContextManager[Backend]:
    """Return the backend that `mail.backend` names. No server is contacted before the first mail."""
    if settings.backend == "smtp":
        return SmtpBackend(settings)
    return FileBackend(home / "mail") if settings.backend == "file" else NoBackend()


class NoBackend(AbstractContextManager["NoBackend"]):
    """Backend of switched-off mail. Every mail counts as handled, so old mails are not sent when mail is switched on later."""

    def deliver(self, mail: Mail, recipients: Sequence[str]) -> dict[str, SendResult]:
        """Skip every recipient."""
        return dict.fromkeys(recipients, SendResult("skipped", "mail.backend is none"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class FileBackend(AbstractContextManager["FileBackend"]):
    """Backend that writes one .eml file per mail, named by its Message-ID. The file is never partial. Writing it again changes nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def deliver(self, mail: Mail, recipients: Sequence[str]) -> dict[str, SendResult]:
        """Write the file and return `accepted` for every recipient. The file and its folder are then on disk."""
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
    """Backend that sends all mails of a pipeline run over one SMTP connection.

    The connection opens at the first mail. It reopens if the server drops it, until it was lost LOST_CONNECTIONS times.
    """

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
        """Deliver one mail in one transaction. A 5xx for a recipient or the message is a refusal. Every uncertain result is `waiting`."""
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
            # All outcomes are recorded already, so it does not matter if the server closes the connection first.
            with suppress(smtplib.SMTPException, OSError):
                self._smtp.quit()
        self._drop()
        self._over.set()
        if self._guard is not None:
            self._guard.join()

    def _transact(self, smtp: smtplib.SMTP, mail: Mail, recipients: Sequence[str], outcomes: dict[str, SendResult]) -> None:
        code, reply = smtp.mail(address_of(mail.sender) or "runspend@localhost")
        if code != 250:
            # The account or the sender's address is wrong, not the mail. The mail waits and is sent after the configuration is fixed.
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
                )  # a reply may repeat an address such as relay@acme.com
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
            self._smtp = make_client(self.settings, self.timeout_seconds)  # set before connecting, so that the guard thread can close it
            try:
                log_on(self._smtp, self.settings)
            except (smtplib.SMTPException, OSError) as error:
                self._give_up(describe(error, self.settings))  # an unreachable server is not contacted again for every mail
                raise
        return self._smtp

    def _give_up(self, why: str) -> None:
        self._given_up = self._given_up or why

    def _cut_off(self) -> None:
        """Close the connection at the deadline, even if the sender is still waiting for an answer. Runs in a separate thread."""
        if self._over.wait(self.deadline_seconds):
            return
        self._give_up(f"{self.settings.host} took longer than {self.deadline_seconds:.0f} s for all mails")
        while not self._over.wait(0.2):
            sock = self._smtp.sock if self._smtp is not None else None
            if sock is not None:
                with suppress(OSError):  # the sender has just closed it
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
    """Return a client for the configured server. It is not connected yet."""
    name = sender_host(settings.from_)  # used in EHLO; the default would look up the name of this machine in DNS
    if settings.tls == "implicit":
        return smtplib.SMTP_SSL(local_hostname=name, timeout=timeout_seconds, context=ssl.create_default_context())
    return smtplib.SMTP(local_hostname=name, timeout=timeout_seconds)


def log_on(smtp: smtplib.SMTP, settings: MailSettings) -> None:
    """Connect with the TLS mode and login of the settings, never a weaker mode. Raises SMTPException or OSError if that fails."""
    if settings.connection or settings.host is None or settings.host.startswith(CONNECTION):
        raise smtplib.SMTPException("the mail server is an Airflow connection, which only a task of Airflow can read")
    smtp._host = settings.host  # type: ignore[attr-defined]  # needed to check certificates; the constructor sets it only if it connects
    smtp.connect(settings.host, settings.port)
    if settings.tls == "starttls":
        smtp.starttls(context=ssl.create_default_context())  # raises if the server does not offer it, so nothing is sent in plain text
    smtp.ehlo_or_helo_if_needed()
    if settings.username:
        _log_in(smtp, settings.username, settings.password.get_secret_value() if settings.password else "")


def _log_in(smtp: smtplib.SMTP, username: str, password: str) -> None:
    if f"{username}{password}".isascii():
        smtp.login(username, password)
        return
    # `login` of smtplib accepts only ASCII. PLAIN with UTF-8 is allowed by RFC 4616.
    code, reply = smtp.docmd("AUTH", "PLAIN " + base64.b64encode(f"\0{username}\0{password}".encode()).decode("ascii"))
    if code not in (235, 503):
        raise smtplib.SMTPAuthenticationError(code, reply)


def _refusal(code: int, reply: bytes) -> SendResult:
    """Return the result for a reply that is not an acceptance.

    With a 4xx or an invalid code, the recipient is deferred. The exception is 421: the server ends the connection. A 5xx is a refusal,
    final if it is about the address or the mail.
    """
    if code < 500:
        return SendResult("waiting", _reply_text(code, reply), is_put_off=code != 421)
    return SendResult("refused", _reply_text(code, reply), is_final=bool(_FOR_GOOD.search(reply)))


def _reply_text(code: int, reply: bytes) -> str:
    return f"{code} {reply.decode('utf-8', 'replace')}"[:300]


def describe(error: Exception, settings: MailSettings) -> str:
    """Return an error in words, at most 300 characters.

    The password is removed from a quoted reply, because some servers repeat the rejected command.
    """
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
