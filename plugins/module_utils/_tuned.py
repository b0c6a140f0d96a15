# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What a profile of TuneD sets: its files found, included and merged as TuneD does it.

tuned.conf(5), and TuneD's own profiles/loader.py, merger.py and unit.py. Functions inside of values (``${f:...}``) are
not called: what they would give is not known here. Scripts of a profile may set anything, and are not read.
"""

from __future__ import annotations

import configparser
import fnmatch
import os
import re
import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

# Names that stand for settings which are no sysctl, here and in the results.
TRANSPARENT_HUGEPAGE = "transparent_hugepage"
CPUFREQ_GOVERNOR = "cpufreq_governor"

_MAIN_CONF = "/etc/tuned/tuned-main.conf"
# The administrator's before the distribution's; with /profiles from TuneD 2.24 on.
_DIRECTORIES = ("/etc/tuned/profiles", "/etc/tuned", "/usr/lib/tuned/profiles", "/usr/lib/tuned")
_THP = "/sys/kernel/mm/transparent_hugepage/enabled"
_TRUE = ("True", "true", "1")
_ABOUT_THE_UNIT = ("type", "enabled", "replace", "drop", "devices", "devices_udev_regex", "script_pre", "script_post")
_VARIABLE = re.compile(r"(?<!\\)\$\{(\w+)\}")
# The processor's name stands in the first of many alike entries.
_CPUINFO_BYTES = 65536

_Sections = dict[str, dict[str, str]]


def reapplies_sysctls(host: Host) -> bool:
    """Whether TuneD applies the files of sysctl.d again after its profile."""
    options = _parse(f"[main]\n{host.read_text(_MAIN_CONF) or ''}").get("main", {})
    return options.get("reapply_sysctl", "1").lower() not in ("0", "false", "no", "off")


def read_profiles(host: Host, names: t.Sequence[str]) -> dict[str, str]:
    """What the profiles set together, by sysctl or by one of the names above; nothing where TuneD would refuse them."""
    units: _Sections = {}
    for sections in _load(host, names, []):
        for name, options in sections.items():
            _merge(units, name, options)
    variables = _variables(host, units.pop("variables", {}))
    settings: dict[str, str] = {}
    for name, options in units.items():
        if _applies(host, options, variables):
            for key, value in options.items():
                setting = _setting(host, options.get("type", name), key)
                if setting is not None:
                    settings[setting] = _expand(value, variables).strip('"')
    return settings


def _load(host: Host, names: t.Iterable[str], seen: list[str]) -> t.Iterator[_Sections]:
    """The sections of every file, the included ones first. A file counts once: one of its own name is the next one."""
    for name in names:
        found = [f"{directory}/{os.path.basename(name.lstrip('-'))}/tuned.conf" for directory in _DIRECTORIES]
        path = next((path for path in found if path not in seen and host.exists(path)), None)
        if path is None:
            continue
        seen.append(path)
        sections = _parse(host.read_text(path) or "")
        include = sections.pop("main", {}).get("include", "")
        yield from _load(host, re.split(r"\s*[,;]\s*", include), seen)
        yield sections


def _parse(text: str) -> _Sections:
    """As TuneD: nothing of a file that is wrong somewhere."""
    parser = configparser.ConfigParser(
        delimiters=("=",), inline_comment_prefixes=("#",), strict=False, interpolation=None
    )
    # Names of sysctls have their case. To replace the method is the way that the library's documentation gives.
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(text)
    except configparser.Error:
        return {}
    return {name: dict(parser[name]) for name in parser.sections()}


def _merge(units: _Sections, name: str, options: dict[str, str]) -> None:
    before = units.get(name, {}) if options.get("replace") not in _TRUE else {}
    dropped = re.split(r"\s*[,;]\s*", options.get("drop", ""))
    # A later section of the name says anew whether it is enabled, and what it is.
    kept = {key: value for key, value in before.items() if key not in (*dropped, "type", "enabled")}
    units[name] = {**kept, **options}


def _variables(host: Host, section: t.Mapping[str, str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for name, value in section.items():
        if name == "include":
            text = host.read_text(os.path.normpath(value)) or ""
            for options in _parse(f"[variables]\n{text}").values():
                variables.update({key: _expand(given, variables) for key, given in options.items()})
        else:
            variables[name] = _expand(value, variables)
    return variables


def _expand(value: str, variables: t.Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), value)


def _applies(host: Host, options: t.Mapping[str, str], variables: t.Mapping[str, str]) -> bool:
    if options.get("enabled", "1") not in _TRUE:
        return False
    for key in ("uname_regex", "cpuinfo_regex"):
        if key not in options:
            continue
        text = " ".join(os.uname()) if key == "uname_regex" else host.read_head("/proc/cpuinfo", _CPUINFO_BYTES)
        try:
            if re.search(_expand(options[key], variables), text or "", re.MULTILINE) is None:
                return False
        except re.error:
            return False
    return True


def _setting(host: Host, plugin: str, key: str) -> str | None:
    """What an option of a plugin sets; ``None`` for what is not asked for here."""
    if plugin == "sysctl":
        return None if key in (*_ABOUT_THE_UNIT, "uname_regex", "cpuinfo_regex") else key.replace("/", ".")
    if plugin == "vm" and key in ("transparent_hugepages", "transparent_hugepage"):
        # TuneD leaves to the kernel's command line what is said there.
        said = f"{TRANSPARENT_HUGEPAGE}=" in (host.read_text("/proc/cmdline") or "")
        return None if said else TRANSPARENT_HUGEPAGE
    if plugin == "sysfs" and fnmatch.fnmatchcase(_THP, key):
        return TRANSPARENT_HUGEPAGE
    if (plugin == "sysfs" and key.endswith("/scaling_governor")) or (plugin == "cpu" and key == "governor"):
        return CPUFREQ_GOVERNOR
    return None
