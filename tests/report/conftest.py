# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Chromium, headless, and pages opened in it that may ask for nothing and complain about nothing."""

from __future__ import annotations

import shutil
import typing as t
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from ansible_collections.numapin.inference.tests.report.pages import TOP, Open, render


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--images", default=str(TOP / "build" / "report"), help="directory for the screenshots of the docs"
    )


@pytest.fixture(scope="session")
def browser() -> t.Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "there is no Chromium; make report-test installs the distribution's"
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as whom CI runs; what is opened is our own file.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> t.Iterator[Open]:
    """Opens a report (or a file). At the end of the test, whatever the page complained about or asked for fails it."""
    complaints: list[str] = []
    asked: list[str] = []
    ours: set[str] = set()
    contexts = []

    def refuse(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def opened(report: dict[str, t.Any] | Path, **options: t.Any) -> Page:
        file = report if isinstance(report, Path) else tmp_path / "report.html"
        if not isinstance(report, Path):
            file.write_text(render(report), encoding="utf-8")
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.type} {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", refuse)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        ours.add(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert set(asked) == ours


@pytest.fixture(scope="session")
def images(request: pytest.FixtureRequest) -> Path:
    directory = Path(request.config.getoption("--images"))
    directory.mkdir(parents=True, exist_ok=True)
    return directory
