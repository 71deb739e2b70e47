"""Normalize artifact URIs to folders, so that the owners of artifacts can be compared even if their URIs are spelled differently.

People and clients spell one location in many ways: `s3a://`, `file:` with one slash or three, `%20`, doubled slashes, dots, a bucket in
capitals. Belongs here: how all spellings of a location become one text. An ambiguous spelling gives all locations that it may mean,
because a possible owner protects the artifacts in each of them. `storage/uris.py` decides whether a folder may be read or changed at all.
It does not repair ambiguous spellings but refuses them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

# A URI that matches is already spelled as `find_folders` would spell it, so SQL can compare it directly. Most URIs match. A match has no
# escapes, no part `.` or `..`, no `?` or `#`, and only ASCII characters (an accented letter may be one character or two). The pattern uses
# RE2's syntax, which has no lookahead.
REGULAR = (
    r"^(?:(?:s3|gs)://[a-z0-9][a-z0-9._-]*|abfss://[a-z0-9-]+@[a-z0-9]+[.]dfs[.]core[.]windows[.]net)?"
    r'(?:/(?:[.]?[]@-[^-~ !"$&-,0->-]|[.][.][]@-[^-~ !"$&-.0->])[]@-[^-~ !"$&-.0->]*)*$'
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_SAME = {"s3a": "s3", "s3n": "s3", "abfs": "abfss", "wasb": "abfss", "wasbs": "abfss"}
_ACCOUNT = re.compile(r"([a-z0-9]+)\.(?:blob|dfs)\.(core\..+)")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_BEFORE_PATH, _WORD = re.compile(r"[A-Za-z0-9+.-]+:(?://[^/]*)?"), re.compile(r"[A-Za-z0-9-]+")
_MOST_ESCAPED = 5  # a name may be escaped several times over; this many levels are decoded


def find_folders(uri: str | None, behind: str | None = None) -> frozenset[str]:
    """Return every folder that the URI may mean, as text without a trailing slash. Usually this is one folder; without a URI, none.

    `behind` is the location to which the tracking server resolves `mlflow-artifacts:`. Without it, such a URI is its own location.
    """
    return frozenset(_read(uri, behind)) if uri else frozenset()


def main_folder(uri: str) -> str:
    """Return the one folder that a URI means in the configuration, where escapes are decoded only after `file:`."""
    head, path = _split(_plain(uri), None)
    return head + _clean(unquote(path) if uri.startswith("file:") else path)


def is_same_or_inside(folder: str, around: str) -> bool:
    """Return whether a folder equals another one or is inside it. Both come from `find_folders`. The folder run1 does not contain run10."""
    return folder == around or folder.startswith(f"{around}/")


def like_pattern(uri: str, run_id: str) -> str:
    """Return a LIKE pattern that matches the different spellings of a run's folder.

    If the URI contains the run's id, the pattern does too. Otherwise it consists of the words of the URI's path, in order. A spelling
    that escapes letters of these words is not found.
    """
    if run_id in uri:
        return f"%{run_id}%"
    return "%".join(["", *_WORD.findall(_BEFORE_PATH.sub("", _ESCAPE.sub("/", uri), count=1)), ""])


def _read(uri: str, behind: str | None) -> Iterator[str]:
    """Yield each possible reading of a URI: unchanged and with escapes decoded, and each of these without a query or fragment."""
    head, path = _split(_plain(uri), behind)
    paths = [path]
    while _ESCAPE.search(paths[-1]) and len(paths) <= _MOST_ESCAPED:
        paths.append(_plain(unquote(paths[-1])))
    for found in paths:
        yield head + _clean(found)
        yield head + _clean(re.split(r"[?#]", found, maxsplit=1)[0])


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\\", "/")


def _split(uri: str, behind: str | None) -> tuple[str, str]:
    """Return scheme and host of a URI in one spelling, and its path. For a local path, the first text is empty."""
    found = _SCHEME.fullmatch(uri)
    if found is None:
        return "", uri
    scheme, rest = _SAME.get(found[1].lower(), found[1].lower()), found[2]
    host, path = (rest[2:].partition("/")[0], rest[2:].partition("/")[2]) if rest.startswith("//") else ("", rest)
    if scheme == "file":
        return "", path if host == "" and not rest.startswith("/") else f"/{path}"
    if scheme == "mlflow-artifacts":
        return ("mlflow-artifacts:", f"/{path}") if behind is None else _join(behind, path)
    if scheme in ("s3", "gs") and not host:  # s3:/bucket/folder
        host, _, path = path.lstrip("/").partition("/")
    container, _, name = host.rpartition("@")
    name = name.lower()
    if (account := _ACCOUNT.fullmatch(name)) and scheme in ("abfss", "https"):
        if scheme == "https":  # in these URIs, the container is the first part of the path
            container, _, path = path.lstrip("/").partition("/")
        return f"abfss://{container.lower()}@{account[1]}.dfs.{account[2]}", f"/{path}"
    return f"{scheme}://{name if scheme in ('s3', 'gs') else host.lower()}", f"/{path}"


def _join(behind: str, path: str) -> tuple[str, str]:
    head, folder = _split(_plain(behind), None)
    return head, f"{unquote(folder) if behind.startswith('file:') else folder}/{path}"


def _clean(path: str) -> str:
    """Return a path without empty parts, `.` and `..`. A `..` removes the part before it, and is ignored at the top."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(["", *parts] if path.startswith("/") or not parts else parts)
