# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be wrong with a tree: files, directories and links that are no longer what a kernel showed.

A damage moves the entry at a path aside and puts something else there. ``Tree.repair`` takes everything back, last
things first, so that the same tree serves thousands of cases and a case costs what its damages cost.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import stat
import typing as t
from pathlib import Path

MIB = 1024 * 1024
# A reader that takes a megabyte of a file has to cope with a megabyte of anything.
LONG = MIB - 1
CROWD = 10_000
DEPTH = 400
# Read by nobody: a link in a tree that leads here leads out of it. See Tree.canary.
CANARY = "CANARY-outside-of-the-tree"


class Tree:
    """A tree that can be damaged and repaired; ``classes`` are the paths it has when whole, numbers aside."""

    def __init__(self, root: Path, aside: Path) -> None:
        self.root = os.path.realpath(root)
        self.canary = str(aside / "canary")
        self._aside = str(aside)
        self._undo: list[t.Callable[[], None]] = []
        self._touched: set[str] = set()
        self._count = 0
        aside.mkdir(parents=True, exist_ok=True)
        Path(self.canary).write_text(f"{CANARY}\n", encoding="utf-8")
        self.classes: dict[str, list[str]] = {}
        for directory, names, files in os.walk(self.root):
            for name in sorted(names + files):
                path = os.path.relpath(os.path.join(directory, name), self.root)
                # cpu7 is damaged as cpu8 is; a file that there is once should be damaged as often as one of each CPU.
                self.classes.setdefault(re.sub(r"[0-9a-f]*[0-9][0-9a-f]*", "N", path), []).append(path)
        self.class_names = sorted(self.classes)
        self.recorded_names = [name for name in self.class_names if name.startswith("numapin/")]
        for paths in self.classes.values():
            paths.sort()

    def full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def kind_of(self, path: str) -> str | None:
        """Return file, directory or link; ``None`` when an earlier damage took it away or changed it."""
        above = path.rpartition("/")[0]
        while above:
            # A directory above may have become a link to somewhere else: nothing outside of the tree is touched.
            if above in self._touched:
                return None
            above = above.rpartition("/")[0]
        try:
            mode = os.lstat(self.full(path)).st_mode
        except OSError:
            return None
        kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"))
        return next((kind for is_kind, kind in kinds if is_kind(mode)), None)

    def take_away(self, path: str) -> str:
        """Move what is at ``path`` aside and return where it is now."""
        self._count += 1
        full, aside = self.full(path), f"{self._aside}/{self._count}"
        os.rename(full, aside)
        self._touched.add(path)
        self._undo.append(lambda: os.rename(aside, full))
        # Whatever was put in its place in the meantime.
        self.added(path)
        return aside

    def move(self, path: str, there: str) -> None:
        """Move what is at ``path`` somewhere else in the tree."""
        here = self.full(path)
        os.rename(here, there)
        self._touched.add(path)
        self._undo.append(lambda: os.rename(there, here))

    def added(self, path: str) -> None:
        """Remember that there is something at ``path`` that was not there."""
        full = self.full(path)
        self._undo.append(lambda: _remove(full))

    def beside(self, path: str) -> str:
        """Return a path beside ``path`` at which there has been nothing so far."""
        while True:
            self._count += 1
            name = f"{path}.{self._count}"
            # A crowd may have been there first.
            if not os.path.lexists(self.full(name)):
                return name

    def on_repair(self, undo: t.Callable[[], None]) -> None:
        self._undo.append(undo)

    def repair(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._touched.clear()


def _remove(full: str) -> None:
    try:
        mode = os.lstat(full).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(full)
    else:
        os.unlink(full)


def damage(tree: Tree, rng: random.Random) -> str:
    """Do one damage to the tree and return what it was, for people."""
    chance = rng.random()
    for _attempt in range(60):
        paths = _choose(tree, rng)
        kind = tree.kind_of(paths[0])
        if chance < OF_MANY_ENTRIES:
            if kind == "directory":
                name, apply = rng.choice(MANY_ENTRIES)
                return _described(name, paths[:1], apply(tree, paths[0], rng))
            continue
        if kind is None:
            continue
        own: list[tuple[str, Damage]] = {"file": FILE_DAMAGES, "directory": DIRECTORY_DAMAGES, "link": []}[kind]
        name, apply = rng.choice(own if own and rng.random() < 0.65 else ANY_DAMAGES)
        chosen = paths[:1] if name in _ONCE else [path for path in paths if tree.kind_of(path) == kind]
        # All of them in the same way: what is decided at random is decided once.
        state = rng.getstate()
        told = None
        for path in chosen:
            rng.setstate(state)
            told = apply(tree, path, rng)
        return _described(name, chosen, told)
    return "nothing left to damage"


def _described(name: str, paths: list[str], told: str | None) -> str:
    where = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} like it"
    return f"{where}: {name}{f' {told}' if told else ''}"


def _choose(tree: Tree, rng: random.Random) -> list[str]:
    """Return a path, or all paths that differ from it in numbers only."""
    recorded = tree.recorded_names
    name = rng.choice(recorded if recorded and rng.random() < 0.1 else tree.class_names)
    if name.count("/") < 4 and name.startswith("sys") and rng.random() < 0.8:
        # Without the directories at the top nothing is left of which facts could be made.
        name = rng.choice(tree.class_names)
    paths = tree.classes[name]
    return paths if rng.random() < 0.2 else [rng.choice(paths)]


# Contents


def _new_file(tree: Tree, path: str, content: bytes) -> None:
    tree.take_away(path)
    with open(tree.full(path), "wb") as file:
        file.write(content)


def _original(tree: Tree, path: str) -> bytes:
    with open(tree.full(path), "rb") as file:
        return file.read(2 * MIB)


def _missing(tree: Tree, path: str, _rng: random.Random) -> None:
    tree.take_away(path)


def _empty(tree: Tree, path: str, _rng: random.Random) -> None:
    _new_file(tree, path, b"")


def _binary(tree: Tree, path: str, rng: random.Random) -> str:
    count = rng.choice((1, 7, 300, 5000))
    _new_file(tree, path, rng.randbytes(count))
    return f"of {count} bytes"


def _nul(tree: Tree, path: str, rng: random.Random) -> None:
    content = _original(tree, path)
    at = rng.randrange(len(content) + 1)
    _new_file(
        tree, path, rng.choice((content[:at] + b"\0" + content[at:], b"\0" * 4096, content.replace(b"\n", b"\0")))
    )


def _invalid_utf8(tree: Tree, path: str, rng: random.Random) -> None:
    content = _original(tree, path)
    at = rng.randrange(len(content) + 1)
    bad = rng.choice((b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", "\u0661\u0662".encode(), "\ufeff".encode(), b"\x1b[31m"))
    _new_file(tree, path, content[:at] + bad + content[at:])


def _huge_sparse(tree: Tree, path: str, rng: random.Random) -> str:
    size = rng.choice((MIB + 1, 8 * MIB, 512 * MIB, 4096 * MIB, 1 << 40))
    _new_file(tree, path, _original(tree, path))
    os.truncate(tree.full(path), size)
    return f"of {size} bytes"


_REPEATED = (
    b"0,", b"1-", b"0-16383,", b"0-16383:1/2,", b"7,5,3,1,", b"ffffffff,", b"f", b"9", b"0", b" ", b"\n", b"-",
    b"a", b"[", b"10 ", b"Node 0 MemTotal: ", b"Node 0 MemTotal: 1 kB\n", b"MemTotal:" + b" " * 500,
    b"Cpus_allowed_list:\t", b"numa_hit 1\n", b"\t", b"\r\n", b"isolcpus=", b"isolcpus=1,", b"always [madvise] ",
    b'{"a":', b"flags\t\t: hypervisor\n", b"GPU UUID: \t ", b"Model: ",
)  # fmt: skip


def _long(tree: Tree, path: str, rng: random.Random) -> str:
    piece = rng.choice((*_REPEATED, _original(tree, path)[:MIB] or b"x"))
    length = rng.choice((5000, 100_000, LONG))
    _new_file(tree, path, (piece * (length // len(piece) + 1))[:length])
    return f"{piece[:30]!r} repeated up to {length} bytes"


_TEXTS = (
    "-1", "0", "1", "-2147483648", "16383", "16384", "65535", "4294967295", "4294967296", "9223372036854775808",
    "9" * 20, "9" * 21, "9" * 4299, "9" * 5000, "0x" + "f" * 400, "1e9", "1.5", "nan", "+0", "00000000000000000000",
    "1 2", "0\n1\n2", "7-3", "0-4294967295", "0-99999999999999999999", "0-3,2-5", "0-3,,5", ",", "-", "0-", "-5",
    "0-100:0/0", "0-16383:1/2", "0-16383", "0-65535", "0-7:3/2", "0,2,4,6,8,10,12,14", "1000-2000", "16000-16383",
    "all", "(null)", "none", "\t", "yes", "0-3\r\n", "ffffffff,ffffffff", "00000000,00000000", "0x0", "zz",
    ",".join(str(n) for n in range(0, 16383, 2)), ",".join(["ffffffff"] * 3000), " ".join(["10"] * 5000), "10 10",
    "10 -20", "0 0", "255 255", "10 99999", "10 999999", "[always] [never]", "[]", "[", "[" + "a" * 5000 + "]",
    "0x030200", "0x10de", "0xffffff", "up", "Ethernet", "400 Gb/sec (4X NDR)", "-400 Gb/sec", "1e308 Gb/sec",
    "9999999999999999999999 Gb/sec", "5: BROKEN", "4:", ":", "%s{0}$", "{{ 7 * 7 }}", "\u0661", "\x07",
    "../../../../etc/passwd", "x" * 4000,
)  # fmt: skip


def _other_text(tree: Tree, path: str, rng: random.Random) -> str:
    text = rng.choice(_TEXTS)
    _new_file(tree, path, (text + rng.choice(("\n", "\n", ""))).encode())
    return repr(text if len(text) < 60 else f"{text[:50]}... ({len(text)} characters)")


def _other_number(tree: Tree, path: str, rng: random.Random) -> str:
    content = _original(tree, path)
    numbers = list(re.finditer(rb"[0-9]+", content[:100_000]))
    if not numbers:
        return _other_text(tree, path, rng)
    match = rng.choice(numbers)
    number = rng.choice((
        b"-1", b"0", b"1", b"2", b"5", b"63", b"64", b"1024", b"8192", b"16383", b"65535", b"4294967295",
        b"18446744073709551615", b"9" * 30, b"9" * 5000,
    ))  # fmt: skip
    _new_file(tree, path, content[: match.start()] + number + content[match.end() :])
    return f"{number[:30].decode()} for {match[0][:30].decode()}"


def _torn(tree: Tree, path: str, rng: random.Random) -> None:
    content = _original(tree, path)
    start, end = sorted((rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)))
    _new_file(tree, path, rng.choice((content[:end], content[start:], content[:start] + content[end:], content * 2)))


def _flipped(tree: Tree, path: str, rng: random.Random) -> None:
    content = bytearray(_original(tree, path))
    for _count in range(rng.choice((1, 2, 20))):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    _new_file(tree, path, bytes(content))


def _anothers(tree: Tree, path: str, rng: random.Random) -> str:
    other = rng.choice(tree.classes[rng.choice(tree.class_names)])
    if tree.kind_of(other) != "file":
        return _other_text(tree, path, rng)
    _new_file(tree, path, _original(tree, other))
    return other


_JSON_VALUES: tuple[t.Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**70, -(2**70), float("inf"), float("nan"), "", "x" * 100_000, "\ud800", "\0",
    "-1", "0", [], {}, [[]], [None], {"": None}, {"0000:17:00.0": {}}, list(range(70_000)), "0000:17:00.0",
    "GPU-0", "not-a-pci",
)  # fmt: skip


def _other_json(tree: Tree, path: str, rng: random.Random) -> str:
    """Replace, remove or repeat something in a JSON file; what is no JSON gets nested deeply."""
    try:
        holder: dict[str, t.Any] = {"": json.loads(_original(tree, path))}
    except (ValueError, RecursionError):
        _new_file(tree, path, rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'"\\ud800"')))
        return "that is none"
    spots: list[tuple[t.Any, t.Any]] = []
    pending: list[t.Any] = [holder]
    while pending:
        here = pending.pop()
        keys: t.Iterable[t.Any] = list(here) if isinstance(here, dict) else range(len(here))
        for key in keys:
            spots.append((here, key))
            if isinstance(here[key], (dict, list)):
                pending.append(here[key])
    here, key = rng.choice(spots)
    was = here[key]
    choice = rng.randrange(8)
    if choice == 0 and here is not holder:
        del here[key]
        told = f"without {key!r}"
    elif choice == 1 and isinstance(here, dict) and here is not holder:
        here[rng.choice(("", "surplus", "0000:ff:00.0", "nan", "x" * 5000))] = was
        told = f"with {key!r} twice"
    else:
        here[key] = rng.choice(_JSON_VALUES)
        told = f"with {repr(here[key])[:30]} as {key!r}"
    _new_file(tree, path, json.dumps(holder[""]).encode())
    return told


# Other things than files


def _directory_instead(tree: Tree, path: str, rng: random.Random) -> None:
    tree.take_away(path)
    os.mkdir(tree.full(path))
    if rng.random() < 0.5:
        Path(tree.full(path), "online").write_text("0\n", encoding="utf-8")


def _file_instead(tree: Tree, path: str, rng: random.Random) -> None:
    tree.take_away(path)
    Path(tree.full(path)).write_bytes(rng.choice((b"", b"0\n", b"0-3\n", b"\0")))


def _fifo(tree: Tree, path: str, _rng: random.Random) -> None:
    tree.take_away(path)
    os.mkfifo(tree.full(path))


def _socket(tree: Tree, path: str, _rng: random.Random) -> None:
    tree.take_away(path)
    # A socket's path may have 107 characters.
    short = f"{tree.canary}.s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(short)
    os.rename(short, tree.full(path))


def _device(tree: Tree, path: str, rng: random.Random) -> str | None:
    tree.take_away(path)
    minor = rng.choice((3, 5, 7, 8))  # null, zero, full, random
    try:
        os.mknod(tree.full(path), 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    except PermissionError:
        os.mkfifo(tree.full(path))
        return "(a FIFO: only root can make devices)"
    return f"1:{minor}"


def _unreadable(tree: Tree, path: str, _rng: random.Random) -> None:
    full = tree.full(path)
    if not os.path.islink(full):
        mode = stat.S_IMODE(os.lstat(full).st_mode)
        os.chmod(full, 0)
        tree.on_repair(lambda: os.chmod(full, mode))


_TARGETS = (
    "/", "/dev/zero", "/dev/random", "/dev/tty", "/proc/self/mem", "/proc/self/root", "/proc/self/fd/0",
    "/proc/kmsg", ".", "..", "../..", "missing", "missing/../..", "/sys", "/proc", "/sys/devices/system/node",
    "/sys/devices/system/cpu/cpu0", "../" * 60 + "dev/zero", "../" * 60 + "proc/self/environ", "../" * 60,
    "x" * 255, "y/" * 1500,
)  # fmt: skip


def _link(tree: Tree, path: str, rng: random.Random) -> str:
    out = os.path.relpath(tree.canary, os.path.dirname(tree.full(path)))
    target = rng.choice((*_TARGETS, tree.canary, out, out))
    tree.take_away(path)
    os.symlink(target, tree.full(path))
    return f"to {target[:60]}"


def _link_inside(tree: Tree, path: str, rng: random.Random) -> str:
    other = rng.choice(tree.classes[rng.choice(tree.class_names)])
    tree.take_away(path)
    os.symlink(os.path.relpath(tree.full(other), os.path.dirname(tree.full(path))), tree.full(path))
    return f"to {other}"


def _cycle(tree: Tree, path: str, rng: random.Random) -> str:
    length = rng.choice((1, 2, 3, 39, 41, 200))
    tree.take_away(path)
    names = [path, *(tree.beside(path) for _number in range(1, length))]
    for name, following in zip(names, [*names[1:], path]):
        if name != path:
            tree.added(name)
        os.symlink(os.path.basename(following), tree.full(name))
    return f"of {length} links"


def _chain(tree: Tree, path: str, rng: random.Random) -> str:
    length = rng.choice((1, 39, 41, 200))
    aside = tree.take_away(path)
    names = [path, *(tree.beside(path) for _number in range(length))]
    for name, following in zip(names, names[1:]):
        os.symlink(os.path.basename(following), tree.full(name))
        tree.added(following)
    full = tree.full(names[-1])
    os.rename(aside, full)
    tree.on_repair(lambda: os.rename(full, aside))
    return f"of {length} links"


def _renamed(tree: Tree, path: str, rng: random.Random) -> str:
    names: tuple[str | bytes, ...] = (
        "x" * 255, "new\nline", "-rf", "\u65e5\u672c", b"\xff\xfe", "cpu99999", "node16383", "node16384", "node01",
        "eth 0", "0000:00:00.0", "ffffffff:ff:1f.7", "{{ 7 }}", "%s", "hugepages-999999999999kB", "index99",
        "4294967296", ".hidden",
    )  # fmt: skip
    name = os.fsdecode(rng.choice(names))
    here = tree.full(path)
    there = f"{os.path.dirname(here)}/{name}"
    if os.path.lexists(there):
        return "(not done: there is one)"
    tree.move(path, there)
    return f"to {name[:40]!r}"


# Directories


def _crowd_name(tree: Tree, path: str, rng: random.Random) -> t.Callable[[int], str]:
    """Return names for a crowd: like those that are there, or others a reader may look for."""
    patterns = [
        "cpu%d",
        "node%d",
        "index%d",
        "hugepages-%dkB",
        "%d",
        "eth%d",
        "nvme%d",
        "mlx5_%d",
        "pci",
        "entry%d",
        "card%d",
    ]
    there = [name for name in sorted(os.listdir(tree.full(path))) if re.search("[0-9]", name)]
    pattern = rng.choice(patterns)
    if there and rng.random() < 0.7:
        name = rng.choice(there)
        pattern = "pci" if ":" in name else re.sub("[0-9]+", "%d", name.replace("%", ""), count=1)
    if pattern == "pci":
        return lambda n: f"{n >> 16:04x}:{n >> 8 & 0xFF:02x}:{n >> 3 & 0x1F:02x}.{n & 7}"
    return lambda n: pattern % n


def _crowd(tree: Tree, path: str, rng: random.Random) -> str:
    """Fill a directory with 10,000 empty files, directories, or links to what was in it."""
    kind = rng.choice(("empty file", "empty directory", "link to itself", "link to one entry", "link to one entry"))
    name_of = _crowd_name(tree, path, rng)
    full = tree.full(path)
    before = frozenset(os.listdir(full))
    tree.on_repair(lambda: _remove_entries(full, before))
    alike = [name for name in sorted(before) if re.sub("[0-9]+", "", name) == re.sub("[0-9]+", "", name_of(0))]
    model = rng.choice(alike or sorted(before) or ["nothing"])
    descriptor = os.open(full, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in map(name_of, range(CROWD)):
            if name in before:
                continue
            if kind == "empty file":
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=descriptor))
            elif kind == "empty directory":
                os.mkdir(name, dir_fd=descriptor)
            else:
                os.symlink(name if kind == "link to itself" else model, name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    removed = sorted(before & {"online", "present", "possible"}) if rng.random() < 0.5 else []
    for name in removed:
        tree.take_away(f"{path}/{name}")
    without = f", without {' '.join(removed)}" if removed else ""
    return f"of {CROWD} like {name_of(1)}, each {kind}{f' ({model})' if 'one' in kind else ''}{without}"


def _remove_entries(full: str, kept: frozenset[str]) -> None:
    with os.scandir(full) as entries:
        gone = [entry for entry in entries if entry.name not in kept]
    for entry in gone:
        if entry.is_dir(follow_symlinks=False):
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def _deep(tree: Tree, path: str, rng: random.Random) -> str:
    """Put a directory at the end of a long way, or a long way in its place."""
    aside = tree.take_away(path)
    nest = tree.full(tree.beside(path))
    tree.on_repair(lambda: _remove(nest))
    bottom = nest + "/d" * DEPTH
    os.makedirs(bottom)
    if rng.random() < 0.5:
        os.symlink(nest, tree.full(path))
        return "nothing"
    os.rename(aside, f"{bottom}/real")
    tree.on_repair(lambda: os.rename(f"{bottom}/real", aside))
    os.symlink(os.path.relpath(f"{bottom}/real", os.path.dirname(nest)), tree.full(path))
    return "a link"


def _emptied(tree: Tree, path: str, _rng: random.Random) -> None:
    tree.take_away(path)
    os.mkdir(tree.full(path))


Damage = t.Callable[[Tree, str, random.Random], t.Optional[str]]

FILE_DAMAGES: list[tuple[str, Damage]] = [
    ("empty", _empty),
    ("binary", _binary),
    ("NUL bytes", _nul),
    ("no UTF-8", _invalid_utf8),
    ("huge", _huge_sparse),
    ("long", _long),
    ("another text", _other_text),
    ("another text", _other_text),
    ("another number", _other_number),
    ("another number", _other_number),
    ("torn", _torn),
    ("bits flipped", _flipped),
    ("content of", _anothers),
    ("other JSON", _other_json),
    ("directory instead of a file", _directory_instead),
]
DIRECTORY_DAMAGES: list[tuple[str, Damage]] = [
    ("emptied", _emptied),
    ("file instead of a directory", _file_instead),
]
MANY_ENTRIES: list[tuple[str, Damage]] = [("crowd", _crowd), ("crowd", _crowd), ("deep", _deep)]
# They take a hundred times as long as the others, to make and to take back.
OF_MANY_ENTRIES = 0.008
ANY_DAMAGES: list[tuple[str, Damage]] = [
    ("missing", _missing),
    ("missing", _missing),
    ("FIFO", _fifo),
    ("socket", _socket),
    ("device", _device),
    ("mode 000", _unreadable),
    ("link", _link),
    ("link", _link),
    ("link inside the tree", _link_inside),
    ("cycle", _cycle),
    ("chain", _chain),
    ("renamed", _renamed),
]
# Two of them cannot have one name, and hundreds of long ways take long.
_ONCE = ("renamed", "cycle", "chain")
