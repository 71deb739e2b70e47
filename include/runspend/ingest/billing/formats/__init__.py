"""The formats of bills: one module and one SQL file each in this folder.

A format's module has

* `matches(header)`: whether a header is of this format (`stage` checks that it has all required columns);
* `stage(staged, delivered)`: puts the rows of one file into `staged`, in FOCUS columns (`format_spec.stage` does it with the SQL file);
* optional `names(name)`: whether a file of that name may be read, if that is more than CSV, Parquet and JSON lines;
* optional `stands_for(source, name)`: what a file's name alone says about its charges (the month of a list of jobs), or None. Two
  files with equal bytes are copies only if this answer is equal too. If the answer changes, the bill gets a new version;
* optional `is_aside(header)`: whether a file holds no charges but data that the SQL of others looks up (prices, jobs). Such files
  are read first and are part of every version;
* optional `label(place, stated, header)`: the label of a file if files of several labels complement each other (Azure's actual and
  amortized cost), from its path, its manifest or its header; None for a file that complements none;
* optional `combine(staged, labels)`: keeps the rows that count of such files, once all are staged (`Staged.keep`), and returns
  warnings by kind;
* optional `read_again(staged, files)`: the indexes of files that must be read differently because of the other files, once all are
  staged; `stage_again(staged, delivered)` then reads each of them;
* optional `open_place(source, workdir, now)`: a `FileSource` for an address that is not a folder or bucket, or for a bill that is made
  here; None for every other address. A bill that prices measured watts also gets `drawn`: the power that its machines drew.

`docs/new-format.md` shows a complete one. `opencost` is not a bill: it has no charges but weights that split the lines of bills, so
`split_sources.py` calls it instead. It has `METHOD`, `NAMES` (of its files) and `stage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from runspend.config.settings import BILL_FORMATS, BillSource
from runspend.core.errors import SourceRefused, bill_named


def format_module(name: str) -> ModuleType:
    """Return the module of a format by its name in `billing[].format`."""
    return import_module(f"{__name__}.{name.replace('-', '_')}")


def find_format(source: BillSource, file_name: str, header: Sequence[str]) -> str:
    """Return the format a source states, or with `auto` the format of a header. Raises SourceRefused for an unknown format."""
    if source.format != "auto":
        return source.format
    # Plain FOCUS last: other formats have its columns and some of their own.
    for name in sorted(BILL_FORMATS, key=lambda name: name == "focus"):
        if format_module(name).matches(header):
            return name
    raise SourceRefused(
        source.name,
        f"cannot load {file_name} of {bill_named(source.name)}: its header does not match any known format ({', '.join(BILL_FORMATS)}). "
        f"{_closest(header)}Check the file, or name its format in billing[].format.",
    )


def _closest(header: Sequence[str]) -> str:
    """Return which format has most of its required columns in a header, and which it lacks; empty if none has two of them."""
    names, most, closest = set(header), 1, ""  # one column alone may be chance
    for name in sorted(BILL_FORMATS, key=lambda name: name != "focus"):  # plain FOCUS first: Google's has the same columns
        module = format_module(name)
        kinds = [{kind.columns[key][0]: kind.columns[key] for key in kind.required} for kind in getattr(module, "KINDS", ())]
        for required in [*kinds, getattr(module, "REQUIRED_SPELLINGS", {})]:
            missing = [column for column, spellings in required.items() if not names.intersection(spellings)]
            if missing and len(required) - len(missing) > most:
                most = len(required) - len(missing)
                closest = f"The closest is {name}, which also needs {', '.join(missing)}. "
    return closest


def offered(module: ModuleType, what: str) -> Any:
    """Return an optional function of a format's module, or None."""
    return getattr(module, what, None)
