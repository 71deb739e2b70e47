"""Pages, docstrings, comments and strings of the code avoid words that make readers stop. Each has a plainer one."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
        *(file for folder in ("include", "dags", "plugins") for file in (ROOT / folder).rglob("*.py")),
        *(file for folder in ("include", "docs") for file in (ROOT / folder).rglob("*.sql")),
        *(file for suffix in ("*.j2", "*.html") for file in (ROOT / "include").rglob(suffix)),
        *(file for folder in ("deploy", "docs") for file in (ROOT / folder).rglob("*.py")),
        *(file for file in (ROOT / "tests").rglob("*.py") if file != Path(__file__)),
        ROOT / "Makefile",
        ROOT / "docker-compose.yaml",
    ]
)
# Regular expression of whole words to avoid -> what to write instead.
BETTER = {
    "any more": "no longer",
    "are told|is told|was told|were told": "gets a mail, knows, states",
    "anew": "again",
    "besides": "plus, next to, other than",
    "by now": "now, meanwhile",
    "dear|dearer|dearest": "expensive, top N by cost",
    "everybody": "everyone, all users",
    "for ever": "forever, without end",
    "for good": "permanently",
    "hang on|hangs on": "is attached to",
    "ladder|rung|rungs": "rules, rule",
    "let go of|lets go of": "release, end",
    "lies": "is, is inside",
    "licence|licences": "license",
    "misspelt": "misspelled",
    "nightly runs?": "pipeline run",
    "nobody|nobody's": "no run, no user, without an owner",
    "of it idle": "including N idle",
    "pot|pots": "shared cost",
    "put right": "correct, rewrite",
    "said": "stated, reported, showed",
    "somebody": "someone, another process, the name of the role",
    "stands (?:after|at|before|behind|beside|for|in|on|there|twice)": "is, means, replaces",
    "it stands": "it is",
    "tonight": "in this pipeline run",
    "unmatched": "unallocated, without a run",
    "whatever (?:its|the|their)": "even if … is unchanged, independent of",
    "whoever": "everyone who, the name of the role",
    # "is no number": negate the verb. "There is no file" and "is no longer" are fine.
    r"(?<!there )(?:is|are|was|were) no (?!longer|more|such)[a-z]+": "is not a …",
}
SHUNNED = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): better for words, better in BETTER.items()}
ANY = re.compile(rf"\b(?:{'|'.join(BETTER)})\b", re.IGNORECASE)  # one search of a line instead of one per entry
CODE = re.compile(r"`[^`]*`")
LINK = re.compile(r"\]\([^)]*\)")
MARKUP = re.compile(r"{{.*?}}|{%.*?%}|<[^<>]*>", re.DOTALL)


def prose_of_page(text: str) -> Iterator[tuple[int, str]]:
    """Lines of a page with their numbers, without fenced blocks."""
    is_fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        is_fence = line.lstrip().startswith("```")
        if not is_fence and not is_fenced:
            yield number, LINK.sub("]", line)
        is_fenced = is_fenced != is_fence


def prose_of_code(text: str) -> Iterator[tuple[int, str]]:
    """Lines of docstrings, comments and strings of more than one word, with their numbers."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((node.lineno + number, line) for number, line in enumerate(node.value.splitlines()) if " " in line.strip())
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def prose_of_test(text: str) -> Iterator[tuple[int, str]]:
    """Lines of docstrings and comments with their line numbers. Other strings of tests are data."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            first = node.body[0].lineno if docstring else 0
            yield from enumerate((docstring or "").splitlines(), first)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def prose_of_commands(text: str) -> Iterator[tuple[int, str]]:
    """Comments of a Makefile or YAML file with their line numbers."""
    return ((number, line.partition("#")[2]) for number, line in enumerate(text.splitlines(), 1))


def prose_of_sql(text: str) -> Iterator[tuple[int, str]]:
    """Comments of SQL with their line numbers."""
    return ((number, line.partition("--")[2]) for number, line in enumerate(text.splitlines(), 1))


def prose_of_template(text: str) -> Iterator[tuple[int, str]]:
    """Lines of a template with their numbers, without tags and expressions. Its comments count."""
    return enumerate(MARKUP.sub(lambda found: " " + "\n" * found[0].count("\n"), text).splitlines(), 1)


PROSE = {
    ".md": prose_of_page,
    ".py": prose_of_code,
    ".sql": prose_of_sql,
    ".j2": prose_of_template,
    ".html": prose_of_template,
    ".yaml": prose_of_commands,
    "": prose_of_commands,
}


def prose_of(file: Path) -> Iterator[tuple[int, str]]:
    """Lines of prose in a file with their numbers."""
    is_test = file.suffix == ".py" and file.relative_to(ROOT).parts[0] in ("tests", "deploy")
    return (prose_of_test if is_test else PROSE[file.suffix])(file.read_text(encoding="utf-8"))


def shunned_in(line: str) -> list[str]:
    """Return each shunned word of a line with what to write instead. Code in backquotes does not count."""
    prose = CODE.sub("`…`", line)
    if not ANY.search(prose):
        return []
    return [f"{found[0]!r}: write {better}" for words, better in SHUNNED.items() for found in words.finditer(prose)]


def test_pages_and_code_avoid_words_that_readers_stop_at() -> None:
    """The failure names the file, the line, the word and a better one."""
    found = []
    for file in FILES:
        found += [f"{file.relative_to(ROOT)}:{number}: {words}" for number, line in prose_of(file) for words in shunned_in(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("it is no number", ["'is no number': write is not a …"]),
        ("There is no file, and it is no longer read", []),
        ("Tonight's bill", ["'Tonight': write in this pipeline run"]),
        ("run `said()` again", []),
        ("The dearest run hangs on it", ["'dearest': write expensive, top N by cost", "'hangs on': write is attached to"]),
    ],
)
def test_shunned_words_are_found_as_whole_words_outside_code(line: str, words: list[str]) -> None:
    """Upper case counts. Parts of words and code do not."""
    assert shunned_in(line) == words


def test_code_is_searched_in_docstrings_comments_and_texts() -> None:
    """Names are not searched. Neither are strings of one word, which are values."""
    code = '"""Said once.\n\nAnew.\n"""\nsaid = "said"\nraise ValueError(f"it said {said}")  # tonight\n'
    assert {number for number, line in prose_of_code(code) if shunned_in(line)} == {1, 6}


def test_tests_are_searched_in_docstrings_and_comments_alone() -> None:
    """Other strings of tests are data, such as lines of files and error messages."""
    code = '"""Said once.\n\nAnew.\n"""\nsaid = "it was said"  # tonight\n\ndef test_it():\n    """No word."""\n'
    assert {number for number, line in prose_of_test(code) if shunned_in(line)} == {1, 3, 5}


def test_fenced_blocks_and_addresses_of_links_are_not_searched() -> None:
    """Commands that people copy may contain any word."""
    page = "said\n```sh\nsaid\n```\n[a](said.md) said\n"
    assert [number for number, line in prose_of_page(page) if shunned_in(line)] == [1, 5]


def test_templates_are_searched_without_tags_and_expressions() -> None:
    """A tag or an expression of several lines keeps the numbers of the lines after it."""
    template = '{# said #}\n<p title="said"\n class="said">{{ said }}\nAnew {% if said\n %}said{% endif %}</p>\n'
    assert [number for number, line in prose_of_template(template) if shunned_in(line)] == [1, 4, 5]
