"""Models, checks and views: SQL files in a folder and its subfolders, and the macros that they may use.

`exact_money(PRODUCT)` becomes the expression that turns a float into exact money, to 18 decimals. `price_money(PRODUCT)` does the same
to 12 decimals, for estimated prices. A float never becomes money by a cast, because engines would round it differently. Here its whole
part and its decimals become integers, which every engine adds up equally.

`run_end(STATED_END, LAST_SIGN, START, KNOWN_UNTIL)` becomes the time at which a run ended. `run_end_rule` with the same arguments becomes
the rule by which that time was found. KNOWN_UNTIL is the end of the billed hours, or now for estimates.

`at_most_a_day(START, END)` becomes the condition that a charge period has at most 25 hours, as many as a local day may have. Longer ones
are not split by time. `months_around(MONTH)` becomes the list of the month before, the month, and the month after.
`charge_month(DATE)` becomes the month of a date, or @period if that is earlier. The runs of a late line's own month decide how it is split.

Hours are numbered from 1970 (UTC). `hour_of(TIMESTAMP)` becomes the number of an hour, `start_of_hour(NUMBER)` its start, and
`hours_between(START, END)` the array of the hours from START to before END.

`machine_time(BILLED, CHARGE_PERIOD)` becomes the machine time of a line, in the unit of both: the time billed, or else its charge period.
Up to 5% more than the charge period is rounding, more is the time of several machines.

`is_unused(COMMITMENT_DISCOUNT_STATUS, CAPACITY_RESERVATION_STATUS)` becomes the condition that a line charges the unused part of
one of them.
`scale_set_of(RESOURCE_KEY)` becomes the Azure scale set of a machine, or null. `is_machine_set(RESOURCE_KEY)` becomes the condition that a
resource is such a set or an Azure ML compute cluster: runs have some of its machines.

`purchase_option(PRICING_CATEGORY)` becomes 'spot', 'on_demand' or null, as runs state it.

`is_byte_time(UNIT)` becomes the condition that a bill's unit is bytes over time, such as "GB-Mo" or "byte-seconds". The unit is in lower
case. Requests, traffic ("GB - data") and retrieval are not.

`is_databricks(HOST_PROVIDER, SERVICE_PROVIDER, SERVICE)` becomes the condition that a bill line charges use of Databricks, which clouds and
marketplaces name differently: "Databricks, Inc.", "Azure Databricks".

Calls of language models are matched to bills by cloud. `line_cloud(NAMES)` becomes the cloud of a bill line, from the lower-case names of its
providers and service. `trace_cloud(PROVIDER, MODEL)` becomes the cloud of a call, from the lower-case names that MLflow has for its provider
and model: 'any' if they do not tell. `is_on_cloud(CLOUD_OF_TRACE, CLOUD_OF_LINE)` becomes the condition that the line may bill the call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path


@cache
def read_sql(folder: Path, name: str) -> str:
    """Return the GoogleSQL of the file NAME.sql in a folder or its subfolders, with macros expanded."""
    return expand_macros(sql_files(folder)[name].read_text(encoding="utf-8"))


def read_every_sql(folder: Path) -> dict[str, str]:
    """Return the GoogleSQL of all files in a folder and its subfolders by name, with macros expanded. Looking for each by itself takes long."""
    return {name: expand_macros(path.read_text(encoding="utf-8")) for name, path in sql_files(folder).items()}


def without_comments(text: str) -> str:
    """Return SQL without the lines that only have a comment."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("--"))


def sql_files(folder: Path) -> dict[str, Path]:
    """Return the SQL files of a folder and its subfolders by name. No two have the same name."""
    return {path.stem: path for path in sorted(folder.rglob("*.sql"))}


def _money(decimals: int, product: str) -> str:
    """Return SQL for a float as exact money."""
    unit = f"bignumeric '0.{'1':0>{decimals}}'"
    return f"cast(cast(trunc({product}) as int64) + cast(round(({product} - trunc({product})) * 1e{decimals}) as int64) * {unit} as bignumeric)"


def _by_run_end(results: tuple[str, str, str, str, str], stated_end: str, last_sign: str, start: str, known_until: str) -> str:
    """Return SQL for one of five results: the run has a stated end, is alive, has a last sign of activity, has just started, or is silent."""
    alive_from = f"timestamp_sub({known_until}, interval @alive_hours hour)"
    stated, alive, last_sign_only, started, silent = (
        result.format(stated_end=stated_end, last_sign=last_sign, start=start, known_until=known_until) for result in results
    )
    return (
        f"case when {stated_end} is not null then {stated} when {last_sign} >= {alive_from} then {alive}"
        f" when {last_sign} is not null then {last_sign_only} when {start} >= {alive_from} then {started} else {silent} end"
    )


BYTE_TIME = r"r'^(?:1 )?(?:[kmgtp](?:i?b|[a-z]{3}byte)s?|bytes?)[-/ *]+(?:mo|months?|d|days?|h|hrs?|hours?|s|secs?|seconds?)$'"
RULES = ("'stated'", "'alive'", "'last_sign'", "'started'", "'silent'")
ENDS = (
    "{stated_end}",
    "greatest({known_until}, {last_sign})",
    "{last_sign}",
    "greatest({known_until}, {start})",
    "timestamp_add({start}, interval @silent_hours hour)",
)
# Bedrock's autologging writes what is before the first dot of the model's id as its provider: "anthropic", or "us" for a group of regions.
BEDROCK_MODEL = r"r'^(?:[a-z-]+[.])?(?:ai21|amazon|anthropic|cohere|deepseek|luma|meta|mistral|moonshot|nvidia|openai|qwen|stability|twelvelabs|writer)[.]'"
# OpenAI's client also calls gateways, which have models of others. Open weights (gpt-oss) are offered by many.
OPENAI_MODEL = r"r'^(?:openai/|ft:)*(?:gpt-[^o]|chatgpt|o[0-9]|text-embedding|codex|$)'"
# One column at a time: an engine computes that once for each of a column's few values.
IS_DATABRICKS = " or ".join(f"coalesce(strpos(lower({{{n}}}), 'databricks') > 0, false)" for n in range(3))
LINE_CLOUD = (
    "case when strpos({0}, 'databricks') > 0 then 'databricks' when regexp_contains({0}, r'aws|amazon|bedrock') then 'aws'"
    " when regexp_contains({0}, r'azure|microsoft') then 'azure' when regexp_contains({0}, r'google|vertex|gemini') then 'google'"
    " when strpos({0}, 'openai') > 0 then 'openai'"
    " when regexp_contains({0}, r'anthropic|claude|mistral|cohere|groq|deepseek|together|fireworks|openrouter|perplexity|x[.]?ai') then 'vendor'"
    " else 'other' end"
)
TRACE_CLOUD = (
    "case when strpos({0}, 'databricks') > 0 or ({0} = '' and regexp_contains({1}, r'^databricks[-/]')) then 'databricks'"
    " when regexp_contains({0}, r'bedrock|^aws|^amazon') or (({0} = '' or starts_with({1}, concat({0}, '.'))) and regexp_contains({1}, {bedrock})) then 'aws'"
    " when strpos({0}, 'azure') > 0 then 'azure'"
    " when regexp_contains({0}, r'gemini|vertex|google|^gcp') or ({0} = '' and starts_with({1}, 'gemini')) then 'google'"
    " when ({0} = 'openai' or ({0} = '' and {1} <> '')) and regexp_contains({1}, {openai}) then 'openai' else 'any' end"
)
MACROS: dict[str, Callable[..., str]] = {
    "exact_money": partial(_money, 18),
    "price_money": partial(_money, 12),
    "run_end": partial(_by_run_end, ENDS),
    "run_end_rule": partial(_by_run_end, RULES),
    "at_most_a_day": "timestamp_diff({1}, {0}, microsecond) <= 90000000000".format,
    "scale_set_of": r"regexp_extract({}, r'^(.*/virtualmachinescalesets/[^/]+)/virtualmachines/[^/]+$')".format,
    "is_machine_set": r"regexp_contains({}, r'/(computes|virtualmachinescalesets)/[^/]+$')".format,
    "is_unused": "(coalesce({}, '') = 'Unused' or coalesce({}, '') = 'Unused')".format,
    "months_around": "cast(date_sub({0}, interval 1 month) as date), {0}, cast(date_add({0}, interval 1 month) as date)".format,
    "charge_month": "cast(least(date_trunc({}, month), @period) as date)".format,
    "machine_time": "case when {0} > {1} * 1.05 then {0} else least(coalesce({0}, {1}), {1}) end".format,
    "hour_of": "div(unix_micros({}), 3600000000)".format,
    "start_of_hour": "cast(timestamp_micros(({}) * 3600000000) as timestamp)".format,
    "purchase_option": "case when {0} = 'Dynamic' then 'spot' when {0} in ('Standard', 'Committed') then 'on_demand' end".format,
    "is_byte_time": f"regexp_contains({{}}, {BYTE_TIME.replace('{', '{{').replace('}', '}}')})".format,
    "is_databricks": f"({IS_DATABRICKS})".format,
    "line_cloud": LINE_CLOUD.format,
    "trace_cloud": partial(TRACE_CLOUD.format, bedrock=BEDROCK_MODEL, openai=OPENAI_MODEL),
    "is_on_cloud": "({0} = 'any' or {1} = 'other' or {0} = {1} or ({0} = 'openai' and {1} = 'azure'))".format,
    "hours_between": "generate_array(div(unix_micros({}), 3600000000), div((unix_micros({}) - 1), 3600000000))".format,
}
_MACRO = re.compile(rf"\b({'|'.join(MACROS)})\(")


@lru_cache(maxsize=1024)
def expand_macros(text: str) -> str:
    """Return the text with each macro replaced by its expression. Arguments may have parentheses, but no macro."""
    before, *uses = _MACRO.split(text)
    for name, rest in zip(uses[::2], uses[1::2], strict=True):
        arguments, end = _arguments(rest)
        before += MACROS[name](*arguments) + rest[end + 1 :]
    return before


def _arguments(text: str) -> tuple[list[str], int]:
    """Return the arguments at the start of a string, and the position of the parenthesis that closes them."""
    depth, begins, found = 1, 0, []
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth or (depth == 1 and character == ","):
            found.append(text[begins:position].strip())
            begins = position + 1
        if not depth:
            return found, position
    raise ValueError("cannot expand a macro: its parenthesis is not closed.")
