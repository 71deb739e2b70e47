"""Everyone can distinguish the colors of the pages from their background: WCAG 2.2, level AA, in light and dark.

Text needs a contrast of 4.5 (1.4.3), and parts of drawings one of 3 (1.4.11), or an outline that has it.
https://www.w3.org/TR/WCAG22/#contrast-minimum, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import runspend.actions.explore.page as explore
import runspend.actions.report.render as report

CSS = "".join(
    (Path(module.TEMPLATES) / name).read_text(encoding="utf-8") for module, name in ((report, "report.css"), (explore, "explore.css"))
)
DARK = r"@media screen and \(prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}"
GROUNDS = ("paper", "card")
TEXTS = ("ink", "soft", "link", "good", "warn", "bad")
DRAWN = ("run", "idle", "unallocated", "shared", "orphan", "scope", "c0", "c1", "g0", "g1", "g2", "g3", "g4", "g5", "gx")
OUTLINED = ("c2", "c3", "c4")


def colors(scheme: str) -> dict[str, str]:
    """Return the variables of a color scheme. Those of the dark scheme override the light ones."""
    light = re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", re.sub(DARK, "", CSS, flags=re.S))
    dark = [pair for block in re.findall(DARK, CSS, re.S) for pair in re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block)]
    return dict(light) | (dict(dark) if scheme == "dark" else {})


def luminance(color: str) -> float:
    """Return the relative luminance of #rrggbb, from 0 to 1."""
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colors, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", GROUNDS)
def test_text_and_drawings_contrast_with_their_background(scheme: str, ground: str) -> None:
    known = colors(scheme)
    assert {name: contrast(known[name], known[ground]) for name in TEXTS if contrast(known[name], known[ground]) < 4.5} == {}
    assert {name: contrast(known[name], known[ground]) for name in DRAWN if contrast(known[name], known[ground]) < 3} == {}
    assert re.search(r"\.c2, \.c3, \.c4 \{ stroke: var\(--c1\)", CSS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_are_readable_on_their_bars(scheme: str) -> None:
    known = colors(scheme)
    assert ".in-idle, .in-scope { fill: #1b2430; }" in CSS and ".in-c2, .in-c3, .in-c4 { fill: var(--on-light); }" in CSS
    inks = dict.fromkeys(("run", "unallocated", "shared", "orphan", "c0", "c1"), known["on-dark"])
    inks |= dict.fromkeys(("idle", "scope"), "#1b2430") | dict.fromkeys(OUTLINED, known["on-light"])
    assert {name: contrast(known[name], ink) for name, ink in inks.items() if contrast(known[name], ink) < 4.5} == {}


def test_paper_is_always_light() -> None:
    """The dark colors are for screens only."""
    assert "prefers-color-scheme: dark" in CSS
    assert all(found == "screen and " for found in re.findall(r"@media ([^{]*?)\(prefers-color-scheme: dark\)", CSS))
