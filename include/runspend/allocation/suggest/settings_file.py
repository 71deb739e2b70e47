"""Adds pools to an existing `runspend.yaml`. Nothing else in the file changes; comments and order stay.

Lines are inserted into the text. The file is never written from its parsed values. The new text is loaded before it replaces the file:
it must contain the old settings and the new pools.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from runspend.allocation.suggest.proposals import Proposal, proposal_lines
from runspend.config.settings import Settings, load_settings
from runspend.core.errors import ConfigError, UsageError
from runspend.core.own_files import fsync_path, write_scratch

PASTE = "Paste the lines that `runspend suggest` prints. Nothing was changed."


def add_pools(path: Path, proposals: Sequence[Proposal], heading: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Add all pools to the file, or none. Raises UsageError if the file cannot be changed safely, or changed meanwhile."""
    target = path.resolve()  # a symbolic link is kept; its target is replaced
    raw = target.read_bytes()
    before = load_settings(path, env)
    text = raw.decode("utf-8")  # keeps a byte order mark as a character
    new = with_pools(path, text, proposals, heading)
    scratch = write_scratch(target, new.encode("utf-8"))
    try:
        _check(path, scratch, before, proposals, env)
        os.chmod(scratch, stat.S_IMODE(target.stat().st_mode))
        if target.read_bytes() != raw:
            raise UsageError(f"cannot write {path}: the file was changed meanwhile. Run it again. Nothing was changed.")
        os.replace(scratch, target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    fsync_path(target.parent)


def with_pools(path: Path, text: str, proposals: Sequence[Proposal], heading: Sequence[str]) -> str:
    """Return the text with the new pools. The caller checks that it loads as intended."""
    end = "\r\n" if "\r\n" in text else "\n"
    place, indent, lines = _place(path, text)
    lines = [*lines, *(f"{indent}# {line}" for line in heading), *(line for p in proposals for line in proposal_lines(p, indent))]
    before, after = text[:place], text[place:]
    opening = end if before and not before.endswith(("\n", "\ufeff")) else ""
    return before + opening + "".join(f"{line}{end}" for line in lines) + after


def _place(path: Path, text: str) -> tuple[int, str, list[str]]:
    """Return the index in the text at which to insert lines, their indentation, and the lines to write above them."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return len(text), "  ", ["pools:"]
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise UsageError(f"cannot write {path}: its keys are in braces ({{…}}), so no lines can be added. {PASTE}")
    for key, value in root.value:
        if key.value != "pools":
            continue
        if isinstance(value, yaml.SequenceNode) and value.value and not value.flow_style:
            return _line_after(text, value.value[-1]), " " * value.start_mark.column, []
        raise UsageError(
            f"cannot write {path}, line {key.start_mark.line + 1}: `pools` is in brackets ([…]), and only a block can get lines. {PASTE}"
        )
    if root.start_mark.column:
        raise UsageError(f"cannot write {path}: all its keys are indented. {PASTE}")
    return _line_after(text, root), "  ", ["", "pools:"]


def _line_after(text: str, node: yaml.Node) -> int:
    """Return the start of the line after the last line of a node. A block's own end mark is at the next block, after blank lines."""
    last = max((leaf.end_mark.index for leaf in _leaves(node)), default=node.end_mark.index)
    while last > 0 and text[last - 1] in " \t\r\n":
        last -= 1
    return _line_end(text, last)


def _leaves(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.ScalarNode) or getattr(node, "flow_style", False) or not node.value:
        return [node]
    children = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
    return [leaf for child in children for leaf in _leaves(child)]


def _line_end(text: str, place: int) -> int:
    found = text.find("\n", place)
    return len(text) if found < 0 else found + 1


def _check(path: Path, scratch: Path, before: Settings, proposals: Sequence[Proposal], env: Mapping[str, str] | None) -> None:
    """Raise UsageError unless the new text contains exactly the old settings and the new pools."""
    try:
        after = load_settings(scratch, env)
    except ConfigError as error:
        raise UsageError(f"cannot write {path}: with the new pools the file is not valid ({error}). {PASTE}") from None
    is_same = all(getattr(after, name) == getattr(before, name) for name in type(before).model_fields if name != "pools")
    if not is_same or after.pools != [*before.pools, *(p.pool for p in proposals)]:
        raise UsageError(f"cannot write {path}: the pools would change something else in it. {PASTE}")
