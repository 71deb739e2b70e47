"""Describes mistakes in `runspend.yaml`: the line, the key, the allowed values, and the nearest known key.

Values of secrets are never shown. Neither are values of unknown keys, because such a key may be the misspelled name of a secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from runspend.config.types import CURRENCY_PATTERN, DIMENSION_PATTERN, NAME_PATTERN
from runspend.config.yaml_file import Loc, YamlFile, show_loc
from runspend.core.redaction import redact_uri

_PATTERNS = {
    NAME_PATTERN: "a name of letters, digits, `.`, `_` and `-` is needed, at most 63, beginning with a letter or a digit",
    CURRENCY_PATTERN: "a currency code of three capital letters is needed, such as USD or EUR",
    DIMENSION_PATTERN: "allowed values are run.tag.KEY, run.param.KEY, run.user, experiment.tag.KEY, line.tag.KEY and {user: FILE.csv}",
}
# Kinds of mistakes about the type of a value -> the needed type.
_SHAPES = {"dict_type": "map", "model_type": "map", "model_attributes_type": "map", "list_type": "list"}
_ALSO_NAMED = {"stores": "artifacts"}

LONGEST_SHOWN = 200  # characters of a wrong value that a message shows


def describe_mistakes(file: YamlFile, mistakes: Sequence[ErrorDetails], schema: dict[str, Any]) -> str:
    """Return one sentence for each wrong place: line, key, what is allowed, and what was found (never a secret)."""
    places: dict[Loc, list[str]] = {}
    for mistake, loc in _of_the_right_shape(file, mistakes):
        why = _describe(file, mistake, loc, schema)
        if why not in places.setdefault(loc, []):
            places[loc].append(why)
    sentences = [
        f"line {file.line(loc)}, {show_loc(loc) or 'top'}: {', or '.join(whys)}."
        for loc, whys in sorted(places.items(), key=lambda p: file.line(p[0]))
    ]
    if len(sentences) == 1:
        return f"cannot read {file.path}, {sentences[0]}"
    return f"cannot read {file.path}: {len(sentences)} mistakes.\n" + "\n".join(f"  {s}" for s in sentences)


def _of_the_right_shape(file: YamlFile, mistakes: Sequence[ErrorDetails]) -> list[tuple[ErrorDetails, Loc]]:
    """Return the mistakes that fit the type of the written value, with their places.

    Pydantic reports a mistake for every alternative of a value. If a list contains a wrong address, the mistake "should be a map" is
    left out.
    """
    found = []
    for mistake in mistakes:
        place, value = _place(file.data, mistake.get("ctx", {}).get("at", mistake["loc"]), is_missing=mistake["type"] == "missing")
        found.append((mistake, place, isinstance(value, (Mapping, list)) and _is_about_shape(mistake)))

    def is_explained(at: Loc) -> bool:
        """Return whether an alternative that has the value's type reports a mistake at this place or inside it."""
        return any(other[: len(at)] == at and (len(other) > len(at) or not is_shape) for _, other, is_shape in found)

    return [(mistake, place) for mistake, place, is_shape in found if not (is_shape and is_explained(place))]


def _is_about_shape(mistake: ErrorDetails) -> bool:
    """Return whether the mistake only states which type of value is needed."""
    return mistake["type"] in _SHAPES or mistake["type"] == "string_type"


def _describe(file: YamlFile, mistake: ErrorDetails, loc: Loc, schema: dict[str, Any]) -> str:
    context, kind = mistake.get("ctx", {}), mistake["type"]
    _, value = _place(file.data, loc, is_missing=False)
    if kind == "extra_forbidden":
        return _describe_unknown_key(loc, schema)
    if kind == "missing":
        return "this key is missing. Add it"
    if kind in ("value_error", "conflict"):
        why = str(context.get("error", context.get("why")))
        if isinstance(value, Mapping):
            return why
    elif kind == "literal_error":
        why = f"allowed values are {context['expected']}"
    elif kind == "string_pattern_mismatch":
        why = _PATTERNS.get(context["pattern"], mistake["msg"])
    elif kind in _SHAPES:
        why = f"it should be a {_SHAPES[kind]}"
    else:
        why = mistake["msg"].replace("Input should", "it should").removesuffix(".")
    return why + _describe_found(file, loc, value, schema)


def _describe_found(file: YamlFile, loc: Loc, value: object, schema: dict[str, Any]) -> str:
    if isinstance(value, (Mapping, list)):
        return "" if loc == () else f"; found a {'list' if isinstance(value, list) else 'map'}"
    if _schema_at(schema, loc).get("writeOnly"):
        return "; the value is not shown, because it is a secret"
    shown = redact_uri(file.written[loc]) if loc in file.written else ""
    more = f"… ({len(shown):,} characters)" if len(shown) > LONGEST_SHOWN else ""
    return f"; found {shown[:LONGEST_SHOWN]!r}{more}" if loc in file.written else ""


def _describe_unknown_key(loc: Loc, schema: dict[str, Any]) -> str:
    known = sorted(_schema_at(schema, loc[:-1]).get("properties", {}))
    near = difflib.get_close_matches(str(loc[-1])[:LONGEST_SHOWN].lower(), known, n=1, cutoff=0.5)
    return f"unknown key. {f'Did you mean `{near[0]}`? ' if near else ''}Allowed keys are {', '.join(known)}"


def _place(data: object, loc: Loc, *, is_missing: bool) -> tuple[Loc, object]:
    """Return the part of pydantic's location that exists in the file, and the value there.

    Pydantic's location also contains names of union branches, which are left out.
    """
    place: Loc = ()
    for i, part in enumerate(loc):
        name = _ALSO_NAMED.get(str(part), part) if isinstance(data, Mapping) and part not in data else part
        if isinstance(data, Mapping) and name in data:
            place, data = (*place, name), data[name]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            place, data = (*place, part), data[part]
        elif is_missing and i == len(loc) - 1:
            place, data = (*place, part), None
    return place, data


def _schema_at(schema: dict[str, Any], loc: Loc) -> dict[str, Any]:
    """Return the keys at one place in the schema, with all alternatives merged, and whether the value is a secret (`writeOnly`)."""
    found = _alternatives(schema, schema)
    for part in loc:
        step = [
            s.get("items") if isinstance(part, int) else s.get("properties", {}).get(part, s.get("additionalProperties")) for s in found
        ]
        found = [a for s in step if isinstance(s, dict) for a in _alternatives(s, schema)]
    properties = {key: value for s in found for key, value in s.get("properties", {}).items()}
    return {"properties": properties, "writeOnly": any(s.get("writeOnly") for s in found)}


def _alternatives(part: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in part:
        return _alternatives(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    branches = part.get("anyOf") or part.get("oneOf")
    return [a for branch in branches for a in _alternatives(branch, schema)] if branches else [part]
