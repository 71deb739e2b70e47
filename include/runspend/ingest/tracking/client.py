"""Open MLflow's own client for one configured server: its tracking store, registry and workspaces. Errors become Runspend's errors.

Each server's credentials are passed to its client directly. They are never written to or read from the process environment, so
the credentials of one server cannot reach another. What is read or written through a store does not belong here.
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
    """MLflow answered that the run, model or experiment does not exist. It may exist but be hidden from the credentials."""


class RequestRefused(SourceUnreachable):
    """MLflow refused this one request. Other requests may be accepted."""


class PageTokens:
    """The page tokens of one list. They are remembered because a server that repeats a token would be queried forever."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._given: set[str] = set()

    def follow(self, token: str | None) -> str | None:
        """Return the token, or None after the last page. Raises SourceUnreachable if the server has already sent this token."""
        if not token:
            return None
        if token in self._given:
            raise SourceUnreachable(
                self._server,
                f"cannot read {self._server}: it answers with the same page again and again. Check the server, or the proxy in front of it.",
            )
        self._given.add(token)
        return token


def pages(server: str, ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield all pages of one list. `ask` returns the page of a token: with an attribute `token`, or as a pair of page and next token."""
    tokens, token = PageTokens(server), None
    while True:
        answer = ask(token)
        page, given = (answer, answer.token) if hasattr(answer, "token") else answer
        yield page
        if (token := tokens.follow(given)) is None:
            return


class Client:
    """MLflow's client for one server. `token` replaces the configured login; it is given for writing.

    `seconds` limits the time of one call over HTTP, including all retries of MLflow's client; None means no limit. MLflow's own timeout
    applies to each part of an answer, so it would never stop a server that sends one byte per second.
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
        """The tracking store. The first use opens it and raises SourceError if the server does not answer."""
        if self._store is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("DO_NOT_TRACK", "true")
            try:
                import mlflow.exceptions  # noqa: F401 (checks that MLflow is installed)
            except ImportError as error:
                raise MissingExtra(str(error.name), "pipeline") from error
            self._store = self._open_store()
        return self._store

    @property
    def registry(self) -> Any:
        """The store of registered models: that of the `registry` setting, or the server's own if it is not set."""
        if self._registry is None:
            self._registry = self._open_registry()
        return self._registry

    def list_items(self, ask: Callable[[str | None], Any]) -> Iterator[Any]:
        """Yield the items of all pages of one list. `ask` is the same as in `pages`, but its errors are converted as in `Client.ask`."""
        for page in pages(self.name, lambda token: self.ask(lambda: ask(token))):
            yield from page

    def ask(self, call: Callable[[], T], *, failed: str = "", then: str = "") -> T:
        """Call a store and return its answer. An error of MLflow's client becomes a SourceError.

        Its message consists of `failed` (what failed), the cause, and `then` (the consequence). Raises SourceRefused if the server refuses
        the credentials, NotInMlflow if the object does not exist, RequestRefused for HTTP 400 and 409, and otherwise SourceUnreachable.
        """
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
        ) as error:  # no answer, or an invalid one (protobuf raises SystemError for a name that is not text)
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

        context: AbstractContextManager[Any] = ServerWorkspaceContext(workspace)  # WorkspaceContext would change environment variables
        return context

    def find_workspaces(self) -> list[str] | None:
        """Return the names of the workspaces that the server shows, or None if it does not support workspaces."""
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
        # By default, the client waits for minutes if a server is unreachable.
        response = self.ask(
            lambda: http_request(creds, "/version", "GET", max_retries=1, backoff_factor=0, timeout=15, raise_on_status=False)
        )
        if response.status_code in (401, 403):
            raise self._refused_credentials(f"cannot read {self.name}")
        self.version = response.text.strip() if response.status_code == 200 and len(response.text) < 40 else ""
        return RestStore(lambda: creds)

    def _creds(self, uri: str, *, is_own: bool) -> Any:
        """Return the login for `uri`. The server's secrets are sent only to that server. A registry elsewhere gets the login in its URI."""
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
        if not path.is_dir():  # MLflow's client would create the folder
            raise SourceUnreachable(self.name, f"cannot read {self.name}: there is no folder {path}. Check `uri` in runspend.yaml.")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        return str(path.resolve())

    def _refused_credentials(self, failed: str) -> SourceRefused:
        return SourceRefused(
            self.name,
            f"{failed}: {redact_uri(self._server.uri)} refused the credentials. Check token, or username and password.",
        )


def _call_within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of the call, which runs in its own thread. Exceptions of the call are raised unchanged.

    Raises TimeoutError if the call takes longer than `seconds`. Its thread then goes on until the call or the process ends.
    """
    answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    context = copy_context()  # it contains the workspace

    def answer() -> None:
        try:
            answers.put((context.run(call), None))
        except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
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
    """Return the user, password and token that a `write_token` contains.

    The text is either user:password or a token. A token never contains a colon (RFC 6750). "anonymous" means no login.
    """
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
