"""Who asks BigQuery, and where: Google's clients, for bills that lie there and for the warehouse; tokens for its buckets.

What is asked does not belong here, nor in which words a key that is none is refused.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from runspend.core.errors import MissingExtra

__all__ = ["access_token", "bigquery_clients", "has_google_auth", "login_errors", "read_credentials"]

SCOPES = ("https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/cloud-platform")
ANONYMOUS = "anonymous"  # `credentials` of an emulator


def read_credentials(given: str | None) -> tuple[Any, str | None]:
    """Credentials, and the project they are of, where they say: a service account's key file; left out, the environment's.

    Raises OSError or ValueError for a file that is no key, google.auth's GoogleAuthError where the environment has none.
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
    """Whether Google's own log-in is installed; the extra `bigquery` brings it."""
    return find_spec("google") is not None and find_spec("google.auth") is not None


def login_errors() -> tuple[type[Exception], ...]:
    """What a log-in that fails raises."""
    from google.auth.exceptions import GoogleAuthError

    return GoogleAuthError, OSError, ValueError


def access_token(given: str | None) -> str | None:
    """A token for an hour at most, of a key file or of the environment; None for nobody. Raises as `read_credentials` does."""
    if given == ANONYMOUS:
        return None
    try:
        credentials, _ = read_credentials(given)
    except ValueError:  # the file of somebody who logged in, with gcloud
        from google.oauth2.credentials import Credentials

        somebody: Any = Credentials
        credentials = somebody.from_authorized_user_file(given, SCOPES)
    from google.auth.transport.requests import Request

    credentials.refresh(Request())
    return str(credentials.token)


def bigquery_clients(credentials: Any, project: str, *, endpoint: str | None, location: str | None = None) -> tuple[Any, Any]:
    """A client, and one of the Storage API, which brings rows several times as fast; None for a server of one's own (`endpoint`), which has it elsewhere."""
    try:
        from google.cloud import bigquery, bigquery_storage
    except ImportError as error:
        raise MissingExtra("google-cloud-bigquery", "bigquery") from error
    client = bigquery.Client(project=project, credentials=credentials, client_options={"api_endpoint": endpoint} if endpoint else None, location=location)
    storage: Any = bigquery_storage.BigQueryReadClient
    return client, None if endpoint else storage(credentials=credentials)
