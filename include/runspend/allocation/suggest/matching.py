"""Finds which runs most likely used which machines, by comparing their hours. Each machine group and each run name is matched at most once.

The match that explains the most cost comes first. Accelerators that are always on come last, because their hours cannot identify their
runs. They are matched by elimination, only in accounts that have runs, and the match is marked as such. This module reads no data:
`evidence.py` provides it, and `proposals.py` writes the matches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from runspend.allocation.suggest.evidence import Cell, Evidence
from runspend.allocation.suggest.hour_fit import HOURS_A_DAY, Fit, crowding, fit, likeness
from runspend.core.selectors import matches
from runspend.core.service_kinds import TRAINING_PATTERNS

RUN_NAMES = ("experiment", "user", "tag.mlflow.source.name", "tracking")
# Kinds of machine names, the most stable first. If several kinds name the same machines, the first kind is used.
MACHINE_NAMES = ("machine_group", "tag", "instance_type", "accelerators", "machines", "name_prefix", "resource_key", "service")
WIDE = ("accelerators", "machines")  # several types in one account
LEAST_SCORE = 0.4  # lower scores prove nothing
LEAST_WITHOUT_GPUS = 0.55  # for machines without GPUs: batch jobs that train nothing may start when the same data arrives
LEAST_PART = 0.001  # groups with a smaller part of the examined cost are ignored
LEAST_DAYS = 3  # days on which machines and runs must both be active
CLOSE, CLOSE_HOURS = 0.9, 12  # with GPUs, this score over this many shared hours is enough without LEAST_DAYS: for one training job a month
LEAST_USE = 0.2  # part of the cost that runs must explain in a match by elimination
ALIKE = 0.03  # scores that differ by less count as equal
PROVED = 0.8  # a kind of run name must prove this part of what the best kind proves
RUNS_INSIDE = 0.6  # part of a run name's hours that must fit into the machines' hours
MOST_CANDIDATES, MOST_VALUES = 60, 80  # groups of machines, run names

Series = list[float]
Key = tuple[str, str, str, tuple[str, ...]]  # kind of name, bill, account, names


@dataclass(frozen=True)
class Group:
    """Machines that one selector names, in one account of one bill. `kind` is the kind of name; `values` are the names."""

    kind: str
    source: str
    account: str
    values: tuple[str, ...]
    cells: frozenset[int]
    gpus: int = 0
    has_jobs: bool = False  # some are machines of managed jobs; their runs could state the job instead
    types: tuple[str, ...] = ()  # the instance types, if all machines have one
    service: str = ""  # set for pods and jobs that the bill does not name; they have no instance type
    # Key and patterns that select only jobs. Set if machines that serve models have the same names.
    jobs: tuple[str, tuple[str, ...]] = ("", ())


@dataclass(frozen=True)
class Match:
    """Runs that most likely used a group of machines, with the evidence. `kind` and `values` name the runs."""

    group: Group
    kind: str
    values: tuple[str, ...]
    fit: Fit
    cost: float
    explained_cost: float
    runs: int
    floor: float = 0.0  # number of machines that are always on; `fit` compares only the machines above it
    billed_hours: float = 0.0  # machine-hours
    used_hours: float = 0.0  # billed machine-hours that a run may have used
    met_hours: float = 0.0  # run-hours in which a machine was billed
    run_hours: float = 0.0
    is_by_elimination: bool = False
    asking: float = 1.0  # part of the run-hours whose runs ask for GPUs; 1 if no run asks for them
    servers: tuple[str, ...] = ()
    hour_costs: tuple[float, float] = (0.0, 0.0)  # mean cost of a machine-hour: cheapest and most expensive instance type

    @property
    def worth(self) -> float:
        """Return the explained cost, weighted by the strength of the evidence."""
        return self.explained_cost * (0.1 * self.asking if self.is_by_elimination else max(0.0, self.fit.score))


def find_matches(evidence: Evidence, free: Set[int], runs: Sequence[Cell]) -> tuple[Match, ...]:
    """Return matches between runs and machines, in the order found. Uses the kind of run name that explains the most cost.

    `free`: indexes into `evidence.machines` of the machines that no known pool has.
    """
    found = [_Matcher(evidence, free, runs, kind).find() for kind in RUN_NAMES]
    # Matches proved by hours count first, because expensive machines that are always on fit any runs.
    most = max(_proved(matches) for matches in found)
    found = [matches for matches in found if _proved(matches) >= PROVED * most]
    most = max(sum(m.worth for m in matches) for matches in found)
    # If several kinds explain about the same amount, the one with the most matches is the most specific.
    return max((matches for matches in found if sum(m.worth for m in matches) >= (1 - ALIKE) * most), key=len)


def _proved(matches: Sequence[Match]) -> float:
    return sum(m.worth for m in matches if not m.is_by_elimination)


class _Matcher:
    """One pass over the evidence with one kind of run names."""

    def __init__(self, evidence: Evidence, free: Set[int], runs: Sequence[Cell], kind: str) -> None:
        self.evidence, self.kind = evidence, kind
        self.free = {n for n in free if not evidence.machines[n].is_serving}
        self.serving = {(_service(cell), key) for cell in evidence.machines if cell.is_serving for key in _keys(cell)}
        self.cells_of: dict[tuple[str, Key], set[int]] = defaultdict(set)
        for number, cell in enumerate(evidence.machines):
            for key in () if cell.is_serving else _keys(cell):
                self.cells_of[_service(cell), key].add(number)
        self.has_gpus = any(evidence.machines[n].gpus for n in self.free)
        self.homes = evidence.home_accounts & {cell.names.get("account", "") for cell in evidence.machines}
        self.steady = {n for n in range(len(evidence.machines)) if _is_steady(evidence, n)}
        self.names: dict[str, list[Cell]] = defaultdict(list)
        for cell in runs:
            if name := cell.names.get(kind):
                self.names[name].append(cell)
        # A selector would read such a name as a glob pattern, which also matches other names.
        for name in [n for n in self.names if set(n) & {"*", "?"} and any(o != n and matches(n, o) for o in self.names)]:
            del self.names[name]
        self.least_cost = LEAST_PART * sum(sum(c.costs.values()) for c in evidence.machines)
        self.known_runs: dict[tuple[str, bool], Series] = {}

    def find(self) -> tuple[Match, ...]:
        found: list[Match] = []
        while (best := self._best()) is not None:
            found.append(best)
            self._take(best)
        for group in self._steady(frozenset(match.group.account for match in found)):
            if (match := self._by_elimination(group)) is not None:
                found.append(match)
                self._take(match)
        return tuple(found)

    def _take(self, match: Match) -> None:
        self.free -= match.group.cells
        for value in match.values:
            self.names.pop(value, None)

    def _best(self) -> Match | None:
        """Return the match that explains the most cost. If a part of its machines fits about as well, return the part's match."""
        matches = [m for group in self._groups() if (m := self._match(group)) is not None]
        best = max(matches, key=lambda m: (m.worth, -MACHINE_NAMES.index(m.group.kind)), default=None)
        while best is not None:
            same = [m for m in matches if m.group.cells == best.group.cells and m.fit.score >= best.fit.score - ALIKE]
            best = min(same, key=lambda m: self._preference(m.group))
            parts = [
                m
                for m in matches
                if m.group.cells < best.group.cells and m.fit.score >= best.fit.score - ALIKE and m.cost >= best.cost / 20
            ]
            if not parts:
                return best
            best = max(parts, key=lambda m: m.worth)
        return None

    def _preference(self, group: Group) -> tuple[int, int, int]:
        """Return the sort key of groups with the same machines. A name with fewer other machines comes first.

        Labels of pods come before their cluster, which also has a fee. The service comes last: it may have other clusters.
        """
        others = self.cells_of.get((group.service, (group.kind, group.source, group.account, group.values)), set()) - group.cells
        width = {"machine_group": 1, "service": 2}.get(group.kind, 0) if group.service else 0
        return len(others), width, MACHINE_NAMES.index(group.kind)

    # --- machines ----------------------------------------------------------------------------------------------------------

    def _groups(self) -> list[Group]:
        """Return the groups of machines without a match, one group for each of their possible names, most expensive first."""
        named: dict[tuple[Key, str, tuple[str, tuple[str, ...]]], set[int]] = defaultdict(set)
        wide: dict[tuple[str, str, str], set[int]] = defaultdict(set)
        for number in self.free:
            cell = self.evidence.machines[number]
            place = cell.names.get("source", ""), cell.names.get("account", "")
            service, jobs = _service(cell), _jobs(cell)
            for key in _keys(cell):
                if (service, key) not in self.serving:
                    named[key, service, ("", ())].add(number)
                elif jobs[0]:
                    named[key, service, jobs].add(number)
            if self._has_own_type(cell) and number not in self.steady:
                wide[("machines", *place)].add(number)
                if cell.gpus:
                    wide[("accelerators", *place)].add(number)
        groups = [self._group(*key, cells, jobs) for (key, _, jobs), cells in named.items()]
        for (kind, source, account), cells in wide.items():
            types = tuple(sorted({self.evidence.machines[n].names["instance_type"] for n in cells}))
            # Only if a selector by these types matches no other machines of the account.
            if len(types) > 1 and cells == self._of_types(source, account, types):
                groups.append(self._group(kind, source, account, types, cells))
        groups = [g for g in groups if self._cost(g) >= self.least_cost]
        return sorted(groups, key=lambda g: (-self._cost(g), g.kind, g.values))[:MOST_CANDIDATES]

    def _has_own_type(self, cell: Cell) -> bool:
        """Return whether the cell has an instance type that no machine that serves models has."""
        return any(key[0] == "instance_type" and (_service(cell), key) not in self.serving for key in _keys(cell))

    def _of_types(self, source: str, account: str, types: Sequence[str]) -> set[int]:
        machines = enumerate(self.evidence.machines)
        return {
            n
            for n, c in machines
            if c.names.get("source", "") == source
            and c.names.get("account", "") == account
            and c.names.get("instance_type") in types
            and n in self.free
        }

    def _group(
        self,
        kind: str,
        source: str,
        account: str,
        values: tuple[str, ...],
        cells: Iterable[int],
        jobs: tuple[str, tuple[str, ...]] = ("", ()),
    ) -> Group:
        held = frozenset(cells)
        machines = [self.evidence.machines[n] for n in held]
        types = tuple(sorted({m.names.get("instance_type", "") for m in machines}))
        gpus, has_jobs = max(m.gpus for m in machines), any(m.is_job for m in machines)
        service = machines[0].names.get("service", "")
        return Group(kind, source, account, values, held, gpus, has_jobs, types if all(types) else (), service, jobs)

    def _cost(self, group: Group) -> float:
        return sum(sum(self.evidence.machines[n].costs.values()) for n in group.cells)

    def _steady(self, matched: Set[str]) -> list[Group]:
        """Return the remaining accelerators, one group per account that is known to have runs, most expensive first."""
        places: dict[tuple[str, str], set[int]] = defaultdict(set)
        for number in self.free:
            cell = self.evidence.machines[number]
            if cell.gpus and not cell.is_job and self._has_own_type(cell):
                places[cell.names.get("source", ""), cell.names.get("account", "")].add(number)
        groups = []
        for (source, account), cells in places.items():
            types = tuple(sorted({self.evidence.machines[n].names["instance_type"] for n in cells}))
            groups.append(self._group("instance_type" if len(types) == 1 else "accelerators", source, account, types, cells))
        groups.sort(key=lambda g: (-self._cost(g), g.account))
        known = (matched | (self.evidence.home_accounts & {cell.names.get("account", "") for cell in self.evidence.machines})) - {""}
        # If no account is known to have runs, use the account whose accelerators cost the most. A bill without accounts always counts.
        homes = (known or {g.account for g in groups[:1]}) | {""}
        return [g for g in groups if g.account in homes and self._cost(g) >= self.least_cost]

    # --- hours -------------------------------------------------------------------------------------------------------------

    def _is_daily(self, group: Group) -> bool:
        return any(self.evidence.machines[n].is_daily for n in group.cells)

    def _series(self, parts: Iterable[Mapping[int, float]], is_daily: bool) -> Series:
        since, upto = self.evidence.since, self.evidence.upto
        length = (upto - since + HOURS_A_DAY - 1) // HOURS_A_DAY if is_daily else upto - since
        values = [0.0] * length
        for part in parts:
            for hour, amount in part.items():
                if since <= hour < upto:
                    values[(hour - since) // HOURS_A_DAY if is_daily else hour - since] += amount
        return values

    def _ran(self, name: str, is_daily: bool) -> Series:
        key = name, is_daily
        if key not in self.known_runs:
            self.known_runs[key] = self._series((c.hours for c in self.names[name]), is_daily)
        return self.known_runs[key]

    def _match(self, group: Group) -> Match | None:
        """Return the match with the runs whose hours best fit the group's. None if the fit is not clearly better than chance."""
        is_daily = self._is_daily(group)
        billed = self._series((self.evidence.machines[n].hours for n in group.cells), is_daily)
        # While machines with GPUs are left, runs that ask for GPUs are not matched with machines that have none.
        able = [n for n in self.names if group.gpus or not self.has_gpus or not self._asks_for_gpus(n)]
        names = sorted(able, key=lambda n: -sum(self._ran(n, is_daily)))[:MOST_VALUES]
        # In an account without known runs, other daily work would fit equally well, so a pattern that repeats every day proves nothing.
        may_repeat = bool(group.gpus) or not self.homes or group.account in self.homes
        found = []
        for floor in {0.0} if group.kind in WIDE else {0.0, _least(billed)}:
            above = [max(0.0, b - floor) for b in billed]
            tried = self._grown(above, names, is_daily), self._thinned(above, names, is_daily)
            found += [(self._fit(above, chosen, is_daily, may_repeat), -floor, chosen) for chosen in tried if chosen]
        if not found:
            return None
        best, floor, chosen = max(found, key=lambda one: (one[0].score, one[1]))
        least = LEAST_SCORE if group.gpus else LEAST_WITHOUT_GPUS
        if best.score < least or not self._is_long_enough(billed, chosen, is_daily, is_close=bool(group.gpus) and best.score >= CLOSE):
            return None
        return replace(self._made(group, chosen, billed, best, is_daily), floor=-floor / (HOURS_A_DAY if is_daily else 1))

    def _made(self, group: Group, chosen: Sequence[str], billed: Series, found: Fit, is_daily: bool) -> Match:
        costs = self._series((self.evidence.machines[n].costs for n in group.cells), is_daily)
        ran = self._together(chosen, is_daily)
        busy = self._busy(group, chosen) if is_daily else ran
        there = [(c, b, r, u) for c, b, r, u in zip(costs, billed, ran, busy, strict=True) if b > 0]
        explained = sum(c * min(1.0, u / b) for c, b, _, u in there)  # as a pool splits cost: each run uses one machine while any is free
        hours = sum(billed), sum(min(b, u) for _, b, _, u in there), sum(r for _, _, r, _ in there), sum(ran)
        cells = [cell for name in chosen for cell in self.names[name]]
        servers = tuple(sorted({cell.names["tracking"] for cell in cells}))
        made = Match(group, self.kind, tuple(sorted(chosen)), found, sum(costs), explained, sum(c.runs for c in cells), 0.0, *hours)
        return replace(made, servers=servers, hour_costs=self._hour_costs(group))

    def _hour_costs(self, group: Group) -> tuple[float, float]:
        """Return the lowest and the highest mean cost of a machine-hour among the group's instance types and GPU counts."""
        sums: dict[tuple[str, int], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for cell in (self.evidence.machines[n] for n in group.cells):
            cost, hours = sums[key := (cell.names.get("instance_type", ""), cell.gpus)]
            sums[key] = cost + sum(cell.costs.values()), hours + sum(cell.hours.values())
        means = [cost / hours for cost, hours in sums.values() if hours]
        return min(means, default=0.0), max(means, default=0.0)

    def _busy(self, group: Group, names: Sequence[str]) -> Series:
        """Return the run-hours of each day for which a machine was billed. Each hour counts at most as many runs as machines."""
        machines = self._series((self.evidence.machines[n].machines for n in group.cells), is_daily=False)
        busy = [min(m, r) for m, r in zip(machines, self._together(names, is_daily=False), strict=True)]
        return [sum(busy[first : first + HOURS_A_DAY]) for first in range(0, len(busy), HOURS_A_DAY)]

    def _together(self, names: Sequence[str], is_daily: bool) -> Series:
        return [sum(values) for values in zip(*(self._ran(n, is_daily) for n in names), strict=True)]

    def _asks_for_gpus(self, name: str) -> bool:
        """Return whether the runs of this name ask for GPUs in most of their hours."""
        hours = [(sum(cell.hours.values()), cell.gpus) for cell in self.names[name]]
        return 2 * sum(h for h, gpus in hours if gpus) > sum(h for h, _ in hours)

    def _fit(self, billed: Series, names: Sequence[str], is_daily: bool, may_repeat: bool = True) -> Fit:
        ran = self._together(names, is_daily)
        each = crowding(billed, ran)
        return fit(billed, [r / each for r in ran], is_daily, may_repeat=may_repeat)

    def _is_long_enough(self, billed: Series, names: Sequence[str], is_daily: bool, *, is_close: bool) -> bool:
        """Return whether machines and runs were active together on enough days. With `is_close`, enough hours are sufficient."""
        ran = self._together(names, is_daily)
        shared = [n for n, (b, r) in enumerate(zip(billed, ran, strict=True)) if b > 0 and r > 0]
        if is_close and not is_daily and len(shared) >= CLOSE_HOURS:
            return True
        step = 1 if is_daily else HOURS_A_DAY
        return len({n // step for n in shared}) >= min(LEAST_DAYS, len(billed) / step)

    def _grown(self, billed: Series, names: Sequence[str], is_daily: bool) -> list[str]:
        """Return run names whose hours mostly fit into the machines' hours, and more than by chance. The best name is added first.

        Each name is compared with the hours that the earlier names left.
        """
        chosen: list[str] = []
        left, open_names = list(billed), list(names)
        while open_names:
            anybody = sum(min(1.0, b) for b in left) / len(left)
            gains = []
            for name in open_names:
                ran = self._ran(name, is_daily)
                inside, whole = sum(min(b, r) for b, r in zip(left, ran, strict=True) if r), sum(ran)
                if whole and inside / whole >= max(RUNS_INSIDE, (1 + anybody) / 2):
                    gains.append((inside, name))
            if not gains:
                break
            _, best = max(gains)
            chosen.append(best)
            open_names.remove(best)
            left = [max(0.0, b - r) for b, r in zip(left, self._ran(best, is_daily), strict=True)]
        return chosen

    def _thinned(self, billed: Series, names: Sequence[str], is_daily: bool) -> list[str]:
        """Return all run names except those that do not improve the likeness. This suits fleets in which some machine is always on."""
        chosen = list(names)
        if not chosen:
            return chosen
        ran = self._together(chosen, is_daily)
        for name in reversed(names):
            if len(chosen) == 1:
                break
            own = self._ran(name, is_daily)
            without = [max(0.0, r - o) for r, o in zip(ran, own, strict=True)]
            if likeness(billed, without) >= likeness(billed, ran):
                chosen.remove(name)
                ran = without
        return chosen

    # --- by elimination -------------------------------------------------------------------------------------------------------

    def _by_elimination(self, group: Group) -> Match | None:
        """Match the remaining runs with accelerators that are always on. If any runs ask for GPUs, only those are matched."""
        is_daily = self._is_daily(group)
        billed = self._series((self.evidence.machines[n].hours for n in group.cells), is_daily)
        names = [
            n
            for n in self.names
            if sum(r for b, r in zip(billed, self._ran(n, is_daily), strict=True) if b > 0) >= RUNS_INSIDE * sum(self._ran(n, is_daily))
        ]
        asking = [n for n in names if any(cell.gpus for cell in self.names[n])]
        chosen = asking or names
        if not chosen:
            return None
        made = self._made(group, chosen, billed, self._fit(billed, chosen, is_daily), is_daily)
        if made.explained_cost < LEAST_USE * made.cost:
            return None
        cells = [(sum(cell.hours.values()), cell.gpus) for name in chosen for cell in self.names[name]]
        part = sum(hours for hours, gpus in cells if gpus) / sum(hours for hours, _ in cells) if asking else 1.0
        return replace(made, is_by_elimination=True, asking=part)


def _least(billed: Series) -> float:
    """Return the number of machines that were always on between the first and the last slot with a machine.

    Those two slots are not counted, because they may be partial.
    """
    on = [slot for slot, machines in enumerate(billed) if machines]
    return min(billed[on[0] + 1 : on[-1]], default=0.0) if on else 0.0


def _service(cell: Cell) -> str:
    return cell.names.get("service", "")


def _jobs(cell: Cell) -> tuple[str, tuple[str, ...]]:
    """Return the key and patterns that select managed jobs but no machines that serve models.

    Jobs are selected by resource or, if the bill does not name them, by meter.
    """
    if resource := cell.names.get("job_resource"):
        return "resource", (f"*{resource}*",)
    return ("meter", TRAINING_PATTERNS) if cell.is_job and _service(cell) else ("", ())


def _keys(cell: Cell) -> set[Key]:
    """Return every name that a selector could use for these machines, as (kind of name, bill, account, names)."""
    place = cell.names.get("source", ""), cell.names.get("account", "")
    own = {
        (kind, *place, (name,))
        for kind, name in cell.names.items()
        if kind in ("machine_group", "instance_type", "name_prefix", "resource_key", "service")
    }
    return own | {("tag", *place, (kind, name)) for kind, name in cell.names.items() if kind.startswith("tag.")}


def _is_steady(evidence: Evidence, number: int) -> bool:
    """Return whether about the same number of machines is on nearly all the time. The hours of such machines prove nothing."""
    hours, length = evidence.machines[number].hours, evidence.upto - evidence.since
    mean = sum(hours.values()) / length
    return sum(0.75 * mean <= amount <= 1.25 * mean for amount in hours.values()) >= 0.9 * length
