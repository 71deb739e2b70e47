"""The forms of secrets in text that other programs wrote: one list of patterns for Python and for DuckDB.

Python and RE2 read each pattern alike, so there is no look-around and no back reference; a test compares both over a corpus. Group
1 is text before the secret that stays. A string that ends each match, and also stays, is listed next to the pattern. A secret
without a shape cannot be found: a 40-digit hexadecimal key of W&B looks like a git commit unless its name comes before it.
"""

from __future__ import annotations

import re
from functools import partial

from runspend.core.redaction import HIDDEN
from runspend.core.sql_quoting import sql_text

# A value ends at a blank, quote, ampersand, angle bracket or control character; a quoted value ends at its quote.
_ONE = r"""(?:\\*"[^"\\\x00-\x1f]+|\\*'[^'\\\x00-\x1f]+|[^\x00-\x20"'&<>\\]*[^\x00-\x20"'&<>\\=:])"""
_VALUE = rf"{_ONE}(?:(?:[ \t]{{1,3}}[=:][ \t]{{0,3}}|[=:]{{1,3}}[ \t]{{1,3}}){_ONE})*"  # of `password=a,token = b` the second is part of the first one's value
_IS = r"""(?:[\\"']{0,3}[ \t]{0,3}(?:[=:]|%3[dD])[ \t]{0,3})"""
_NAME_BEFORE = r"(?:^|[^A-Za-z0-9])[A-Za-z0-9_.-]{0,64}?"
_NAMES = (
    r"passwords?|passwd|passphrase|pwd|secret[_-]?key|api[_-]?keys?|(?:x-functions|subscription|signing)[_-]?key|access[_-]?key(?:[_-]?id)?|secret[_-]?access[_-]?key|account[_-]?key|"
    r"shared[_-]?access[_-]?key|private[_-]?key|encryption[_-]?key|master[_-]?key|credentials?|client[_-]?secret|"
    r"(?:db|database|smtp|ftp|ldap|redis|mysql|postgres|pg|user|admin|root)[_-]?pass|"
    r"(?:access|auth|api|bearer|refresh|session|security|id|csrf|oauth2?|private|personal|deploy|bot|github|gitlab|gh|hf|hugging_?face|slack|wandb|"
    r"databricks|mlflow|tracking|jwt|sas|write|read|service|user|job|pat|vault|bitbucket|npm|pypi)[_-]?token"
)
_VENDORS = (
    r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?:[:/,;| ]{1,3}[A-Za-z0-9/+=]{40})?|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|"
    r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|oas|imt|ffct)-[A-Za-z0-9_.-]{16,}|hf_[A-Za-z0-9]{20,}|xox[abceoprs][.-][A-Za-z0-9.-]{10,}|xapp-[0-9]-[A-Z0-9]+-[A-Za-z0-9-]{10,}|"
    r"sk-lf-[0-9a-f]{8}-[0-9a-f-]{27}|[prs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{20,}|wandb_v1_[A-Za-z0-9_-]{20,}|"
    r"dapi[0-9a-f]{32}(?:-[0-9]+)?|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{16,}|GOCSPX-[A-Za-z0-9_-]{20,}|1//0[A-Za-z0-9_-]{30,}|npm_[A-Za-z0-9]{30,}|"
    r"pypi-AgE[A-Za-z0-9_-]{40,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,4}|eyJ[A-Za-z0-9_+/=-]{60,}|"
    r"hv[sbr]\.[A-Za-z0-9_-]{20,}|r8_[A-Za-z0-9]{30,}|do[opr]_v1_[a-f0-9]{64}|gsk_[A-Za-z0-9]{40,}|xai-[A-Za-z0-9]{40,}|pplx-[A-Za-z0-9]{40,}|"
    r"glsa_[A-Za-z0-9]{32}_[a-f0-9]{8}|lsv2_[a-z]{2}_[a-f0-9]{32}(?:_[a-f0-9]+)?|ntn_[A-Za-z0-9]{40,}|lin_api_[A-Za-z0-9]{30,}|AGE-SECRET-KEY-1[0-9A-Z]{50,}|"
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|(?:bot)?[0-9]{8,10}:AA[A-Za-z0-9_-]{32,}"
)
# Keys that consist of several parts, at least one of them long. Names have only short parts. A match extends to the end of its letters, digits, _ and
# -.
_OF_PARTS = r"((?:^|[^A-Za-z0-9]))(?:nvapi|sk-(?:proj|ant|or|svcacct|admin|live|test))-[A-Za-z0-9_-]*[A-Za-z0-9]{16,}[A-Za-z0-9_-]*"

# Widest first, so that a narrower pattern does not leave part of a secret behind.
_SHAPES: tuple[tuple[str, str], ...] = (
    (r"()-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]*-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|[\s\S]*)", ""),
    # scheme://user:password@host: first with a correctly encoded password, then with a password that contains a slash and cannot be a
    # port. Third: http://token@host
    (r"(://)[^\x00-\x20/?#:@\[\"'<>]*:[^\x00-\x20/?#\"'<>]*@", "@"),
    (r"(://)[^\x00-\x20/?#:@\[\"'<>]*:[0-9]*[^\x00-\x20/?#0-9@\"'<>][^\x00-\x20\"'<>]*@", "@"),
    (r"((?:https?|ftps?|sftp)://)[^\x00-\x20/?#:@\"'<>]+@", "@"),
    (r"(%3[aA]%2[fF]%2[fF])[^\x00-\x20&\"'<>/]*%40", "%40"),
    # Signed addresses: Azure, Amazon, Google, CloudFront. The identity is not a secret; the signature, and a value that replaces a
    # key, is.
    (r"((?:^|[?&;\x1e \"']|amp;)(?:[Ss][Ii][Gg]|[Xx]-(?:[Aa]mz|[Gg]oog)-(?:[Ss]ignature|[Cc]redential|[Ss]ecurity-[Tt]oken)|[Ss]ignature|AWSAccessKeyId|GoogleAccessId|Key-Pair-Id)=)[^\x00-\x20&\"'<>#]+", ""),
    (r"([?&](?:[Kk]ey|[Tt]oken|[Aa]uth|[Cc]ode|[Pp]olicy)=)[^\x00-\x20&\"'<>#]{8,}", ""),
    (r"(https?://(?:hooks\.slack\.com/(?:services|workflows|triggers)/|[a-z0-9.-]*webhook\.office\.com/|(?:[a-z]+\.)?discord(?:app)?\.com/api/webhooks/))[^\x00-\x20\"'<>]+", ""),
    (r"((?i:\b(?:proxy-)?authorization)[\"'\\]{0,3}[ \t]{0,3}(?:[=:]|%3[aA])[ \t]{0,3}[\"'\\]{0,3})(?:(?i:bearer|basic|token|apikey|digest|negotiate|aws4-hmac-sha256)[ \t:]{1,3})?[^\x00-\x20\"'\\]{6,}[^\x00-\x1f\"'\\]*", ""),
    (r"((?i:(?:^|[^A-Za-z0-9_])(?:set-)?cookie)[\"'\\]{0,3}[ \t]{0,3}(?::|%3[aA])[ \t]{0,3})[^\x00-\x20=;\"'\\]{1,256}=[^\x00-\x1f\"'\\]+", ""),
    (r"((?:^|[ \t])(?:-u|--(?:proxy-)?user)[ \t=]{1,3}[\"']?[0-9]{0,32}[^\x00-\x20:\"'/0-9][^\x00-\x20:\"'/]{0,64}:)[^\x00-\x20\"']+", ""),
    (r"((?i:\bbearer)(?:[ \t:=]{1,3}|\+|%20))(?:[A-Za-z]*[0-9._~+/=%-][A-Za-z0-9._~+/=%-]{4,}|[A-Za-z]{20,})", ""),
    (r"((?i:\bbasic)[ \t]{1,3})(?:[A-Za-z0-9+/]{6,}={1,2}|[A-Za-z0-9+/]{24,})", ""),
    (rf"({_NAME_BEFORE}(?i:{_NAMES}){_IS}){_VALUE}", ""),
    (rf"({_NAME_BEFORE}(?i:secret)[\\\"']{{0,3}}[ \t]{{0,3}}(?:=|%3[dD])[ \t]{{0,3}}){_VALUE}", ""),
    (rf"((?:^|[^A-Za-z0-9:])[A-Za-z0-9_.-]{{0,64}}?(?i:secret){_IS}){_VALUE}", ""),  # arn:aws:secretsmanager:…:secret:NAME is not a secret
    (rf"((?:^|[^A-Za-z0-9_.-])(?i:token){_IS}){_VALUE}", ""),
    (rf"({_NAME_BEFORE}(?i:[_-]token){_IS})[A-Za-z0-9._~+/=-]{{16,}}", ""),
    (r"((?:^|[ \t])--?(?i:[A-Za-z0-9-]*(?:password|passwd|passphrase|secret|api-?key|access-?key|(?:access|auth|api|hf|github|bearer)-token)|token)[ \t]+)[^\x00-\x20-][^\x00-\x20]*", ""),
    (_OF_PARTS, ""),
    (rf"((?:^|[^A-Za-z0-9]))(?:{_VENDORS})", ""),
    (r"((?:^|[^A-Za-z0-9/_.-])sk-)[A-Za-z0-9]{20,}", ""),
    (r"(/sk-)[A-Za-z0-9]{40,}", ""),  # a folder may be named sk- and 32 digits
    (r"((?:^|[^A-Za-z0-9_~.-]))[A-Za-z0-9_~.-]{3}[78]Q~[A-Za-z0-9_~.-]{30,36}", ""),
)  # fmt: skip
_OF_ADDRESSES = _SHAPES[1:8]  # logins, signatures, keys in a query, addresses that are entirely secret
# The path of an address, and its query or fragment. A folder may have any name, and its files are found by that name.
_PLACE = r"^((?:[A-Za-z][A-Za-z0-9+.-]*:)?/[^?#\x00-\x20\"']*)((?:[?#][\s\S]*)?)$"
# A string without any of these has no secret. Most strings have none of them, and no further pattern is tried.
_SUSPECT = (
    r"-----BEGIN|(?:-u|-user)[ \t=]|://[^\x00-\x20/?#\"]*[@:]|%40|(?i:sig=|signature|-credential=|-security-token=|accesskeyid=|accessid=|key-pair-id=|[?&](?:key|token|auth|code|policy)=|webhooks?[./]|"
    r"hooks\.slack|authorization|bearer|cookie|basic[ \t]|pwd|passw|passphrase|[a-z_-]pass[^a-z]|secrets?[^a-rt-z]|credentials?[^a-z]|(?:api|functions|access|account|private|encryption|master|secret|subscription|signing)[_-]?keys?[^a-z]|key[_-]?id|"
    r"token[^a-z0-9_.-]|AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|gl[a-z]{2,5}-|hf_|xox[a-z]|xapp-|sk-|[prs]k_|whsec_|wandb_v|dapi|AIza|ya29|GOCSPX|1//0|npm_|pypi-|SG\.|eyJ|hv[sbr]\.|r8_|"
    r"do[opr]_v1|gsk_|xai-|nvapi|pplx-|glsa_|lsv2_|ntn_|lin_api|shp[a-z]{2}_|:AA[a-z0-9_-]{9}|[78]Q~)"
)


_COMPILED = {pattern: (re.compile(pattern, re.ASCII), rf"\g<1>{HIDDEN}{end}", end) for pattern, end in _SHAPES}
# Python tries a match from every position again; RE2 reads a string once. To read each part of a string only a few times, Python searches
# only stretches of characters that can be part of a match, and only up to the last place where a match can end.
_RUNS = {"@": re.compile(r"[^\x00-\x20\"'<>]+"), "%40": re.compile(r"[^\x00-\x20&\"'<>/]+")}
_RUN_OF_PARTS = re.compile(r"[A-Za-z0-9_-]{20,}")
_LONG_PART = re.compile(r"[A-Za-z0-9]{16,}")
_COMPILED_PLACE = re.compile(_PLACE, re.ASCII)
_SUSPECT_TEXT = re.compile(_SUSPECT, re.ASCII)


def redact_secrets(text: str) -> str:
    """Replace every part of the text that has the shape of a secret by ***."""
    if not _SUSPECT_TEXT.search(text):
        return text
    return _replace(text, _SHAPES)


def redact_place(uri: str) -> str:
    """Hide login, signature and other secrets in the address of a folder, but keep its path.

    If a name in the path were hidden, the files in the folder could not be attributed to their owner.
    """
    if not _SUSPECT_TEXT.search(uri):
        return uri
    place = _COMPILED_PLACE.fullmatch(_replace(uri, _OF_ADDRESSES))
    return place[1] + redact_secrets(place[2]) if place else redact_secrets(uri)


def _replace(text: str, shapes: tuple[tuple[str, str], ...]) -> str:
    for shape, _ in shapes:
        pattern, kept, end = _COMPILED[shape]
        if shape == _OF_PARTS:
            text = _RUN_OF_PARTS.sub(_without_parts, text)
        elif end in _RUNS and end in text:
            text = _RUNS[end].sub(partial(_without_ended, pattern, kept, end), text)
        elif not end:
            text = pattern.sub(kept, text)
    return text


def _without_ended(pattern: re.Pattern[str], kept: str, end: str, run: re.Match[str]) -> str:
    """Remove what the pattern finds in a run of characters; each match ends with `end`."""
    text = run[0]
    last = text.rfind(end) + len(end)
    return pattern.sub(kept, text[:last]) + text[last:] if last >= len(end) else text


def _without_parts(run: re.Match[str]) -> str:
    """Remove the first key of parts from a run of characters; it extends to the end if a long part follows."""
    text = run[0]
    last = max((part.end() for part in _LONG_PART.finditer(text)), default=0)
    found = _COMPILED[_OF_PARTS][0].search(text, 0, last)
    return text if found is None else f"{text[: found.start()]}{found[1]}{HIDDEN}"


def macros_sql() -> str:
    """Return DuckDB macros for redaction.

    `is_suspect(text)` is quick, and is true for every text that contains a secret. `redacted(text)` equals `redact_secrets`, and
    `redacted_place(uri)` equals `redact_place`: `place_parts(uri)`, with the part `rest` redacted.
    """
    place = sql_text(_PLACE)
    return (
        f"create macro is_suspect(value) as regexp_matches(value, {sql_text(_SUSPECT)});\n"
        f"create macro redacted(value) as case when is_suspect(value) then {_replaced_sql(_SHAPES)} else value end;\n"
        # DuckDB compiles a macro's patterns again for each mention, which takes longer than the work on few rows: each is mentioned once.
        # `kept` is shown as it is; `rest` is redacted like any text.
        "create macro place_parts(value) as case when not is_suspect(value) then {'kept': '', 'rest': value}\n"
        f"  else list_transform([{_replaced_sql(_OF_ADDRESSES)}], lambda address: {{'kept': regexp_extract(address, {place}, 1),\n"
        f"    'rest': case when regexp_matches(address, {place}) then regexp_extract(address, {place}, 2) else value end}})[1] end;\n"
        "create macro redacted_place(value) as list_transform([place_parts(value)], lambda part: part.kept || redacted(part.rest))[1];\n"
    )


def _replaced_sql(shapes: tuple[tuple[str, str], ...]) -> str:
    replaced = "value"
    for pattern, end in shapes:
        kept = sql_text(rf"\1{HIDDEN}{end}")
        replaced = f"regexp_replace({replaced}, {sql_text(pattern)}, {kept}, 'g')"
    return replaced
