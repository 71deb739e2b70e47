"""MLflow's own client for one configured server: its tracking store, registry and workspaces, with errors in Runspend's words.

Credentials are passed to the client per server. They are never put into the process environment and never taken from it, so
credentials of one server cannot reach another. What is read or written through a store does not belong here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from runspend.config.settings import TrackingServer
from runspend.core.errors import MissingExtra, SourceRefused, SourceUnreachable
from runspend.core.redaction import redact_error, redact_uri, uri_secrets

DEFAULT_WORKSPACE = "default"

T = TypeVar("T")


class NotInMlflow(SourceUnreachable):
    """MLflow answered that this run, model or experiment does not exist. It may also be hidden."""


class RequestRefused(SourceUnreachable):
    """MLflow refused this one request. Other requests may be accepted."""


class PageTokens:
    """The page tokens of one list. A server that repeats a token would be queried forever."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._given: set[str] = set()

    def follow(self, token: str | None) -> str | None:
        """Return the token, or None after the last page. Raises SourceUnreachable for a repeated token."""
        if not token:
            return None
        if token in self._given:
            raise SourceUnreachable(
                self._server,
                f"cannot read {self._server}: it answers with the same page again and again. Check the server, or the proxy before it.",
            )
        self._given.add(token)
        return token


def pages(server: str, ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield the pages of one list. `ask` returns the page of a token: with its own `token`, or as a pair with the next token."""
    tokens, token = PageTokens(server), None
    while True:
        answer = ask(token)
        page, given = (answer, answer.token) if hasattr(answer, "token") else answer
        yield page
        if (token := tokens.follow(given)) is None:
            return


class Client:
    """One server as MLflow's client sees it. `token`, if given, replaces the configured login, and is used for writing.

    `seconds`: the time limit of one call over HTTP, including all retries of MLflow's client. The client's own limits apply to each piece
    of an answer, so a server that sends a byte a second would never time out. None: no limit.
    """

    def __init__(self, server: TrackingServer, token: SecretStr | None = None, *, seconds: float | None = None) -> None:
        self.name = server.name
        self.version = ""
        self._server = server
        self._token = token
        self._seconds = seconds if _is_http(server.uri) else None
        self._secrets = [*uri_secrets(server.uri), *uri_secrets(server.registry or "")]
        self._secrets += [s.get_secret_value() for s in (token, server.token, server.password) if s]
        self._store: Any = None
        self._registry: Any = None

    @property
    def store(self) -> Any:
        """The tracking store, opened on first use. At that time, the server has answered."""
        if self._store is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("DO_NOT_TRACK", "true")
            try:
                import mlflow.exceptions  # noqa: F401 (is it there at all?)
            except ImportError as error:
                raise MissingExtra(str(error.name), "pipeline") from error
            self._store = self._open_store()
        return self._store

    @property
    def registry(self) -> Any:
        """The store of registered models: the server's own, or that of `registry`."""
        if self._registry is None:
            self._registry = self._open_registry()
        return self._registry

    def list_items(self, ask: Callable[[str | None], Any]) -> Iterator[Any]:
        """Yield the items of all pages of one list; `ask` as in `pages`."""
        for page in pages(self.name, lambda token: self.ask(lambda: ask(token))):
            yield from page

    def ask(self, call: Callable[[], T], *, failed: str = "", then: str = "") -> T:
        """Make one call of a store, with its errors in Runspend's words: what failed, why, and the consequence."""
        from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]  # no types of its own
        from mlflow.exceptions import MlflowException

        failed = failed or f"cannot read {self.name}"
        try:
            return call() if self._seconds is None else _call_within(self._seconds, call)
        except MlflowException as error:
            if error.error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"):
                raise self._refused_credentials(failed) from None
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise NotInMlflow(self.name, f"cannot find it in {self.name}: {redact_error(error, self._secrets)}.") from None
            kind = RequestRefused if error.get_http_status_code() in (400, 409) else SourceUnreachable
            raise kind(self.name, f"{failed}: {redact_error(error, self._secrets)}.{then}") from None
        except (
            ParseError,
            OSError,
            ValueError,
            RecursionError,
            SystemError,
        ) as error:  # not a valid answer (SystemError: protobuf's, of a name that is not text)
            raise SourceUnreachable(self.name, f"{failed}: {redact_error(error, self._secrets)}.{then}") from None

    def find(self, call: Callable[[], T]) -> T | None:
        """Like `ask`, but return None if MLflow answers that the object does not exist."""
        try:
            return self.ask(call)
        except NotInMlflow:
            return None

    def in_workspace(self, workspace: str | None) -> AbstractContextManager[Any]:
        if workspace is None:
            return nullcontext()
        from mlflow.utils.workspace_context import ServerWorkspaceContext

        context: AbstractContextManager[Any] = ServerWorkspaceContext(workspace)  # unlike WorkspaceContext, leaves the environment alone
        return context

    def find_workspaces(self) -> list[str] | None:
        """Return the workspaces that the server shows; None if it has none."""
        from mlflow.exceptions import MlflowException

        try:
            if not getattr(self.store, "supports_workspaces", False):
                return None
        except MlflowException:  # older servers do not support the request
            return None
        if not hasattr(self.store, "get_host_creds"):
            return None
        from mlflow.store.workspace.rest_store import RestWorkspaceStore

        return sorted(w.name for w in self.ask(RestWorkspaceStore(self.store.get_host_creds).list_workspaces))

    def _open_store(self) -> Any:
        uri = self._server.uri
        if _is_http(uri):
            return self._open_rest_store()
        if _is_folder(uri):
            from mlflow.store.tracking.file_store import FileStore

            path = self._existing_folder(uri)
            return self.ask(lambda: FileStore(path, path))
        from mlflow.tracking._tracking_service.utils import _get_store

        return self.ask(lambda: _get_store(uri))

    def _open_registry(self) -> Any:
        uri = self._server.registry or self._server.uri
        if _is_http(uri):
            from mlflow.store.model_registry.rest_store import RestStore

            creds = self._creds(uri, is_own=_origin(uri) == _origin(self._server.uri))
            return RestStore(lambda: creds)
        if _is_folder(uri):
            from mlflow.store.model_registry.file_store import FileStore

            path = self._existing_folder(uri)
            return self.ask(lambda: FileStore(path))
        from mlflow.tracking._model_registry.utils import _get_store

        return self.ask(lambda: _get_store(uri, self._server.uri))

    def _open_rest_store(self) -> Any:
        from mlflow.store.tracking.rest_store import RestStore
        from mlflow.utils.rest_utils import http_request

        creds = self._creds(self._server.uri, is_own=True)
        # By default, the client waits minutes for an unreachable server.
        response = self.ask(
            lambda: http_request(creds, "/version", "GET", max_retries=1, backoff_factor=0, timeout=15, raise_on_status=False)
        )
        if response.status_code in (401, 403):
            raise self._refused_credentials(f"cannot read {self.name}")
        self.version = response.text.strip() if response.status_code == 200 and len(response.text) < 40 else ""
        return RestStore(lambda: creds)

    def _creds(self, uri: str, *, is_own: bool) -> Any:
        """Return the login for `uri`. The server's own secrets go only to that server; another registry uses those of its URI."""
        from mlflow.environment_variables import MLFLOW_TRACKING_INSECURE_TLS, MLFLOW_TRACKING_SERVER_CERT_PATH
        from mlflow.utils.rest_utils import MlflowHostCreds

        parts = urlsplit(uri)
        server = self._server
        username, password, token = parts.username, parts.password, None
        if is_own and self._token is not None:
            username, password, token = _writer(self._token.get_secret_value())
        elif is_own:
            username = server.username or parts.username
            password = server.password.get_secret_value() if server.password else parts.password
            token = server.token.get_secret_value() if server.token else None
        return MlflowHostCreds(
            host=urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])),
            username=username,
            password=password,
            token=token,
            ignore_tls_verification=MLFLOW_TRACKING_INSECURE_TLS.get(),
            server_cert_path=MLFLOW_TRACKING_SERVER_CERT_PATH.get(),
        )

    def _existing_folder(self, uri: str) -> str:
        path = Path(uri.removeprefix("file://").removeprefix("file:"))
        if not path.is_dir():  # the client would create it
            raise SourceUnreachable(self.name, f"cannot read {self.name}: there is no folder {path}. Check `uri` in runspend.yaml.")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        return str(path.resolve())

    def _refused_credentials(self, failed: str) -> SourceRefused:
        return SourceRefused(
            self.name,
            f"{failed}: {redact_uri(self._server.uri)} refused the credentials. Check token, or username and password.",
        )


def _call_within(seconds: float, call: Callable[[], T]) -> T:
    """Return what the call returns, or raise what it raises. Raises TimeoutError if it takes longer; then its thread ends with the process."""
    answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    context = copy_context()  # the workspace is in it

    def answer() -> None:
        try:
            answers.put((context.run(call), None))
        except BaseException as error:  # noqa: BLE001 (the caller's thread raises it)
            answers.put((None, error))

    Thread(target=answer, daemon=True).start()
    try:
        found, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"the answer was not complete after {seconds:,.0f} seconds") from None
    if error is not None:
        raise error
    return cast(T, found)


def _writer(secret: str) -> tuple[str | None, str | None, str | None]:
    """Return user, password and token of a `write_token`. A token never has a colon (RFC 6750); user:password always has one."""
    if secret == "anonymous":
        return None, None, None
    user, colon, password = secret.partition(":")
    return (user, password, None) if colon else (None, None, secret)


def _is_http(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _is_folder(uri: str) -> bool:
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    return scheme in ("", "file") and not uri.startswith("databricks")


def _origin(uri: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(uri)
    return parts.scheme, parts.hostname, parts.port
