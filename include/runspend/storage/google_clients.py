"""Google's clients and credentials, for bills in BigQuery, for the warehouse, and tokens for its buckets.

Callers write the queries and report unusable keys.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from runspend.core.errors import MissingExtra

__all__ = ["access_token", "bigquery_clients", "has_google_auth", "login_errors", "read_credentials"]

SCOPES = ("https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/cloud-platform")
ANONYMOUS = "anonymous"  # `credentials` of an emulator


def read_credentials(given: str | None) -> tuple[Any, str | None]:
    """Return credentials and, if stated, their project: from a service account's key file, or by default from the environment.

    Raises OSError or ValueError for a file that is not a key, and google.auth's GoogleAuthError if the environment has none.
    """
    try:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.oauth2.service_account import Credentials
    except ImportError as error:
        raise MissingExtra("google-cloud-bigquery", "bigquery") from error
    if given == ANONYMOUS:
        return AnonymousCredentials(), None  # type: ignore[no-untyped-call]  # Google's, without types
    if not given:
        default: Any = google.auth.default
        found: tuple[Any, str | None] = default(scopes=SCOPES)
        return found
    service_account: Any = Credentials
    credentials = service_account.from_service_account_file(given, scopes=SCOPES)
    return credentials, credentials.project_id


def has_google_auth() -> bool:
    """Whether Google's own log-in is installed (extra `bigquery`)."""
    return find_spec("google") is not None and find_spec("google.auth") is not None


def login_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of a failed log-in."""
    from google.auth.exceptions import GoogleAuthError

    return GoogleAuthError, OSError, ValueError


def access_token(given: str | None) -> str | None:
    """Return a token valid for at most an hour, of a key file or the environment; None for anonymous access. Raises as `read_credentials`."""
    if given == ANONYMOUS:
        return None
    try:
        credentials, _ = read_credentials(given)
    except ValueError:  # the file of a person who logged in with gcloud
        from google.oauth2.credentials import Credentials

        somebody: Any = Credentials
        credentials = somebody.from_authorized_user_file(given, SCOPES)
    from google.auth.transport.requests import Request

    credentials.refresh(Request())
    return str(credentials.token)


def bigquery_clients(credentials: Any, project: str, *, endpoint: str | None, location: str | None = None) -> tuple[Any, Any]:
    """Return a client, and one of the Storage API, which reads rows several times as fast; None for a custom server (`endpoint`)."""
    try:
        from google.cloud import bigquery, bigquery_storage
    except ImportError as error:
        raise MissingExtra("google-cloud-bigquery", "bigquery") from error
    client = bigquery.Client(project=project, credentials=credentials, client_options={"api_endpoint": endpoint} if endpoint else None, location=location)
    storage: Any = bigquery_storage.BigQueryReadClient
    return client, None if endpoint else storage(credentials=credentials)
