"""Read SQL files of models, checks and views from a folder and its subfolders, and expand the macros in them.

Each macro is replaced by a GoogleSQL expression.

Money:

* `exact_money(PRODUCT)`: a float as exact money with 18 decimals. A plain cast is not used, because engines would round it differently.
  Instead, the whole part and the decimals become integers, and every engine adds integers equally.
* `price_money(PRODUCT)`: the same with 12 decimals, for estimated prices.

Ends of runs:

* `run_end(STATED_END, LAST_SIGN, START, KNOWN_UNTIL)`: the time at which a run ended. KNOWN_UNTIL is the end of the billed hours, or the
  current time for estimates.
* `run_end_rule` with the same arguments: the rule by which that time was found.

Days and months:

* `at_most_a_day(START, END)`: whether a charge period has at most 25 hours, the most that a local day can have. Charges of longer periods
  are not split by time.
* `months_around(MONTH)`: the list of the month before, the month, and the month after.
* `charge_month(DATE)`: the month of a date, or @period if that is earlier. A late bill line is split among the runs of its own month.

Hours, numbered from 1970 in UTC:

* `hour_of(TIMESTAMP)`: the number of an hour. `start_of_hour(NUMBER)`: the start of an hour.
* `hours_between(START, END)`: the array of the hours from START to before END.

Machines:

* `machine_time(BILLED, CHARGE_PERIOD)`: the machine time of a bill line: the billed time, or the charge period if no time was billed. If the
  billed time is up to 5% longer than the charge period, the difference is rounding. If it is longer, it is the time of several machines.
  All three times have the same unit.
* `is_unused(COMMITMENT_DISCOUNT_STATUS, CAPACITY_RESERVATION_STATUS)`: whether a bill line charges the unused part of a commitment discount
  or a capacity reservation.
* `scale_set_of(RESOURCE_KEY)`: the Azure scale set of a machine, or null.
* `is_machine_set(RESOURCE_KEY)`: whether a resource is an Azure scale set or an Azure ML compute cluster. Each run uses some of its machines.
* `purchase_option(PRICING_CATEGORY)`: 'spot', 'on_demand' or null, the words that runs state.

Bill lines:

* `is_byte_time(UNIT)`: whether a unit of a bill, in lower case, is bytes over time, such as "gb-mo" or "byte-seconds". Units of requests,
  traffic ("gb - data") and retrieval are not.
* `is_databricks(HOST_PROVIDER, SERVICE_PROVIDER, SERVICE)`: whether a bill line charges the use of Databricks. Clouds and marketplaces give
  it different names, such as "Databricks, Inc." and "Azure Databricks".

Calls of language models, which are matched to bill lines by cloud:

* `line_cloud(NAMES)`: the cloud of a bill line. NAMES are the lower-case names of its providers and its service.
* `trace_cloud(PROVIDER, MODEL)`: the cloud of a call, from the lower-case names of provider and model in MLflow. 'any' if they do not
  name one.
* `is_on_cloud(CLOUD_OF_TRACE, CLOUD_OF_LINE)`: whether the bill line may charge the call.
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
    """Return the GoogleSQL of all files in a folder and its subfolders, by name, with macros expanded.

    This is much faster than `read_sql` for each file, which searches the folder every time.
    """
    return {name: expand_macros(path.read_text(encoding="utf-8")) for name, path in sql_files(folder).items()}


def without_comments(text: str) -> str:
    """Return SQL without the lines that contain only a comment."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("--"))


def sql_files(folder: Path) -> dict[str, Path]:
    """Return the SQL files of a folder and its subfolders by name. All names must be different."""
    return {path.stem: path for path in sorted(folder.rglob("*.sql"))}


def _money(decimals: int, product: str) -> str:
    """Return SQL that converts a float to exact money with this number of decimals."""
    unit = f"bignumeric '0.{'1':0>{decimals}}'"
    return f"cast(cast(trunc({product}) as int64) + cast(round(({product} - trunc({product})) * 1e{decimals}) as int64) * {unit} as bignumeric)"


def _by_run_end(results: tuple[str, str, str, str, str], stated_end: str, last_sign: str, start: str, known_until: str) -> str:
    """Return SQL that chooses one of five results by what is known of the run.

    In this order: it has a stated end, it is alive, it has a last sign of activity, it has just started, it is silent.
    """
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
# As the provider, MLflow's autologging for Bedrock writes the part of the model's id before the first dot. This is a vendor, such as
# "anthropic", or a group of regions, such as "us".
BEDROCK_MODEL = r"r'^(?:[a-z-]+[.])?(?:ai21|amazon|anthropic|cohere|deepseek|luma|meta|mistral|moonshot|nvidia|openai|qwen|stability|twelvelabs|writer)[.]'"
# OpenAI's client can also call gateways with models of other vendors. Models with open weights (gpt-oss) are offered by several clouds.
OPENAI_MODEL = r"r'^(?:openai/|ft:)*(?:gpt-[^o]|chatgpt|o[0-9]|text-embedding|codex|$)'"
# Each condition uses one column only, so that an engine can compute it once per distinct value of the column.
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
    """Return the text with each macro replaced by its expression. Arguments may contain parentheses, but not another macro."""
    before, *uses = _MACRO.split(text)
    for name, rest in zip(uses[::2], uses[1::2], strict=True):
        arguments, end = _arguments(rest)
        before += MACROS[name](*arguments) + rest[end + 1 :]
    return before


def _arguments(text: str) -> tuple[list[str], int]:
    """Return the macro arguments at the start of a string, and the position of the closing parenthesis."""
    depth, begins, found = 1, 0, []
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth or (depth == 1 and character == ","):
            found.append(text[begins:position].strip())
            begins = position + 1
        if not depth:
            return found, position
    raise ValueError("cannot expand a macro: its parenthesis is not closed.")
