"""The page in a real browser: nothing on the console, and everything by keyboard. Runs where Chromium or Chrome is on PATH."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aprgraph.comparison import diff
from aprgraph.runtime.report import write_page
from tests.support.traces import trace_model

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in _NAMES if (found := shutil.which(name)) is not None), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"needs a browser on PATH, one of {', '.join(_NAMES)}")

#: What each script below writes its findings with, and how it presses keys.
_HELPERS = """
const found = {};
const press = (key, options = {}) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...options }));
const active = () => document.activeElement;
const cell = () => [active().parentNode.cells[0].textContent, active().cellIndex - 1];
const title = () => document.querySelector("#detail-title").textContent;
const report = () => {
  const place = document.createElement("pre");
  place.id = "found";
  place.textContent = JSON.stringify(found);
  document.body.append(place);
};
"""


def browse(page: Path, folder: Path, *options: str) -> tuple[str, list[str]]:
    """The page's DOM once its scripts have run, and what was on the console."""
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    command += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=4000", "--window-size=1280,900", *options, "--dump-dom", page.as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    return result.stdout, re.findall(r"CONSOLE[^\]]*\] (.*)", result.stderr)


def ask(page: Path, folder: Path, script: str, *options: str) -> Any:
    """What ``script`` finds in the page. It runs in a copy without the policy, which would forbid it."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv[^>]*>", "", text, count=1).replace(
        "</body>", f"<script>{{{_HELPERS}{script}\nreport();}}</script></body>"
    )
    copy = folder / "asked.html"
    copy.write_text(text, encoding="utf-8")
    dom, console = browse(copy, folder, *options)
    assert not console
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert match is not None, "the script did not come to its end"
    return json.loads(html.unescape(match[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("page")
    a = trace_model(folder / "a", tiny_model())
    b = trace_model(folder / "b", tiny_model(), overrides={"llama.rope.freq_base": 500000.0})
    write_page(folder / "page.html", diff(a, b), a, b)
    return folder / "page.html"


@pytest.fixture(scope="module")
def blamed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """The page of a comparison with the model, where one side is wrong at q and k of both layers."""
    folder = tmp_path_factory.mktemp("blamed")
    a = trace_model(folder / "ours", tiny_model())
    b = trace_model(folder / "theirs", tiny_model(), overrides={"llama.rope.freq_base": 500000.0})
    write_page(folder / "page.html", diff(a, b, model=tiny_model()), a, b)
    return folder / "page.html"


def test_the_console_is_silent(page: Path, tmp_path: Path) -> None:
    dom, console = browse(page, tmp_path)
    assert console == []
    assert 'class="js"' in dom  # the page's own script has run, under its policy
    # The console is listened to: a script that the policy does not know is refused, and that is heard.
    foreign = tmp_path / "foreign.html"
    foreign.write_text(page.read_text(encoding="utf-8").replace("</body>", "<script>1</script></body>"), encoding="utf-8")
    assert any("Content Security Policy" in line for line in browse(foreign, tmp_path)[1])


def test_the_map_moves_by_arrow_keys(page: Path, tmp_path: Path) -> None:
    found = ask(
        page,
        tmp_path,
        """
        const map = document.querySelector("table.map");
        found.stops = map.querySelectorAll("td[tabindex='0']").length;
        map.querySelector("td[tabindex='0']").focus();
        found.start = cell();
        press("ArrowDown"); found.down = cell();
        press("ArrowRight"); found.right = cell();
        found.label = active().getAttribute("aria-label");
        found.tip = document.querySelector("#tip").hidden ? "" : document.querySelector("#tip").textContent;
        press("Escape"); found.escaped = document.querySelector("#tip").hidden;
        press("Home"); found.home = cell();
        press("End"); found.end = cell();
        press("ArrowRight"); found.edge = cell();
        press("Enter"); found.title = title();
        found.selected = map.querySelectorAll("td[aria-selected='true']").length;
        press("End", { ctrlKey: true }); found.last = cell();
        press("ArrowUp"); found.above = cell();
        press("Home", { ctrlKey: true }); found.first = cell();
        press("ArrowRight"); found.nothing_there = cell();
        found.stops_after = map.querySelectorAll("td[tabindex='0']").length;
        """,
    )
    assert found["stops"] == found["stops_after"] == 1
    assert found["start"] == ["q_post_rope", 0]
    assert found["down"] == ["k_post_rope", 0]
    assert found["right"] == found["end"] == found["edge"] == ["k_post_rope", 1]
    assert found["home"] == ["k_post_rope", 0]
    assert re.match(r"layer 1 k_post_rope; PROPAGATED; error \S+e-\d+, limit [0-9.e-]+$", found["label"])
    assert found["tip"] == found["label"]
    assert found["escaped"] is True
    assert found["title"] == "layer 1 k_post_rope"
    assert found["selected"] == 1
    assert found["last"] == ["lm_head", 2]
    assert found["above"] == ["final_norm", 2]
    assert found["first"] == found["nothing_there"] == ["embedding", 0]


def test_the_charts_are_read_by_arrow_keys(page: Path, tmp_path: Path) -> None:
    found = ask(
        page,
        tmp_path,
        """
        const status = () => document.querySelector("#status").textContent;
        document.querySelector(".chart.overview").focus();
        found.first = status();
        press("End"); found.end = status();
        press("Enter"); found.title = title();
        found.stops = document.querySelectorAll(".chart.panel[tabindex='0']").length;
        document.querySelector(".chart.panel[tabindex='0']").focus();
        press("Home"); found.panel = status();
        press("ArrowDown"); found.below = status();
        press("ArrowRight"); found.layer = status();
        press("ArrowUp"); found.back = status();
        found.stops_after = document.querySelectorAll(".chart.panel[tabindex='0']").length;
        """,
    )
    assert found["first"].startswith("layer 0 embedding; IDENTICAL")
    assert found["end"].startswith("lm_head; PROPAGATED")
    assert found["title"] == "lm_head"
    assert found["panel"].startswith("layer 0 embedding")
    assert found["below"].startswith("layer 0 attn_norm")
    assert found["layer"].startswith("layer 1 attn_norm")
    assert found["back"].startswith("layer 0 embedding")
    assert found["stops"] == found["stops_after"] == 1


def test_the_table_is_sorted_and_filtered(page: Path, tmp_path: Path) -> None:
    found = ask(
        page,
        tmp_path,
        """
        const table = document.querySelector("#all-rows");
        const heads = [...table.tHead.rows[0].cells];
        const head = heads.find((one) => one.textContent === "error");
        const column = (shown = () => true) => [...table.tBodies[0].rows].filter(shown);
        const errors = () => column().map((row) => parseFloat(row.cells[head.cellIndex].textContent));
        found.before = errors();
        head.querySelector("button").click(); found.sort = head.getAttribute("aria-sort"); found.down = errors();
        head.querySelector("button").click(); found.again = head.getAttribute("aria-sort"); found.up = errors();
        heads[1].querySelector("button").click(); found.restored = errors(); found.one = table.querySelectorAll("[aria-sort]").length;
        const field = document.querySelector("#filter");
        field.value = "ffn_gate, layer 1"; field.dispatchEvent(new Event("input"));
        found.kept = column((row) => !row.hidden).map((row) => row.cells[1].textContent);
        found.count = document.querySelector("#filter-count").textContent;
        field.value = ""; field.dispatchEvent(new Event("input"));
        const choice = document.querySelector("#filter-class");
        choice.value = "INTRODUCED"; choice.dispatchEvent(new Event("change"));
        found.introduced = column((row) => !row.hidden).map((row) => row.cells[1].textContent);
        """,
    )
    assert found["sort"] == "descending"
    assert found["down"] == sorted(found["before"], reverse=True)
    assert found["again"] == "ascending"
    assert found["up"] == sorted(found["before"])
    assert found["restored"] == found["before"]
    assert found["one"] == 1
    assert found["kept"] == ["layer 1 ffn_gate"]
    assert found["count"] == "1 of 35"
    assert found["introduced"] == ["layer 0 q_post_rope", "layer 0 k_post_rope"]


#: Contrast as WCAG 2.2 defines it, of every text in the page against what is behind it; the least of each pair of colours.
_CONTRAST = """
const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const parse = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
const luminance = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
const shapes = [...document.querySelectorAll("svg rect")].map((rect) => [rect, rect.getBoundingClientRect()]);
const behind = (element) => {
  if (element.ownerSVGElement) {
    const box = element.getBoundingClientRect();
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    const under = shapes.filter(([rect, place]) => rect.ownerSVGElement === element.ownerSVGElement && place.left <= x && x <= place.right
      && place.top <= y && y <= place.bottom && getComputedStyle(rect).fill !== "none");
    if (under.length) return parse(getComputedStyle(under[under.length - 1][0]).fill);
  }
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const checked = () => {
  const poor = [];
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest("script, title, desc, [hidden], .skip, .unseen")) continue;
    const style = getComputedStyle(element);
    const front = parse(element.ownerSVGElement ? style.fill : style.color);
    const pair = [luminance(front), luminance(behind(element))];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    texts += 1;
    if (contrast < 4.5) poor.push([node.textContent.trim().slice(0, 30), Number(contrast.toFixed(2))]);
  }
  return { texts, poor, page: getComputedStyle(document.body).backgroundColor };
};
const choose = (value) => {
  const input = document.querySelector(`.theme input[value="${value}"]`);
  input.checked = true;
  input.dispatchEvent(new Event("change"));
};
"""


def test_with_blame_the_guilty_glow_and_are_said(blamed: Path, tmp_path: Path) -> None:
    found = ask(
        blamed,
        tmp_path,
        _CONTRAST
        + """
        const map = document.querySelector("table.map");
        const glow = (cell) => getComputedStyle(cell).boxShadow.includes("9px");
        const cells = [...map.querySelectorAll("td[data-row]")];
        found.glowing = cells.filter(glow).map((cell) => cell.textContent);
        map.querySelector("td[tabindex='0']").focus();
        found.start = cell();
        found.said = active().getAttribute("aria-label");
        choose("light"); found.light = checked(); choose("dark"); found.dark = checked();
        """,
    )
    assert found["glowing"] == ["B"] * 4
    assert found["start"] == ["q_post_rope", 0]
    assert re.fullmatch(r"layer 0 q_post_rope; B WRONG; local error A \S+, B \S+, limit \S+; \S+ apart", found["said"]), found["said"]
    assert found["light"]["poor"] == found["dark"]["poor"] == []


def test_all_text_has_contrast_in_light_and_dark(page: Path, tmp_path: Path) -> None:
    script = (
        _CONTRAST + 'choose("light"); found.light = checked(); choose("dark"); found.dark = checked(); choose(""); found.auto = checked();'
    )
    found = ask(page, tmp_path, script)
    for look in ("light", "dark", "auto"):
        assert found[look]["texts"] > 500
        assert found[look]["poor"] == []
    assert found["light"]["page"] == found["auto"]["page"] == "rgb(255, 255, 255)"
    assert found["dark"]["page"] == "rgb(15, 20, 26)"


@pytest.mark.parametrize("width", [420, 1280])
def test_nothing_but_its_scrolling_parts_is_wider_than_the_window(page: Path, tmp_path: Path, width: int) -> None:
    framed = f"""
        const frame = document.createElement("iframe");
        frame.style.cssText = "border: 0; height: 900px; width: {width}px";
        frame.srcdoc = document.documentElement.outerHTML.replace(/<script>[^]*<\\/script>/, "");
        document.body.replaceChildren(frame);
        frame.onload = () => {{
          const root = frame.contentDocument.documentElement;
          found.width = root.scrollWidth;
          found.shown = root.clientWidth;
          report();
        }};
        """
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv[^>]*>", "", text, count=1).replace("</body>", f"<script>{{{_HELPERS}{framed}}}</script></body>")
    (tmp_path / "framed.html").write_text(text, encoding="utf-8")
    dom, _ = browse(tmp_path / "framed.html", tmp_path)
    match = re.search(r'<pre id="found">(.*?)</pre>', dom)
    assert match is not None
    found = json.loads(match[1])
    assert width - 20 <= found["shown"] <= width
    assert found["width"] <= found["shown"]
