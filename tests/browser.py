"""A headless Chromium through its driver, where the machine has both; axe-core judges its page's accessibility."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """A window of this size; skips the test where there is no browser, with the reason."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on this machine (Debian: chromium, chromium-driver)")
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = programs["chromium"]
    with tempfile.TemporaryDirectory() as profile:
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--force-prefers-reduced-motion",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = selenium.Chrome(options=options, service=Service(programs["chromedriver"]))
        try:
            driver.set_script_timeout(120)
            driver.set_window_size(width, height)
            if width < 500:  # a window cannot be so narrow, a phone's screen is
                driver.execute_cdp_cmd(
                    "Emulation.setDeviceMetricsOverride",
                    {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True},
                )
            yield driver
        finally:
            driver.quit()


AXE = """
const [done] = arguments;
// A shade at the edge of a table is a gradient, over which axe cannot tell a contrast. The colour below it is judged.
const plain = new CSSStyleSheet();
plain.replaceSync("* { background-image: none !important; }");
document.adoptedStyleSheets = [plain];
const options = { resultTypes: ["violations", "incomplete"], preload: false };
const few = { exclude: [["tbody tr:nth-child(n + 6)"]] }; // of a long table the first rows say how all look
axe.run(few, options).then((found) => {
  document.adoptedStyleSheets = [];
  // Where it thinks that something lies over a text (on a phone even where nothing does) it does not judge its colours.
  const overlapped = (node) => node.any.some((check) => check.data && check.data.messageKey === "bgOverlap");
  for (const rule of found.incomplete) rule.nodes = rule.nodes.filter((node) => !overlapped(node));
  done([...found.violations, ...found.incomplete]);
}, (failure) => done(String(failure)));
"""


def violations(driver: Any) -> str:
    """What axe-core finds wrong with the page as it is now: of each place the rule, the selector and the remedy.

    Empty if there is nothing. The rules are those of the Web Content Accessibility Guidelines 2.1, levels A and AA, and
    axe's own good practice. What axe leaves undecided (a contrast over a picture) counts as wrong.
    """
    axe = pytest.importorskip("axe_core_python.base", reason="axe-core-python is not installed")
    driver.execute_script(axe.AXE_SCRIPT)
    found = driver.execute_async_script(AXE)
    assert not isinstance(found, str), found
    lines = [
        f"{rule['id']} ({rule['impact']}): {node['target']}: {node['failureSummary']}\n  {node['html'][:200]}"
        for rule in found
        for node in rule["nodes"]
    ]
    return "\n".join(lines)


@contextmanager
def on_paper(driver: Any) -> Iterator[None]:
    """The page as it is laid out for A4 between the report's margins: 178 mm, 673 CSS pixels, wide."""
    size = {"width": 673, "height": 1009, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
