"""Secrets in MLflow's own strings. Python and DuckDB find the same shapes, and harmless strings stay unchanged."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runspend.config.settings import ArtifactStore
from runspend.core.secret_shapes import macros_sql, redact_place, redact_secrets
from runspend.ingest.tracking.artifact_folders import find_folders
from runspend.storage.uris import folder_within, parse_root
from tests.ingest.tracking.tracking_world import World

# Invented secrets, assembled here, so that no scanner of repositories finds one in this file.
B40 = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEX" + "AMPLEKEY"
HEX32, HEX40 = "0123456789abcdef" * 2, "0123456789abcdef0123456789abcdef01234567"
WORD = "Zx9Kq7Lm3Np5Rt8Vw2Yb4Cd6Fg1Hj0Ks"
JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiJhbmEifQ." + "c2lnbmF0dXJl"
PEM = "-----BEGIN RSA " + f"PRIVATE KEY-----\nMIIE{WORD}\n{WORD}\n-----END RSA " + "PRIVATE KEY-----"
# (a string, the part of it that must not be stored)
SECRETS = [
    ("AKIA" + "IOSFODNN7EXAMPLE", "IOSFODNN7"), ("ASIA" + "IOSFODNN7EXAMPLE", "IOSFODNN7"), (f"AKIA{'IOSFODNN7EXAMPLE'}:{B40}", B40), (f"aws_secret_access_key = {B40}", B40),
    (f"AWS_SECRET_ACCESS_KEY={B40}", B40), (f"ghp_{WORD}", WORD), (f"gho_{WORD}", WORD), (f"github_pat_11AAA_{WORD}", WORD), (f"glpat-{WORD[:20]}", WORD[:20]), (f"gldt-{WORD[:20]}", WORD[:20]),
    (f"hf_{WORD}", WORD), (f"model from hf_{WORD} today", WORD), (f"xoxb-123456789012-{WORD}", WORD), (f"xoxp-{WORD}", WORD), (f"xapp-1-A1-{WORD}", WORD),
    (f"sk-{WORD}{WORD}"[:51], WORD), (f"sk-proj-{WORD}", WORD), (f"sk-ant-api03-{WORD}", WORD), (f"sk_live_{WORD}", WORD), (f"WANDB_API_KEY={HEX40}", HEX40), (f"wandb_v1_{WORD}", WORD),
    (JWT, "eyJzdWIi"), (f"dapi{HEX32}", HEX32), ("AIza" + f"Sy{WORD}", WORD), (f"ya29.{WORD}", WORD), (f"npm_{WORD}", WORD), ("pypi-" + f"AgEIcHlwaS5vcmc{WORD}", WORD),
    (f"hvs.{WORD}", WORD), (f"nvapi-{WORD}{WORD}", WORD), (f"SG.{WORD[:22]}.{WORD}", WORD), (f"1234567890:AA{WORD}x", WORD), (f"curl api.telegram.org/bot123456789:AA{WORD}x/sendMessage", WORD), (f"Ocp-Apim-Subscription-Key: {WORD}", WORD), (f"signing_key={WORD}", WORD), (f"gsk_{WORD}{WORD}", WORD), (f"lsv2_pt_{HEX32}_{HEX32[:10]}", HEX32),
    (f"abc8Q~{WORD}ab", WORD), ("Authorization: Bearer s3cr3t-canary-1", "s3cr3t-canary-1"), (f"Authorization: Bearer {WORD}", WORD), (f"authorization: {WORD}", WORD),
    ("bearer " + WORD, WORD), ("Bearer%20" + WORD, WORD), (f"-H 'Authorization: token {WORD}'", WORD), ('{"Authorization": "Bearer ' + WORD + '"}', WORD),
    ("Authorization: Basic " + base64.b64encode(b"ana:hunter2canary").decode(), "aHVudGVy"), ("Basic " + base64.b64encode(b"ana:hunter2canary").decode(), "aHVudGVy"),
    ("https://ana:hunter2@git.acme.com/a.git", "hunter2"), (f"https://{WORD}@github.com/acme/a.git", WORD), (f"https://{WORD}:x-oauth-basic@github.com/a.git", WORD),
    (f"https://oauth2:{WORD}@gitlab.com/a.git", WORD), (f"git+https://{WORD}@github.com/a", WORD), ("postgresql://mlflow:p%40ss@db/x", "p%40ss"), ("postgresql://mlflow:p@ss@db/x", "ss@"),
    ("postgresql://mlflow:pa/ss#w@db/x", "ss#w"), ("s3://AK:canary9@bucket/1/r/artifacts", "canary9"), ("redis://:hunter2@cache:6379/0", "hunter2"), ("mlflow-artifacts://u:hunter2@host:5000/1/r", "hunter2"),
    ("see http%3A%2F%2Fana%3Ahunter2%40host%2Fx", "hunter2"), ("https://a.blob.core.windows.net/c/p?sv=2024&se=2026-12-01&sp=rl&sig=aB3%2Fcanary%3D", "canary"), ("wasbs://c@a.blob.core.windows.net/p?sig=canary9", "canary9"),
    (f"https://b.s3.amazonaws.com/k?X-Amz-Credential=AKID%2F20261101&X-Amz-Expires=60&X-Amz-Signature={HEX40}", HEX40), ("https://h/k?X-Amz-Security-Token=canary99", "canary99"),
    ("https://storage.googleapis.com/b/k?X-Goog-Signature=canary99", "canary99"), ("https://d.cloudfront.net/k?Policy=canary99x&Signature=canary88&Key-Pair-Id=canary77", "canary88"),
    ("https://maps/api?key=AIcanary99", "AIcanary99"), ("https://h/x?token=canary99", "canary99"), ("https://h/x?a=1&access_token=canary9", "canary9"),
    ("https://hooks.slack.com/services/T0/B0/canary9", "canary9"), ("https://acme.webhook.office.com/webhookb2/canary9", "canary9"), ("https://discord.com/api/webhooks/1/canary9", "canary9"),
    ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=canary9==;EndpointSuffix=core.windows.net", "canary9"), ("Server=db;Uid=u;Pwd=hunter2;", "hunter2"), ("password=hunter2", "hunter2"),
    ("password: hunter2", "hunter2"), ("DB_PASSWORD='hunter 2 x'", "2 x"), ('{"password": "hunter 2"}', "hunter"), ("password%3Dhunter2", "hunter2"), ("api_key=canary9", "canary9"), ("x-api-key: canary9", "canary9"),
    ("client_secret=canary9", "canary9"), ("train.py --password hunter2 --epochs 3", "hunter2"), ("train.py --api-key canary9", "canary9"), ("train.py --token canary9", "canary9"), ("MLFLOW_TRACKING_TOKEN=canary9", "canary9"),
    ("HF_TOKEN=canary9", "canary9"), (f"MY_TOKEN={WORD}", WORD), ("token=canary9", "canary9"), (PEM, WORD), (PEM[:60], WORD[:20]), ("-----BEGIN OPENSSH " + f"PRIVATE KEY-----{WORD}", WORD),
    (f"two: ghp_{WORD},hf_{WORD}", WORD), ("Cookie: session=canary9; csrftoken=canary8", "canary9"), ("Set-Cookie: sid=canary9", "canary9"), ("curl -b x -H 'cookie: _oauth2_proxy=canary9'", "canary9"),
    ("curl -u ana:canary9 https://h/x", "canary9"), ("curl --user 'ana:canary9' https://h", "canary9"), ("curl --proxy-user=ana:canary9", "canary9"), ("DB_PASS=canary9", "canary9"), ("smtp-pass: canary9", "canary9"),
]  # fmt: skip
HARMLESS = [
    HEX40, HEX32, f"m-{HEX32}", "3f1c9a7b", "i-0a1b2c3d4e5f67890", "arn:aws:iam::123456789012:role/mlflow", "arn:aws:sagemaker:us-east-1:123456789012:training-job/resnet-50",
    "arn:aws:secretsmanager:us-east-1:123456789012:secret:mlflow-AbCdEf", "ana@acme.com", "Ana <ana@acme.com>", "mailto:ana@acme.com", "owner:ana@acme.com", "token_classification_bert", "s3://bucket/1/token_embeddings/ckpt-3",
    "s3://bucket/sk-learn-models/2026", f"s3://bucket/sk-{HEX32}/artifacts", "sk-learn-pipeline-of-the-year-2026", "sk-test-classification-of-images", "sk-ant-colony-optimisation-run", "sk-or-tools-vehicle-routing-problem", "sk-admin-dashboard-7d9f8b6c5d-abcde", "xapp-1-deployment-7d9f8b6c5d-x2x4z", "nvapi-" + "something-that-is-long-" * 2, "secret_santa", "secretary-bird", "tokenizer=bert-base", "max_tokens=512", "max_token=4096", "num_tokens: 100",
    "eos_token=</s>", "pad_token: [PAD]", "password-strength-estimator", "basic tensorflow training", "Basic authentication", "bearer of news", "abfss://data@acct.dfs.core.windows.net/1/r/artifacts",
    "wasbs://data@acct.blob.core.windows.net/x", "git@github.com:acme/model.git", "ssh://git@github.com/acme/model.git", "https://github.com/acme/model.git", "https://github.com/acme/model/tree/main?tab=readme#x", "http://mlflow:5000/api/2.0",
    "docker://registry:5000/img@sha256:" + HEX32, "k8s://host:6443/ns/pod", "http://[::1]:8080/x@y", "dbfs:/databricks/mlflow/1/r/artifacts", "file:///home/ana/mlruns/1/r/artifacts", "/home/ana/train.py --epochs 3 --lr 0.1",
    "/subscriptions/" + HEX32 + "/virtualMachines/vm1", "//compute.googleapis.com/projects/p/zones/z/instances/123", "hf_bert", "hf_internal-testing/tiny", "sig", "design=3", "signal=2", "key=value", "s3://b/1/r?versionId=abc", "https://h/x?key=model",
    "authorization service", "auth=none", "PWD is /home/ana", "gs://b/1/r/artifacts", "2026-11-28T02:17:17+00:00", "lr=0.001, batch=32: best", "***", "eyJ", "日本語 🚀 modèle", "a\nb\tc", "{'a': 'b'}",
    "us-east-1:abcd", "user-3", "train_3.py", "CUDA_VISIBLE_DEVICES=0,1", "resnet50-token-mixing-secret-sauce", "AKIAfake", "s3a://bucket/path", "hdfs://namenode:8020/user/ana/x", "passage=3", "access=public", "api=v2",
    "cookie: chocolate", "cookie-cutter:3", "fortune cookies = 3", "pass=2", "first-pass: 3", "n_pass=4", "two-pass encoder", "python -u train.py", "docker run -u 1000:1000 x", "--user ana", "bypass=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Any:
    """DuckDB with the macros."""
    con = duckdb.connect()
    con.execute(macros_sql())
    return con


@pytest.mark.parametrize(("text", "secret"), SECRETS, ids=range(len(SECRETS)))
def test_no_shape_of_secret_is_kept(text: str, secret: str) -> None:
    """The secret is alone, in a sentence, in brackets, on a second line, and one of two."""
    for around in ("{}", "see {} here", "({})", "first\n{}", "{},{}", "a={}", "/{}"):
        assert secret not in redact_secrets(around.replace("{}", text)), around


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_stay(text: str) -> None:
    assert redact_secrets(text) == text


def test_duckdb_and_python_redact_the_same_secrets(engine: Any) -> None:
    """Each text of the corpus is tried alone and next to the beginning of every other one. Redacting twice changes nothing more."""
    texts = [*(text for text, _ in SECRETS), *HARMLESS]
    texts += [f"{one} {other}"[:400] for one in texts for other in texts[::29]]
    found = [row[0] for row in engine.execute("select redacted(t) from (select unnest($texts) as t)", {"texts": texts}).fetchall()]
    assert found == [redact_secrets(text) for text in texts]
    assert [redact_secrets(text) for text in found] == found


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([t for t, _ in SECRETS]),
            st.sampled_from(["://", "@", "=", ":", " ", "\x1e", "'", '"', "token", "password", "\u00a0", "é", "\x00", "?", "&"]),
            st.text(max_size=8),
        ),
        max_size=6,
    ).map("".join)
)
def test_python_and_duckdb_redact_any_text_equally(engine: Any, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert engine.execute("select redacted($text)", {"text": text}).fetchone()[0] == redact_secrets(text)


# Each starts a match again and again, and completes none.
ALMOST = (
    "a", "://", "password", "://a:", "token=", "-----BEGIN PRIVATE KEY-----", "eyJ", "_token", "%3A%2F%2F", "authorization: ", "://a:b", "%3a%2f%2fa", "nvapi-", "sk-proj-",
    "-eyJaaaaaaaa", "pwd:::", "eyJabcdefgh.", " --password", "s3://k:p/", "-" + "a" * 16, "-", "pwd=\\", "xQ~",
)  # fmt: skip
ENDS = ("", " @", " %40 token=", "@", "/@", "%40", "a" * 20, "-" + "b" * 16 + "-sk-or-", ' pwd="a"')


def test_python_and_duckdb_redact_near_matches_equally(engine: Any) -> None:
    """Python tries a part of a string alone, and finds what DuckDB finds in the whole string."""
    texts = [
        f"{start}{almost * count}{end}" for almost in ALMOST for end in ENDS for count in (1, 3, 20) for start in ("", "@ ", "b" * 16 + "-")
    ]
    found = [row[0] for row in engine.execute("select redacted(t) from (select unnest($texts) as t)", {"texts": texts}).fetchall()]
    assert found == [redact_secrets(text) for text in texts]


@pytest.mark.torture
@pytest.mark.parametrize("almost", ALMOST)
def test_long_texts_take_no_longer_than_their_length(almost: str) -> None:
    """96 kB that almost match take seconds. A pattern with backtracking would take minutes. The limit is generous, for busy machines."""
    began = time.perf_counter()
    for end in ENDS:
        redact_secrets((almost * (96_000 // len(almost) + 1))[:96_000] + end)
    assert time.perf_counter() - began < 30 * len(ENDS)


URIS = [
    ("s3://AK:canary9@bucket/mlflow/1/r/artifacts", "s3://bucket/mlflow", "1/r/artifacts"),
    ("s3://AK:ca/nary9@bucket/mlflow/1/r/artifacts", "s3://bucket/mlflow", "1/r/artifacts"),
    ("gs://u:canary9@bucket/1/r/artifacts", "gs://bucket", "1/r/artifacts"),
    (f"s3://bucket/1/r/artifacts?X-Amz-Algorithm=AWS4&X-Amz-Expires=60&X-Amz-Signature={HEX40}", "s3://bucket", "1/r/artifacts"),
    (
        "wasbs://data@acct.blob.core.windows.net/1/r/artifacts?sv=2024&se=2026-12-01&sig=canary9",
        "abfss://data@acct.dfs.core.windows.net",
        "1/r/artifacts",
    ),
    ("https://acct.blob.core.windows.net/data/1/r/artifacts?sp=r&sig=canary9", "abfss://data@acct.dfs.core.windows.net", "1/r/artifacts"),
]


@pytest.mark.parametrize(("uri", "store", "folder"), URIS)
def test_a_redacted_uri_still_matches_its_store(uri: str, store: str, folder: str) -> None:
    kept, root = redact_place(uri), parse_root(ArtifactStore(uri=store))
    assert "canary9" not in kept and "nary9" not in kept and HEX40 not in kept
    assert folder_within(kept, root) == folder
    assert find_folders(f"{store}/{folder}") <= find_folders(kept)


PLACES = [
    "s3://bucket/token=bert/1/r/artifacts", "s3://bucket/secret=none/1/r", "s3://my-bucket/sk-ant-0123456789abcdef0/1/r/artifacts", "file:///data/sk-test-classificationofimages/1/r/artifacts",
    "/mnt/pwd=x/1/r", "gs://b/hf_abcdefghijklmnopqrstuvw/1/r", "mlflow-artifacts:/glft-finetune-resnet-large-v2/1/r", "dbfs:/password: 3/x"[:15], f"s3://b/1/r/dapi{HEX32}/m", "models:/token=3/1",
]  # fmt: skip


@pytest.mark.parametrize("uri", PLACES)
def test_the_path_of_a_place_stays_and_nothing_else(engine: Any, uri: str) -> None:
    """Names of folders may look like secrets. If one were hidden, its files would have no owner."""
    for text in (
        uri,
        f"{uri}?sig=canary9",
        f"{uri}?a=1&x=hf_{WORD}#token=canary9",
        uri.replace("://", "://u:can/ary9@", 1),
        f"{uri}#{JWT}",
        uri.replace("://", "://u:ca#n?ary9@", 1),
    ):
        kept = redact_place(text)
        assert uri.partition("://")[2] in kept
        assert "ary9" not in kept and WORD not in kept and "eyJ" not in kept
        assert engine.execute("select redacted_place($text)", {"text": text}).fetchone()[0] == kept
    assert redact_place(uri) == uri


def test_a_text_that_is_not_an_address_is_searched_whole(engine: Any) -> None:
    for text, secret in [*SECRETS, *((f"s3://b/1 {text}", secret) for text, secret in SECRETS)]:
        found = engine.execute("select redacted_place($text)", {"text": text}).fetchone()[0]
        assert found == redact_place(text)
        assert secret not in found


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/1/r?sig=***#x",
        "s3://bucket/1/r?a=1&sig=***",
        "s3://bucket/1/r?sig=x",
        "s3://bucket/1?x/r?sig=***",
        "s3://x:***@bucket/1/r",
        "s3://***@***@bucket/1",
        "s3://bucket/../r?sig=***",
    ],
)
def test_only_a_whole_signature_is_left_out(uri: str) -> None:
    assert folder_within(uri, parse_root(ArtifactStore(uri="s3://bucket"))) is None


TOKEN = f"ghp_{WORD}"


def test_every_text_that_is_extracted_is_redacted(tmp_path: Path) -> None:
    """Each field of runs, experiments, machines, owners and traces has a canary. A month that an older version copied is cleaned too."""
    world = World(tmp_path)
    at = 1762041600000  # 2025-11-02
    run_tags = {
        "mlflow.source.name": f"https://{TOKEN}@github.com/a/train.py", "mlflow.source.git.commit": HEX40, "mlflow.source.git.repoURL": f"https://x:{TOKEN}@github.com/a.git", "mlflow.user": f"ana {TOKEN}",
        "team": f"vision {TOKEN}", "owner": TOKEN, "note": f"Authorization: Bearer {WORD}", "mlflow.note.content": f"password={WORD}", "instance_id": "i-0abc", "slurm_job_id": "4711", "clean": "stays", "mlflow.parentRunId": "p" * 32,
    }  # fmt: skip
    world.add_run("a" * 32, at, at + 3_600_000, tags=run_tags, params={"url": f"s3://k:{WORD}@b/x", "lr": "0.1"})
    world.add_run(
        "b" * 32,
        at,
        at + 3_600_000,
        tags={"runspend.resource_ids": json.dumps(["i-1", f"i-2 {TOKEN}"]), "instance_type": TOKEN, "slurm_job_id": TOKEN},
    )
    world.do(
        "update runs set name = ?, user_id = ?, artifact_uri = ?",
        f"run {TOKEN}",
        TOKEN,
        f"s3://k:{WORD}@bucket/1/r/artifacts?X-Amz-Signature={WORD}",
    )
    world.do("update experiments set name = ?, artifact_location = ?", f"vision {TOKEN}", f"s3://k:{WORD}@bucket/1")
    for key in ("team", "free"):
        world.do("insert into experiment_tags values (?, ?, 1)", key, f"{TOKEN} x")
    world.do("insert into logged_models values (?, 1, ?, 'active')", f"m-{HEX32}", f"s3://k:{WORD}@bucket/1/models/m")
    world.do("insert into trace_info values ('tr-1', 1, ?, 1, 1, 0.5)", at)
    world.do("insert into trace_request_metadata values ('mlflow.trace.user', ?, 'tr-1')", TOKEN)
    world.do("insert into spans values ('tr-1', 's', null, ?, ?, 0.5)", f"gpt {TOKEN}", f"openai {TOKEN}")
    copied: list[dict[str, Any]] = [{"tags": "all", "params": "all"}, {"tags": sorted(run_tags), "params": ["url", "lr"]}]
    for copy in copied:
        night = world.night(server={"copy": copy})
        everything = repr({unit: table.to_pylist() for unit, table in night.tables.items()})
        assert WORD not in everything
        run = night.run("a" * 32, "2025-11")
        assert run["source_name"] == "https://***@github.com/a/train.py"
        assert (run["git_commit"], run["resource_ids"], run["job_id"], run["parent_run_id"]) == (HEX40, ["i-0abc"], "4711", "p" * 32)
        assert run["artifact_uri"] == "s3://***@bucket/1/r/artifacts?X-Amz-Signature=***"
        assert json.loads(run["tags"])["clean"] == "stays"
        assert json.loads(run["params"])["lr"] == "0.1"
    table = night.tables["runs", "2025-11"].to_pylist()
    older = [
        row
        | {"run_id": "c" * 32, "source_name": f"https://{TOKEN}@h/x", "tags": json.dumps({"team": f"a {TOKEN}"}), "resource_ids": [TOKEN]}
        for row in table[:1]
    ]
    night.tables["runs", "2025-11"] = type(night.tables["runs", "2025-11"]).from_pylist(
        [*table, *older], schema=night.tables["runs", "2025-11"].schema
    )
    again = world.night(night)
    gone = again.run("c" * 32, "2025-11")
    assert (gone["source_name"], gone["tags"], gone["resource_ids"]) == ("https://***@h/x", '{"team":"a ***"}', ["***"])
