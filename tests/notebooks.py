"""Runs a notebook's cells without Jupyter, and returns what Jupyter would show.

That is each cell's printed text, and its last expression as text and HTML.
`python -m tests.notebooks docs/costs.ipynb FOLDER` runs the cells in FOLDER and writes their outputs into the notebook.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

Cell = dict[str, Any]


def read_notebook(path: Path) -> dict[str, Any]:
    """Read the notebook as JSON."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    """Return the cells with code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(cells: list[Cell], folder: Path) -> list[list[dict[str, Any]]]:
    """Return the outputs of each cell in nbformat's form. A cell that fails raises its error."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "120")  # width of a data frame's text
        return [_run_cell("".join(cell["source"]), number, names) for number, cell in enumerate(cells, 1)]


def shown(outputs: list[dict[str, Any]]) -> str:
    """Return everything that outputs show, as text. MLflow ids differ in each demo, so they are replaced by an ellipsis."""
    parts = [part for output in outputs for part in ([output["text"]] if "text" in output else output["data"].values())]
    return re.sub(r"\b[0-9a-f]{32}\b", "…", "\n".join("".join(part) for part in parts))


def _run_cell(source: str, number: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {number}>", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)  # type: ignore[attr-defined]
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data = {"text/html": _lines(value._repr_html_()), **data}
        outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _write_outputs(path: Path, folder: Path) -> None:
    notebook = read_notebook(path)
    cells = code_cells(notebook)
    for number, (cell, outputs) in enumerate(zip(cells, run_cells(cells, folder), strict=True), 1):
        cell.update(execution_count=number, outputs=outputs)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write_outputs(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
