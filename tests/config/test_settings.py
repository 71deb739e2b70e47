"""runspend.yaml: accepted values, the settings that they become, and the error for each mistake."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runspend.config.settings import (
    Budget,
    MailSettings,
    RetentionPolicy,
    Settings,
    TrackingServer,
    find_settings,
    json_schema,
    load_settings,
    parse_duration,
    show_settings,
    threshold_amount,
    trial_settings,
)
from runspend.config.types import format_duration
from runspend.core.errors import ConfigError
from tests.settings_builder import read_settings, refused

EXAMPLES = Path(__file__).parent / "examples"
ENV = {
    "MLFLOW_TRACKING_TOKEN": "canary-tracking-token",
    "MLFLOW_DB_PASSWORD": "canary/db@pass word",
    "MLFLOW_WRITE_TOKEN": "canary-write-token",
    "SMTP_USER": "smtp-user",
    "SMTP_PASSWORD": "canary-smtp-password",
}
SERVER = "tracking:\n  - name: prod\n    uri: http://mlflow:5000\n"


# --- reading the file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cloud", "databricks", "one-box"])
def test_the_example_files_parse(name: str) -> None:
    """The example files are accepted unchanged, including keys of later versions."""
    settings = load_settings(EXAMPLES / f"{name}.yaml", ENV)
    assert settings.path == EXAMPLES / f"{name}.yaml"
    assert settings.tracking
    assert settings.billing
    assert settings.budgets


def test_the_cloud_example_means_what_it_says() -> None:
    """Every value has its proper type, account ids keep their leading zeros, and `artifacts` means `stores`."""
    settings = load_settings(EXAMPLES / "cloud.yaml", ENV)
    server, bill = settings.tracking[0], settings.billing[0]
    assert server.token is not None
    assert server.token.get_secret_value() == "canary-tracking-token"
    assert server.database is not None
    assert server.database.get_secret_value() == "postgresql://reader:canary%2Fdb%40pass%20word@mlflow-db.ml:5432/mlflow"
    assert server.copy_.tags == ["team", "project", "model"]
    assert server.copy_.params == ["dataset"]
    assert (bill.late_after, bill.delivery, "delivery" in bill.model_fields_set) == (timedelta(hours=36), None, False)
    assert settings.scope is not None
    assert settings.scope.include[0] == {"account": ["111122223333", "000011112222"]}
    assert settings.stores[0].uri == "s3://globex-mlflow-artifacts"
    assert settings.dimensions.team[-1] == {"user": str(EXAMPLES / "teams.csv")}
    assert [b.name for b in settings.budgets] == ["ml-platform", "vision"]
    assert settings.budgets[1].amount == Decimal(5000)
    assert settings.budgets[1].for_ == {"team": ["vision"]}
    assert [b.notify for b in settings.tag_budgets] == [["owner"]]
    assert settings.retention[0].select == {"kind": ["checkpoint"], "unused_for": timedelta(days=90), "not_tag.stage": ["production"]}


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """Every key has a default that works, and Runspend writes its files next to runspend.yaml."""
    settings = read_settings(tmp_path, "# nothing yet\n")
    assert settings.home == tmp_path / ".runspend"
    assert settings.warehouse.uri == str(tmp_path / ".runspend" / "warehouse")
    assert (settings.currency, settings.mail.backend, settings.retention) == ("USD", "file", [])


def test_the_warehouse_follows_home(tmp_path: Path) -> None:
    """By default, `warehouse` is in `home`. This also holds for settings made in code."""
    assert read_settings(tmp_path, "home: state\n").warehouse.uri == str(tmp_path / "state" / "warehouse")
    assert read_settings(tmp_path, "home: state\nwarehouse: {uri: w}\n").warehouse.uri == str(tmp_path / "w")
    assert Settings(home=Path("/h")).warehouse.uri == "/h/warehouse"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("./mlruns", "{base}/mlruns"),
        ("../shared/mlruns", "{parent}/shared/mlruns"),
        ("sqlite:///mlflow.db", "sqlite:///{base}/mlflow.db"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("sqlite:///a/m.db?mode=ro", "sqlite:///{base}/a/m.db?mode=ro"),
        ("file:mlruns", "file://{base}/mlruns"),
        ("file:///srv/mlruns", "file:///srv/mlruns"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("databricks", "databricks"),
        ("databricks-exports", "{base}/databricks-exports"),
        ("connection:mlflow_prod", "connection:mlflow_prod"),
        ("postgresql://db/mlflow", "postgresql://db/mlflow"),
    ],
)
def test_paths_are_relative_to_the_file(tmp_path: Path, written: str, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders and SQLite files are relative to runspend.yaml, never to the current directory."""
    monkeypatch.chdir("/")
    settings = read_settings(tmp_path, f'tracking: [{{name: a, uri: "{written}"}}]\n')
    assert settings.tracking[0].uri == read.format(base=tmp_path, parent=tmp_path.parent)


def test_key_files_of_google_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    """This holds for a warehouse and for bills. A value that is not a path does not change."""
    file = tmp_path / "runspend.yaml"
    for written, expected in {
        "keys/bq.json": str(tmp_path / "keys" / "bq.json"),
        "connection:gcp": "connection:gcp",
        "anonymous": "anonymous",
    }.items():
        file.write_text(
            f"warehouse: {{uri: bigquery://acme/costs, credentials: '{written}'}}\n"
            f"billing: [{{name: a, uri: gs://bills/, credentials: '{written}'}}, {{name: b, format: gcp, uri: bigquery://p/d/t, credentials: '{written}'}}]\n"
        )
        settings = load_settings(file, {})
        assert [settings.warehouse.credentials, *(source.credentials for source in settings.billing)] == [expected] * 3
    file.write_text("warehouse: {uri: s3://bucket/prefix, credentials: profile}")
    assert load_settings(file, {}).warehouse.credentials == "profile"


def test_bills_and_stores_and_databases_are_relative_to_the_file(tmp_path: Path) -> None:
    """This holds for every key that may contain a path."""
    text = "billing: [{name: b, uri: bills}]\nstores: [{uri: art}]\ntracking: [{name: a, uri: http://m, database: 'sqlite:///m.db', artifacts: art}]\n"
    settings = read_settings(tmp_path, text)
    assert (settings.billing[0].uri, settings.stores[0].uri, settings.tracking[0].artifacts) == (
        f"{tmp_path}/bills",
        f"{tmp_path}/art",
        f"{tmp_path}/art",
    )
    database = settings.tracking[0].database
    assert database is not None
    assert database.get_secret_value() == f"sqlite:///{tmp_path}/m.db"


def test_the_file_is_searched_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runspend uses the argument, then $RUNSPEND_CONFIG, then ./runspend.yaml. If there is none, the error lists all three."""
    monkeypatch.chdir(tmp_path)
    assert find_settings(None, {}) is None
    with pytest.raises(ConfigError, match=r"--config is not given, \$RUNSPEND_CONFIG is not set, and there is no .*runspend.yaml"):
        load_settings(None, {})
    for name in ("runspend.yaml", "other.yaml", "third.yaml"):
        (tmp_path / name).write_text("currency: USD\n")
    env = {"RUNSPEND_CONFIG": "other.yaml"}
    assert find_settings(None, {}) == tmp_path / "runspend.yaml"
    assert load_settings(None, env).path == tmp_path / "other.yaml"
    assert load_settings(Path("third.yaml"), env).path == tmp_path / "third.yaml"
    with pytest.raises(ConfigError, match=r"\$RUNSPEND_CONFIG names it"):
        find_settings(None, {"RUNSPEND_CONFIG": "gone.yaml"})
    with pytest.raises(ConfigError, match="there is no such file"):
        find_settings(Path("gone.yaml"), {})


# --- the environment -------------------------------------------------------------------------------------------------


def test_variables_are_read_and_escaped(tmp_path: Path) -> None:
    """`${VAR}` becomes the text of the variable, which is never parsed as YAML. `$${` becomes `${`."""
    settings = read_settings(
        tmp_path,
        "tracking:\n- name: a\n  uri: http://m/${P}/$${P}\n  token: ${T}\nmail: {port: '${N}'}\n",
        {"P": "x", "T": "a: [b] # ${P}", "N": "25"},
    )
    assert settings.tracking[0].uri == "http://m/x/${P}"
    assert settings.tracking[0].token is not None
    assert settings.tracking[0].token.get_secret_value() == "a: [b] # ${P}"
    assert settings.mail.port == 25


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("${NOPE}", "the environment variable NOPE is not set"),
        ("${}", "must be followed by the name"),
        ("${A-b}", "must be followed by the name"),
        ("${A", "must be followed by the name"),
    ],
)
def test_a_variable_that_cannot_be_read_names_the_line(tmp_path: Path, value: str, why: str) -> None:
    """Runspend never replaces the variable with an empty string."""
    message = refused(tmp_path, f"{SERVER}    token: {value}\n", {"A": "x"})
    assert f"{tmp_path}/runspend.yaml, line 4, tracking[0].token: " in message
    assert why in message


def test_an_empty_variable_is_not_a_secret(tmp_path: Path) -> None:
    """A variable with an empty value is a mistake. It does not mean a login without a password."""
    assert "line 4, tracking[0].token: a value is needed" in refused(tmp_path, f"{SERVER}    token: ${{T}}\n", {"T": ""})


@pytest.mark.parametrize(
    ("password", "encoded"),
    [
        ("plain-1", "plain-1"),
        ("p@ss/w:rd", "p%40ss%2Fw%3Ard"),
        ("50%off", "50%25off"),
        ("done%2Falready", "done%2Falready"),
        ("ü", "%C3%BC"),
    ],
)
def test_a_password_in_a_uri_is_encoded_once(tmp_path: Path, password: str, encoded: str) -> None:
    """A password with special characters must not end the URI early. A password that is already encoded is not changed."""
    settings = read_settings(tmp_path, f"{SERVER}    database: postgresql://u:${{P}}@db/mlflow\n", {"P": password})
    database = settings.tracking[0].database
    assert database is not None
    assert database.get_secret_value() == f"postgresql://u:{encoded}@db/mlflow"


# --- mistakes in the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trackin: []\n", "line 1, trackin: unknown key. Did you mean `tracking`? Allowed keys are access, access_log, archive"),
        (f"{SERVER}    tokn: hunter2hunter2\n", "line 4, tracking[0].tokn: unknown key. Did you mean `token`?"),
        (
            f"{SERVER}    copy:\n      tag: [a]\n",
            "line 5, tracking[0].copy.tag: unknown key. Did you mean `tags`? Allowed keys are params, tags",
        ),
        ("path: /x\n", "line 1, path: unknown key"),
        ("tracking:\n  - name: prod\n", "line 2, tracking[0].uri: this key is missing"),
        ("memory: 200MB\n", "line 1, memory: at least 500MB is needed: Runspend itself uses 200MB; found '200MB'"),
        ("currency: usd\n", "line 1, currency: a currency code of three capital letters is needed, such as USD or EUR; found 'usd'"),
        ("mail:\n  backend: smpt\n", "line 2, mail.backend: allowed values are 'file', 'smtp' or 'none'; found 'smpt'"),
        ("mail:\n  port: 99999\n", "line 2, mail.port: it should be less than or equal to 65535; found '99999'"),
        ("mail: {backend: smtp}\n", "line 1, mail: `backend: smtp` needs `host`"),
        ("mail: {username: a}\n", "line 1, mail: `username` and `password` belong together"),
        ("mail:\n  operators: [nobody]\n", "line 2, mail.operators[0]: a mail address is needed"),
        ("tracking: {name: prod}\n", "line 1, tracking: it should be a list; found a map"),
        ("tracking:\n  - name: a b\n    uri: http://m\n", "line 2, tracking[0].name: a name of letters, digits"),
        (
            f"{SERVER}    copy: {{tags: everything}}\n",
            "line 4, tracking[0].copy.tags: it should be a list; found 'everything', or allowed values are 'all'",
        ),
        (f"{SERVER}    max_vanish: 120%\n", "line 4, tracking[0].max_vanish: it should be less than or equal to 1; found '120%'"),
        (
            f"{SERVER}    token: a1b2c3\n    username: u\n    password: p\n",
            "line 2, tracking[0]: `token` and `username`/`password` are both set",
        ),
        (f"{SERVER}    username: u\n", "line 2, tracking[0]: `username` and `password` belong together"),
        ("billing:\n  - name: aws\n", "line 2, billing[0]: `uri` is missing"),
        ("billing:\n  - {name: a, uri: b, format: csv}\n", "line 2, billing[0].format: allowed values are 'auto', 'aws-cur'"),
        (
            "scope:\n  include:\n    - acount: x\n",
            "line 3, scope.include[0]: unknown selector key 'acount'; allowed keys are source, account",
        ),
        ("scope:\n  include:\n    - {}\n", "line 3, scope.include[0]: a selector is a map"),
        ("dimensions:\n  team: [tag.team]\n", "line 2, dimensions.team[0]: allowed values are run.tag.KEY"),
        ("dimensions:\n  team: [{usr: a.csv}]\n", "line 2, dimensions.team[0].usr: allowed values are 'user'"),
        ('schedule: {at: "06:00"}\n', "line 1, schedule: unknown key"),
        (
            f"{SERVER}    write_token: t\n    annotate: 3\n",
            "line 5, tracking[0].annotate: allowed values are true, false, or a map such as {requests_per_second: 20}; found '3'",
        ),
        ("annotate: {metric: cost}\n", "line 1, annotate: unknown key"),
        (
            f"{SERVER}    via: system-tables\n",
            "line 4, tracking[0].via: allowed values are 'auto', 'database' or 'api'; found 'system-tables'",
        ),
        ("rates:\n  prices: [{instance_type: a, price: 1, currency: USD, per: hour}]\n", "line 2, rates.prices[0].per: unknown key"),
        (
            "billing:\n  - {name: a, format: machines, region: b, machines: [{resource_id: c, from: 2026-01-01, per_hour: 1}]}\n",
            "line 2, billing[0]: `format: machines` reads no files. Leave `region` out",
        ),
        (
            "billing:\n  - {name: a, uri: ./bills, credentials: me}\n",
            "line 2, billing[0]: `credentials` has no effect on a folder. Leave it out, or correct `uri`.",
        ),
        ("billing:\n  - {name: a, uri: 'gs://b/c', region: eu}\n", "line 2, billing[0]: `region` has no effect on gs://."),
        (
            "billing:\n  - {name: a, format: gcp, uri: 'bigquery://p/d/t', delivery: parts}\n",
            "line 2, billing[0]: `delivery` has no effect on bigquery://.",
        ),
        ("stores:\n  - {uri: 'file:///a', endpoint: 'http://b'}\n", "line 2, stores[0]: `endpoint` has no effect on a folder."),
        (
            "billing:\n  - {name: a, uri: b, slurm: {prices: {gpu: 1}, timezone: Mars/Olympus}}\n",
            "line 2, billing[0].slurm.timezone: the name of a time zone is needed",
        ),
        ("home:\n", "line 1, home: "),
        ('home: ""\n', "line 1, home: a folder is needed"),
        ("stores:\n  - uri: ''\n", "line 2, stores[0].uri: a URI or a folder is needed"),
    ],
)
def test_a_mistake_names_file_line_key_and_what_is_allowed(tmp_path: Path, text: str, expected: str) -> None:
    """One sentence states how to correct the file, so that no one needs the manual."""
    message = refused(tmp_path, text)
    assert message.startswith(f"cannot read {tmp_path}/runspend.yaml, ")
    assert expected in message
    assert "hunter2" not in message
    assert "a1b2c3" not in message


def test_all_mistakes_are_listed_by_line(tmp_path: Path) -> None:
    """Users can correct all mistakes after one run."""
    message = refused(tmp_path, "currency: usd\ntracking:\n  - name: prod\n    url: http://m\nmail: {backend: pigeon}\n")
    assert "4 mistakes" in message
    assert [line.split(",")[0].strip() for line in message.splitlines()[1:]] == ["line 1", "line 3", "line 4", "line 5"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("currency: USD\nhome: a\ncurrency: EUR\n", "line 3, currency: this key is already on line 1"),
        (f"{SERVER}    uri: http://other\n", "line 4, tracking[0].uri: this key is already on line 3"),
        ("a: &x [1]\nb: *x\n", "line 2: aliases"),
        ("home: !!python/object/apply:os.system [echo]\n", "line 1, home: YAML tags"),
        ("home: !secret x\n", "line 1, home: YAML tags"),
        ("home: a\n---\nhome: b\n", "line 2: a second document"),
        ("- a\n- b\n", "line 1: a map of keys is needed"),
        ("home: [a\n", "this is not valid YAML"),
        ("mail:\n  password: %canary-value\n", "line 2: this is not valid YAML"),
        ("mail:\n\tport: 1\n", "line 2: this is not valid YAML"),
        ('mail:\n  password: "canary-value\n', "this is not valid YAML"),
        ("home: a\x00b\n", "this is not valid YAML (it has a control character)"),
        ("home: " + "[" * 40 + "]" * 40 + "\n", "nested deeper than"),
        ("? [a]\n: b\n", "a key must be a string"),
        ("stores: [{uri: a}]\nartifacts: [{uri: b}]\n", "line 2, artifacts: it is the same as `stores`, on line 1"),
    ],
)
def test_yaml_that_could_be_read_in_two_ways_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    """Duplicate keys, aliases, tags, several documents and broken syntax are refused. The error names the line, but not the value."""
    message = refused(tmp_path, text)
    assert expected in message
    assert "canary-value" not in message


def test_a_bomb_of_aliases_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    """Nine levels of nine references would expand to 387 million values."""
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 10))
    assert "line 2: aliases" in refused(tmp_path, "l0: &l0 [x]\n" + levels)


@pytest.mark.parametrize("raw", [b"home: \xff\xfe\n", b"x" * 1_000_001], ids=["not UTF-8", "too large"])
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path: Path, raw: bytes) -> None:
    """This covers bytes that are not text, and a file too large to be written by hand."""
    (tmp_path / "runspend.yaml").write_bytes(raw)
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings(tmp_path / "runspend.yaml", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{SERVER}billing:\n  - {{name: Prod, uri: b}}\n", "line 5, billing[0].name: the name 'Prod' is already taken by tracking[0]"),
        ("tracking:\n  - {name: all, uri: http://m}\n", "line 2, tracking[0].name: the name 'all' is taken"),
        (
            "budgets:\n  - {name: a, amount: 1, notify: [owner]}\n  - {name: A, amount: 2, notify: [owner]}\n",
            "line 3, budgets[1].name: the name 'A' is already taken by budgets[0]",
        ),
        ("stores:\n  - uri: s3://b\n  - uri: s3://b/x\n", "line 3, stores[1].uri: this root and stores[0] overlap"),
        (
            "budgets:\n  - {name: a, amount: 9, actual: [5 EUR], notify: [owner]}\n",
            "line 2, budgets[0]: threshold 5 EUR is not in `currency`, USD",
        ),
    ],
)
def test_names_and_roots_that_clash_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    """Names are keys of stored rows, and a file may belong to only one store."""
    assert expected in refused(tmp_path, text)


def test_sibling_roots_do_not_clash(tmp_path: Path) -> None:
    """`s3://b/run1` does not contain `s3://b/run10`."""
    assert len(read_settings(tmp_path, "stores: [{uri: s3://b/run1}, {uri: s3://b/run10}]\n").stores) == 2


# --- lengths of time, thresholds, retention -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", timedelta(minutes=90)),
        ("36h", timedelta(hours=36)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
        ("1d 12h", timedelta(hours=36)),
        ("1.5h", timedelta(minutes=90)),
    ],
)
def test_a_duration_is_a_number_and_its_unit(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


NO_DURATIONS = [
    "",
    " ",
    "0",
    "0d",
    "0h",
    "00d",
    "-1d",
    "-30d",
    "30",
    "all",
    "ALL",
    "*",
    "none",
    "null",
    "never",
    "d",
    "d30",
    "30 days ago",
    "1e3d",
    "inf",
    "nan",
    "99999999999d",
    "d@1",
    "stop@1",
    "30d;",
    "٣٠d\u0000",
]


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_a_length_of_time_that_means_now_or_everything_is_refused(tmp_path: Path, text: str) -> None:
    """Other tools have deleted everything for empty, zero, negative and 'all'. Here, ages and grace periods refuse these values."""
    with pytest.raises(ValueError, match="length of time"):
        parse_duration(text)
    quoted = json.dumps(text)
    for part in (f"select: {{unused_for: {quoted}}}", f"select: {{kind: checkpoint}}\n    grace: {quoted}"):
        message = refused(tmp_path, f"retention:\n  - name: a\n    action: delete\n    {part}\n")
        assert "length of time" in message


@pytest.mark.parametrize(
    "select",
    [
        "",
        "{}",
        "all",
        "'*'",
        "[]",
        "{kind: all}",
        "{kind: '*'}",
        "{kind: ''}",
        "{kind: []}",
        "{status: '**'}",
        "{tracking: [prod, '*']}",
        "{not_tag.stage: production}",
        "{unused_for: all}",
        "{larger_than: 0}",
        "{larger_than: all}",
        "{larger_than: -5GB}",
        "{unused_for: '${UNSET_LATER}'}",
        "{everything: true}",
        "{not_: x}",
        "{tag.: x}",
    ],
)
@pytest.mark.parametrize("action", ["delete", "archive", "tier\n    to: GLACIER"])
def test_a_policy_that_selects_everything_is_refused(tmp_path: Path, select: str, action: str) -> None:
    """Twenty spellings of all, none and nothing are refused when the file is read, before any store is opened."""
    message = refused(tmp_path, f"retention:\n  - name: a\n    select: {select}\n    action: {action}\n", {"UNSET_LATER": ""})
    assert "retention[0].select" in message


def test_a_policy_that_names_something_is_taken(tmp_path: Path) -> None:
    """A policy with at least one narrowing key is accepted."""
    policy = "{name: a, select: {status: FAILED, larger_than: 2GiB, older_than: 1w}, action: archive}"
    settings = read_settings(tmp_path, f"stores: [{{uri: s3://cold}}]\narchive: {{to: s3://cold}}\nretention:\n  - {policy}\n")
    assert settings.retention[0].select == {"status": ["FAILED"], "larger_than": "2GiB", "older_than": timedelta(weeks=1)}
    assert settings.retention[0].grace == timedelta(days=30)


def test_tier_needs_a_class(tmp_path: Path) -> None:
    """`tier` has no default storage class."""
    assert "`action: tier` needs `to`" in refused(tmp_path, "retention:\n  - {name: a, select: {older_than: 1w}, action: tier}\n")


@pytest.mark.parametrize(
    ("written", "amount", "expected"),
    [
        ("80%", 5000, "4000"),
        ("33.5%", 10, "3.35"),
        ("500 USD", 5000, "500"),
        ("500USD", 5000, "500"),
        (500, 5000, "500"),
        ("120 %", 5000, "6000"),
    ],
)
def test_a_threshold_is_a_percentage_or_money(written: Any, amount: int, expected: str) -> None:
    """A percentage is relative to the budget's amount. Both give exact amounts."""
    budget = Budget(name="a", amount=Decimal(amount), actual=[written], notify=["owner"])
    assert threshold_amount(budget.actual[0], budget.amount) == Decimal(expected)


@pytest.mark.parametrize("written", ["", "0%", "0", "-5%", "all", "80 %%", "80 usd", "1e3", "NaN", "5,000"])
def test_a_threshold_that_says_nothing_is_refused(tmp_path: Path, written: str) -> None:
    """A threshold of zero would alert immediately, and the other values are ambiguous."""
    text = f"budgets:\n  - name: a\n    amount: 5\n    actual: [{json.dumps(written)}]\n    notify: [owner]\n"
    assert "line 4, budgets[0].actual[0]: a threshold above zero is needed" in refused(tmp_path, text)


def test_a_threshold_without_a_unit_is_refused(tmp_path: Path) -> None:
    """80 in a budget of 5,000 may be a percentage whose sign is missing."""
    text = "budgets:\n  - {name: a, amount: 5000, actual: [80], notify: [owner]}\n"
    assert "could be a percentage or money. Write 80% or the money with its currency" in refused(tmp_path, text)


@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "Infinity", "lots", ""])
def test_a_budget_needs_an_amount(tmp_path: Path, amount: str) -> None:
    """The amount must be above zero and finite."""
    assert "budgets[0].amount" in refused(tmp_path, f"budgets:\n  - {{name: a, amount: '{amount}', notify: [owner]}}\n")


def test_amounts_are_exact(tmp_path: Path) -> None:
    """An amount keeps every written digit."""
    settings = read_settings(tmp_path, "budgets: [{name: a, amount: 1234567.0123456789012345678901, notify: [owner]}]\n")
    assert str(settings.budgets[0].amount) == "1234567.0123456789012345678901"


def test_a_newline_cannot_get_into_a_mail_header(tmp_path: Path) -> None:
    """An address with a line break is refused."""
    for address in ('"a@b.c\\nBcc: x@y.z"', '"A\\r\\nB <a@b.c>"'):
        assert "a mail address is needed" in refused(tmp_path, f"budgets:\n  - {{name: a, amount: 1, notify: [{address}]}}\n")


# --- using the settings --------------------------------------------------------------------------------------------------


def test_settings_cannot_be_changed() -> None:
    """Settings are frozen, so a run uses exactly what was loaded."""
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.currency = "EUR"  # type: ignore[misc]  # the point of the test


def test_shown_settings_read_back_as_they_are(tmp_path: Path) -> None:
    """The output of `runspend config` is itself a configuration, and marks default values."""
    settings = load_settings(EXAMPLES / "one-box.yaml", {})
    shown = show_settings(settings)
    assert 'currency: "EUR"\n' in shown
    assert 'people: "show"  # default\n' in shown
    assert '"shared": "keep", "idle": "keep"}  # default\n' in shown
    assert read_settings(tmp_path, shown).model_dump() == settings.model_dump()


def test_shown_settings_hide_secrets_and_only_them(tmp_path: Path) -> None:
    """Hosts, users and references to connections stay readable."""
    shown = show_settings(load_settings(EXAMPLES / "cloud.yaml", ENV))
    assert "canary" not in shown
    assert 'database: "postgresql://reader:***@mlflow-db.ml:5432/mlflow"' in shown
    assert 'token: "***"' in shown
    assert 'token: "connection:mlflow_prod"' in show_settings(read_settings(tmp_path, f"{SERVER}    token: connection:mlflow_prod\n"))


def test_trial_settings_write_one_folder_and_send_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runspend try` needs no file. Its paths are relative to the current directory."""
    monkeypatch.chdir(tmp_path)
    for present in ("bill.csv", "m.db"):
        with pytest.raises(ConfigError, match="there is no such file"):
            trial_settings("sqlite:///m.db", "bill.csv", Path("out"))
        (tmp_path / present).touch()
    settings = trial_settings("sqlite:///m.db", "bill.csv", Path("out"))
    assert (settings.home, settings.warehouse.uri) == (tmp_path / "out", str(tmp_path / "out" / "warehouse"))
    assert (settings.tracking[0].uri, settings.billing[0].uri) == (f"sqlite:///{tmp_path}/m.db", str(tmp_path / "bill.csv"))
    assert (settings.mail.backend, settings.path) == ("none", None)
    with pytest.raises(ConfigError, match="--billing: "):
        trial_settings("http://m", "", Path("out"))


def test_the_published_schema_is_current() -> None:
    """`runspend config --schema > docs/runspend.schema.json` writes that file from the models."""
    published = Path(__file__).parents[2] / "docs" / "runspend.schema.json"
    assert json.loads(published.read_text(encoding="utf-8")) == json_schema()


@pytest.mark.parametrize("name", ["cloud", "databricks", "one-box"])
def test_the_schema_takes_the_examples_and_refuses_unknown_keys(name: str) -> None:
    """An editor that uses the schema must not mark valid keys as errors."""
    jsonschema = pytest.importorskip("jsonschema")
    data = json.loads(json.dumps(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")), default=str))
    validator = jsonschema.Draft202012Validator(json_schema())
    assert [error.message for error in validator.iter_errors(data)] == []
    assert list(validator.iter_errors({**data, "trackin": []}))


@settings(deadline=None)
@given(st.one_of(st.integers(1, 10**7).map(lambda n: timedelta(minutes=n)), st.integers(1, 10**9).map(lambda n: timedelta(milliseconds=n))))
def test_a_duration_survives_being_written(duration: timedelta) -> None:
    """`runspend config` prints durations that parse to the same value."""
    assert parse_duration(format_duration(duration)) == duration


def test_models_can_be_made_in_code() -> None:
    """Tests and the demo build settings without a file."""
    server = TrackingServer(name="a", uri="mlruns")
    assert (server.uri, server.copy_.tags) == ("mlruns", [])
    assert MailSettings(from_="Ana <ana@example.com>").from_ == "Ana <ana@example.com>"
    policy = RetentionPolicy(name="a", select={"unused_for": timedelta(days=1)}, action="delete")
    assert policy.select == {"unused_for": timedelta(days=1)}
    assert Settings(budgets=[Budget(name="a", amount=Decimal(1), notify=["owner"])]).budgets[0].name == "a"
