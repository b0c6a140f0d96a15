# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The values a host had before we first changed them, kept so that they can be put back, also after a reboot.

A value that is kept is never overwritten: what a later run finds is our own.
"""

from __future__ import annotations

import contextlib
import json
import os
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._files import STATE_DIRECTORY

_VERSION = 1
# What a change that was taken back leaves.
EVERYTHING = "everything is as it was before"


class SnapshotError(NumapinError):
    """The kept values cannot be read or written."""


class Undo:
    """What takes back the steps of a change, in the order of the steps."""

    def __init__(self) -> None:
        self._steps: list[t.Callable[[], None]] = []
        # What is true when all of it worked.
        self.told = EVERYTHING

    def append(self, step: t.Callable[[], None]) -> None:
        """Remember how the next step is taken back; before it begins, as it may end half-way."""
        self._steps.append(step)

    def run(self) -> list[str]:
        """Take everything back, the last step first, and say what could not be."""
        failed: list[str] = []
        for step in reversed(self._steps):
            try:
                step()
            except NumapinError as error:
                failed.append(str(error))
        return failed


class Snapshot:
    """Original values by name (``2048 kB on node 0``), as text, in ``STATE/snapshots/NAME.json``."""

    def __init__(self, name: str, state_directory: str = STATE_DIRECTORY) -> None:
        self._state_directory = state_directory
        self.path = os.path.join(state_directory, "snapshots", f"{name}.json")

    def read(self) -> dict[str, str]:
        """Everything that is kept; nothing where nothing was changed yet."""
        try:
            with open(self.path, encoding="utf-8") as file:
                kept = json.load(file)
            values = kept["values"]
            if kept["version"] != _VERSION or not all(isinstance(value, str) for value in values.values()):
                raise ValueError(f"its format is not the one of this version ({_VERSION})")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise SnapshotError(
                f"{self.path} cannot be read: {error.strerror or error}; is this run as root (become)?"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SnapshotError(
                f"{self.path} is damaged ({error}): restore it from a backup, or remove it, and what the host has now"
                " counts as its original values"
            ) from error
        return dict(values)

    def keep(self, values: t.Mapping[str, str]) -> None:
        """Add those of ``values`` whose names are not kept yet."""
        kept = self.read()
        if not kept.keys() >= values.keys():
            self._write({**values, **kept})

    def forget(self, names: t.Collection[str]) -> None:
        """Give up values that were put back; with the last one the file goes."""
        kept = self.read()
        left = {name: value for name, value in kept.items() if name not in names}
        if left != kept:
            self._write(left)

    @contextlib.contextmanager
    def changing(self, values: t.Mapping[str, str], failure: type[NumapinError]) -> t.Iterator[Undo]:
        """Keep ``values``, then let the caller change them: a step that fails has all of them taken back.

        What was not kept before is forgotten then, and ``failure`` is raised with the reason and what is as it was.
        """
        new = values.keys() - self.read().keys()
        self.keep(values)
        undo = Undo()
        try:
            yield undo
        except NumapinError as error:
            failed = undo.run()
            if failed:
                raise failure(f"{error}; and these could not be put back: {'; '.join(failed)}") from error
            self.forget(new)
            raise failure(f"{error}; {undo.told}") from error

    def _write(self, values: t.Mapping[str, str]) -> None:
        directory = os.path.dirname(self.path)
        temporary = f"{self.path}.new"
        try:
            if not values:
                os.unlink(self.path)
                # They stay as long as another module keeps something there.
                for empty in (directory, self._state_directory):
                    with contextlib.suppress(OSError):
                        os.rmdir(empty)
                return
            os.makedirs(directory, mode=0o755, exist_ok=True)
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump({"version": _VERSION, "values": dict(values)}, file, indent=2, sort_keys=True)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            raise SnapshotError(
                f"{self.path} cannot be written: {error.strerror or error}; nothing is changed without it"
            ) from error
