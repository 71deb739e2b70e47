"""Azure Blob Storage through obstore: what is connected to, with which credentials; errors of Google's and Azure's stores in words.

Bills and artifact stores share this module. Callers list, read and write. Texts and tracebacks of obstore are never passed on: they
quote addresses and, for a damaged key file, the key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr

from runspend.core.errors import MissingExtra

if TYPE_CHECKING:
    from obstore.store import AzureConfig, AzureStore, ClientConfig, RetryConfig

PIECE_BYTES = 8 << 20  # of an object, in one request
# Who hands out tokens where the credentials are the environment's own ("Managed identities").
AZURE_LOGINS = ("login.microsoftonline.com", "169.254.169.254")
# Variables that name another host for log-in.
LOGIN_VARIABLES = (
    "AZURE_AUTHORITY_HOST",
    "AZURE_STORAGE_AUTHORITY_HOST",
    "AZURE_MSI_ENDPOINT",
    "AZURE_IDENTITY_ENDPOINT",
    "IDENTITY_ENDPOINT",
)
NOWHERE = "http://127.0.0.1:0"
ANONYMOUS = "anonymous"  # `credentials` of a public bucket, or of an emulator
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")


class StoreError(Exception):
    """A request that failed: the status and code that the store answered with; status None if it did not answer."""

    def __init__(self, status: int | None, code: str) -> None:
        super().__init__(f"{status or 'no answer'} {code}".strip())
        self.status, self.code = status, code

    @property
    def is_refusal(self) -> bool:
        """Whether the store said that it did nothing."""
        return self.status is not None and (300 <= self.status < 500 or self.status == 501)


class CannotReach(Exception):
    """Why a store cannot be used, and the fix. Neither text ends with a period."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why}. {advice}.")
        self.why, self.advice = why, advice


@dataclass(frozen=True)
class Container:
    """A container of Azure. `connect` contacts nobody yet; `reader` is the right that reading needs.

    `setting` is the place of its address in runspend.yaml ("billing[]"), for errors.
    """

    connect: Callable[[], AzureStore]
    what: str
    reader: str
    setting: str


def is_azure(uri: str) -> bool:
    """Whether an address is one of Azure Blob Storage."""
    return uri.startswith(("abfss://", "abfs://", "az://", "wasbs://"))


def find_container(uri: str, *, endpoint: str | None, credentials: str | SecretStr | None, setting: str) -> Container | None:
    """Return the bucket or container of an address; None for another kind of address. Raises CannotReach."""
    secret = credentials.get_secret_value() if isinstance(credentials, SecretStr) else credentials or ""
    return _azure(uri, endpoint, secret, setting) if is_azure(uri) else None


def explain(error: StoreError, what: str, reader: str, setting: str) -> CannotReach:
    """What a store answered, in words. `what` is the bucket or container, `reader` the right that reading needs."""
    if error.status in (401, 403):
        return CannotReach(f"the credentials have no right to it ({error})", f"Check the credentials, whether they have expired, and their rights: {reader}")
    if error.status == 404:
        return CannotReach(f"there is no {what} ({error})", f"Check {setting}.uri and endpoint")
    if error.status is None:
        return CannotReach("the store, or who hands out its tokens, did not answer", "Check the network, endpoint and credentials")
    if error.status == 200:
        return CannotReach("the store answered with something that is no answer of such a store", f"Check {setting}.uri and endpoint")
    if 300 <= error.status < 400:
        return CannotReach(f"the store sends elsewhere ({error}), where nobody follows", "Check endpoint")
    return CannotReach(f"the store answered {error}", f"Check {setting}.uri and endpoint, or try again later")


def explain_text(text: str, container: Container) -> CannotReach:
    """What obstore says, in words, by the status and code that the store answered with."""
    status, code = (m[1] if (m := found.search(text)) else "" for found in (_STATUS, _CODE))
    answer = f"{status} {code}".strip()
    if status in ("401", "403"):
        advice = f"Check the credentials, whether they have expired, and their rights: {container.reader}"
        return CannotReach(f"the credentials lack the rights to read it ({answer})", advice)
    if status == "404":
        return CannotReach(f"there is no {container.what} ({answer})", f"Check {container.setting}.uri and endpoint")
    if status.startswith("3"):
        return CannotReach(f"the store redirects ({answer}), and Runspend does not follow redirects", "Check endpoint")
    if status:
        return CannotReach(f"the store answered {answer}", f"Check {container.setting}.uri and endpoint, or try again later")
    if "HTTP error" in text:
        return CannotReach("the store, or the server that issues its tokens, did not answer", "Check the network, endpoint and credentials")
    if "path" in text.casefold():
        return CannotReach(
            "it holds a name with an empty part, '.' or '..' between slashes", f"Rename that object or narrow {container.setting}.uri"
        )
    return CannotReach("the store's answer is not one of such a store", f"Check {container.setting}.uri and endpoint")


def status_of(text: str) -> str | None:
    """Return the HTTP status in an obstore error."""
    return found[1] if (found := _STATUS.search(text)) else None


def blob_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of obstore: its own, and Python's for requests that could not start."""
    from obstore.exceptions import BaseError

    return BaseError, ValueError, OSError


def _azure(uri: str, endpoint: str | None, secret: str, setting: str) -> Container:
    """Return the container of an Azure address.

    abfss://CONTAINER@ACCOUNT.dfs.SUFFIX/PATH is complete; for az://CONTAINER/PATH the credentials or the endpoint name the account.
    """
    parts = urlsplit(uri)
    container, _, host = parts.netloc.rpartition("@")
    given = connection_string(secret)
    if container:
        account, base = host.partition(".")[0], f"https://{host.replace('.dfs.', '.blob.', 1)}"
    else:
        container, account = parts.netloc, given.get("accountname") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
        if not account and endpoint:
            at = urlsplit(endpoint)
            account = at.path.strip("/") or (at.hostname or "").partition(".")[0]
        base = f"https://{account}.blob.core.windows.net"
    if not (account and container) or "." in account:
        raise CannotReach("no storage account is named", f"Write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH into {setting}.uri")
    base = (endpoint or base).rstrip("/")

    def connect() -> AzureStore:
        # Set explicitly: variables of the environment may be another account's.
        config: AzureConfig = {"account_name": account, "endpoint": base, "use_emulator": False}
        if secret == ANONYMOUS:
            config["skip_signature"] = True
        elif key := given.get("accountkey"):
            config |= {"account_key": key, "credential_type": "access_key"}
        elif secret:
            config |= {"sas_key": given.get("sharedaccesssignature", secret).lstrip("?"), "credential_type": "sas_token"}
        logins = () if secret else (*AZURE_LOGINS, *_hosts(os.environ.get(name, "") for name in LOGIN_VARIABLES))
        store: AzureStore = _stores().AzureStore(container, config=config, client_options=_client(base, logins), retry_config=_retries())
        return store

    what, reader = f"container {container} in account {account}", "Storage Blob Data Reader, or read and list of a SAS token"
    return Container(connect, what, reader, setting)


def connection_string(secret: str) -> dict[str, str]:
    """Return the parts of a connection string by lower-case name; empty for a SAS token."""
    pairs = (part.partition("=") for part in secret.split(";"))
    found = {name.strip().casefold(): value.strip() for name, _, value in pairs}
    return found if found.keys() & {"accountkey", "sharedaccesssignature"} else {}


def _client(base: str, logins: Iterable[str]) -> ClientConfig:
    """Return the settings of the HTTP client, which sends every host except the store's (and `logins`) to a proxy that does not exist.

    Otherwise it would follow redirects anywhere and pass on the original address, including a SAS token, in the Referer header. A
    proxy of the environment takes precedence.
    """
    parts = urlsplit(base)
    host = parts.hostname or ""
    options: ClientConfig = {
        "allow_http": parts.scheme == "http",
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=60),
        "timeout": timedelta(hours=12),  # for one file; the other two detect a store that has stopped answering
        "user_agent": "runspend",
    }
    if not {parts.scheme, "all"} & getproxies().keys() or proxy_bypass(host):
        options["proxy_url"] = NOWHERE
        options["proxy_excludes"] = ",".join((host, *logins))
    return options


def _retries() -> RetryConfig:
    return {"max_retries": 4, "retry_timeout": timedelta(minutes=2)}


def _hosts(addresses: Iterable[str]) -> list[str]:
    return [host for address in addresses if (host := urlsplit(address).hostname)]


def _stores() -> Any:
    try:
        from obstore import store
    except ImportError as error:
        raise MissingExtra("obstore", "pipeline") from error
    return store
