# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What a rolling change takes out and puts in, in which order, and what it refuses.

A *change* is what has to happen as one on one host: ``{out: [names], in: [names], reason}``. ``out`` are instances that
serve and must be drained first, ``in`` the ones that run afterwards. Mostly both are the same one name. They differ
where a plan moved: instances that want what others still hold (a GPU, CPUs, a port) wait until those are out.

A *batch* is what happens at the same time, as ``{hosts: {host: {out, in}}, title}``. The hosts of an instance that
several have together are changed at once; each has the others as ``with`` there. Only its leader has it among its
``instances``; for the others it is one of their ``members``, which no balancer knows.
"""

from __future__ import annotations

import typing as t
from collections.abc import Collection, Mapping, Sequence

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

Entry = Mapping[str, t.Any]
Change = dict[str, t.Any]
# What is changed at once: one change, or those of all hosts of an instance.
Bundle = list[tuple[str, Change]]


class RolloutError(NumapinError):
    """Something that cannot be rolled out this way; the message names the setting."""


# --- On one host -----------------------------------------------------------------------------------------------------


def host_changes(
    plan: Mapping[str, t.Any],
    previous: Mapping[str, t.Any] | None,
    actions: Sequence[Mapping[str, t.Any]],
    serving: Collection[str],
    drained: Mapping[str, Mapping[str, t.Any]],
) -> list[Change]:
    """The changes of one host that must not be made while clients are served by what they touch.

    ``actions`` is what vllm_units would do, ``serving`` the names of those that answer, ``drained`` the host's records.
    What is in no change can be started, restarted and stopped at once: nobody is served by it.
    """
    new, old = _entries(plan), _entries(previous)
    wanted_actions = {instance_name(action["unit"]): action for action in actions}
    out: dict[str, str] = {}
    for name, action in wanted_actions.items():
        replaced = name in new and action["action"] == "restart"
        removed = name not in new and action["action"] in ("stop", "none") and name in old
        if (replaced or removed) and name in serving:
            out[name] = action["reason"]
    resumed = {
        name: f"a rollout of {record['since']} did not come to its end"
        for name, record in drained.items()
        if record.get("rollout") and name not in out
    }
    groups = [({name}, {name} & new.keys(), reason) for name, reason in (out | resumed).items()]
    groups = _join_overlapping(groups, old, new)
    started = [name for name, act in wanted_actions.items() if name in new and act["action"] in ("start", "restart")]
    for name in started:
        if any(name in outs | ins for outs, ins, _reason in groups):
            continue
        for _outs, ins, _reason in [group for group in groups if _wants_of(new[name], group[0], old)]:
            ins.add(name)
    # One new instance may want what two of them hold.
    groups = _join_overlapping(groups, old, new)
    return [{"out": sorted(outs), "in": sorted(ins), "reason": reason} for outs, ins, reason in groups]


def serving_plan(
    plan: Mapping[str, t.Any], previous: Mapping[str, t.Any] | None, held: Collection[str]
) -> dict[str, t.Any]:
    """The plan as it is at this moment: ``held`` instances are still what they were, and new ones of them not there.

    An entry that is still reached at another address than the plan's carries it as ``address``.
    """
    old = _entries(previous)
    address = (previous or {}).get("address", plan["address"])
    new = _entries(plan)
    served: dict[str, list[dict[str, t.Any]]] = {"instances": [], "members": []}
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in held:
            if name in new:
                served[_part(plan, name)].append(dict(new[name]))
        elif name in old:
            kept = dict(old[name])
            if kept.get("address", address) != plan["address"]:
                kept["address"] = kept.get("address", address)
            served[_part(previous, name)].append(kept)
    if not served["members"] and "members" not in plan:
        del served["members"]
    return {**plan, **served}


def instance_name(unit: str) -> str:
    """``tiny-n0`` of ``vllm@tiny-n0.service``."""
    return unit.partition("@")[2].removesuffix(".service")


def _entries(plan: Mapping[str, t.Any] | None) -> dict[str, dict[str, t.Any]]:
    """All that runs on a host."""
    members = (plan or {}).get("members") or []
    return {**_served(plan), **{entry["name"]: entry for entry in members}}


def _served(plan: Mapping[str, t.Any] | None) -> dict[str, dict[str, t.Any]]:
    """What balancers may know of it."""
    return {entry["name"]: entry for entry in (plan or {}).get("instances") or []}


def _part(plan: Mapping[str, t.Any] | None, name: str) -> str:
    return "instances" if name in _served(plan) else "members"


def _own_port(entry: Entry) -> object:
    """The port that it has on its host: a follower has none."""
    return entry.get("port") if (entry.get("group") or {}).get("rank", 0) == 0 else None


def _join_overlapping(
    groups: Sequence[tuple[set[str], set[str], str]], old: Mapping[str, Entry], new: Mapping[str, Entry]
) -> list[tuple[set[str], set[str], str]]:
    joined: list[tuple[set[str], set[str], str]] = []
    for outs, ins, reason in groups:
        touching = [
            other
            for other in joined
            if (outs | ins) & (other[0] | other[1])
            or any(_wants_of(new[name], other[0] - {name}, old) for name in ins)
            or any(_wants_of(new[name], outs - {name}, old) for name in other[1])
        ]
        for other in touching:
            joined.remove(other)
            outs, ins, reason = other[0] | outs, other[1] | ins, other[2]
        joined.append((outs, ins, reason))
    return joined


def _wants_of(wants: Entry, holders: Collection[str], old: Mapping[str, Entry]) -> bool:
    """Whether a new instance wants a GPU, a port or – of instances on the CPU – a CPU that one of ``holders`` has."""
    return any(_overlap(wants, old[name]) for name in holders if name in old)


def _overlap(one: Entry, other: Entry) -> bool:
    port = _own_port(one)
    if (port is not None and port == _own_port(other)) or set(one.get("gpus") or []) & set(other.get("gpus") or []):
        return True
    if one.get("device") == "gpu" or other.get("device") == "gpu":
        return False
    return bool(parse_cpulist(str(one.get("cpus", ""))) & parse_cpulist(str(other.get("cpus", ""))))


# --- Over all hosts --------------------------------------------------------------------------------------------------


class _State:
    """Who serves what while the batches go on, in thought."""

    def __init__(self, hosts: Mapping[str, Mapping[str, t.Any]], shared: bool) -> None:
        self.hosts, self.shared = hosts, shared
        self.healthy: dict[tuple[str, str], set[str]] = {}
        self.wanted: set[tuple[str, str]] = set()
        for host, about in hosts.items():
            self.wanted |= {(self.domain(host), entry["model"]) for entry in about["plan"]["instances"]}
            for name, entry in _served(about["serving"]).items():
                if name in about["ready"] and name not in about["drained"]:
                    self.pool(host, entry["model"]).add(f"{name} on {host}")

    def domain(self, host: str) -> str:
        """Instances that one balancer can put in each other's place."""
        return "" if self.shared else host

    def pool(self, host: str, model: str) -> set[str]:
        return self.healthy.setdefault((self.domain(host), model), set())

    def leaving(self, host: str, change: Change) -> dict[str, set[str]]:
        """By model, those that serve now and would not while this change goes on; of models that shall stay only."""
        leaving: dict[str, set[str]] = {}
        entries = _served(self.hosts[host]["serving"])
        for name in change["out"]:
            model = entries[name]["model"] if name in entries else None
            what = f"{name} on {host}"
            if model and (self.domain(host), model) in self.wanted and what in self.pool(host, model):
                leaving.setdefault(model, set()).add(what)
        return leaving

    def apply(self, host: str, change: Change) -> None:
        about = self.hosts[host]
        for name in change["out"]:
            for pool in self.healthy.values():
                pool.discard(f"{name} on {host}")
        for name, entry in _served(about["plan"]).items():
            if name in change["in"] and about["drained"].get(name, {}).get("by") != "person":
                self.pool(host, entry["model"]).add(f"{name} on {host}")


def batches(
    hosts: Mapping[str, Mapping[str, t.Any]],
    *,
    shared: bool,
    batch: int = 1,
    minimum_healthy: int = 1,
    allow_downtime: bool = False,
) -> dict[str, list[t.Any]]:
    """The order of all hosts' changes: ``{batches, refusals, warnings}``; with a refusal nothing may be begun.

    ``hosts`` maps each host to ``{plan, serving, changes, ready, drained, balanced}``: the plan, the plan as it is now,
    ``host_changes``, names that answer, records of drained ones, and whether a balancer sends it requests at all.
    ``shared``: one balancer (or several alike) serves all hosts; otherwise each host for itself. At most ``batch``
    instances of one model are out at a time, and at least ``minimum_healthy`` of it go on serving.
    """
    if batch < 1:
        raise RolloutError(f"vllm_rollout_batch is {batch}: at least one instance has to be changed at a time")
    if minimum_healthy < 0:
        raise RolloutError(f"vllm_rollout_minimum_healthy is {minimum_healthy}: it must be 0 or more")
    state = _State(hosts, shared)
    pending = _bundles(hosts)
    # What an earlier run left half-done is brought to its end first; what only goes is last, when its successors serve.
    pending.sort(
        key=lambda bundle: (not _left_half_done(bundle, hosts), not any(change["in"] for _host, change in bundle))
    )
    planned: list[dict[str, t.Any]] = []
    refusals: list[str] = []
    warnings: list[str] = []
    while pending:
        taken: list[Bundle] = []
        gone: dict[tuple[str, str], int] = {}
        for bundle in pending:
            with_it = _fits(state, bundle, gone, batch, minimum_healthy)
            if with_it is not None:
                taken.append(bundle)
                gone = with_it
        if not taken:
            messages = [_too_few(state, host, change, minimum_healthy) for host, change in pending[0]]
            (warnings if allow_downtime else refusals).append("; ".join(filter(None, messages)))
            taken = [pending[0]]
        elif minimum_healthy == 0:
            warnings += [
                _too_few(state, host, change, 1)
                for bundle in taken
                for host, change in bundle
                if hosts[host]["balanced"] and not _leaves(state, host, change, {}, 1)
            ]
        for bundle in taken:
            pending.remove(bundle)
            for host, change in bundle:
                state.apply(host, change)
        planned.append(_batch(taken))
    return {"batches": planned, "refusals": refusals, "warnings": warnings}


def too_few(
    hosts: Mapping[str, Mapping[str, t.Any]],
    batch: Mapping[str, t.Any],
    answers: Mapping[str, Sequence[Mapping[str, t.Any]]],
    *,
    shared: bool,
    minimum_healthy: int,
    seen: Mapping[str, Sequence[Mapping[str, t.Any]]] | None = None,
) -> list[str]:
    """What forbids to begin ``batch`` at this moment: models of which too few others answered just now.

    ``hosts`` as for ``batches``; ``answers`` maps a host to what instance_ready found of its instances, ``seen`` a
    balancer to what instance_traffic found there of "NAME on HOST". One that answers on its host and is not reached by
    a balancer does not count.
    """
    state = _State(hosts, shared)
    leaving: dict[tuple[str, str], set[str]] = {}
    for host, change in batch["hosts"].items():
        if hosts[host]["balanced"]:
            for model, names in state.leaving(host, change).items():
                leaving.setdefault((state.domain(host), model), set()).update(names)
    found = {f"{answer['name']} on {host}": answer for host, all_of in answers.items() for answer in all_of}
    for balancer, looks in (seen or {}).items():
        for look in looks:
            if not look["serving"]:
                said = f"{balancer} does not reach it ({look['detail']})"
                found[look["name"]] = {"state": "unreached", "detail": said}
    problems = []
    for (domain, model), names in leaving.items():
        others = sorted(state.healthy[domain, model] - names)
        silent = [name for name in others if found.get(name, {}).get("state") != "ready"]
        answering = len(others) - len(silent)
        if answering < minimum_healthy:
            said = "; ".join(f"{name}: {found.get(name, {}).get('detail', 'not asked')}" for name in silent)
            problems.append(
                f"model {model}: {answering} other instances answer, but {minimum_healthy} must while"
                f" {', '.join(sorted(names))} is changed" + (f"; {said}" if said else "")
            )
    return problems


def _bundles(hosts: Mapping[str, Mapping[str, t.Any]]) -> list[Bundle]:
    """The changes of all hosts; those of the hosts that have an instance together are one."""
    bundles: list[Bundle] = []
    for host, about in hosts.items():
        for change in about["changes"]:
            bundle: Bundle = [(host, change)]
            known = {**_entries(about["serving"]), **_entries(about["plan"])}
            for name in sorted({*change["out"], *change["in"]} & known.keys()):
                bundle += [
                    (member, _same_change(name, hosts[member], change["reason"]))
                    for member in _hosts_of(known[name])
                    if member != host and member in hosts
                ]
            touching = [one for one in bundles if _names(one) & _names(bundle)]
            for one in touching:
                bundles.remove(one)
            bundles.append(_merged([*(item for one in touching for item in one), *bundle]))
    return bundles


def _hosts_of(entry: Entry) -> list[str]:
    return [member["host"] for member in (entry.get("group") or {}).get("members") or ()]


def _names(bundle: Bundle) -> set[tuple[str, str]]:
    return {(host, name) for host, change in bundle for name in (*change["out"], *change["in"])}


def _same_change(name: str, about: Mapping[str, t.Any], reason: str) -> Change:
    """What another host does when its part of an instance is changed, whether something changes there or not."""
    return {
        "out": [name] if name in _entries(about["serving"]) else [],
        "in": [name] if name in _entries(about["plan"]) else [],
        "reason": reason,
    }


def _merged(items: Bundle) -> Bundle:
    """One change for each host."""
    merged: dict[str, Change] = {}
    for host, change in items:
        mine = merged.setdefault(host, {"out": [], "in": [], "reason": change["reason"]})
        for side in ("out", "in"):
            mine[side] = sorted({*mine[side], *change[side]})
    return list(merged.items())


def _left_half_done(bundle: Bundle, hosts: Mapping[str, Mapping[str, t.Any]]) -> bool:
    return any(set(change["out"]) & _open(hosts[host]["drained"]) for host, change in bundle)


def _open(drained: Mapping[str, Mapping[str, t.Any]]) -> set[str]:
    return {name for name, record in drained.items() if record.get("rollout")}


def _fits(
    state: _State, bundle: Bundle, gone: Mapping[tuple[str, str], int], batch: int, minimum_healthy: int
) -> dict[tuple[str, str], int] | None:
    """What is gone with ``bundle`` beside what is ``gone`` without; ``None`` where that would be too much."""
    with_it = dict(gone)
    for host, change in bundle:
        if not state.hosts[host]["balanced"]:
            continue
        leaving = state.leaving(host, change)
        for model, names in leaving.items():
            already = gone.get((state.domain(host), model), 0)
            # One bundle may hold more instances than a batch: they depend on one another, so it goes alone.
            if already and already + len(names) > batch:
                return None
        if not _leaves(state, host, change, with_it, minimum_healthy):
            return None
        for model, names in leaving.items():
            with_it[state.domain(host), model] = with_it.get((state.domain(host), model), 0) + len(names)
    return with_it


def _leaves(
    state: _State, host: str, change: Change, gone: Mapping[tuple[str, str], int], minimum_healthy: int
) -> bool:
    return all(
        len(state.pool(host, model)) - gone.get((state.domain(host), model), 0) - len(names) >= minimum_healthy
        for model, names in state.leaving(host, change).items()
    )


def _too_few(state: _State, host: str, change: Change, minimum_healthy: int) -> str:
    parts = []
    for model, names in state.leaving(host, change).items():
        pool = state.pool(host, model)
        left = len(pool) - len(names)
        if left < minimum_healthy:
            serve = ", ".join(sorted(pool))
            parts.append(
                f"model {model}: of {len(pool)} instances that serve it ({serve}) only {left} would be left while"
                f" {', '.join(sorted(names))} is changed"
            )
    return "; ".join(parts)


def _batch(taken: Sequence[Bundle]) -> dict[str, t.Any]:
    hosts: dict[str, dict[str, list[str]]] = {}
    words = []
    for bundle in taken:
        together = [host for host, _change in bundle]
        for host, change in bundle:
            mine = hosts.setdefault(host, {"out": [], "in": []})
            for side in ("out", "in"):
                mine[side] = sorted({*mine[side], *change[side]})
            if len(together) > 1:
                mine["with"] = sorted({*mine.get("with", []), *(other for other in together if other != host)})
            names = sorted({*change["out"], *change["in"]})
            removed = [name for name in names if name not in change["in"]]
            words.append(f"{', '.join(names)} on {host}" + (f" (goes: {', '.join(removed)})" if removed else ""))
    return {"hosts": hosts, "title": "; ".join(words)}
