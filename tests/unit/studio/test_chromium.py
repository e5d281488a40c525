"""The studio in a real headless Chromium: draw with the mouse and the keyboard, and find it in the file."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest

from tests.unit.studio.conftest import SIDE, write_jobs
from tests.unit.studio.screen import TAP, drag, link_of, mark, opened, pixels, saved, serve, until
from xaikit.studio import Studio

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def studio(explained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    folders = [shutil.copytree(explained / name, folder / name) for name in ("run", "other")]
    running = Studio(folders).start()
    running.folder = folders[0]
    yield running
    running.stop()


@pytest.fixture
def page(browser, studio):
    page = opened(browser, studio.link)
    yield page
    assert page.said == []
    assert [url for url in page.asked if not url.startswith(("data:", "blob:", "http://127.0.0.1:"))] == []
    page.context.close()


def test_what_the_mouse_draws_is_in_the_file(page, studio):
    place = mark(page, 4)
    expected = np.zeros((SIDE, SIDE), bool)
    drag(page, place, (1.2, 1.3), (3.7, 2.6))
    expected[1:3, 1:4] = True
    saved(page)
    file = "must-not-matter/sample/test/4.png"
    assert np.array_equal(pixels(studio.folder, file), expected)
    page.keyboard.press("e")
    page.evaluate("studio.mark.size = 1")
    drag(page, place, (2.5, 1.5), (2.5, 2.5))
    expected[1:3, 2] = False
    saved(page)
    assert np.array_equal(pixels(studio.folder, file), expected)
    page.keyboard.press("b")
    drag(page, place, (0.5, 4.5), (5.5, 4.5))
    expected[4] = True
    saved(page)
    assert np.array_equal(pixels(studio.folder, file), expected)
    page.keyboard.press("p")
    for corner in ((4.0, 0.1), (6.0, 0.1), (6.0, 2.1)):  # pixels whose centres lie inside: two, and one below
        page.mouse.click(*place(*(min(v, SIDE - 0.02) for v in corner)))
    page.get_by_role("button", name="Close the polygon").click()
    saved(page)
    assert pixels(studio.folder, file).sum() == expected.sum() + 3
    page.keyboard.press("Control+z")
    saved(page)
    assert np.array_equal(pixels(studio.folder, file), expected)
    page.reload()
    until(page, "studio.mark?.layer?.undo")
    page.get_by_role("button", name="Undo").click()
    saved(page)
    expected[4] = False
    assert np.array_equal(pixels(studio.folder, file), expected)


def test_the_keyboard_alone_looks_marks_and_undoes(page, studio):
    page.locator(".scroller").focus()
    for key in ("ArrowRight", "ArrowRight", "Home", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    until(page, "location.hash.startsWith('#mark/') && studio.mark.layer")
    opened_at = page.evaluate("studio.mark.position")
    assert opened_at > 0
    until(page, "document.activeElement === studio.mark.title")  # not at the top of the page again
    page.get_by_text("must matter", exact=True).click()
    page.get_by_text("all samples", exact=True).click()
    page.locator("canvas.marks").focus()
    for key in ("ArrowUp", "ArrowLeft", "ArrowLeft", " ", "ArrowDown", "ArrowRight", " "):
        page.keyboard.press(key)
    saved(page)
    expected = np.zeros((SIDE, SIDE), bool)
    expected[2:4, 1:3] = True
    assert np.array_equal(pixels(studio.folder, "must-matter/all.png"), expected)
    page.keyboard.press("Control+z")
    saved(page)
    assert not pixels(studio.folder, "must-matter/all.png").any()
    page.locator("h2").first.focus()
    page.keyboard.press("1")
    page.wait_for_selector("#look:visible")
    assert page.evaluate("document.activeElement.closest('.card')?.dataset.slot") == str(opened_at)


def test_two_people_at_once_keep_both_marks(browser, page, studio):
    other = opened(browser, studio.link)
    places = [mark(p, 8) for p in (page, other)]
    drag(page, places[0], (0.2, 0.2), (1.5, 0.5))
    drag(other, places[1], (3.2, 3.2), (4.5, 3.5))
    for person in (page, other):
        saved(person)
    expected = np.zeros((SIDE, SIDE), bool)
    expected[0, 0:2] = expected[3, 3:5] = True
    assert np.array_equal(pixels(studio.folder, "must-not-matter/sample/test/8.png"), expected)
    assert other.locator("#status").inner_text().startswith("somebody else changed this mark")
    until(page, "studio.mark.layer.edit === 2")  # told within a few seconds
    other.context.close()


def test_a_browser_that_ends_while_the_server_is_away_loses_no_mark(browser, studio):
    page = opened(browser, studio.link)
    place = mark(page, 12)
    page.route("**/api/marks", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    drag(page, place, (0.2, 0.2), (1.5, 0.5))
    drag(page, place, (4.2, 4.2), (5.5, 5.5))
    page.keyboard.press("Control+z")
    until(page, "!document.getElementById('banner').hidden")
    page.close(run_before_unload=False)
    again = page.context.new_page()
    again.goto(studio.link)
    until(again, "studio.mark?.layerSet.queue.length === 0 && !localStorage.length")
    expected = np.zeros((SIDE, SIDE), bool)
    expected[0, 0:2] = True
    assert np.array_equal(pixels(studio.folder, "must-not-matter/sample/test/12.png"), expected)
    page.context.close()


def test_nothing_is_marked_while_the_screen_shows_the_sample_before(page, studio):
    place = mark(page, 10)
    held = []

    def hold(route):  # the library of the browser takes no method of a list
        held.append(route)

    page.route("**/api/samples/11*", hold)
    page.get_by_role("button", name="the next sample").click()
    until(page, "studio.mark.position === 11")
    while not held:
        page.wait_for_timeout(20)
    drag(page, place, (0.2, 0.2), (1.5, 0.5))
    assert page.evaluate("studio.mark.layerSet.queue.length") == 0
    held[0].continue_()
    until(page, "studio.mark.layer")
    assert page.evaluate("studio.mark.layer.flags.some(Boolean)") is False
    for position in (10, 11):
        assert not (studio.folder / "marks" / f"must-not-matter/sample/test/{position}.png").exists()


def test_names_stay_text_filters_filter_and_pages_scroll(page):
    assert "<script>alert(1)</script>.png" in page.locator(".card .name").all_inner_texts()
    page.get_by_label("Name").fill("SCRIPT")
    until(page, "document.querySelectorAll('.card').length === 1")
    assert page.locator(".count").inner_text() == "1 of 40 samples"
    page.get_by_label("Name").fill("")
    page.locator("#look").get_by_label("Class", exact=True).select_option(label="dog")
    until(page, "document.querySelector('.count').textContent.startsWith('20 ')")
    page.evaluate("studio.look.scroller.scrollTop = 1e6")
    until(
        page,
        "[...document.querySelectorAll('.card:not(.waiting)')].some(c => c.getAttribute('aria-posinset') === '20')",
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_steps(browser, studio, scheme):
    page = opened(browser, studio.link, width=390, scheme=scheme)
    for view in ("look", "mark", "mend", "prove"):
        page.locator(f"header a[data-view={view}]").click()
        page.wait_for_selector(f"#{view}:visible")
        page.wait_for_timeout(TAP)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, select, input, a')].filter(e => e.offsetParent && !e.labels?.length"
            " && !e.textContent.trim() && !e.ariaLabel).map(e => e.outerHTML)"
        )
        assert unnamed == []
    assert page.said == []
    page.context.close()


def test_the_mouse_marks_a_cluster_that_the_gallery_shows(browser, runs):
    write_jobs(runs[0])
    running = Studio(runs[0]).start()
    page = opened(browser, running.link)
    page.locator("#look").get_by_label("Changes with factor").select_option(label="top left corner (3)")
    until(page, "document.querySelector('.count').textContent.startsWith('3 of 40')")
    page.locator("#look").get_by_label("Changes with factor").select_option("")
    page.locator("#look").get_by_label("Cluster").select_option(label="cluster 0 (4)")
    until(page, "document.querySelector('.count').textContent.startsWith('4 of 40')")
    page.locator(".card[data-slot='2']").click()
    place = mark(page, 5, "cluster 0 of job 1")
    drag(page, place, (1.2, 1.3), (2.7, 1.6))
    saved(page)
    expected = np.zeros((SIDE, SIDE), bool)
    expected[1, 1:3] = True
    assert np.array_equal(pixels(runs[0], "must-not-matter/cluster/1-0.png"), expected)
    page.get_by_role("button", name="the next sample").click()
    until(page, "studio.mark.position === 39 && studio.mark.layer")  # of the same cluster, with the same mark
    assert page.evaluate("studio.mark.layer.flags.reduce((a, b) => a + b, 0)") == 2
    assert page.said == []
    page.context.close()
    running.stop()


def test_a_killed_server_loses_no_mark_and_the_page_goes_on(browser, runs, tmp_path):
    """kill -9 while a person draws: what was drawn meanwhile is sent when the server is back, under the same link."""
    log = tmp_path / "log.txt"
    server = serve(runs[0], log)
    page = opened(browser, link_of(log, 1))
    place = mark(page, 4, "all samples")
    for row in range(SIDE):
        drag(page, place, (0.5, row + 0.5), (row + 0.5, row + 0.5))
        if row == 2:
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
    assert page.evaluate("studio.mark.layerSet.queue.length") > 0
    assert "not saved yet" in page.locator("#banner").inner_text()
    server = serve(runs[0], log)
    assert link_of(log, 2) == link_of(log, 1)
    saved(page)
    assert np.array_equal(pixels(runs[0], "must-not-matter/all.png"), np.tri(SIDE, dtype=bool))
    assert page.locator("#banner").is_hidden()
    history = next((runs[0] / "marks" / ".history").rglob("*.jsonl")).read_text().splitlines()[1:]
    assert [json.loads(line)["number"] for line in history] == list(range(1, SIDE + 1))
    page.context.close()
    server.kill()
    server.wait()
