"""The page of a comparison in a real browser without a network: phone and desktop, light and dark."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from comparisons import FRAMES, comparison
from lamp_lightning.report import write_report

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
CANVASES = """[...document.querySelectorAll("figure.video canvas")].filter(c => c.offsetParent)"""
SHOWN = f"() => {CANVASES}.map(c => c.toDataURL())"
READY = f"""() => {CANVASES}.every(c => {{
  const empty = document.createElement("canvas");
  [empty.width, empty.height] = [c.width, c.height];
  return c.toDataURL() !== empty.toDataURL();
}})"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_report(comparison(folder), folder / "report")


def open_page(browser: Any, file: Path, size: dict[str, int], **options: Any) -> tuple[Any, list[str]]:
    """The page, and what went wrong: messages in the console, errors, requests."""
    context = browser.new_context(viewport=size, offline=True, **{"reduced_motion": "reduce", **options})
    context.set_default_timeout(60_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("data:", "file:")) else wrong.append(r.url))
    page.goto(file.as_uri())
    if options.get("java_script_enabled", True):
        page.wait_for_function(READY)
    return page, wrong


def test_nothing_in_the_page_is_fetched(page_file: Path) -> None:
    text = page_file.read_text()
    assert not re.findall(r"https?://", text)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "rival &lt;b&gt;" in text
    assert "rival <b>" not in text


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_fits_the_screen_and_says_nothing_in_the_console(
    browser: Any, page_file: Path, size: dict[str, int]
) -> None:
    page, wrong = open_page(browser, page_file, size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    for details in page.query_selector_all("summary"):
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.inner_text(".headline").startswith("LAMP_1 & co is best")
    assert wrong == []
    page.context.close()


def test_one_slider_moves_all_videos(browser: Any, page_file: Path) -> None:
    page, _ = open_page(browser, page_file, DESKTOP)
    before = page.evaluate(SHOWN)
    assert len(before) == 5  # three methods, the truth and the frozen frame
    assert page.get_attribute("#frame", "max") == str(FRAMES - 1)
    page.focus("#frame")
    page.keyboard.press("End")
    after = page.evaluate(SHOWN)
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert page.inner_text("#number") == f"{FRAMES} of {FRAMES}"
    page.keyboard.press("Home")
    assert page.evaluate(SHOWN) == before
    page.context.close()


def test_play_and_pause(browser: Any, page_file: Path) -> None:
    page, _ = open_page(browser, page_file, DESKTOP)
    assert (
        page.get_attribute("#play", "aria-label") == "Play"
    )  # motion is not wanted: nothing moves by itself
    page.locator("#videos").scroll_into_view_if_needed()
    page.click("#play")
    page.wait_for_function("() => document.getElementById('frame').value !== '0'")
    page.click("#play")
    assert page.get_attribute("#play", "aria-label") == "Play"
    moving, _ = open_page(browser, page_file, DESKTOP, reduced_motion="no-preference")
    assert moving.get_attribute("#play", "aria-label") == "Pause"
    page.context.close()
    moving.context.close()


def test_motion_scene_and_seed_are_chosen(browser: Any, page_file: Path) -> None:
    page, wrong = open_page(browser, page_file, PHONE)
    first = page.evaluate(SHOWN)
    page.select_option("#scene", "rain <1>")
    page.wait_for_function(READY)
    assert page.evaluate(SHOWN) != first
    page.select_option("#motion", "birds fly")
    page.select_option("#seed", "1")
    page.wait_for_function(READY)
    seen = page.locator("figure.video:visible")
    assert seen.count() == 5
    assert "error to truth 0.60" in seen.first.inner_text()
    assert page.locator("h4:visible").inner_text() == "birds_fly <0>"
    assert wrong == []
    page.context.close()


def test_dark_mode_changes_the_colours_of_page_and_plots(browser: Any, page_file: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page, _ = open_page(browser, page_file, DESKTOP, color_scheme=scheme)
        script = "e => [getComputedStyle(document.body).backgroundColor, getComputedStyle(e).fill]"
        colours.append(page.eval_on_selector(".plots svg text", script))
        page.context.close()
    (light_page, light_ink), (dark_page, dark_ink) = ([brightness(c) for c in pair] for pair in colours)
    assert light_page > 200 > 60 > dark_page
    assert light_ink < 130 < dark_ink


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_without_javascript_every_video_is_a_contact_sheet(browser: Any, page_file: Path) -> None:
    page, wrong = open_page(browser, page_file, PHONE, java_script_enabled=False)
    sheets = page.locator("figure.video img:visible")
    assert sheets.count() == 2 * 2 * (3 * 2 + 2)  # motions, scenes; methods with two seeds, references
    assert page.locator("#player").is_hidden()
    assert "10 frames by LAMP_1 & co" in sheets.first.get_attribute("alt")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert wrong == []
    page.context.close()


def test_it_can_be_read_aloud_and_used_with_the_keyboard(browser: Any, page_file: Path) -> None:
    page, _ = open_page(browser, page_file, DESKTOP)
    levels = [
        int(tag[1]) for tag in page.eval_on_selector_all("h1,h2,h3,h4", "all => all.map(e => e.tagName)")
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert page.locator("html[lang=en]").count() == 1
    assert page.locator("table").count() == page.locator("table caption").count() > 0
    assert page.locator("img:not([alt]), [role=img]:not([aria-label])").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for name in ("Play", "Frame"):
        assert page.get_by_label(name, exact=True).count() == 1
    for name in ("Motion", "Scene", "Seed"):
        assert page.get_by_label(name).locator("visible=true").count() >= 1
    page.context.close()
