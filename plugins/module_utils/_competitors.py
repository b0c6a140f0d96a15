# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Who else sets what we set: files of sysctl.d, in the order in which they are applied, and a profile of TuneD.

sysctl.d(5): files are applied in the order of their names, whatever their directory; of two files of one name only the
one in the first directory counts. /etc/sysctl.conf is read last, by ``sysctl --system`` only, unless it is linked into
one of the directories.
"""

from __future__ import annotations

import fnmatch
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _tuned
from ansible_collections.numapin.inference.plugins.module_utils._tuned import CPUFREQ_GOVERNOR, TRANSPARENT_HUGEPAGE

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._kernel import Tuned

_DIRECTORIES = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
_SYSCTL_CONF = "/etc/sysctl.conf"
_TUNED_AT_BOOT = "/etc/systemd/system/multi-user.target.wants/tuned.service"
# A profile that TuneD adds to the active one.
_POST_LOADED = "/etc/tuned/post_loaded_profile"
_ASSIGNMENT = re.compile(r"-?([^=\s]+)\s*=\s*(.*)")


class Competitor(t.NamedTuple):
    """Somebody who gives one setting another value, and where. One that ``yields`` is overridden by ours each time."""

    name: str
    source: str  # a path with its line, or the TuneD profile
    value: str
    sentence: str
    yields: bool = False


class _Assignment(t.NamedTuple):
    file: str  # base name, which decides the order
    source: str
    pattern: str
    value: str


def sysctl_competitors(host: Host, wanted: t.Mapping[str, str], own_file: str) -> list[Competitor]:
    """Files that are applied after ``own_file`` (a base name) and give a wanted sysctl another value at boot."""
    later = [found for found in _assignments(host) if found.file > own_file]
    competitors: list[Competitor] = []
    for name, value in wanted.items():
        # The last one wins, and only that one is worth changing.
        matching = [found for found in later if fnmatch.fnmatchcase(name, found.pattern)]
        if matching and _words(matching[-1].value) != _words(value):
            competitors.append(_sysctl_competitor(name, matching[-1]))
    return competitors


def sysctl_assignments(host: Host, names: t.Collection[str]) -> list[Competitor]:
    """Every file that sets one of ``names``, whatever the value and the order."""
    return [_sysctl_competitor(found.pattern, found) for found in _assignments(host) if found.pattern in names]


def _sysctl_competitor(name: str, found: _Assignment) -> Competitor:
    return Competitor(name, found.source, found.value, f"{found.source} sets {name} = {found.value}")


def _assignments(host: Host) -> list[_Assignment]:
    files: dict[str, str] = {}
    seen_directories: set[str] = set()
    for directory in _DIRECTORIES:
        real = host.real_path(directory)
        if real is None or real in seen_directories:
            continue  # /lib is a link to /usr/lib on most
        seen_directories.add(real)
        for name in host.list_dir(directory) or ():
            if name.endswith(".conf"):
                files.setdefault(name, f"{directory}/{name}")
    found = [one for name, path in sorted(files.items()) for one in _parse(host, name, path)]
    linked = {host.real_path(path) for path in files.values()}
    if host.real_path(_SYSCTL_CONF) not in linked:
        # After everything else: as if its name were the last.
        found += _parse(host, "\U0010ffff", _SYSCTL_CONF)
    return found


def _parse(host: Host, name: str, path: str) -> t.Iterator[_Assignment]:
    for number, line in enumerate((host.read_text(path) or "").splitlines(), 1):
        line = line.strip()
        if line.startswith(("#", ";")):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match:
            yield _Assignment(name, f"{path} line {number}", match[1].replace("/", "."), match[2].strip())


def tuned_competitors(host: Host, tuned: Tuned, wanted: t.Mapping[str, str]) -> list[Competitor]:
    """What the profile of a TuneD that runs, or starts at boot, sets otherwise than ``wanted``.

    After its profile TuneD applies the files of sysctl.d again (reapply_sysctl), and with them ours.
    """
    at_boot = host.readlink(_TUNED_AT_BOOT) is not None
    names = [*(tuned.profile or "").split(), *(host.read_text(_POST_LOADED) or "").split()]
    if tuned.active is None or not (tuned.active or at_boot) or not names:
        return []
    settings = _tuned.read_profiles(host, names)
    reapplies = _tuned.reapplies_sysctls(host)
    profile = " ".join(names)
    who = f"the active TuneD profile {profile}" if tuned.active else f"the TuneD profile {profile}, applied at boot,"
    return [
        Competitor(
            name,
            f"TuneD profile {profile}",
            settings[name].lstrip("<>"),
            f"{who} sets {name} = {settings[name].lstrip('<>')}",
            yields=reapplies and name not in (TRANSPARENT_HUGEPAGE, CPUFREQ_GOVERNOR),
        )
        for name, value in wanted.items()
        if name in settings and _differs(settings[name], value)
    ]


def _differs(profile: str, wanted: str) -> bool:
    """Whether a value of a profile would take the place of ``wanted``: one of several, or one only if it is larger."""
    bound, number = profile[:1], profile[1:].strip()
    if bound in (">", "<") and number.isdigit() and wanted.isdigit():
        return int(number) > int(wanted) if bound == ">" else int(number) < int(wanted)
    return _words(wanted) not in (_words(part) for part in profile.split("|"))


def _words(value: str) -> list[str]:
    return value.split()
