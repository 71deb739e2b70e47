"""Write the files of statements: `<home>/statements/<period>/<number>.html` and `.csv`. They are copies of the recorded statements."""

from __future__ import annotations

from pathlib import Path

from runspend.actions.statement.numbering import Issued, preliminary_name
from runspend.core.crash_points import crash_point
from runspend.core.own_files import own_folder, read_bytes, write_whole

ENDINGS = (".html", ".csv", ".pdf")


def write_files(issued: Issued, folder: Path) -> list[Path]:
    """Write the page and the CSV if the files do not exist or differ. Return their paths.

    For an issued statement, the files of the preliminary statement are deleted. Raises RecordRefused if the folder or a file is a link.
    """
    own_folder(folder)
    paths = []
    for ending, text in ((".html", issued.page), (".csv", issued.csv)):
        path, content = folder / f"{issued.name}{ending}", text.encode("utf-8")
        if read_bytes(path) != content:
            if issued.document.number is None:  # the PDF is outdated; the PDF of an issued statement was printed from this same page
                path.with_suffix(".pdf").unlink(missing_ok=True)
            write_whole(path, content)
            crash_point("statement.file")
        paths.append(path)
    if issued.document.number is not None:
        for ending in ENDINGS:
            (folder / f"{preliminary_name(issued.document.month.period, issued.document.team)}{ending}").unlink(missing_ok=True)
    return paths
