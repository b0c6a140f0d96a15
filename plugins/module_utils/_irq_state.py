# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What interrupts were like before the first change, kept by device and place so that it can be put back.

A boot gives every vector a new number, and often the device another count of them: neither is part of the key.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._irqs import DEFAULT_AFFINITY, IrqError

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._irqs import Vector

SERVICE = "numapin-irq-affinity.service"
CONFIGURATION = "/etc/numapin/irq-affinity.json"
STATE_DIRECTORY = "/var/lib/numapin"
_FILE = "irq-affinity.json"
_VERSION = 1
_PLACE = re.compile(r"[0-9]{1,6}")
_MASK_PATH = re.compile(
    rf"{re.escape(DEFAULT_AFFINITY)}|/sys/class/net/(?!\.{{1,2}}/)[^/]+/queues/(tx-[0-9]{{1,6}}/xps|rx-[0-9]{{1,6}}/rps)_cpus"
)
_IRQBALANCE_TYPES = {
    "administrators": str,
    "environment_file": str,
    "file_made": bool,
    "restart_due": bool,
    "service": dict,
}
_LOCK_SECONDS = 60.0
_LOCK_PAUSE_SECONDS = 0.1


def _texts(value: t.Any, key_pattern: re.Pattern[str]) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    for key, text in value.items():
        if not key_pattern.fullmatch(key) or not isinstance(text, str):
            raise ValueError(f"{key!r} with {text!r} is not known")
    return value


def _irqbalance(value: t.Any) -> dict[str, t.Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    for key, kind in _IRQBALANCE_TYPES.items():
        if key in value and not isinstance(value[key], kind):
            raise TypeError(f"irqbalance: {key} is {value[key]!r}")
    return value


class Originals:
    """The first known values; what is known already is never replaced."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, _FILE)
        self.vectors: dict[str, dict[str, str]] = {}  # device, or [name] -> place -> cpulist
        self.masks: dict[str, str] = {}  # path -> mask as the kernel printed it
        self.irqbalance: dict[str, t.Any] = {}
        self._saved = ""

    @classmethod
    def load(cls, directory: str) -> Originals:
        """Read them; none when nothing was changed yet. Raises ``IrqError`` for a file that is damaged."""
        originals = cls(directory)
        try:
            with open(originals.path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            return originals
        except OSError as error:
            raise IrqError(f"{originals.path}: {error.strerror}; is this run as root (become)?") from error
        try:
            content = json.loads(text)
            if content["version"] != _VERSION:
                raise ValueError(f"its version is {content['version']!r}, known is {_VERSION}")
            originals.vectors = {str(key): _texts(places, _PLACE) for key, places in content["vectors"].items()}
            originals.masks = _texts(content["masks"], _MASK_PATH)
            originals.irqbalance = _irqbalance(content["irqbalance"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IrqError(
                f"{originals.path}, which holds the affinities to go back to, is damaged ({error}): restore it from a"
                " backup, or remove it to forget them"
            ) from error
        originals._saved = text
        return originals

    @property
    def empty(self) -> bool:
        """Whether there is nothing to go back to."""
        return not (self.vectors or self.masks or self.irqbalance)

    def keep(self, vector: Vector, request: str) -> None:
        """Remember a vector's request, the first time only."""
        device, place = vector.key
        self.vectors.setdefault(device, {}).setdefault(place, request)

    def drop(self, vectors: t.Iterable[tuple[str, str]], masks: t.Iterable[str]) -> None:
        """Forget vectors, by their keys, and masks that are as they were."""
        for device, place in vectors:
            places = self.vectors.get(device, {})
            places.pop(place, None)
            if not places:
                self.vectors.pop(device, None)
        for path in masks:
            self.masks.pop(path, None)

    def save(self) -> None:
        """Write them, whole or not at all, before anything is changed. Raises ``IrqError``."""
        content = {
            "version": _VERSION,
            "vectors": self.vectors,
            "masks": self.masks,
            "irqbalance": self.irqbalance,
        }
        text = json.dumps(content, sort_keys=True) + "\n"
        if text == self._saved or (self.empty and not self._saved):
            return
        replace_file(self.path, text)
        self._saved = text

    def forget(self) -> None:
        """Remove the file: everything is as it was."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        # The directory stays as long as another module keeps something there.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self.path))


@contextlib.contextmanager
def one_at_a_time(directory: str, seconds: float = _LOCK_SECONDS) -> t.Iterator[None]:
    """Keep the module and the service apart; whoever comes second waits, not for ever. Raises ``IrqError``."""
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise IrqError(f"{directory}: {error.strerror}; is this run as root (become)?") from error
    try:
        _lock(descriptor, directory, seconds)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise IrqError(
                    f"{directory} has been locked by another run, or by the service {SERVICE}, for {seconds:g} seconds:"
                    f" see systemctl status {SERVICE}, and restart the service if it hangs"
                ) from None
            time.sleep(_LOCK_PAUSE_SECONDS)
        except OSError as error:
            raise IrqError(f"{directory} cannot be locked: {error.strerror}") from error
        else:
            return


def replace_file(path: str, text: str, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Put a new file in another's place, whole or not at all. Raises ``IrqError``.

    Bytes that are no UTF-8 and were read with ``surrogateescape`` are written as they were.
    """
    part = f"{path}.numapin"
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        # The error that counts is the first; the part may not even be there.
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise IrqError(f"{path} could not be written: {error.strerror}; is this run as root (become)?") from error
