"""Keep the files of statements as copies of what is recorded: `<home>/statements/<period>/<number>.html` and `.csv`, and the printed PDF."""

from __future__ import annotations

from pathlib import Path

from runspend.actions.statement.numbering import Issued, preliminary_name
from runspend.core.crash_points import crash_point
from runspend.core.own_files import own_folder, read_bytes, write_whole

ENDINGS = (".html", ".csv", ".pdf")


def write_files(issued: Issued, folder: Path) -> list[Path]:
    """Write page and CSV unless they are there as recorded. An issued statement removes the preliminary one. Returns the paths.

    Raises RecordRefused for a link in the place of the folder or of a file.
    """
    own_folder(folder)
    paths = []
    for ending, text in ((".html", issued.page), (".csv", issued.csv)):
        path, content = folder / f"{issued.name}{ending}", text.encode("utf-8")
        if read_bytes(path) != content:
            if issued.document.number is None:  # otherwise it was printed from this very page
                path.with_suffix(".pdf").unlink(missing_ok=True)
            write_whole(path, content)
            crash_point("statement.file")
        paths.append(path)
    if issued.document.number is not None:
        for ending in ENDINGS:
            (folder / f"{preliminary_name(issued.document.month.period, issued.document.team)}{ending}").unlink(missing_ok=True)
    return paths
