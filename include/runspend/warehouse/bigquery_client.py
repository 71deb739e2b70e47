"""Who asks BigQuery, and where: Google's clients, made from the settings of a warehouse. Making them contacts nobody but whoever gives credentials."""

from __future__ import annotations

from typing import Any

from runspend.config import WarehouseSettings
from runspend.errors import ConfigError, MissingExtra

__all__ = ["connect"]

SCOPES = ("https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/cloud-platform")
ANONYMOUS = "anonymous"  # `credentials` of an emulator


def connect(settings: WarehouseSettings, project: str) -> tuple[Any, Any]:
    """A client, and one of the Storage API, which brings rows as Arrow; None for a server of one's own, which has it elsewhere.

    `credentials` is a service account's key file; left out, they are the environment's ("Application Default Credentials").
    """
    try:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery, bigquery_storage
        from google.oauth2.service_account import Credentials
    except ImportError as error:
        raise MissingExtra("google-cloud-bigquery", "bigquery") from error
    credentials: Any
    service_account: Any = Credentials
    try:
        if settings.credentials == ANONYMOUS:
            credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]  # Google's, without types
        elif settings.credentials:
            credentials = service_account.from_service_account_file(settings.credentials, scopes=SCOPES)
        else:
            credentials, _ = google.auth.default(scopes=SCOPES)
    except (OSError, ValueError, google.auth.exceptions.GoogleAuthError) as error:
        raise ConfigError(
            f"cannot open warehouse {settings.uri}: no credentials ({str(error).splitlines()[0]}). Set warehouse.credentials to the key file of a "
            "service account, or leave it out and run: gcloud auth application-default login"
        ) from error
    options = {"api_endpoint": settings.endpoint} if settings.endpoint else None
    client = bigquery.Client(project=project, credentials=credentials, client_options=options, location=settings.region)
    storage: Any = bigquery_storage.BigQueryReadClient
    return client, None if settings.endpoint else storage(credentials=credentials)
