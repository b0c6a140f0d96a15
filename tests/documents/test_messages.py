# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A message that a page explains is one that the collection says, in the same words."""

from __future__ import annotations

import re

import pytest

from ansible_collections.numapin.inference.tests.documents.messages import is_said, plain, said_by_python
from ansible_collections.numapin.inference.tests.documents.pages import TOP, Said, cells_below

TROUBLES = cells_below(TOP / "docs" / "troubleshooting.md", "message")
DIFFERENCES = cells_below(TOP / "docs" / "verification.md", "message")
# What one of our texts is about, and not the text.
NO_MESSAGES = {"jmespath"}


def test_there_are_messages() -> None:
    assert len(TROUBLES) > 30
    assert len(DIFFERENCES) > 8


@pytest.mark.parametrize("said", [*TROUBLES, *DIFFERENCES], ids=lambda said: said.where)
def test_it_is_said_somewhere(said: Said) -> None:
    # Numbers and names are letters in a table.
    message = re.sub(r"\b[NM]\b", "…", said.text)
    assert message in NO_MESSAGES or is_said(message), f"{said.where}: nothing of ours says {said.text!r}"


@pytest.mark.parametrize(
    "text",
    [
        "The inventory has no host in the group `inference`",  # a playbook, folded over lines
        "asks for …, and there is room for …",  # an f-string
        "the model directory … does not exist on this host",  # a template
    ],
)
def test_what_is_said_is_found(text: str) -> None:
    assert is_said(text)


@pytest.mark.parametrize("text", ["", "…", "there is room for …, asks for …", "the model directory … is cheese"])
def test_what_is_not_said_is_not(text: str) -> None:
    assert not is_said(text)


def test_gaps() -> None:
    assert said_by_python("x = f'a {b} c {d}{e}.' + 'more'")[0] == "a … c …….".replace("……", "……")
    assert plain("one\n  {{ two }}{% if three %} %s four") == "one … four"
