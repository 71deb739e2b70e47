"""Advises how to allocate cost without a run. Each kind of bill line has its own advice, often with lines for `runspend.yaml`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import count
from typing import Any

from runspend.config.settings import Settings
from runspend.config.trial_folder import is_trial
from runspend.core.amounts import money
from runspend.core.selectors import selector_yaml
from runspend.core.service_kinds import ENDPOINT_PATTERNS, UNNAMED_SERVICES
from runspend.core.text import counted

CALLERS_NAMED = 3

# The verb before a group's name, by kind.
VERBS = {
    "disk": "attach",
    "store": "measure",
    "platform": "share",
    "endpoint": "share",
    "unnamed endpoint": "share",
    "job": "name jobs of",
    "excluded": "check",
    "other": "check",
    "attached": "check",
    "credit": "leave credits of",
}

STATE_JOB = "make its runs state their job: `TRAINING_JOB_ARN`, `AZUREML_RUN_ID`, `CLOUD_ML_JOB_ID`, `mlflow.databricks.jobRunID` or `runspend.job_id` (docs/identify.md#jobs). The match is then exact"
# For Google bills that do not name the job or pod: the user gives the resource and its runs the same label.
LABEL_AND_STATE = "`runspend_job_id`, and make its runs state the same value as `runspend.job_id` (docs/identify.md#label-jobs-and-pods-on-google-cloud). The match is then exact"
LABEL_PODS = f"the bill names the cluster, but not its pods. Turn on GKE cost allocation, read the detailed usage export, and label each pod {LABEL_AND_STATE}"

# Replaces the experiment in advised pools, because only the user knows it.
PLACEHOLDER = "EXPERIMENT"

# What to do about one resource, by its kind. The texts are short enough for a table.
SHORT_REMEDIES = {
    "disk": "attach it to its machine",
    "store": "if it has artifacts, add the bucket to `stores`",
    "platform": "if the whole platform uses it, add it to `shared.lines`",
    "endpoint": "it serves models and has no runs: leave it, or add it to `shared.lines`",
    "unnamed endpoint": "it serves models and has no runs: leave it, or add it to `shared.lines` by its meter",
    "model": "log its calls as traces with token costs",
    "job": "let its runs state their job",
    "unnamed": "label its jobs or pods, and let runs state the label",
}


def verb(kind: str, service: str) -> str:
    """Return the verb that precedes a group's name, "tag" for machines. Models: it depends on the service, because only AWS bills callers."""
    if kind == "model":
        return "identify callers of" if _bills_callers(service) else "trace calls of"
    return VERBS.get(kind, "tag")


def short_remedy(kind: str, service: str) -> str | None:
    """Return a short text for a table: what to do about one resource of this kind. None for machines."""
    return "identify its callers" if kind == "model" and _bills_callers(service) else SHORT_REMEDIES.get(kind)


def _bills_callers(service: str) -> bool:
    return "bedrock" in service.lower()


def remedy(kind: str, selector: Mapping[str, Any], settings: Settings) -> str:
    """Return the advice for the lines that this selector names. `kind`: a key of REMEDIES."""
    advice = REMEDIES[kind]
    return advice if isinstance(advice, str) else advice(selector, settings)


def callers_remedy(costs: Mapping[str, Decimal], settings: Settings) -> str:
    """Return the advice for calls of language models if the bill names their callers. `costs`: the cost of each role or user, by ARN."""
    ranked = sorted(costs, key=lambda arn: (-costs[arn], arn))
    named = [f"{_caller(arn)} {money(costs[arn])}" for arn in ranked[:CALLERS_NAMED]]
    if len(ranked) > CALLERS_NAMED:
        named.append(f"{len(ranked) - CALLERS_NAMED:,} more")
    if settings.mail.people != "show":  # callers may be people, so only their number is shown
        named = [counted(len(ranked), "caller")]
    return (
        f"the bill names {', '.join(named)}. Make the runs of each state it (`runspend.iam_principal`, docs/identify.md#callers-of-language-models)."
        " If it has no runs, map it to a team: dimensions: {team: [run.tag.team, {principal: FILE.csv}]} (docs/configuration.md#principals-file)."
        " `runspend costs --by team` then shows its cost"
    )


def _caller(arn: str) -> str:
    """Return the kind and name of a caller: "role Trainer", "user ann". The root user of an account has no name."""
    kind, _, name = arn.rpartition(":")[2].partition("/")
    return f"{kind.removeprefix('assumed-')} {name.rpartition('/')[2]}".strip()


def _advise_pods(selector: Mapping[str, Any], settings: Settings) -> str:
    return _advise_pool(selector, settings, states="state their pod (docs/identify.md#kubernetes)")


def _advise_unnamed_pods(selector: Mapping[str, Any], settings: Settings) -> str:
    add = f"add a pool for the experiment that uses them: {_pool(selector, settings)}"
    return f"{LABEL_PODS}. {'Until then,' if is_trial(settings) else 'Until then, let `runspend suggest` propose pools, or'} {add}"


def _advise_pool(selector: Mapping[str, Any], settings: Settings, *, states: str = "state their machine") -> str:
    add = f"add a pool for the experiment that uses them: {_pool(selector, settings)}"
    if is_trial(settings):  # a trial already has the pools that `runspend suggest` proposes
        return f"no runs were found for these machines. Make their runs {states}, or {add}"
    return f"make its runs {states}, or let `runspend suggest` propose pools, or {add}"


def _pool(selector: Mapping[str, Any], settings: Settings) -> str:
    return f"{{name: {_free_name(selector, settings)}, runs: {{experiment: {PLACEHOLDER}}}, lines: {selector_yaml(selector)}}}"


def _free_name(selector: Mapping[str, Any], settings: Settings) -> str:
    """Return a name for a pool of these lines that is valid in `pools` and not used yet."""
    text = unicodedata.normalize("NFKD", "-".join(value for value in selector.values() if isinstance(value, str)))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text.encode("ascii", "ignore").decode()).strip("._-")[:55].rstrip("._-") or "machines"
    taken = {pool.name for pool in settings.pools}
    return next(name for number in count(1) if (name := plain if number == 1 else f"{plain}-{number}") not in taken)


def _advise_sharing(selector: Mapping[str, str], settings: Settings) -> str:
    return f"if the whole ML platform uses it, declare it as shared. If you set `scope`, include it there too. Add to `shared.lines`: {selector_yaml(selector)}"


def _advise_endpoint(selector: Mapping[str, Any], settings: Settings) -> str:
    return f"they serve models and have no runs: leave them unallocated, or declare them as shared. Add to `shared.lines`: {selector_yaml(selector)}"


def _advise_unnamed_endpoint(selector: Mapping[str, Any], settings: Settings) -> str:
    return _advise_endpoint({**selector, "meter": list(ENDPOINT_PATTERNS)}, settings)


def _advise_identity(selector: Mapping[str, str], settings: Settings) -> str:
    if not _bills_callers(selector.get("service", "")):
        return "log its calls as traces with token costs in MLflow. Runspend then splits its charges by token cost"
    return (
        "include IAM principals in the CUR 2.0 export, and make runs state theirs (`runspend.iam_principal`, docs/identify.md)"
        " or map roles and users to teams: dimensions: {team: [run.tag.team, {principal: FILE.csv}]}"
    )


def _advise_jobs(selector: Mapping[str, str], settings: Settings) -> str:
    return _until_then(STATE_JOB, settings)


def _advise_unnamed_jobs(selector: Mapping[str, str], settings: Settings) -> str:
    service = selector.get("service", "").lower()
    if re.search(UNNAMED_SERVICES, service):
        return _until_then(f"the bill does not name these jobs. Label each job {LABEL_AND_STATE}", settings)
    if "sagemaker" in service:
        return _until_then(f"the bill does not name these jobs. Include resource IDs in its export, and {STATE_JOB}", settings)
    return _until_then(STATE_JOB, settings)


def _until_then(advice: str, settings: Settings) -> str:
    return advice if is_trial(settings) else f"{advice}. Until then, `runspend suggest` can propose pools"


REMEDIES: dict[str, str | Callable[[Mapping[str, Any], Settings], str]] = {
    "accelerator": _advise_pool,
    "machine": _advise_pool,
    "other": "if runs use these machines, make the runs state them, or add a pool (docs/identify.md). Otherwise, leave them: they are out of scope",
    "pods": _advise_pods,
    "other pods": "if runs use these machines, make the runs state their pod, or add a pool (docs/identify.md#kubernetes). Otherwise, leave them: they are out of scope",
    "attached": "each already names its machine. Its cost follows the machine's cost, once a rule allocates the machine to runs",
    "disk": "tag each with its machine (`attached_to: MACHINE`) or with the node group of its machines. Its cost then follows theirs, once a rule allocates the machines to runs",
    "store": "if it has artifacts, add the bucket to `stores`. Runspend then splits its cost by bytes",
    "platform": _advise_sharing,
    "endpoint": _advise_endpoint,
    "unnamed endpoint": _advise_unnamed_endpoint,
    "model": _advise_identity,
    "unnamed pods": _advise_unnamed_pods,
    "unnamed other pods": f"if runs use these pods: {LABEL_PODS}. Otherwise, leave them: they are out of scope",
    "job": _advise_jobs,
    "unnamed job": _advise_unnamed_jobs,
    "excluded": "`scope` leaves these accelerators out: if runs use them, include them",
    "credit": "discounts and refunds are larger than the charges of this group. Nothing needs to be done",
}
