"""The formats bills come in: one module and one SQL file each, known by lying here.

A format's module offers

* `matches(header)`: whether a header is of this format (whether it has all it must have is for `stage`);
* `stage(staged, delivered)`: the rows of one file into `staged`, in FOCUS columns (`mapped.stage` does it with the SQL file);
* optional `names(name)`: whether a file of that name may be read at all, where that is more than CSV, Parquet and JSON lines;
* optional `stands_for(source, name)`: what a file's name alone says of what is charged (the month of a list of jobs), None for
  nothing. Files of equal bytes that stand for different things are no copies, and another name is another version;
* optional `is_aside(header)`: whether a file holds no charges but something the SQL of others looks up (prices, jobs). Such
  files are read first and are part of every version;
* optional `label(place, stated, header)`: what a file is called where files of several labels complement each other (Azure's
  actual and amortised cost): by its path, by what its manifest states, by its header; None for one that complements none;
* optional `combine(staged, labels)`: what is left of such files beside each other, once all are staged (`Staged.keep`); returns
  what is to be told, by kind;
* optional `open_place(source, workdir, now)`: a `Folder` for an address that is no folder or bucket, or for a bill that is made
  here; None for every other address. Of a bill that pays for measured watts it gets `drawn` as well: what its machines drew.

`docs/new-format.md` shows a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from runspend.config.settings import BILL_FORMATS, BillSource
from runspend.core.errors import SourceRefused


def format_module(name: str) -> ModuleType:
    """The module of a format by its name in `billing[].format`."""
    return import_module(f"{__name__}.{name.replace('-', '_')}")


def find_format(source: BillSource, file_name: str, header: Sequence[str]) -> str:
    """The format a source states, or with `auto` the one a header is of. Raises SourceRefused when it is of none."""
    if source.format != "auto":
        return source.format
    # Plain FOCUS last: other formats have its columns and some of their own.
    for name in sorted(BILL_FORMATS, key=lambda name: name == "focus"):
        if format_module(name).matches(header):
            return name
    raise SourceRefused(
        source.name,
        f"cannot load {file_name} of bill {source.name}: its header is of no format that is known ({', '.join(BILL_FORMATS)}). "
        "Check the file, or name its format in billing[].format.",
    )


def offered(module: ModuleType, what: str) -> Any:
    """An optional function of a format's module, or None."""
    return getattr(module, what, None)
