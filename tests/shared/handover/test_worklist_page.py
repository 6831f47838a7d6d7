"""Head CT's live worklist, clicked through in a real browser."""

from __future__ import annotations

import asyncio
import io
import threading
import time

import numpy as np
import pandas as pd
import pytest
from browser import browser, violations
from conftest import PATIENCE
from PIL import Image

pytest.importorskip("uvicorn", reason="the extra listen is not installed")

from pipelines.head_ct.listen.journal import Journal, Outcome
from pipelines.head_ct.listen.page import make_app
from pipelines.head_ct.listen.store import Store
from pipelines.head_ct.page import concepts_page, worklist_page
from pipelines.head_ct.pseudonyms import Names
from pipelines.shared.config import ServeSection
from pipelines.shared.handover.serve.server import Server, bound, server_config

ABOUT = {
    "title": "Head CT triage", "run": "run", "model": "abc", "threshold": 0.5, "node": "HEADCT@127.0.0.1:11112",
    "notes": ["The networks were trained on synthetic data."],
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    """Four studies that wait: two scores, one that cannot be scored, one that is not scored yet."""
    journal = Journal(tmp_path / "journal.sqlite")
    store = Store(tmp_path, journal, Names("salt"), free=0)
    outcomes = [
        Outcome(0.12, False, slices=40, series="axial, original, soft kernel H31s, 5 mm, 40 slices over 200 mm"),
        Outcome(0.93, True, slices=40, series="axial, original, soft kernel H31s, 5 mm, 40 slices over 200 mm"),
        Outcome(reason="no axial slices", left_out="3 files: is a coronal or sagittal slice"),
        None,
    ]
    for k, outcome in enumerate(outcomes):
        store.take(f"1.{k}", f"1.{k}.1", b"x")
        if outcome is not None:
            journal.scored(store.study(f"1.{k}"), 1, outcome, time.time())
    yield store
    journal.close()


@pytest.fixture
def address(store, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 672), np.uint8)).save(buffer, "PNG")
    (pictures / f"{store.study('1.1')}.png").write_bytes(buffer.getvalue())
    door = bound("127.0.0.1", 0)
    server = Server(server_config(make_app(store, pictures, ServeSection(), None, lambda: True, ABOUT), 8))
    thread = threading.Thread(target=lambda: asyncio.run(server._serve([door])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{door.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_the_worklist_updates_itself_and_is_read_from_the_top(store, address, width, height):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    low, high, without, new = (store.study(f"1.{k}") for k in range(4))
    with browser(width, height) as driver:

        def rows(name="waiting"):
            return [r.text for r in driver.find_elements("css selector", f"#{name} li")]

        def until(condition):
            WebDriverWait(driver, PATIENCE, 0.1, [Exception]).until(lambda d: condition())

        driver.get(address)
        until(lambda: len(rows()) == 4)
        for shown, name in zip(rows(), (high, low, without, new), strict=True):
            assert name in shown
        assert "score 0.930" in rows()[0]
        assert "no axial slices" in rows()[2]
        assert "not scored yet" in rows()[3]
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        until(lambda: driver.execute_script("return document.querySelector('#waiting img').naturalWidth") == 672)
        store.journal.scored(new, 1, Outcome(0.99, True), time.time())
        until(lambda: new in rows()[0])

        button = driver.find_element("css selector", "#waiting li:nth-child(2) button")
        assert button.get_attribute("aria-label") == f"Read: critical: {high}"
        button.send_keys(Keys.ENTER)
        until(lambda: f"{high} is marked as read" in driver.find_element("id", "state").text)
        assert len(rows()) == 3
        assert "critical" in rows("read")[0]
        driver.find_element("css selector", f"[aria-label='Read: not critical: {low}']").click()
        until(lambda: f"{low} is marked as read" in driver.find_element("id", "state").text)
        assert len(rows("read")) == 2
        figures = driver.find_element("id", "figures").text
        assert "mean place as read 1.0 2.0" in figures
        assert "mean place by arrival 2.0 1.0" in figures
        assert violations(driver) == ""
        assert [m for m in driver.get_log("browser") if m["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_the_pages_of_a_prediction_are_accessible(tmp_path):
    scored = {
        "p_at_least_4": 0.93,
        "alarm": True,
        "seconds": 1.2,
        "series": "axial, 40 slices",
        "warnings": "gantry tilt",
    }
    rows = [{"study": "a", **scored}, {"study": "b", **scored, "alarm": False, "warnings": None}]
    worklist_page(tmp_path / "worklist.html", rows, {"a": [np.zeros((8, 8), np.uint8)] * 2}, 1, True)
    reports = pd.DataFrame({"id": ["a", "b"], "text": ["Bleeding. No mass. Old infarct? Cyst.", "Nothing of note."]})
    statuses = [("present", 0, 8), ("absent", 13, 17), ("uncertain", 19, 30), ("historical", 32, 36)]
    mentions = pd.DataFrame(
        [("a", "concept_name", status, True, start, end) for status, start, end in statuses],
        columns=["id", "concept", "status", "critical", "start", "end"],
    )
    concepts_page(tmp_path / "reports.html", reports, mentions, True)
    with browser() as driver:
        for page in ("worklist.html", "reports.html"):
            driver.get((tmp_path / page).as_uri())
            assert violations(driver) == "", page
        marked = [mark.get_attribute("textContent") for mark in driver.find_elements("css selector", ".report mark")]
        assert marked[1] == "massconcept name!, absent", "the status is no matter of colour alone"
