"""The page in a real browser. Screenshots go to the folder LAYERMERGE_SCREENSHOTS, if it is set."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest

from browser import DESKTOP, PAPER, PHONE, Browser
from layermerge.report import render_html
from sample_results import SAMPLES

PAGES = {name: render_html(SAMPLES[name]()) for name in SAMPLES}
every_page = pytest.mark.parametrize("name", SAMPLES)
SEARCHED = "searched"

SHOWN = """
return [...document.querySelectorAll(arguments[0])]
  .filter(element => getComputedStyle(element).opacity === '1').map(element => element.textContent)
"""

TOO_WIDE = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')]
  .filter(element => !element.parentElement.closest('.scroll, svg'))
  .filter(element => element.getBoundingClientRect().right > width + 0.5)
  .map(element => element.outerHTML.slice(0, 80))
"""

CONTRASTS = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const channels = colour => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
  return [red, green, blue, alpha / 255];
};
const over = (front, back, alpha) =>
  front.slice(0, 3).map((x, k) => x * alpha + back[k] * (1 - alpha));
const luminance = colour => {
  const [red, green, blue] = colour.map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const paint = element => {  // colour and opacity of what an element puts behind a text
  const style = getComputedStyle(element);
  const isShape = element instanceof SVGGeometryElement;
  if (!isShape && element instanceof SVGElement) return [[0, 0, 0], 0];
  const colour = channels(isShape ? style.fill : style.backgroundColor);
  return [colour, colour[3] * style.opacity * (isShape ? style.fillOpacity : 1)];
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || element.closest('title')) continue;
  if (!element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
  const isWide = element.getBoundingClientRect().width > innerWidth / 2;
  element.scrollIntoView({block: 'center', inline: isWide ? 'start' : 'center'});
  const range = document.createRange();
  range.selectNodeContents(walker.currentNode);
  const box = range.getBoundingClientRect();
  const style = getComputedStyle(element);
  const text = channels(element instanceof SVGElement ? style.fill : style.color);
  for (const share of [0.1, 0.5, 0.9]) {
    const stack = document.elementsFromPoint(box.x + share * box.width, box.y + box.height / 2);
    let back = [255, 255, 255];
    for (const each of stack.reverse()) if (each !== element || !(each instanceof SVGElement)) {
      const [colour, alpha] = paint(each);
      back = over(colour, back, alpha);
    }
    const both = [luminance(over(text, back, text[3])), luminance(back)];
    const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    found.push([stack.length ? contrast : 0, walker.currentNode.textContent.slice(0, 40)]);
  }
}
return found
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def screenshots(tmp_path):
    folder = Path(os.environ.get("LAYERMERGE_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@every_page
def test_the_page_renders_without_complaints_and_asks_for_nothing(browser, tmp_path, name):
    address = browser.open(PAGES[name], tmp_path)
    heights = browser.run(
        "return [...document.querySelectorAll('section, svg[role=img]')].map(e => e.clientHeight)"
    )
    assert len(heights) >= 11
    assert min(heights) > 30
    assert browser.requests() == {address: ""}
    assert browser.complaints() == []


def test_the_policy_stops_what_does_not_belong_to_the_page(browser, tmp_path):
    foreign = (
        "<script>document.title = 'taken over'</script><img src='http://localhost:9/x.png'>"
        "<link rel='stylesheet' href='http://localhost:9/x.css'>"
    )
    html = PAGES[SEARCHED].replace("</main>", f"{foreign}</main>")
    address = browser.open(html, tmp_path)
    assert "taken over" not in browser.driver.title
    refused = {f"http://localhost:9/x.{ending}": "csp" for ending in ("png", "css")}
    assert browser.requests() == {address: "", **refused}
    complaints = browser.complaints()
    for kind in ("script", "image", "stylesheet"):
        assert any(kind in complaint for complaint in complaints), complaints


@every_page
@pytest.mark.parametrize("width", [320, PHONE, DESKTOP])
def test_nothing_is_wider_than_the_screen(browser, tmp_path, name, width):
    browser.open(PAGES[name], tmp_path, width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(TOO_WIDE) == []


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [SEARCHED, "dropped and gated", "mostly unchanged"])
def test_every_text_has_contrast(browser, tmp_path, name, scheme, width):
    browser.open(PAGES[name], tmp_path, width=width, scheme=scheme)
    contrasts = browser.run(CONTRASTS)
    assert len(contrasts) > 300
    poor = {(round(contrast, 2), text) for contrast, text in contrasts if contrast < 4.5}
    assert poor == set()


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_the_page_follows_the_scheme_of_the_system(browser, tmp_path, scheme, is_dark):
    browser.open(PAGES[SEARCHED], tmp_path, scheme=scheme)
    colour = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour))) < 200) == is_dark


def pick(browser, name, number):
    return browser.driver.find_elements("css selector", f"input[name={name}]")[number]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_frontier_shows_the_chosen_plan_and_the_one_that_is_pointed_at(
    browser, tmp_path, width
):
    from selenium.webdriver import ActionChains

    browser.open(PAGES[SEARCHED], tmp_path, width=width)
    points = SAMPLES[SEARCHED]().search.frontier
    (shown,) = browser.run(SHOWN, ".detail")
    assert shown.startswith("The plan: ")
    for number in (0, 3, len(points) - 1):
        ActionChains(browser.driver).move_to_element(pick(browser, "frontier", number)).perform()
        (shown,) = browser.run(SHOWN, ".detail")
        assert shown.startswith(f"{points[number].latency_ns / 1e6:.3f}\xa0ms predicted")
    away = browser.driver.find_element("tag name", "h1")
    ActionChains(browser.driver).move_to_element(away).perform()
    (shown,) = browser.run(SHOWN, ".detail")
    assert shown.startswith("The plan: ")
    pick(browser, "frontier", 2).click()
    ActionChains(browser.driver).move_to_element(away).perform()
    (shown,) = browser.run(SHOWN, ".detail")
    assert shown.startswith(f"{points[2].latency_ns / 1e6:.3f}\xa0ms predicted")


def test_pointing_at_a_dot_of_the_frontier_picks_its_plan(browser, tmp_path):
    browser.open(PAGES[SEARCHED], tmp_path)
    hits = browser.run(
        """
        document.querySelector('.frontier').scrollIntoView({block: 'center'});
        const inputs = [...document.querySelectorAll('input[name=frontier]')];
        return [...document.querySelectorAll('.dot')].map(dot => {
          const box = dot.getBoundingClientRect();
          const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
          const ring = inputs.map(input => input.nextElementSibling.getBoundingClientRect());
          const nearest = ring.findIndex(r => Math.hypot(r.x - x, r.y - y) < 1.5);
          return [inputs.indexOf(document.elementFromPoint(x, y)), nearest];
        })
        """
    )
    number = len(SAMPLES[SEARCHED]().search.frontier)
    assert hits == [[place, place] for place in range(number)]


def test_the_keyboard_goes_through_the_frontier_and_the_map(browser, tmp_path):
    from selenium.webdriver.common.keys import Keys

    browser.open(PAGES[SEARCHED], tmp_path)
    search = SAMPLES[SEARCHED]().search
    points, segments = search.frontier, search.segments
    chosen = points.index(search.chosen)
    focused = "return document.activeElement.name"
    stops = []
    for _ in range(12):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        stops.append(browser.run(focused))
        if stops[-1] == "frontier":
            browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
            (shown,) = browser.run(SHOWN, ".detail")
            assert shown.startswith(f"{points[chosen + 1].latency_ns / 1e6:.3f}\xa0ms predicted")
        if stops[-1] == "segment":
            browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
            (shown,) = browser.run(SHOWN, ".tip")
            by_length = sorted(segments, key=lambda each: (each.end - each.start, each.start))
            assert shown.startswith(f"Positions {by_length[1].start}..{by_length[1].end}, ")
        if browser.run("return document.activeElement === document.body"):
            break
    assert stops.count("frontier") == stops.count("segment") == 1, "each is one stop"


def test_the_map_shows_what_is_known_of_a_segment(browser, tmp_path):
    from selenium.webdriver import ActionChains

    browser.open(PAGES["200 layers"], tmp_path)
    hint = "return getComputedStyle(document.querySelector('.hint')).visibility"
    assert browser.run(SHOWN, ".tip") == []
    assert browser.run(hint) == "visible"
    for number in (0, 17, 980):
        cell = pick(browser, "segment", number)
        browser.run("arguments[0].scrollIntoView({block: 'center'})", cell)
        ActionChains(browser.driver).move_to_element(cell).perform()
        (shown,) = browser.run(SHOWN, ".tip")
        assert shown == browser.run("return arguments[0].nextSibling.textContent", cell)
        assert browser.run(hint) == "hidden"


@pytest.mark.parametrize("name", [SEARCHED, "200 layers"])
def test_what_can_be_picked_and_every_picture_has_a_name_for_screen_readers(
    browser, tmp_path, name
):
    browser.open(PAGES[name], tmp_path)
    browser.devtools("Accessibility.enable")
    nodes = browser.devtools("Accessibility.getFullAXTree")["nodes"]
    names = {}
    for node in nodes:
        if not node["ignored"]:
            role = node["role"]["value"]
            names.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    search = SAMPLES[name]().search
    assert len(names["radio"]) == len(search.frontier) + len(search.segments)
    pattern = re.compile(r"(The plan: )?[\d.]+\sms predicted, importance|Positions \d+\.\.\d+, ")
    assert all(pattern.match(each) for each in names["radio"])
    assert sorted(names["radiogroup"]) == [
        "Plans of the frontier, by rising latency",
        "Segments of the network",
    ]
    assert len(names["image"]) == 4
    assert all(len(each) > 40 for each in names["image"])
    assert names["heading"].count("") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_has_everything_in_dark_on_white(browser, tmp_path, scheme):
    browser.open(PAGES[SEARCHED], tmp_path, width=PAPER, scheme=scheme, media="print")
    assert browser.run("return document.documentElement.scrollWidth") <= PAPER
    heights = browser.run(
        "return [...document.querySelectorAll('section, svg[role=img]')].map(e => e.clientHeight)"
    )
    assert len(heights) >= 14
    assert min(heights) > 30
    assert browser.run(SHOWN, ".detail")[0].startswith("The plan: ")
    contrasts = browser.run(CONTRASTS)
    assert min(contrast for contrast, _ in contrasts) >= 4.5
    pdf = browser.paper()
    assert pdf.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
    assert b"/Font" in pdf


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("name", [SEARCHED, "dropped and gated", "200 layers"])
def test_screenshots_are_taken(browser, tmp_path, screenshots, name, width, scheme):
    browser.open(PAGES[name], tmp_path, width=width, scheme=scheme)
    file = f"report-{name.replace(' ', '-')}-{width}-{scheme}.png"
    png = browser.screenshot(screenshots / file)
    assert png.startswith(b"\x89PNG")
    shot_width, height = struct.unpack(">II", png[16:24])
    assert width - 20 <= shot_width <= width
    assert height > 2000
    assert len(png) > 40_000
