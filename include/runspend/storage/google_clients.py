"""Read Google credentials, and create BigQuery clients for bills in tables and for the warehouse.

Queries do not belong here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from runspend.core.errors import MissingExtra
from runspend.core.outside_json import parse_json
from runspend.storage.store_errors import ANONYMOUS, ENVIRONMENT, CannotReach

# The type of a file with a token that another process renews. It contains {type, token, expiry, project_id} or {type, error}.
LENT_TYPE = "runspend_lent"

SCOPES = ("https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/cloud-platform")


def read_credentials(given: str | None) -> tuple[Any, str | None]:
    """Return credentials and their project, which is None if it is not stated.

    They come from the key file `given` of a service account, or without one from the environment. Raises OSError or ValueError if the
    file is not a key file, and google.auth's GoogleAuthError if the environment has no credentials.
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
    if lent := _lent_token(Path(given)):
        return lent
    service_account: Any = Credentials
    credentials = service_account.from_service_account_file(given, scopes=SCOPES)
    return credentials, credentials.project_id


def storage_credentials(given: str | None, *, setting: str) -> Any:
    """Return credentials for Google Cloud Storage: from a key file, a file of a gcloud login, anonymous, or from the environment.

    `setting` is the part of runspend.yaml that contains the credentials, for error messages ("stores[]"). Raises CannotReach if the file
    or the environment has no usable credentials.
    """
    try:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.auth.exceptions import GoogleAuthError
        from google.oauth2.credentials import Credentials as Login
        from google.oauth2.service_account import Credentials
    except ImportError as error:
        raise MissingExtra("google-cloud-storage", "gcs") from error
    login, service_account, default = cast("Any", Login), cast("Any", Credentials), cast("Any", google.auth.default)
    if given == ANONYMOUS:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]  # Google's, without types
    path = Path(given).expanduser() if given and given != ENVIRONMENT else None
    if path and (lent := _lent_token(path)):
        return lent[0]
    kind = _kind_of_key(path, setting) if path else ""
    try:
        if kind == "service_account":
            # The client signs its tokens itself with the account's key and does not request one.
            return service_account.from_service_account_file(path, scopes=SCOPES[1:]).with_always_use_jwt_access(True)
        return login.from_authorized_user_file(path) if kind else default(scopes=SCOPES[1:])[0]
    except (GoogleAuthError, OSError, ValueError):
        if kind:
            raise CannotReach("its credentials cannot be used", f"Check {setting}.credentials") from None
        raise CannotReach("the environment has no Google login", f"Log in with gcloud, or set {setting}.credentials") from None


def _lent_token(path: Path) -> tuple[Any, str | None] | None:
    """Return credentials whose token another process renews in this file, and their project. Returns None for another kind of file.

    The credentials read the file again each time they need a new token.
    """
    from datetime import datetime

    from google.auth.credentials import Credentials
    from google.auth.exceptions import RefreshError

    def read() -> dict[str, Any]:
        found = parse_json(path.read_bytes())
        return found if isinstance(found, dict) and found.get("type") == LENT_TYPE else {}

    try:
        first = read()
    except (OSError, ValueError):
        return None
    if not first:
        return None

    class LentToken(Credentials):
        """Credentials with a token that another process renews in a file."""

        def refresh(self, request: Any) -> None:
            found = read()
            if "token" not in found:
                raise RefreshError(found.get("error", "its token is gone"))  # type: ignore[no-untyped-call]
            self.token = found["token"]
            self.expiry = datetime.fromisoformat(found["expiry"]) if found.get("expiry") else None

    return LentToken(), first.get("project_id")  # type: ignore[no-untyped-call]


def _kind_of_key(path: Path, setting: str) -> str:
    """Return the type of a Google key file: "service_account" or "authorized_user". Raises CannotReach for any other file."""
    try:
        kind = parse_json(path.read_bytes())["type"]
    except (OSError, ValueError, LookupError, TypeError):
        raise CannotReach(
            f"its credentials, {path}, are not a Google key file", f"Set {setting}.credentials to one, or leave it out"
        ) from None
    if kind not in ("service_account", "authorized_user"):
        raise CannotReach(
            f"its credentials, {path}, are of type {str(kind)[:40]!r}", "Use a file of type service_account or authorized_user"
        )
    return str(kind)


def bigquery_clients(credentials: Any, project: str, *, endpoint: str | None, location: str | None = None) -> tuple[Any, Any]:
    """Return a BigQuery client, and a client of the Storage API, which reads rows several times as fast.

    The second client is None if `endpoint` names a custom server.
    """
    try:
        from google.cloud import bigquery, bigquery_storage
    except ImportError as error:
        raise MissingExtra("google-cloud-bigquery", "bigquery") from error
    client = bigquery.Client(
        project=project, credentials=credentials, client_options={"api_endpoint": endpoint} if endpoint else None, location=location
    )
    storage: Any = bigquery_storage.BigQueryReadClient
    return client, None if endpoint else storage(credentials=credentials)
