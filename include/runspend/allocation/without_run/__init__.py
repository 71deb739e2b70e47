"""Groups cost without a run, and advises how to allocate it.

Cost without a run is unallocated cost and cost outside the default scope. Both count, because untagged machines are outside the default
scope. Accelerators come first, then the largest amounts. `doctor`, `try`, the pipeline's summary and the report show this advice.
`core/service_kinds.py` classifies the bill lines. All functions read one billing period, given by its first day.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.allocation.diagnostics import GROUP_WORDS, MACHINE_GROUP, OWN_TAGS
from runspend.allocation.remedies import callers_remedy, remedy, verb
from runspend.allocation.scope_proposal import OUTSIDE
from runspend.config.settings import Settings
from runspend.core.amounts import EXACT, add
from runspend.core.outside_json import parse_json
from runspend.core.service_kinds import (
    AUTOPILOT_METERS,
    CLUSTER_FEES,
    RESOURCE_TYPES,
    advised_kind,
    is_accelerator,
    kind_of,
    needs_resource,
    resource_words,
)
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

# Machines without a machine group are grouped by at most this many tags; the others by service and account.
TAG_GROUPS = 8
TYPES_NAMED = 2
MACHINES = ("accelerator", "machine")
# Kind of a machine -> the kind whose advice is used if the bill splits the machine's cost among its pods.
PODS = {"accelerator": "pods", "machine": "pods", "other": "other pods"}

HERE = Path(__file__).parent
LINE_COLUMNS = read_sql(HERE, "line_columns")
WITHOUT_RUN = read_sql(HERE, "cost_without_run").format(
    outside=OUTSIDE,
    columns_of_charge=LINE_COLUMNS.format(line="b", resource_types=RESOURCE_TYPES),
    columns_of_line=LINE_COLUMNS.format(line="l", resource_types=RESOURCE_TYPES),
    machine_group=MACHINE_GROUP,
    own_tags=OWN_TAGS,
)


@dataclass(frozen=True)
class Group:
    """Cost without a run that one action would explain.

    `selector` names its bill lines, as in `scope` and `pools`. `outside_cost` is the part that is out of scope.
    """

    words: str
    selector: Mapping[str, Any]
    effective_cost: Decimal
    advice: str
    kind: str = "machine"
    outside_cost: Decimal = field(default=Decimal(0))
    is_accelerated: bool = False

    @property
    def inside_cost(self) -> Decimal:
        """Return the part that is in scope: unallocated cost of the ML platform."""
        return EXACT.subtract(self.effective_cost, self.outside_cost)

    @property
    def action(self) -> str:
        """ "tag node group gpu-spot", "share Amazon RDS in account 1111"."""
        return f"{verb(self.kind, self.selector.get('service', ''))} {self.words}"


Row = Mapping[str, Any]
Key = tuple[str, tuple[tuple[str, str], ...], str]  # kind, selector, name of its resources


def unallocated_groups(reader: Reader, first: date, settings: Settings) -> dict[str, tuple[Group, ...]]:
    """Return the groups of cost without a run, by currency. Each bill line is in one group.

    Accelerators come first, then the largest amounts. Lines outside the default scope are in the currency of their bill. Machines are
    grouped by node group or cluster. Machines without one are grouped by the tag and account that explain the most cost. All other lines
    are grouped by service and account.
    """
    by_currency: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in reader.query(WITHOUT_RUN, {"first": first}).to_pylist():
        row["kind"] = _kind(row)
        by_currency[row["billing_currency"]].append(row)
    return {currency: tuple(_grouped(rows, settings)) for currency, rows in by_currency.items()}


def _kind(row: Row) -> str:
    if row["reason"] == "explicit_scope":
        return "excluded"
    is_accelerated = _is_accelerated(row)
    is_machine = bool(row["instance_type"] or row["machine_gpus"])
    kind = kind_of(row["service_name"], row["meter"], row["resource_type"], row["cost_kind"], is_machine=is_machine)
    if kind in ("platform", "disk") and is_accelerated:
        kind = "machine"
    if kind == "disk" and row["is_attached"]:
        return "attached"
    return "accelerator" if kind == "machine" and is_accelerated else kind


def _is_accelerated(row: Row) -> bool:
    return is_accelerator(row["machine_gpus"], row["instance_type"], None if row["instance_type"] else row["meter"])


def _grouped(rows: list[dict[str, Any]], settings: Settings) -> list[Group]:
    with_machines = {(row["service_name"], row["sub_account_id"]) for row in rows if row["kind"] in MACHINES}
    chosen: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    tagged: dict[str, list[tuple[dict[str, Any], frozenset[tuple[str, str]]]]] = {kind: [] for kind in MACHINES}
    for row in rows:
        kind = row["kind"]
        if row["machine_group"] and kind in (*MACHINES, "disk", "attached"):
            key, _, value = row["machine_group"].partition("|")
            chosen["machine", ((f"tag.{key}", value),), ""].append(row)
        elif kind in MACHINES and (pairs := _tag_pairs(row["tags"])):
            tagged[kind].append((row, pairs))
        else:
            chosen[_place(row, with_machines)].append(row)
    for kind, members in tagged.items():
        for key_of, row in _by_dearest_tag(kind, members):
            chosen[key_of].append(row)
    made = [_group(key, members, settings) for key, members in chosen.items()]
    return sorted((g for g in made if g.effective_cost), key=lambda g: (not g.is_accelerated, -g.effective_cost, g.words))


def _by_dearest_tag(kind: str, tagged: list[tuple[dict[str, Any], frozenset[tuple[str, str]]]]) -> Iterable[tuple[Key, dict[str, Any]]]:
    """Yield each row with its group. The first group is the tag with the most cost, the next one the tag with the most remaining cost.

    After TAG_GROUPS tags, the remaining rows are grouped by service and account.
    """
    for _ in range(TAG_GROUPS):
        if not tagged:
            break
        sums: dict[tuple[str, str, str], list[Decimal]] = defaultdict(list)
        for row, pairs in tagged:
            for key, value in pairs:
                sums[key, value, row["sub_account_id"]].append(row["effective_cost"])
        totals = {tag: add(costs) for tag, costs in sums.items()}
        key, value, account = min(totals, key=lambda tag: (-totals[tag], tag))
        place = ((f"tag.{key}", value), *((("account", account),) if account else ()))
        inside = [(key, value) in pairs and row["sub_account_id"] == account for row, pairs in tagged]
        yield from (((kind, place, ""), row) for (row, _), is_inside in zip(tagged, inside, strict=True) if is_inside)
        tagged = [one for one, is_inside in zip(tagged, inside, strict=True) if not is_inside]
    yield from ((_place(row), row) for row, _ in tagged)


def _tag_pairs(text: str) -> frozenset[tuple[str, str]]:
    try:
        tags = parse_json(re.sub(r",\s*}$", "}", text)) if text else {}  # removing the last tag left a trailing comma
    except ValueError:
        return frozenset()  # not JSON: a key with a quote in it ended like one of OWN_TAGS and was cut. The line is grouped by service
    return frozenset((key, value) for key, value in tags.items() if isinstance(value, str) and value)


def _place(row: Row, with_machines: Set[tuple[str, str]] = frozenset()) -> Key:
    """Return the group of a line by service and account. `with_machines`: (service, account) pairs that have machines without a run."""
    service, resource_type = row["service_name"], row["resource_type"]
    kind = advised_kind(row["kind"], service, resource_type, has_machines=(service, row["sub_account_id"]) in with_machines)
    named = {"service": service, "account": row["sub_account_id"]}
    called = ""
    if needs_resource(kind, service):
        called, named["resource"] = resource_words(resource_type) or ("", "")
        if CLUSTER_FEES in row["meter"].lower():  # Google bills Autopilot pods under the cluster's name too; the meter selects the fee
            named["meter"] = f"*{CLUSTER_FEES}*"
    place = tuple((key, value) for key, value in named.items() if value)
    return kind, place or (("source", row["source"]),), called


def _group(key: Key, members: Sequence[Row], settings: Settings) -> Group:
    kind, pairs, called = key
    selector: dict[str, Any] = dict(pairs)
    if kind == "accelerator" and all(types := sorted({row["instance_type"] for row in members})):
        selector["instance_type"] = types  # without it, a pool of the service or tag would also get disks and other machines
    is_accelerated = (
        any(
            _is_accelerated(row) and row["effective_cost"] > 0
            for row in members
            if row["kind"] in (*MACHINES, "job", "endpoint", "unnamed endpoint")
        )
        or kind == "excluded"
    )
    if kind == "machine" and not is_accelerated and all(row["is_outside"] for row in members):
        kind = "other"  # nothing shows that runs use these machines, and a pool would charge runs for them
    cost = add(row["effective_cost"] for row in members)
    if cost < 0 and kind in (*MACHINES, "other"):
        kind = "credit"
    return Group(
        _words(kind, selector, called, members),
        selector,
        cost,
        _advice(kind, selector, members, settings),
        kind,
        add(row["effective_cost"] for row in members if row["is_outside"]),
        is_accelerated,
    )


def _words(kind: str, selector: Mapping[str, Any], called: str, members: Sequence[Row]) -> str:
    """ "node group gpu-spot", "team=vision", "Amazon SageMaker in account 1111", "NAT gateways of Amazon EC2 in account 1111"."""
    (first, value), *_ = selector.items()
    if first.startswith("tag."):
        word = next((word for needles, word in GROUP_WORDS if any(needle in first.lower() for needle in needles)), None)
        words = f"{word} {value}" if word else f"{first.removeprefix('tag.')}={value}"
        return _with_place(kind, words, selector, members)
    if "service" not in selector:
        return f"{first} {value}"
    names = {
        "disk": f"disks, snapshots and traffic of {value}",
        "unnamed endpoint": f"endpoints of {value}",
        "attached": f"disks and addresses attached to machines of {value}",
        "accelerator": f"accelerators of {value}",
        "excluded": f"excluded accelerators of {value}",
    }
    return _with_place(kind, f"{called} of {value}" if called else names.get(kind, value), selector, members)


def _with_place(kind: str, words: str, selector: Mapping[str, Any], members: Sequence[Row]) -> str:
    account = f" in account {selector['account']}" if "account" in selector else ""
    return words + account + (f" ({types})" if kind == "accelerator" and (types := _dearest_types(members)) else "")


def _dearest_types(members: Sequence[Row]) -> str:
    sums: dict[str, list[Decimal]] = defaultdict(list)
    for row in members:
        sums[row["instance_type"] or row["meter"]].append(row["effective_cost"])
    ranked = sorted((name for name in sums if name), key=lambda name: (-add(sums[name]), name))
    return ", ".join(ranked[:TYPES_NAMED]) + (", …" if len(ranked) > TYPES_NAMED else "")


def _advice(kind: str, selector: Mapping[str, Any], rows: Sequence[Row], settings: Settings) -> str:
    """Return the one action to take, decided by the most expensive line of the group."""
    row = max(rows, key=lambda r: r["effective_cost"])
    if row["reason"] == "unknown_run":
        return "its tag names a run that no tracking server has: add the server that has it"
    callers: dict[str, list[Decimal]] = defaultdict(list)
    for each in rows:
        if kind == "model" and each["principal"]:
            callers[each["principal"]].append(each["effective_cost"])
    if callers:
        return callers_remedy({name: add(costs) for name, costs in callers.items()}, settings)
    return remedy(_advised_as(kind, row), selector, settings)


def _advised_as(kind: str, row: Row) -> str:
    """Return the kind whose advice fits the group. Pods, and jobs and pods that the bill does not name, have their own advice."""
    if kind in PODS and row["is_part"]:
        return PODS[kind]
    if kind in PODS and re.search(AUTOPILOT_METERS, row["meter"].lower()):
        return f"unnamed {PODS[kind]}"
    return "unnamed job" if kind == "job" and not row["is_named"] else kind
