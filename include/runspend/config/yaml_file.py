"""Reads a YAML file that users maintain. Every value keeps its line number, and no types are guessed.

A plain value is read as text, so `account: 0123` stays "0123". The models convert text to numbers. Null becomes None. Refused are
duplicate keys, aliases (a small file could expand into a huge one), tags and several documents. `${VAR}` reads an environment variable;
`$${` means a literal `${`. `settings.py` defines the keys.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

from runspend.core.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 30
Loc = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BEFORE_PASSWORD = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/@\s]*:$")
_NOT_USERINFO = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:%]|%(?![0-9A-Fa-f]{2})")
_NULLS = ("", "~", "null", "Null", "NULL")
_RESOLVER = Resolver()
_TEXT_TAGS = ("tag:yaml.org,2002:str", "!")


@dataclass
class YamlFile:
    """The values of one file. `lines`: the line of every value, from 1. `written`: its text before `${VAR}` was replaced."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Loc, int] = field(default_factory=dict)
    written: dict[Loc, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)  # environment variables that the file uses: name -> value

    def line(self, loc: Loc) -> int:
        """Return the line of the value at `loc`, or of the nearest value that contains it."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 1)


def read_yaml_file(path: Path, env: Mapping[str, str]) -> YamlFile:
    """Return the contents of a YAML file, which must be a map. Raises ConfigError with file, line and key, but never a value."""
    file = YamlFile(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror or type(error).__name__}. Name another file with --config or $RUNSPEND_CONFIG."
        ) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"cannot read {path}: {len(raw)} bytes, more than the {MAX_BYTES} a configuration file may have.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _mistake(path, raw[: error.start].count(b"\n") + 1, "", "it is not UTF-8 text. Save the file as UTF-8.") from None
    root = _compose(path, text)
    if root is None:
        return file
    if not isinstance(root, yaml.MappingNode):
        raise _mistake(path, root.start_mark.line + 1, "", "a map of keys is needed at the top. Begin with `tracking:`.")
    file.data = _value(root, (), file, env)
    return file


def show_loc(loc: Loc) -> str:
    """Return `tracking[0].uri` for ("tracking", 0, "uri")."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


class _Nodes(Composer, Resolver):
    """Builds the node tree from events that were already parsed. Parsing takes nearly all of the time, so the text is parsed only once."""

    def __init__(self, events: deque[yaml.Event]) -> None:
        Composer.__init__(self)
        Resolver.__init__(self)
        self._events = events

    def check_event(self, *choices: type[yaml.Event]) -> bool:
        """Return whether the next event is one of these."""
        return bool(self._events) and isinstance(self._events[0], choices)

    def peek_event(self) -> yaml.Event:
        """Return the next event."""
        return self._events[0]

    def get_event(self) -> yaml.Event:
        """Return the next event and remove it from the queue."""
        return self._events.popleft()


def _compose(path: Path, text: str) -> yaml.Node | None:
    """Return the node tree of the file. None if the file is empty.

    A first pass over the events, without recursion, refuses aliases, several documents and deep nesting.
    """
    depth = documents = 0
    events: deque[yaml.Event] = deque()
    trouble: yaml.YAMLError
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            events.append(event)
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent):
                raise _mistake(
                    path, line, "", "aliases (a value that begins with `*`) are not read. Write the value out, or put it in quotes."
                )
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _mistake(path, line, "", "a second document begins here (`---`). Keep one document in the file.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _mistake(path, line, "", f"maps and lists are nested deeper than {MAX_DEPTH}.")
        node: yaml.Node | None = _Nodes(events).get_single_node()
        return node
    except yaml.YAMLError as error:
        trouble = error
    # Raised outside the except block, because the parser's error quotes the line, which may contain a secret.
    mark = getattr(trouble, "problem_mark", None)
    if mark is not None:
        line, why = mark.line + 1, re.sub(r"'[^']{2,}'", "'…'", getattr(trouble, "problem", None) or "it ends too early")
    else:
        line, why = text[: getattr(trouble, "position", 0)].count("\n") + 1, "it has a control character"
    raise _mistake(path, line, "", f"this is not valid YAML ({why}). Put values with special characters in double quotes.")


def _value(node: yaml.Node, loc: Loc, file: YamlFile, env: Mapping[str, str]) -> Any:
    file.lines.setdefault(loc, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        if node.tag != "tag:yaml.org,2002:map":
            raise _mistake(file.path, node.start_mark.line + 1, show_loc(loc), "YAML tags (`!…`) are not read. Leave the tag out.")
        return _map(node, loc, file, env)
    if isinstance(node, yaml.SequenceNode):
        if node.tag != "tag:yaml.org,2002:seq":
            raise _mistake(file.path, node.start_mark.line + 1, show_loc(loc), "YAML tags (`!…`) are not read. Leave the tag out.")
        return [_value(child, (*loc, i), file, env) for i, child in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node, loc, file, env)


def _map(node: yaml.MappingNode, loc: Loc, file: YamlFile, env: Mapping[str, str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, child in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or (key_node.style is None and key_node.value in _NULLS):
            raise _mistake(file.path, line, show_loc(loc), "a key must be a string.")
        key = key_node.value
        _check_text(key, line, loc, file)
        if key in result:
            first = file.lines[(*loc, key)]
            raise _mistake(file.path, line, show_loc((*loc, key)), f"this key is already on line {first}. Keep one of the two.")
        file.lines[(*loc, key)] = line
        result[key] = _value(child, (*loc, key), file, env)
    return result


def _scalar(node: yaml.ScalarNode, loc: Loc, file: YamlFile, env: Mapping[str, str]) -> str | None:
    text: str = node.value
    line = node.start_mark.line + 1
    implicit = yaml.SafeLoader.DEFAULT_SCALAR_TAG if node.style else _resolve_plain(text)
    if node.tag not in (*_TEXT_TAGS, implicit):
        raise _mistake(file.path, line, show_loc(loc), "YAML tags (`!…`) are not read. Leave the tag out, or put the value in quotes.")
    file.written[loc] = text
    if not node.style and text in _NULLS:
        return None
    found = _VARIABLE.sub(lambda m: _variable(m, text, loc, line, file, env), text)
    _check_text(found, line, loc, file)
    return found


def _check_text(text: str, line: int, loc: Loc, file: YamlFile) -> None:
    """Raise ConfigError for an incomplete character: `\\ud800` in YAML, or a variable that is not UTF-8. It cannot be stored or sent."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise _mistake(
            file.path, line, show_loc(loc), "it has an incomplete character, such as `\\ud800`. Write the complete character, as UTF-8."
        )


def _resolve_plain(text: str) -> str:
    """Return the tag that YAML gives to a plain value. A different tag was written explicitly."""
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # its stubs lack this method
    return tag


def _variable(match: re.Match[str], text: str, loc: Loc, line: int, file: YamlFile, env: Mapping[str, str]) -> str:
    if match[1]:
        return match[0][1:]
    name = match[2]
    if not match[0].endswith("}") or not _NAME.fullmatch(name):
        raise _mistake(
            file.path,
            line,
            show_loc(loc),
            "`${` must be followed by the name of a variable and `}`. Write `$${` for the characters themselves.",
        )
    if name not in env:
        raise _mistake(
            file.path,
            line,
            show_loc(loc),
            f"the environment variable {name} is not set. Set it, or write `$${{{name}}}` for the characters themselves.",
        )
    value = file.variables[name] = env[name]
    # In `scheme://user:${PASSWORD}@host`, special characters of a password would break the URI, so they are escaped.
    if _BEFORE_PASSWORD.match(text[: match.start()]) and text[match.end() :].startswith("@") and _NOT_USERINFO.search(value):
        return quote(value, safe="")
    return value


def _mistake(path: Path, line: int, key: str, why: str) -> ConfigError:
    return ConfigError(f"cannot read {path}, line {line}{f', {key}' if key else ''}: {why}")
