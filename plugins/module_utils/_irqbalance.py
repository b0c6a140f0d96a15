# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""irqbalance beside us: what we place it leaves alone, and what the administrator told it stays told.

A ban by number (``--banirq``) is wrong after the next driver reload. The policy script is asked for every interrupt
that irqbalance finds, then and later, with the device's directory in sysfs and the number; ours looks at the device.
It was chosen over ``--banmod``, which would ban a driver's other devices as well. See irqbalance(1).
"""

from __future__ import annotations

import os
import re
import shlex
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _commands
from ansible_collections.numapin.inference.plugins.module_utils._irq_state import replace_file
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError
from ansible_collections.numapin.inference.plugins.module_utils._program import PROGRAM_DIRECTORY

UNIT = "irqbalance.service"
POLICY_SCRIPT = f"{PROGRAM_DIRECTORY}/irqbalance-policy"
_VARIABLE = "IRQBALANCE_ARGS"
_MARK = "# Added by the Ansible collection numapin.inference"
_ASSIGNMENT = re.compile(rf"^[ \t]*{_VARIABLE}=(?P<value>.*)$")
_IN_ENVIRONMENT = re.compile(rf"(^|[ \"'])({_VARIABLE}=[^ \"'])")
_CALL_TIMEOUT_SECONDS = 60.0
_PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "EnvironmentFiles", "Environment", "ExecStart")


class Irqbalance(t.NamedTuple):
    """The service as systemd knows it; ``environment_file`` is the last one it reads, the administrator's."""

    installed: bool
    active: bool
    enabled: bool
    environment_file: str | None
    takes_arguments: bool
    # What our line in the last file would hide: files that are read before it, and Environment= of the unit.
    earlier_files: tuple[str, ...] = ()
    sets_arguments: bool = False


ABSENT = Irqbalance(False, False, False, None, False)


def find(run: _commands.Runner = _commands.run) -> Irqbalance:
    """Ask systemd; where there is no systemd there is no service."""
    if _commands.find_executable("systemctl") is None:
        return ABSENT
    result = run(("systemctl", "show", f"--property={','.join(_PROPERTIES)}", UNIT), _CALL_TIMEOUT_SECONDS)
    if result.rc != 0:
        said = result.stderr.strip() or result.stdout.strip() or f"exit status {result.rc}"
        raise IrqError(f"systemctl show {UNIT} failed, so nobody knows whether irqbalance is there: {said}")
    values: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        name, _equals, value = line.partition("=")
        values.setdefault(name, []).append(value)
    files = [path for text in values.get("EnvironmentFiles", []) for path in re.findall(r"(/\S+) \(", text)]
    return Irqbalance(
        installed=values.get("LoadState") == ["loaded"],
        active=values.get("ActiveState", [""])[0] in ("active", "activating", "reloading"),
        enabled=values.get("UnitFileState", [""])[0] in ("enabled", "enabled-runtime"),
        environment_file=files[-1] if files else None,
        takes_arguments=any(f"${_VARIABLE}" in text for text in values.get("ExecStart", [])),
        earlier_files=tuple(files[:-1]),
        sets_arguments=any(_IN_ENVIRONMENT.search(text) for text in values.get("Environment", [])),
    )


def refuse_hidden_arguments(irqbalance: Irqbalance, text: str) -> None:
    """Raise ``IrqError`` when arguments are set elsewhere only: a line of ours in the file would hide them."""
    if _last_assignment(text.removesuffix(_own_lines([])).splitlines()) is not None:
        return
    sources = [f"Environment= of {UNIT} (see systemctl cat {UNIT})"] if irqbalance.sets_arguments else []
    for path in irqbalance.earlier_files:
        lines = (read_environment(path) or "").splitlines()
        place = _last_assignment(lines)
        if place is not None and lines[place].partition("=")[2].strip(" \t\"'"):
            sources.append(path)
    if sources:
        raise IrqError(
            f"irqbalance: coexist would write {_VARIABLE} to {irqbalance.environment_file}, and what is set in"
            f" {' and '.join(sources)} would count no more: set {_VARIABLE} with these arguments in"
            f" {irqbalance.environment_file}, or choose irqbalance: stop or ignore"
        )


# The arguments that irqbalance is started with


class Arguments(t.NamedTuple):
    """An environment file's text with our policy script in it, and the administrator's script that ours asks first."""

    text: str
    administrators: str | None


def with_our_script(text: str, where: str) -> Arguments:
    """Return the file's text with our script among the arguments; one that is there already is left as it is.

    Raises ``IrqError`` for a line that cannot be read as systemd does.
    """
    lines = text.splitlines()
    place = _last_assignment(lines)
    if place is None:
        return Arguments(text + ("" if not text or text.endswith("\n") else "\n") + _own_lines([]), None)
    words = _words(lines[place], where)
    script, others = _split(words)
    if script == POLICY_SCRIPT:
        return Arguments(text, None)
    lines[place] = _assignment([*others, f"--policyscript={POLICY_SCRIPT}"])
    return Arguments("\n".join(lines) + "\n", script)


def without_our_script(text: str, administrators: str | None, where: str) -> str:
    """Return the file's text as it would be had we never been there; what else changed in it stays."""
    if text.endswith(_own_lines([])):
        return text.removesuffix(_own_lines([]))
    lines = text.splitlines()
    place = _last_assignment(lines)
    if place is None:
        return text
    script, others = _split(_words(lines[place], where))
    if script != POLICY_SCRIPT:
        return text
    if administrators:
        others.append(f"--policyscript={administrators}")
    lines[place] = _assignment(others)
    return "\n".join(lines) + "\n"


def _own_lines(others: t.Sequence[str]) -> str:
    return f"{_MARK}\n{_assignment([*others, f'--policyscript={POLICY_SCRIPT}'])}\n"


def _assignment(words: t.Sequence[str]) -> str:
    # systemd splits the value at blanks when it puts it into the command: there is no quoting inside it.
    return f'{_VARIABLE}="{" ".join(words)}"'


def _last_assignment(lines: t.Sequence[str]) -> int | None:
    places = [place for place, line in enumerate(lines) if _ASSIGNMENT.match(line)]
    return places[-1] if places else None


def _words(line: str, where: str) -> list[str]:
    match = _ASSIGNMENT.match(line)
    value = match["value"].strip() if match else ""
    try:
        parts = shlex.split(value)
    except ValueError:
        parts = None
    if parts is None or "\\" in value:
        raise IrqError(
            f"{where}: {line.strip()!r} cannot be changed safely: write {_VARIABLE} on one line, in double quotes, or"
            " choose irqbalance: stop or ignore"
        )
    return " ".join(parts).split()


def _split(words: t.Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the policy script among the arguments, and the others."""
    script, others, waiting = None, [], list(words)
    while waiting:
        word = waiting.pop(0)
        if word in ("--policyscript", "-l") and waiting:
            script = waiting.pop(0)
        elif word.startswith("--policyscript="):
            script = word.partition("=")[2]
        elif word.startswith("-l") and not word.startswith("--") and len(word) > 2:
            script = word[2:]
        else:
            others.append(word)
    return script, others


# The policy script


def policy_script(devices: t.Iterable[str], actions: t.Iterable[str], administrators: str | None) -> str:
    """Return a shell script that bans what rules select: by PCI address, and by shell pattern of action names.

    irqbalance runs it once for every interrupt, thousands of times on a large host: it starts no other program.
    """
    lines = [
        "#!/bin/sh",
        "# Written by the Ansible collection numapin.inference, module irq_affinity. irqbalance runs it for every",
        "# interrupt, with the device's directory in sysfs and the number.",
    ]
    if administrators:
        own = shlex.quote(administrators)
        lines += [
            "# The administrator's own, from irqbalance's environment file, is asked first.",
            f"if [ -d {own} ]; then",
            f'    for script in {own}/*; do if [ -x "$script" ] && "$script" "$@"; then break; fi; done',
            f'else {own} "$@"; fi',
        ]
    addresses = sorted(set(devices))
    if addresses:
        patterns = " | ".join(f"*/{address} | */{address}/*" for address in addresses)
        lines += ['case "$1" in', f"{patterns}) echo ban=true; exit 0 ;;", "esac"]
        # Where irqbalance gives another directory, the number is still among the device's.
        lines += [
            f"for device in {' '.join(addresses)}; do",
            '    if [ -e "/sys/bus/pci/devices/$device/msi_irqs/$2" ]; then echo ban=true; exit 0; fi',
            "done",
        ]
    shell_patterns = sorted(set(actions))
    if shell_patterns:
        lines += [
            "names=",
            'if [ -r "/sys/kernel/irq/$2/actions" ]; then read -r names <"/sys/kernel/irq/$2/actions"; fi',
            'case ",$names," in',
            " | ".join(f"*,{_case_pattern(pattern)},*" for pattern in shell_patterns) + ") echo ban=true ;;",
            "esac",
        ]
    lines.append("exit 0")
    return "\n".join(lines) + "\n"


def _case_pattern(pattern: str) -> str:
    """Quote what a shell would take for its own in a pattern, and leave ``*``, ``?`` and ``[...]``."""
    return "".join(char if re.match(r"[\w*?\[\]!-]", char) else f"\\{char}" for char in pattern)


# Reading and writing


def read_environment(path: str) -> str | None:
    """Return the file's text; ``None`` when there is none. Raises ``IrqError``."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IrqError(f"{path}: {error.strerror}; is this run as root (become)?") from error


def write_environment(path: str, text: str | None) -> None:
    """Write the file, whole or not at all; ``None`` removes it. Raises ``IrqError``.

    It keeps its owner and mode, and a link stays a link: what it leads to is written.
    """
    path = os.path.realpath(path)
    if text is None:
        try:
            os.unlink(path)
        except OSError as error:
            raise IrqError(f"{path} could not be removed: {error.strerror}") from error
        return
    try:
        now = os.stat(path)
    except OSError:
        replace_file(path, text, 0o644)
    else:
        replace_file(path, text, now.st_mode & 0o7777, (now.st_uid, now.st_gid))
