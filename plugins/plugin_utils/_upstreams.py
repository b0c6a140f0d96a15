# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The plans of all hosts, seen from a balancer: one upstream per model, one server per instance."""

from __future__ import annotations

import ipaddress
import re
import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

# Every character of a model's name may stand in an upstream's name, a zone's and a path as it is, so that two models
# never share one.
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class UpstreamsError(NumapinError):
    """Plans that cannot be balanced; the message names hosts and instances."""


def upstreams(
    plans: Sequence[Mapping[str, t.Any]],
    ready: Mapping[str, Sequence[str] | None] | None = None,
    drained: Mapping[str, Mapping[str, Mapping[str, t.Any]]] | None = None,
) -> list[dict[str, t.Any]]:
    """Return one upstream per model, in the order in which the plans first name them.

    ``plans`` are the hosts' ``vllm_plan``. ``ready`` maps a host to the names of its instances that were found ready in
    this run, or to None when this run did not get that far there. A host that was not got to, or an instance that was
    not ready, is down. Where nothing is known of any host, no instance was touched by this run and all are taken as up.
    ``drained`` maps a host to its records of drained instances by name; those are down whatever else is known.

    Each upstream is ``{model, name, served_names, servers: [{instance, host, endpoint, weight, down, reason}]}`` with
    ``endpoint`` as nginx wants it (``192.0.2.1:8000``, ``[2001:db8::1]:8000``) and ``reason`` saying why it is down.

    Where nothing is planned there is no upstream. Raises UpstreamsError when an address is not an IP address, or when
    two instances have the same endpoint.
    """
    known = {host: names for host, names in (ready or {}).items() if names is not None}
    models: dict[str, dict[str, t.Any]] = {}
    taken: dict[str, str] = {}
    for plan in plans:
        for instance in plan["instances"]:
            # While a change goes on, an instance may still be reached where it was before.
            endpoint = _endpoint(instance.get("address") or plan["address"], instance["port"], plan["host"])
            what = f"{instance['name']} on {plan['host']}"
            if endpoint in taken:
                raise UpstreamsError(
                    f"{taken[endpoint]} and {what} have the same endpoint {endpoint}: give each host an address of "
                    "its own (vllm_address), or the models of one host different ports"
                )
            taken[endpoint] = what
            upstream = models.setdefault(instance["model"], _new_upstream(instance["model"]))
            upstream["served_names"] += [
                name for name in instance["served_names"] if name not in upstream["served_names"]
            ]
            record = ((drained or {}).get(plan["host"]) or {}).get(instance["name"])
            reason = _why_drained(record) if record else _why_down(plan["host"], instance["name"], known)
            upstream["servers"].append(
                {
                    "instance": instance["name"],
                    "host": plan["host"],
                    "endpoint": endpoint,
                    "weight": instance["weight"],
                    "down": reason is not None,
                    "reason": reason,
                }
            )
    return list(models.values())


def _new_upstream(model: str) -> dict[str, t.Any]:
    if not _MODEL_NAME.fullmatch(model):
        raise UpstreamsError(
            f"model {model!r}: allowed are a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
        )
    return {"model": model, "name": f"numapin_{model}", "served_names": [], "servers": []}


def _endpoint(given: str, port: int, host: str) -> str:
    try:
        address = ipaddress.ip_address(given)
    except ValueError:
        raise UpstreamsError(
            f"{host}: its plan has the address {given!r}, which is not an IP address; nginx would "
            "ask the name service once, at its start, and never again: set vllm_address to an IP address"
        ) from None
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _why_drained(record: Mapping[str, t.Any]) -> str:
    """In words that can stand in a comment of nginx's configuration, whatever a person gave as the reason."""
    text = f"drained since {record['since']} by a {record['by']}: {record['reason']}"
    return "".join(letter if letter.isprintable() else " " for letter in text)[:200]


def _why_down(host: str, instance: str, known: Mapping[str, Sequence[str]]) -> str | None:
    if not known:
        return None
    if host not in known:
        return "vLLM was not brought up on this host in the last run"
    if instance not in known[host]:
        return "not ready in the last run"
    return None
