"""Google Cloud Storage and Azure Blob Storage through obstore: what is connected to, with which credentials, and errors in words.

Put here what is said to these two stores. Names, copying and S3 are in `places.py`. Neither text nor traceback of obstore is
passed on: it quotes addresses and, of a damaged key file, the key.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr

from runspend.billing.places import CHUNK_BYTES, Bucket, Interrupted, Tell, changed, stamp_of
from runspend.config import BillSource
from runspend.errors import MissingExtra, SourceUnreachable

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import AzureConfig, AzureStore, ClientConfig, GCSConfig, GCSStore, RetryConfig

GOOGLE = "https://storage.googleapis.com"
# Who hands out tokens where the credentials are the environment's own ("Application Default Credentials"; "Managed identities").
GOOGLE_LOGINS = ("oauth2.googleapis.com", "metadata.google.internal", "169.254.169.254")
AZURE_LOGINS = ("login.microsoftonline.com", "169.254.169.254")
# Variables that name another host to log in at.
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


def open_blobs(source: BillSource, uri: str, into: Path, tell: Tell) -> Bucket | None:
    """The bucket or container behind an address of Google or Azure; None for an address of another kind."""
    if uri.startswith("gs://"):
        return _google(source, uri, into, tell)
    return _azure(source, uri, into, tell) if is_azure(uri) else None


def is_azure(uri: str) -> bool:
    """Whether an address is one of Azure Blob Storage."""
    return uri.startswith(("abfss://", "abfs://", "az://"))


class BlobPrefix(Bucket):
    """Everything below a prefix of a bucket of Google or a container of Azure. `reader` is the right that reading needs."""

    def __init__(
        self,
        source: BillSource,
        prefix: str,
        into: Path,
        tell: Tell,
        *,
        connect: Callable[[], GCSStore | AzureStore],
        what: str,
        reader: str,
    ) -> None:
        super().__init__(source, prefix, into, tell)
        self._connect, self._what, self._reader = connect, what, reader
        self._connected: GCSStore | AzureStore | None = None

    def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
        import obstore

        is_empty = True
        try:
            for page in obstore.list(self._store(), prefix=self.prefix or None):
                for item in page:
                    is_empty = False
                    yield item["path"], item["size"], item["last_modified"], item["e_tag"]
            if is_empty and self.prefix:  # obstore lists folders; the address may be that of one file
                item = obstore.head(self._store(), self.prefix)
                yield item["path"], item["size"], item["last_modified"], item["e_tag"]
        except FileNotFoundError:
            return
        except _errors() as error:
            raise self._explain(str(error)) from None

    def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[memoryview]:
        import obstore
        from obstore.exceptions import PreconditionError

        options: GetOptions = {}
        if stamp:
            options["if_match"] = f'"{stamp}"'
        if start:
            options["range"] = {"offset": start}
        try:
            got = obstore.get(self._store(), key, options=options)
            # The answer says again which object it is: some servers do not know conditions.
            if stamp and stamp_of(got.meta["e_tag"]) != stamp:
                raise changed(self.source, self._name(key) or key)
            chunks = iter(got.stream(min_chunk_size=CHUNK_BYTES))
        except (FileNotFoundError, PreconditionError):
            raise changed(self.source, self._name(key) or key) from None
        except _errors() as error:
            raise self._explain(str(error)) from None
        try:
            for chunk in chunks:
                yield memoryview(chunk)
        except _errors() as error:
            why = f"the store broke off in the middle of {self._name(key)} each time"
            told = (
                self._explain(str(error))
                if _STATUS.search(str(error))
                else _unreachable(self.source, why, "Check the network, or try again later")
            )
            raise Interrupted(told) from None

    def _store(self) -> GCSStore | AzureStore:
        if self._connected is None:
            try:
                self._connected = self._connect()
            except _errors():
                raise _unreachable(self.source, "its credentials cannot be used", "Check billing[].credentials") from None
        return self._connected

    def _explain(self, text: str) -> SourceUnreachable:
        """The source's error for what obstore says, by the status and code that the store answered with."""
        status, code = (m[1] if (m := found.search(text)) else "" for found in (_STATUS, _CODE))
        answer = f"{status} {code}".strip()
        if status in ("401", "403"):
            advice = f"Check the credentials, whether they have expired, and their rights: {self._reader}"
            return _unreachable(self.source, f"the credentials have no right to it ({answer})", advice)
        if status == "404":
            return _unreachable(self.source, f"there is no {self._what} ({answer})", "Check billing[].uri and endpoint")
        if status.startswith("3"):
            return _unreachable(self.source, f"the store sends elsewhere ({answer}), where nobody follows", "Check endpoint")
        if status:
            return _unreachable(self.source, f"the store answered {answer}", "Check billing[].uri and endpoint, or try again later")
        if "HTTP error" in text:
            return _unreachable(
                self.source, "the store, or who hands out its tokens, did not answer", "Check the network, endpoint and credentials"
            )
        if "path" in text.casefold():
            return _unreachable(
                self.source, "it holds a name with an empty part, '.' or '..' between slashes", "Rename that object or narrow billing[].uri"
            )
        return _unreachable(
            self.source, "the store answered with something that is no answer of such a store", "Check billing[].uri and endpoint"
        )


def _google(source: BillSource, uri: str, into: Path, tell: Tell) -> Bucket:
    parts = urlsplit(uri)
    bucket, base = parts.netloc, source.endpoint or GOOGLE

    def connect() -> GCSStore:
        config: GCSConfig = {"base_url": base.rstrip("/")}
        logins: tuple[str, ...] = ()
        if source.credentials == ANONYMOUS:
            config["skip_signature"] = True
        elif source.credentials:
            kind = _kind_of_key(source, path := str(source.credentials))
            config["service_account" if kind == "service_account" else "application_credentials"] = path
            logins = GOOGLE_LOGINS[:1] if kind == "authorized_user" else ()
        else:
            logins = GOOGLE_LOGINS
        store: GCSStore = _stores().GCSStore(bucket, config=config, client_options=_client(base, logins), retry_config=_retries())
        return store

    return BlobPrefix(
        source, unquote(parts.path), into, tell, connect=connect, what=f"bucket {bucket}", reader="Storage Object Viewer on the bucket"
    )


def _kind_of_key(source: BillSource, path: str) -> str:
    """What kind of credentials a file of Google's holds."""
    try:
        kind = json.loads(Path(path).expanduser().read_bytes())["type"]
    except (OSError, ValueError, LookupError, TypeError):
        raise _unreachable(
            source, f"its credentials, {path}, are no key file of Google's", "Set billing[].credentials to one, or leave it out"
        ) from None
    if kind not in ("service_account", "authorized_user"):
        raise _unreachable(
            source, f"its credentials, {path}, are of type {str(kind)[:40]!r}", "Use a file of type service_account or authorized_user"
        )
    return str(kind)


def _azure(source: BillSource, uri: str, into: Path, tell: Tell) -> Bucket:
    """abfss://CONTAINER@ACCOUNT.dfs.SUFFIX/PATH says all; for az://CONTAINER/PATH the credentials or the endpoint name the account."""
    parts = urlsplit(uri)
    container, _, host = parts.netloc.rpartition("@")
    secret = source.credentials.get_secret_value() if isinstance(source.credentials, SecretStr) else source.credentials or ""
    given = _connection_string(secret)
    if container:
        account, base = host.partition(".")[0], f"https://{host.replace('.dfs.', '.blob.', 1)}"
    else:
        container, account = parts.netloc, given.get("accountname") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
        if not account and source.endpoint:
            at = urlsplit(source.endpoint)
            account = at.path.strip("/") or (at.hostname or "").partition(".")[0]
        base = f"https://{account}.blob.core.windows.net"
    if not (account and container) or "." in account:
        raise _unreachable(
            source, "no storage account is named", "Write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH into billing[].uri"
        )
    base = (source.endpoint or base).rstrip("/")

    def connect() -> AzureStore:
        # Said, not left to the environment's variables, which may be another account's.
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
    return BlobPrefix(source, unquote(parts.path), into, tell, connect=connect, what=what, reader=reader)


def _connection_string(secret: str) -> dict[str, str]:
    """The parts of a connection string by name in lower case; empty for a SAS token."""
    pairs = (part.partition("=") for part in secret.split(";"))
    found = {name.strip().casefold(): value.strip() for name, _, value in pairs}
    return found if found.keys() & {"accountkey", "sharedaccesssignature"} else {}


def _client(base: str, logins: Iterable[str]) -> ClientConfig:
    """Settings of the HTTP client. It would follow a redirect anywhere, and name the address it comes from, SAS token and all,
    in the Referer: so every host but the store's own (and `logins`) is behind a proxy that is not there. Where the
    environment has a proxy, that one decides."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    options: ClientConfig = {
        "allow_http": parts.scheme == "http",
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=60),
        "timeout": timedelta(hours=12),  # of one file; the other two find a store that has stopped answering
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


def _errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError

    return BaseError, ValueError, OSError


def _unreachable(source: BillSource, why: str, advice: str) -> SourceUnreachable:
    return SourceUnreachable(source.name, f"cannot read {source.uri} of bill {source.name}: {why}. {advice}.")
