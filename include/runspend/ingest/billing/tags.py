"""Reads the tags of a bill's lines: the run, the job and the machine that a line belongs to, its groups and its dimensions.

Belongs here: how tag keys are found and read. The keys to look for come from the configuration. Their spellings are in
`core/resource_keys.py`. Other normalization at load is in `normalize.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from runspend.config.settings import KeySettings
from runspend.core.outside_json import parse_json
from runspend.core.resource_keys import (
    AZURE_JOB_KEYS,
    CLUSTER_TAG_KEYS,
    DATABRICKS_JOB_KEYS,
    NODE_GROUP_TAG_KEYS,
    SLURM_CLUSTER_KEYS,
    SLURM_JOB_KEYS,
    cluster_job_sql,
    instance_name_sql,
    job_key_sql,
    label_forms,
    tag_forms,
    workspace_job_sql,
)
from runspend.core.sql_quoting import sql_text
from runspend.ingest.billing import columns
from runspend.ingest.billing.staging import Staged

if TYPE_CHECKING:
    import pyarrow as pa

_CLUSTER = "^[0-9]{4}-[0-9]{6}-[0-9a-z]+$"
PROVIDERS = ("host_provider_name", "service_provider_name")
AZURE = {"Microsoft", "Azure", "Microsoft Azure"}
# A flat JSON object of strings, as most bills write tags. Python parses all other values one by one.
PLAIN_TAGS = r'\{\s*("[^"\\\x00-\x1f]*"\s*:\s*"[^"\\\x00-\x1f]*"\s*(,\s*"[^"\\\x00-\x1f]*"\s*:\s*"[^"\\\x00-\x1f]*"\s*)*)?\}'


def normalize_tags(staged: Staged, found: dict[str, Any]) -> None:
    """Turn tags into JSON objects of strings. Set tags that cannot be read to null, and count them."""
    column = staged.column("tags")
    if not len(column.dictionary):
        return
    [odd] = staged.ask_of(
        "tags",
        f"case when not regexp_full_match(tags, {sql_text(PLAIN_TAGS)}) then true else len(json_keys(tags)) <> len(list_distinct(json_keys(tags))) end",
    )
    if True not in odd.to_pylist():
        return
    values = column.dictionary.to_pylist()
    canonical = [canonical_tags(value) if is_odd else value for value, is_odd in zip(values, odd.to_pylist(), strict=True)]
    lost = {value for value, kept in zip(values, canonical, strict=True) if kept is None}
    if lost:
        rows = columns.count_values(column)
        found["unreadable_tags"] = sum(rows[value] for value in lost)
    staged.set(tags=columns.remap(column, columns.texts(canonical)))


def canonical_tags(text: str) -> str | None:
    """Return tags as a flat JSON object of strings and nulls. Return None for nested values, repeated keys and invalid JSON.

    FOCUS writes a tag without a value as `true`, which becomes the text "true". Numbers keep their digits. Azure writes some tags without
    braces, which are added.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        whole = f"{{{text}}}" if text.lstrip().startswith('"') else text
        tags = parse_json(whole, object_pairs_hook=unique, parse_float=str, parse_int=str, parse_constant=str)
    except ValueError:
        return None
    if not isinstance(tags, dict) or any(isinstance(v, (dict, list)) for v in tags.values()):
        return None
    if any("\ud800" <= c <= "\udfff" or c == "\0" for pair in tags.items() for part in pair if isinstance(part, str) for c in part):
        return None  # half of a surrogate pair, or a null character, which databases do not store
    return json.dumps(
        {k: ("true" if v else "false") if isinstance(v, bool) else v for k, v in tags.items()}, ensure_ascii=False, separators=(",", ":")
    )


def find_attached(staged: Staged, keys: KeySettings) -> None:
    """Set `attached_to`: the machine that the tags of another resource name."""
    tags = Tags(staged, "tags")
    [machine] = staged.ask_of("tags", f"resource_key({tags.value_sql(keys.attached_to)})")
    staged.set(attached_to=_of_another(staged, columns.remap(staged.column("tags"), machine)))


def read_tags(staged: Staged, keys: KeySettings, dimensions: Mapping[str, Sequence[str]], found: dict[str, Any]) -> None:
    """Set the columns that come from tags: the run, the job, the machine that a line is attached to, its groups, and its dimensions.

    `dimensions`: for each dimension, the tags that it is read from, in order.
    """
    column = staged.column("tags")
    tags = Tags(staged, "tags")
    if collisions := tags.collisions(keys):
        found["colliding_tag_keys"] = collisions
    closest = tags.closest([*keys.job, *keys.groups])
    shared = [f"{sql_text(key + '|')} || {tags.first_sql(forms)}" for key, forms in closest.items() if forms]
    groups = (
        f"nullif(array_to_string(list_filter([{', '.join(shared)}], lambda g: g is not null), chr(31)), '')" if shared else "null::varchar"
    )
    run, job, job_run, machine, group_texts, *lines = staged.ask_of(
        "tags",
        tags.value_sql(keys.run_id),
        _job_sql(tags, keys),
        _job_run_sql(tags, keys),
        f"resource_key({tags.value_sql(keys.attached_to)})",
        groups,
        *(tags.value_sql(names) for names in dimensions.values()),
    )
    allocated = staged.column("allocated_tags")  # the tags of the pod or task, on lines that are parts of a split line
    part_run = part_job = columns.texts([])
    if len(allocated.dictionary):
        parts = Tags(staged, "allocated_tags")
        part_run, part_job = staged.ask_of("allocated_tags", parts.value_sql(keys.run_id), _job_sql(parts, keys))
    tagged_job = _in_workspaces(
        staged, columns.first_of([columns.remap(allocated, part_job), columns.remap(column, job)]), tags.has(keys.job, AZURE_JOB_KEYS)
    )
    tagged_job = _in_databricks_workspaces(staged, tagged_job, columns.remap(column, job_run))
    placed_keys = [key for key in keys.job if key in (*SLURM_JOB_KEYS, *AZURE_JOB_KEYS) and tags.has([key], [key])]
    staged.set(
        run_tag=columns.first_of([columns.remap(allocated, part_run), columns.remap(column, run)]),
        job_key=columns.first_of([columns.remap(allocated, part_job), staged.column("resource_job"), tagged_job]),
        attached_to=_of_another(staged, columns.remap(column, machine)),
        group_keys=_group_keys(staged, columns.remap(column, group_texts), placed_keys, tagged_job),
        **{f"line_{name}": columns.remap(column, values) for name, values in zip(dimensions, lines, strict=True)},
    )
    if tags.has(keys.job, SLURM_JOB_KEYS):
        _number_resources(staged)


def _job_sql(tags: Tags, keys: KeySettings) -> str:
    """Return SQL for the job that tags name. The number of a SLURM job is prefixed with its cluster, if a tag names the cluster."""
    job = job_key_sql(tags.value_sql(keys.job))
    if not tags.has(keys.job, SLURM_JOB_KEYS):
        return job
    slurm = tags.value_sql([key for key in keys.job if key in SLURM_JOB_KEYS])
    numbered = cluster_job_sql(job_key_sql(slurm), tags.value_sql([*SLURM_CLUSTER_KEYS, "cluster"]))
    return f"case when {job} = {job_key_sql(slurm)} then {numbered} else {job} end"


def _job_run_sql(tags: Tags, keys: KeySettings) -> str:
    """Return SQL for the job run that Databricks' own tag names. It is null if a key before it in `keys.job` has a value."""
    earlier = list(takewhile(lambda key: key not in DATABRICKS_JOB_KEYS, keys.job))
    own = [key for key in keys.job if key in DATABRICKS_JOB_KEYS]
    return f"case when {tags.value_sql(earlier)} is null then {job_key_sql(tags.value_sql(own))} end"


class Tags:
    """SQL for the values of tags, over the distinct tag strings of the bill. Keys that the bill does not have are left out of the SQL."""

    def __init__(self, staged: Staged, name: str) -> None:
        import pyarrow as pa

        self.name = name
        providers = {name for column in PROVIDERS for name in staged.column(column).dictionary.to_pylist()}
        self._is_azure = bool(providers) and providers <= AZURE
        self.keys: list[str] = []
        texts = staged.column(name).dictionary
        if len(texts):
            staged.con.register("tag_texts", pa.table({"tags": texts}))
            self.keys = sorted(row[0] for row in staged.con.execute("select distinct unnest(json_keys(tags)) from tag_texts").fetchall())
            staged.con.unregister("tag_texts")

    def has(self, names: Iterable[str], among: Iterable[str]) -> bool:
        """Return whether the bill has one of these keys that is also in `among`."""
        return any(self.forms_of(name) for name in names if name in among)

    def forms_of(self, name: str) -> list[str]:
        """Return the bill's keys that match this name, closest spelling first. On Azure, the case of a key does not matter."""
        forms = [form for form in tag_forms(name) if form in self.keys]
        if self._is_azure:
            folded = {form.lower() for form in tag_forms(name)}
            return list(dict.fromkeys([*forms, *(key for key in self.keys if key.lower() in folded)]))
        # If the bill has the key itself, a key that differs in case or punctuation is a different key.
        return forms or [form for form in label_forms(name) if form in self.keys]

    def value_sql(self, names: Sequence[str]) -> str:
        """Return SQL for the first value of these keys, in any spelling that exports use. It is trimmed, and null if empty."""
        return self.first_sql(form for name in names for form in self.forms_of(name))

    def first_sql(self, keys: Iterable[str]) -> str:
        """Return SQL for the first value of these keys, spelled as in the bill. It is trimmed, and null if empty."""
        values = [f"nullif(trim(json_extract_string({self.name}, {sql_text(json_path(key))})), '')" for key in dict.fromkeys(keys)]
        return f"coalesce({', '.join([*values, 'null::varchar'])})"

    def closest(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return, for each name, the bill's keys that match it better than any other of the names.

        With the names `cluster_id` and `ClusterId`, the bill's key `cluster_id` belongs only to the first.
        """
        forms = {name: self.forms_of(name) for name in names}
        ranks = {name: {form: rank for rank, form in enumerate((*tag_forms(name), *label_forms(name)))} for name in forms}
        owner = {
            key: min((name for name in forms if key in forms[name]), key=lambda name: ranks[name].get(key, len(ranks[name])))
            for key in {key for found in forms.values() for key in found}
        }
        return {name: [key for key in found if owner[key] == name] for name, found in forms.items()}

    def collisions(self, keys: KeySettings) -> list[str]:
        """Return keys that differ only in case or punctuation, as texts such as "Team and team". They are reported to operators.

        Each of them is read as its own key. Spellings of a configured key are not collisions, because Runspend searches for them.
        """
        wanted = (*keys.run_id, *keys.job, *keys.attached_to, *keys.groups)
        meant = {key for name in wanted for key in self.forms_of(name)}
        folded: dict[str, list[str]] = {}
        for key in self.keys:
            if key not in meant:
                folded.setdefault(re.sub(r"[^a-z0-9]", "_", key.lower().removeprefix("user_").removeprefix("user:")), []).append(key)
        return [" and ".join(same) for same in folded.values() if len(same) > 1]


def _in_workspaces(staged: Staged, jobs: pa.Array, is_azure: bool) -> pa.Array:
    """Return the jobs that tags name, with the workspace of their line added to Azure ML jobs."""
    if not is_azure or jobs.null_count == len(jobs):
        return jobs
    codes, distinct = columns.combine([jobs, staged.column("resource_key")], ["job", "resource"])
    workspace = "nullif(regexp_extract(resource, '^/subscriptions/.*/providers/microsoft[.]machinelearningservices/workspaces/[^/]+'), '')"
    [whole] = staged.ask(distinct, workspace_job_sql("job", workspace))
    return columns.spread(codes, whole)


def _in_databricks_workspaces(staged: Staged, jobs: pa.Array, job_runs: pa.Array) -> pa.Array:
    """Return the jobs that tags name, with the workspace of their line added to Databricks job runs."""
    if job_runs.null_count == len(job_runs):
        return jobs
    held = ("sub_account_type", "sub_account_id")
    codes, distinct = columns.combine([jobs, job_runs, *(staged.column(column) for column in held)], ["job", "job_run", *held])
    workspace = "case when sub_account_type = 'Workspace' and job = job_run then nullif(regexp_extract(sub_account_id, '^[0-9]+$'), '') end"
    [whole] = staged.ask(distinct, cluster_job_sql("job", f"({workspace})"))
    return columns.spread(codes, whole)


def _number_resources(staged: Staged) -> None:
    """Prefix numeric SLURM resources with their cluster, like their jobs, because two clusters may use the same numbers."""
    codes, distinct = columns.combine([staged.column("resource_key"), staged.column("job_key")], ["resource", "job"])
    is_number = "regexp_matches(resource, '^[0-9]+([_+][0-9]+)?$') and regexp_matches(job, '^[^/]+/[0-9]+([_+][0-9]+)?$')"
    [keys] = staged.ask(distinct, f"case when {is_number} then split_part(job, '/', 1) || '/' || resource else resource end")
    staged.set(resource_key=columns.spread(codes, keys))


def place_instances(staged: Staged, name: str) -> None:
    """Add the line's project and zone to the names of Compute Engine instances in a column, if the names lack them.

    A Databricks cluster id is not changed, because it is not an instance. The cluster's virtual machines carry it in the form
    MMDD-HHMMSS-NAME (Databricks documentation, "Cluster information").
    """
    services = staged.column("service_name")
    names = staged.column(name)
    if "Compute Engine" not in services.dictionary.to_pylist() or names.null_count == len(names):
        return
    held = ("sub_account_id", "availability_zone", "region_id", "service_name")
    codes, distinct = columns.combine([names, *(staged.column(column) for column in held)], ["name", *held])
    placed = instance_name_sql()
    [whole] = staged.ask(
        distinct, f"case when service_name = 'Compute Engine' and not regexp_matches(name, '{_CLUSTER}') then {placed} else name end"
    )
    staged.set(**{name: columns.spread(codes, whole)})


def _of_another(staged: Staged, machines: pa.Array) -> pa.Array:
    """Return the machine that each line names, or null if the line's own resource is that machine."""
    if machines.null_count == len(machines):
        return machines
    staged.set(attached_to=machines)
    place_instances(staged, "attached_to")
    machines = staged.column("attached_to")
    codes, distinct = columns.combine([machines, staged.column("resource_key")], ["named", "own"])
    [others] = staged.ask(distinct, "case when named is distinct from own then named end")
    return columns.spread(codes, others)


def _group_keys(staged: Staged, texts: pa.Array, placed_keys: Sequence[str], jobs: pa.Array) -> pa.Array:
    """Return the groups of each line: a list of texts account|key|value, in the order of the configured keys, closest group first.

    `texts`: the groups that the tags of each line name, as key|value, separated by `chr(31)`. If a key in `placed_keys` names a job, the
    value is the complete job, with its cluster or workspace. If a line names the cluster of a node group, the text is
    account@CLUSTER|key|value.
    """
    import pyarrow as pa

    account = columns.first_of([staged.column("sub_account_id"), staged.column("billing_account_id")])
    if texts.null_count == len(texts):
        return pa.ListArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), len(texts) + 1), pa.array([], pa.string()))
    named = {"account": account, "groups": texts, **({"job": jobs} if placed_keys else {})}
    codes, distinct = columns.combine(list(named.values()), list(named))
    group = "g"
    if placed_keys:
        is_placed = " or ".join(f"starts_with(g, {sql_text(key + '|')})" for key in placed_keys)
        group = f"case when ({is_placed}) and contains(job, '/') then split_part(g, '|', 1) || '|' || job else g end"
    is_cluster = " or ".join(f"starts_with(c, {sql_text(key + '|')})" for key in CLUSTER_TAG_KEYS)
    is_node_group = " or ".join(f"starts_with(g, {sql_text(key + '|')})" for key in NODE_GROUP_TAG_KEYS)
    cluster = f"list_filter(string_split(groups, chr(31)), lambda c: {is_cluster})[1]"
    of_cluster = (
        f"case when {is_node_group} then coalesce('@' || replace(substr({cluster}, strpos({cluster}, '|') + 1), '|', '/'), '') else '' end"
    )
    [lists] = staged.ask(
        distinct,
        f"coalesce(list_transform(string_split(groups, chr(31)), lambda g: coalesce(account, '') || {of_cluster} || '|' || {group}), cast([] as varchar[]))",
    )
    return columns.spread(codes, lists.cast(pa.list_(pa.string())))


def json_path(key: str) -> str:
    """Return the JSON path of a top-level key. The key may contain any characters."""
    return '$."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
