# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Write affinities, read them back, and give every refusal of the kernel its name.

Kernel sources: write_irq_affinity in kernel/irq/proc.c (managed vectors: EIO before Linux 6.12, EPERM and mode 0444
since; EINVAL when no CPU of the request is online), irq_do_set_affinity in kernel/irq/manage.c (EBUSY, ENOSPC, ENOMEM
come from the interrupt controller: on x86 assign_irq_vector_any_locked in arch/x86/kernel/apic/vector.c).
"""

from __future__ import annotations

import errno
import time
import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._irq_rules import Wanted
    from ansible_collections.numapin.inference.plugins.module_utils._irqs import Affinities

OK, CHANGED, UNCHANGEABLE, NO_VECTOR_SPACE, GONE, REFUSED = (
    "ok",
    "changed",
    "unchangeable",
    "no_vector_space",
    "gone",
    "refused",
)
FAILURES = frozenset({NO_VECTOR_SPACE, REFUSED})

_TRANSIENT = frozenset({errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.EINTR})
_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.01
# Of one run, however many vectors are busy.
_ALL_PAUSES_SECONDS = 5.0
# A CPU whose vector table is full is often not the only one; others are tried, and not all of 768.
_MOST_ALTERNATIVES = 16
_ADVICE = {
    errno.EACCES: "run this as root (become)",
    errno.EROFS: "this is a container or sandbox in which the kernel's files cannot be written: run it on the host",
    errno.EINVAL: "no CPU of it is online any more",
    errno.ENOSPC: "the CPU has no interrupt vector left: give the rule more CPUs, or the device fewer queues",
}


class Seen(t.NamedTuple):
    """A vector before anything is written; ``request`` is ``None`` for one that is not there."""

    wanted: Wanted
    request: str | None
    before: frozenset[int] | None

    @property
    def as_wanted(self) -> bool:
        """Whether there is nothing to do."""
        return self.before == self.wanted.cpus


class Outcome(t.NamedTuple):
    """What became of a vector, in the words of the module's documentation."""

    irq: int | None
    device: str | None
    queue: int
    name: str
    rule: str
    before: str | None
    wanted: str
    effective: str | None
    pending: bool
    predicted: bool
    result: str
    errno: str | None
    message: str | None

    @property
    def key(self) -> tuple[str, str]:
        """As that of its vector."""
        return self.device or f"[{self.name}]", str(self.queue)


class Clock(t.NamedTuple):
    """How to wait; a test does not."""

    sleep: t.Callable[[float], None] = time.sleep


class Writer:
    """Writes what the kernel takes, with patience for what passes; one for each run."""

    def __init__(self, clock: Clock = Clock()) -> None:  # noqa: B008 - an immutable tuple
        self._sleep = clock.sleep
        self._left_seconds = _ALL_PAUSES_SECONDS

    def write(self, write: t.Callable[[str], None], text: str) -> int:
        """Return 0, or the number of the error that stays."""
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(_TRIES):
            try:
                write(text)
            except OSError as error:
                number = error.errno or errno.EIO
                last = attempt == _TRIES - 1 or pause > self._left_seconds
                if number not in _TRANSIENT or last:
                    return number
                self._sleep(pause)
                self._left_seconds -= pause
                pause *= 2
            else:
                break
        return 0


def look(affinities: Affinities, wanted: t.Iterable[Wanted]) -> list[Seen]:
    """Read the requests as they are now."""
    seen = []
    for one in wanted:
        text = affinities.request(one.vector.number)
        seen.append(Seen(one, text, None if text is None else affinities.parse(text)))
    return seen


def place(affinities: Affinities, seen: t.Iterable[Seen], *, check_mode: bool, writer: Writer) -> list[Outcome]:
    """Write what is not as wanted and read it back; in check mode say what would become of it."""
    return [_place(affinities, one, check_mode, writer) for one in seen]


def _place(affinities: Affinities, seen: Seen, check_mode: bool, writer: Writer) -> Outcome:
    number = seen.wanted.vector.number
    if seen.request is None:
        return _outcome(affinities, seen, GONE, message="nothing has requested this vector, or it went away")
    if seen.as_wanted:
        return _outcome(affinities, seen, OK)
    if not affinities.writable(number):
        return _outcome(affinities, seen, UNCHANGEABLE, errno.EPERM)
    if check_mode:
        return _outcome(affinities, seen, CHANGED)._replace(pending=False, predicted=True)
    fault = writer.write(lambda text: affinities.write(number, text), affinities.format(seen.wanted.cpus))
    if fault == errno.ENOSPC:
        return _elsewhere(affinities, seen, writer)
    return _judged(affinities, seen, fault)


def _elsewhere(affinities: Affinities, seen: Seen, writer: Writer) -> Outcome:
    """A spread vector may go to any CPU of its pool; where it is already does as well."""
    wanted = seen.wanted
    if len(wanted.cpus) == 1 and wanted.cpus < wanted.pool:
        if seen.before is not None and len(seen.before) == 1 and seen.before <= wanted.pool:
            kept = seen._replace(wanted=wanted._replace(cpus=seen.before))
            return _outcome(affinities, kept, OK, errno.ENOSPC)
        for cpu in sorted(wanted.pool - wanted.cpus)[:_MOST_ALTERNATIVES]:
            other = seen._replace(wanted=wanted._replace(cpus=frozenset({cpu})))
            text = affinities.format(other.wanted.cpus)
            fault = writer.write(lambda text: affinities.write(wanted.vector.number, text), text)
            if fault != errno.ENOSPC:
                return _judged(affinities, other, fault)
    return _outcome(affinities, seen, NO_VECTOR_SPACE, errno.ENOSPC)


def _judged(affinities: Affinities, seen: Seen, fault: int) -> Outcome:
    number = seen.wanted.vector.number
    if fault == 0:
        text = affinities.request(number)
        if text is None:
            return _outcome(affinities, seen, GONE, message="it went away after it was written")
        if affinities.parse(text) != seen.wanted.cpus:
            wanted = affinities.format(seen.wanted.cpus)
            return _outcome(
                affinities, seen, REFUSED, message=f"{wanted} was written without an error and reads {text}"
            )
        return _outcome(affinities, seen, CHANGED)
    if fault in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return _outcome(affinities, seen, GONE, fault)
    if fault == errno.EIO:
        return _outcome(affinities, seen, UNCHANGEABLE, fault)
    return _outcome(affinities, seen, REFUSED, fault)


def _outcome(affinities: Affinities, seen: Seen, result: str, fault: int = 0, message: str | None = None) -> Outcome:
    vector, cpus = seen.wanted.vector, seen.wanted.cpus
    effective = None if result == GONE else affinities.effective(vector.number)
    where = affinities.parse(effective) if effective is not None else None
    # x86 moves an interrupt of some devices when the next one arrives: until then the old CPU is the effective one.
    pending = result in (OK, CHANGED) and where is not None and not where <= cpus
    return Outcome(
        irq=vector.number,
        device=vector.device,
        queue=vector.queue,
        name=vector.name,
        rule=seen.wanted.rule,
        before=seen.request,
        wanted=affinities.format(cpus),
        effective=effective,
        pending=pending,
        predicted=False,
        result=result,
        errno=name_of(fault),
        message=message if message is not None else _ADVICE.get(fault),
    )


def name_of(fault: int) -> str | None:
    """Return ``EIO`` for 5; ``None`` for 0."""
    return errno.errorcode.get(fault, str(fault)) if fault else None
