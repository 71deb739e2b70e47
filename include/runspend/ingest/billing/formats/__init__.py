"""The formats of bills: one module and one SQL file each in this folder.

The module of a format has these functions:

* `matches(header)` returns whether a header is of this format. `stage` then checks that it has all required columns.
* `stage(staged, delivered)` puts the rows of one file into `staged`, in FOCUS columns. Most formats call `format_spec.stage`, which uses
  the SQL file.
* `names(name)`, optional, returns whether a file of that name may be read. It is needed for names other than CSV, Parquet and JSON lines.
* `stands_for(source, name)`, optional, returns the facts about the charges that only the file's name states, such as the month of a list
  of jobs, or None. Two files with equal bytes are copies only if these facts are equal too. If they change, the bill gets a new version.
* `is_aside(header)`, optional, returns whether a file has no charges, only data that the SQL of other files looks up (prices, jobs). Such
  files are read first and are part of every version.
* `label(place, stated, header)`, optional, returns the label of a file, if files of different labels complement each other (Azure's actual
  and amortized cost). It uses the file's path, manifest or header. None means that the file complements no other file.
* `combine(staged, labels)`, optional, keeps only the rows of such files that count (`Staged.keep`), and returns warnings by kind. It is
  called when all files are staged.
* `read_again(staged, files)`, optional, returns the indexes of files that must be read differently because of the other files. It is
  called when all files are staged. `stage_again(staged, delivered)` then reads each of these files.
* `open_place(source, workdir, now)`, optional, returns a `FileSource` for an address that is not a folder or bucket, or for a bill that
  Runspend makes itself. It returns None for all other addresses. A bill that prices measured power also gets `drawn`, the measured power.

`docs/new-format.md` shows a complete format. `opencost` is not a bill. Its files have weights that split the lines of bills, so
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
    """Return the module of a format. `name` is a value of `billing[].format`."""
    return import_module(f"{__name__}.{name.replace('-', '_')}")


def find_format(source: BillSource, file_name: str, header: Sequence[str]) -> str:
    """Return the format that a source states, or with `auto` the format of a header. Raises SourceRefused if no format matches."""
    if source.format != "auto":
        return source.format
    # Plain FOCUS is last, because other formats have its columns plus some of their own.
    for name in sorted(BILL_FORMATS, key=lambda name: name == "focus"):
        if format_module(name).matches(header):
            return name
    raise SourceRefused(
        source.name,
        f"cannot load {file_name} of {bill_named(source.name)}: its header does not match any known format ({', '.join(BILL_FORMATS)}). "
        f"{_closest(header)}Check the file, or name its format in billing[].format.",
    )


def _closest(header: Sequence[str]) -> str:
    """Return a sentence with the format that has the most required columns in a header, and the columns that it lacks.

    Return an empty string if no format has at least two of its required columns.
    """
    names, most, closest = set(header), 1, ""  # a single column may be a coincidence
    for name in sorted(BILL_FORMATS, key=lambda name: name != "focus"):  # plain FOCUS wins over Google's FOCUS, which has the same columns
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
