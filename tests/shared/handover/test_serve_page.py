"""The page of a service, clicked through in a real browser."""

from __future__ import annotations

import threading
import time

import pytest
from browser import browser, violations
from conftest import PATIENCE
from made_service import fundus, opened

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from pipelines.shared.handover.serve.app import make_app
from pipelines.shared.handover.serve.server import Server, bound, server_config
from pipelines.shared.handover.serve.service import Service


@pytest.fixture(scope="module")
def address(made_run, tmp_path_factory):
    """A service that listens on this machine."""
    place = tmp_path_factory.mktemp("page")
    root = place / "root"
    root.mkdir()
    (root / "a.png").write_bytes(fundus(3))
    service = Service(*opened(made_run, place / "serve", root=str(root)))
    service.check()
    door = bound("127.0.0.1", 0)
    server = Server(server_config(make_app(service), 8))
    thread = threading.Thread(target=lambda: _serve(server, door), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{door.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    service.close()


def _serve(server, door):
    import asyncio

    asyncio.run(server._serve([door]))  # without signals, which belong to the main thread


def wait(driver, condition, seconds=PATIENCE):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds).until(condition)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_the_page_is_clicked_through(address, tmp_path, width, height):
    (tmp_path / "eye.png").write_bytes(fundus(1))
    (tmp_path / "no.png").write_bytes(b"no picture")
    with browser(width, height) as driver:

        def find(selector):
            return driver.find_element("css selector", selector)

        driver.get(address)
        assert "Not for medical use" in find(".notice").text
        assert "0.870 to 0.940" in find("section table").text, "the interval on test"
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        find("#file").send_keys(str(tmp_path / "eye.png"))
        wait(driver, lambda d: find("#answer").is_displayed())
        assert "eye.png" in find("#scores").text
        assert "threshold 0.600, chosen on val" in find("#scores").text
        assert len(driver.find_elements("css selector", ".layers img")) == 2
        ready = "return [...document.images].every((i) => i.complete && i.naturalWidth > 0)"
        wait(driver, lambda d: d.execute_script(ready))
        opacity = driver.execute_script(
            "const s = document.getElementById('strength'); s.value = 10; s.dispatchEvent(new Event('input'));"
            "return document.querySelector('.overlay').style.opacity"
        )
        assert float(opacity) == pytest.approx(0.1)
        driver.execute_script("document.querySelectorAll('details').forEach((more) => { more.open = true; })")
        assert violations(driver) == ""
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        find("#file").send_keys(str(tmp_path / "no.png"))
        wait(driver, lambda d: "is not a JPEG" in find("#state").text)
        assert not find("#answer").is_displayed()
        assert violations(driver) == "", "with a refusal in place of an answer"
        noise = [entry for entry in driver.get_log("browser") if "422" not in entry["message"]]
        assert noise == [], "the content policy forbids something, or a script failed"


@pytest.mark.slow
def test_the_page_by_keyboard_and_by_dropping(address):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    with browser() as driver:
        driver.get(address)
        seen = []
        for _ in range(8):
            ActionChains(driver).send_keys(Keys.TAB).perform()
            seen.append(driver.switch_to.active_element.get_attribute("id"))
        assert seen.index("file") < seen.index("path"), "in the order in which they stand"
        driver.find_element("id", "path").send_keys("a.png" + Keys.ENTER)
        wait(driver, lambda d: d.find_element("id", "answer").is_displayed())
        assert "a.png" in driver.find_element("id", "scores").text
        assert driver.switch_to.active_element.get_attribute("id") == "answer", "where a reader goes on"
        driver.execute_script(
            "const t = new DataTransfer(); t.items.add(new File(['x'], 'dropped.png'));"
            "document.dispatchEvent(new DragEvent('drop', {dataTransfer: t, bubbles: true, cancelable: true}))"
        )
        wait(driver, lambda d: "is not a JPEG" in d.find_element("id", "state").text)


@pytest.mark.slow
def test_the_pages_for_programs_and_of_the_card_are_accessible(address):
    with browser() as driver:
        for page in ("docs", "model"):
            driver.get(address + page)
            assert violations(driver) == "", page
