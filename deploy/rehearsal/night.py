"""One night in the running stack: runs through MLflow's server into S3, a bill in its bucket, Airflow by its API; then the results."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

PATIENCE = 1500  # seconds: the machine may have other work
PRICE, NEW_PRICE = "32.77", "41.00"  # of one hour of the machine; 24 hours are billed, 5 of them have runs
HOURS = ((0, 3, "FINISHED"), (2, 4, "FINISHED"), (5, 6, "FAILED"))
BUCKETS = ("mlflow", "bills")
# Ports of SeaweedFS that answer without a key: volume server, filer, master, and the gRPC ports of all four. For `store`, its S3 port
# too.
KEYLESS_PORTS = (8080, 8888, 9333, 18080, 18333, 18888, 19333)
PROBE = """
import socket, sys
for host, port in [(host, int(port)) for host in ("s3", "store") for port in sys.argv[1:]] + [("store", 8333)]:
    try:
        socket.create_connection((host, port), 3)
        print("open", host, port)
    except OSError:
        pass
"""
QUIET = """
select (select count(*) from dag_run where state in ('queued', 'running') and dag_id <> 'runspend_archive_artifacts') + (select count(*) from asset_dag_run_queue)
"""
LOST = "select count(*) from task_instance where try_number > 1 or state = 'up_for_retry'"


class Night:
    """A started stack, and the actions of a rehearsal."""

    def __init__(self, host: str, checkout: Path, compose: Callable[..., str], done: Callable[[str], None]) -> None:
        self.host, self.compose, self.done = host, compose, done
        self.checkout = checkout
        self.day = (datetime.now(timezone.utc) - timedelta(days=2)).replace(hour=0, minute=0, second=0, microsecond=0)

    def play(self) -> None:
        """Everything an operator and a user would see in the first day."""
        self.secrets = dict(line.split("=", 1) for line in (self.checkout / ".env").read_text().splitlines())
        self.log_in()
        self.until("a mail to operators: there is no bill yet", lambda: any("REFUSED" in subject for subject in self.mails()))
        self.until("nothing runs and nothing waits", self.is_quiet)
        self.check_hosts()
        self.log_runs()
        self.put_bill(PRICE)
        self.done("runs through MLflow's server, a bill through the S3 port")
        self.trigger("extract_runs", "load_bills", "measure_artifacts")
        self.until("tables woken by assets, and the budget's mail", lambda: any("vision" in subject for subject in self.mails()))
        self.until("the page", lambda: "786.48" in self.page())
        self.until("nothing runs and nothing waits", self.is_quiet)
        self.put_bill(NEW_PRICE)
        self.trigger("load_bills")
        self.until("the page after a bill alone was loaded again", lambda: "984.00" in self.page())
        self.until("nothing runs and nothing waits", self.is_quiet)
        self.check_rights()
        assert self.inside("scheduler", "runspend", "costs", "--by", "team").count("205.00") == 1, "5 hours at 41.00 belong to the team"
        self.inside("scheduler", "runspend", "status")
        self.inside("scheduler", "runspend", "doctor")
        lost = self.sql(LOST)
        assert lost == "0", f"{lost} tasks needed a second try"
        self.done("sums, rights, status and doctor")

    # --- what users do ---

    def log_in(self) -> None:
        """Return a token of Airflow's admin, with the password of `.env`."""
        given = {"username": "admin", "password": self.secrets["AIRFLOW_ADMIN_PASSWORD"]}
        self.token = json.loads(self.ask(8080, "/auth/token", given)[1])["access_token"]

    def log_runs(self) -> None:
        """Log three runs with artifacts, by MLflow's own client through the published port."""
        os.environ |= {"MLFLOW_TRACKING_URI": f"http://{self.host}:5000", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
        from mlflow import MlflowClient

        client, begin = MlflowClient(), int(self.day.timestamp() * 1000)
        experiment = client.create_experiment("vit")
        for start, end, status in HOURS:
            run = client.create_run(experiment, start_time=begin + start * 3_600_000, tags={"team": "vision", "instance_id": "i-1"})
            with tempfile.TemporaryDirectory() as folder:
                weights = Path(folder) / "weights.bin"
                weights.write_bytes(os.urandom(100_000))
                client.log_artifact(run.info.run_id, str(weights), "model")
            client.set_terminated(run.info.run_id, status=status, end_time=begin + end * 3_600_000)

    def put_bill(self, price: str) -> None:
        """Put a FOCUS bill for one day of one machine into the bucket, with its owner's key."""
        month = self.day.replace(day=1)
        period = {"BillingPeriodStart": text(month), "BillingPeriodEnd": text((month + timedelta(days=32)).replace(day=1))}
        cost = dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), price)
        what = {"BillingAccountId": "1", "BillingCurrency": "USD", "ChargeCategory": "Usage", "ProviderName": "AWS", "ResourceId": "i-1"}
        what |= {"ServiceCategory": "Compute", "ServiceName": "EC2"} | period | cost
        hours = [self.day + timedelta(hours=hour) for hour in range(24)]
        rows = [what | {"ChargePeriodStart": text(hour), "ChargePeriodEnd": text(hour + timedelta(hours=1))} for hour in hours]
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        self.s3("S3").put_object(Bucket="bills", Key="bill.csv", Body=out.getvalue().encode())

    def trigger(self, *names: str) -> None:
        """Start DAGs by hand."""
        for name in names:
            status, _ = self.ask(8080, f"/api/v2/dags/runspend_{name}/dagRuns", {"logical_date": None}, self.token)
            assert status == 200, f"cannot trigger {name}: {status}"

    # --- what must hold ---

    def check_hosts(self) -> None:
        """Check that MLflow answers under its configured names, also to browsers, and under no other."""
        for name, expected in ((f"{self.host}:5000", 200), ("mlflow.example.com", 200), ("evil.example.com", 403)):
            status, _ = self.ask(5000, "/api/2.0/mlflow/experiments/search", {"max_results": 1}, headers={"Host": name})
            assert status == expected, f"MLflow answers {status} under the name {name}"
        for origin, expected in (("https://mlflow.example.com", 200), ("https://evil.example.com", 403)):
            status, _ = self.ask(5000, "/api/2.0/mlflow/experiments/search", {"max_results": 1}, headers={"Origin": origin})
            assert status == expected, f"MLflow answers {status} to a page of {origin}"

    def check_rights(self) -> None:
        """Check that the page needs a login, that S3 keys have only their rights, and that ports without a key are out of reach."""
        assert self.ask(8080, "/runspend/")[0] == 401, "the page is open to anybody"
        reader, mlflow = self.s3("S3_READER"), self.s3("S3_MLFLOW")
        for bucket in BUCKETS:
            key = reader.list_objects_v2(Bucket=bucket)["Contents"][0]["Key"]
            refused(reader.delete_object, Bucket=bucket, Key=key)
            refused(reader.put_object, Bucket=bucket, Key=key, Body=b"")
        refused(mlflow.get_object, Bucket="bills", Key="bill.csv")
        refused(mlflow.delete_object, Bucket="bills", Key="bill.csv")
        assert self.s3("S3").get_object(Bucket="bills", Key="bill.csv")["ContentLength"] > 0
        environment = self.inside("scheduler", "env")
        for name in ("S3_SECRET_KEY", "S3_MLFLOW_SECRET_KEY", "POSTGRES_PASSWORD", "AIRFLOW_ADMIN_PASSWORD"):
            assert self.secrets[name] not in environment, f"tasks know {name}"
        assert self.secrets["S3_READER_SECRET_KEY"] not in self.inside("api-server", "env"), "the API server knows a key of the store"
        for service in ("scheduler", "mlflow"):
            reached = self.inside(service, "python", "-c", PROBE, *map(str, KEYLESS_PORTS))
            assert not reached.strip(), f"{service} reaches ports of the store that ask for no key: {reached}"

    def check_restored(self, before: dict[str, Any]) -> None:
        """Check that runs, artifacts, bills, tables and Airflow's history are as before, and that the night continues."""
        self.wait_for_health()
        self.log_in()
        after = self.figures()
        differing = [name for name in before if before[name] != after[name]]
        assert not differing, f"not as before the backup: {[(name, before[name], after[name]) for name in differing]}"
        self.trigger("extract_runs", "load_bills")
        self.until("nothing runs and nothing waits", self.is_quiet)
        assert self.figures()["costs"] == before["costs"], "the night after the restore changed the costs"

    def figures(self) -> dict[str, Any]:
        """Return the figures that a backup must restore."""
        runs = self.ask(5000, "/api/2.0/mlflow/runs/search", {"experiment_ids": ["1"], "max_results": 100})[1]
        listed = {bucket: self.s3("S3").list_objects_v2(Bucket=bucket)["Contents"] for bucket in BUCKETS}
        return {
            "runs": sorted(json.dumps(run, sort_keys=True) for run in json.loads(runs)["runs"]),
            "objects": {f"{bucket}/{entry['Key']}": entry["ETag"] for bucket in BUCKETS for entry in listed[bucket]},
            "costs": self.inside("scheduler", "runspend", "costs", "--by", "team,experiment"),
            "page": "984.00" in self.page(),
            "history": self.sql("select count(*) > 5 from dag_run where state in ('success', 'failed')"),
        }

    def kill_parts(self) -> None:
        """Kill PostgreSQL, then the scheduler, as the kernel would. The stack must recover by itself."""
        for service in ("postgres", "scheduler"):
            container = self.compose("ps", "--quiet", service).strip()
            os.kill(int(inspect(container, "{{.State.Pid}}")), signal.SIGKILL)
            self.until(f"{service} was started again", partial(was_restarted, container))
            self.wait_for_health()

    def wait_for_health(self) -> None:
        """Wait until every container is healthy, and Airflow says the same of its parts."""
        self.until("all are healthy", self.is_healthy)

    def is_healthy(self) -> bool:
        """Whether the engine and Airflow call everything healthy."""
        states = [json.loads(line)["Health"] for line in self.compose("ps", "--format", "json").splitlines()]
        if set(states) != {"healthy"}:
            return False
        status, body = self.ask(8080, "/api/v2/monitor/health")
        return status == 200 and {part["status"] for part in json.loads(body).values()} == {"healthy"}

    def is_quiet(self) -> bool:
        """Whether no DAG runs or waits, and no asset event waits for a DAG."""
        return self.sql(QUIET) == "0"

    # --- queries ---

    def mails(self) -> list[str]:
        """Return the subjects of all mails; none while the mail catcher does not answer."""
        status, body = self.ask(8025, "/api/v1/messages")
        return [mail["Subject"] for mail in json.loads(body)["messages"]] if status == 200 else []

    def page(self) -> str:
        """Return the newest report as a logged-in user sees it."""
        return self.ask(8080, "/runspend/", token=self.token)[1]

    def sql(self, query: str) -> str:
        """Return one value from Airflow's database."""
        return self.inside("postgres", "psql", "-U", "postgres", "airflow", "-tAc", query).strip()

    def inside(self, service: str, *command: str) -> str:
        """Return the output of a command in a container. Raises RuntimeError if it fails."""
        return self.compose("exec", "-T", service, *command)

    def s3(self, prefix: str) -> Any:
        """Return a client of the store's published port, with the keys of that name in `.env`."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://{self.host}:8333",
            region_name="us-east-1",
            aws_access_key_id=self.secrets[f"{prefix}_ACCESS_KEY"],
            aws_secret_access_key=self.secrets[f"{prefix}_SECRET_KEY"],
        )

    def ask(self, port: int, path: str, body: object = None, token: str = "", headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Return the status and text of an answer; 0 if there was none."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | (headers or {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            with urllib.request.urlopen(urllib.request.Request(f"http://{self.host}:{port}{path}", data, sent), timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def until(self, what: str, is_done: Callable[[], bool]) -> None:
        """Wait for a condition and print the time it took. Raises AssertionError if it is not met in time."""
        began = time.monotonic()
        while not is_done():
            assert time.monotonic() - began < PATIENCE, f"not within {PATIENCE} s: {what}"
            time.sleep(2)
        self.done(what)


def text(moment: datetime) -> str:
    """Format a time as FOCUS does."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def refused(call: Callable[..., Any], **given: Any) -> None:
    """Assert that the store refuses a call for lack of rights."""
    from botocore.exceptions import ClientError

    code = "none"
    try:
        call(**given)
    except ClientError as error:
        code = error.response["Error"]["Code"]
    assert code == "AccessDenied", f"{call.__name__} {given}: {code}"


def was_restarted(container: str) -> bool:
    """Whether the engine restarted a container by itself."""
    return inspect(container, "{{.RestartCount}}") != "0"


def inspect(container: str, form: str) -> str:
    """Return one property of a container."""
    from engine import run

    return run("docker", "inspect", "--format", form, container).strip()
