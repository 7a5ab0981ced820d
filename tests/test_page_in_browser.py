"""The HTML page in a real browser: views, tables, figures under the pointer, print; nothing is fetched, no error, no page too wide."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import believable
import pytest

from benchmark.report import build_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium"),
]

# Runs before the page's own script: collects errors, requests and what is copied.
WATCH = """
window.found = {errors: [], copied: []};
window.addEventListener("error", (event) => found.errors.push(event.message));
window.addEventListener("unhandledrejection", (event) => found.errors.push(String(event.reason)));
for (const level of ["error", "warn"]) console[level] = (...said) => found.errors.push(said.join(" "));
Object.defineProperty(navigator, "clipboard", {value: {writeText: async (text) => { found.copied.push(text); }}});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    believable.write_results(folder / "quick")
    believable.write_sweep(folder / "quick")
    return build_report([folder / "quick"], folder / "report").html


def browse(page: Path, script: str = "", *, width: int = 1440, height: int = 900, anchor: str = "") -> dict[str, Any]:
    """What the script puts into ``found``, and the addresses that the page has asked for."""
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", f"<head><script>{WATCH}</script>", 1)
    after = f"""<pre id="found"></pre><script>
    {script}
    found.width = document.documentElement.scrollWidth;
    found.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
    setTimeout(() => {{ document.getElementById("found").textContent = JSON.stringify(found); }}, 50);
    </script></body>"""
    copy = page.with_name("watched.html")
    copy.write_text(text.replace("</body>", after), encoding="utf-8")
    shown = run("--virtual-time-budget=3000", f"--window-size={width},{height}", "--dump-dom", copy.as_uri() + anchor)
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)
    return json.loads(html.unescape(found))


def run(*arguments: str) -> str:
    """What Chromium prints."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


TABLE = """
const table = document.getElementById("table-forecasting-informer-causal_self");
const column = (index) => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[index]?.textContent.trim());
const head = (index) => table.tHead.rows[0].cells[index];
const tools = table.closest(".tabled").querySelector(".tools");
"""


def test_nothing_is_fetched_and_nothing_fails(page):
    found = browse(page)
    assert found["errors"] == []
    assert [name for name in found["requests"] if not name.startswith(("data:", "file:"))] == []


def test_a_column_sorts_both_ways_and_back_with_controls_below(page):
    script = """
    found.before = column(0);
    head(2).querySelector("button").click(); found.up = column(2); found.sort = head(2).getAttribute("aria-sort");
    head(2).querySelector("button").click(); found.down = column(2); found.last = column(0);
    head(2).querySelector("button").click(); found.after = column(0);
    """
    found = browse(page, TABLE + script)
    attentions = [float(text.split(" ")[0]) for text in found["up"] if "±" in text][:-1]
    assert len(attentions) > 3
    assert attentions == sorted(attentions)
    assert found["sort"] == "ascending"
    assert set(found["last"][-3:]) == set(found["before"][-3:]) == {"none", "repeat", "dlinear"}
    assert found["after"] == found["before"]
    down = [float(text.split(" ")[0]) for text in found["down"] if "±" in text][:-1]
    assert down == sorted(down, reverse=True)


def test_a_filter_leaves_rows_that_have_the_words(page):
    script = """
    const input = tools.querySelector("input");
    input.value = "PERF"; input.dispatchEvent(new Event("input")); found.some = column(0);
    input.value = ""; input.dispatchEvent(new Event("input")); found.all = column(0);
    """
    found = browse(page, TABLE + script)
    assert found["some"] == ["performer"]
    assert len(found["all"]) > 5


def test_a_table_is_copied_in_three_forms(page):
    script = 'for (const button of tools.querySelectorAll("button")) button.click();'
    csv, markdown, latex = browse(page, TABLE + script)["copied"]
    assert csv.startswith("attention,seeds,mse ↓,")
    assert markdown.splitlines()[1].count("---") == markdown.splitlines()[0].count("|") - 1
    assert latex.startswith("\\begin{tabular}{lrrrrrrr}\n\\toprule\nattention & seeds & mse $\\downarrow$ &")
    assert "softmax & 3 & " in latex
    assert "\\\\\n\\bottomrule\n\\end{tabular}" in latex
    assert "±" not in latex


VIEWS = """
const shown = () => [...document.querySelectorAll("section.view")].filter((one) => one.offsetHeight > 0).map((one) => one.id);
const links = [...document.querySelectorAll("nav.views a")];
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
"""


def test_views_are_switched_by_keyboard(page):
    script = """
    found.first = shown(); found.names = links.map((link) => link.textContent.trim());
    const look = () => [shown(), document.activeElement.textContent.trim(), document.querySelector("[aria-current]").textContent.trim(), location.hash];
    links[0].focus();
    found.seen = ["ArrowRight", "End", "ArrowRight", "ArrowLeft"].map((key) => { press(key); return look(); });
    """
    found = browse(page, VIEWS + script)
    assert found["names"] == ["Overview", "Tasks", "Efficiency", "Claims", "Provenance"]
    assert found["first"] == ["overview"]
    names = ["Tasks", "Provenance", "Overview", "Provenance"]
    assert found["seen"] == [[[name.lower()], name, name, f"#{name.lower()}"] for name in names]


@pytest.mark.parametrize(
    ("anchor", "view"),
    [
        ("#table-forecasting-informer-causal_self", "tasks"),
        ("#figure-efficiency-causal_self-forward-1-8-64-float32-cpu", "efficiency"),
        ("#figure-overview", "overview"),
        ("#no-such-place", "overview"),
    ],
)
def test_a_link_to_a_table_or_figure_opens_its_view(page, anchor, view):
    script = """
    const place = document.querySelector(location.hash);
    found.views = shown(); found.top = place?.getBoundingClientRect().top;
    """
    found = browse(page, VIEWS + script, anchor=anchor)
    assert found["views"] == [view]
    assert found.get("top") is None or 0 <= found["top"] < 900


def test_without_its_script_the_page_shows_every_view(page):
    text = page.read_text(encoding="utf-8")
    bare = page.with_name("bare.html")
    bare.write_text(re.sub(r"<script(?! type).*?</script>", "", text, flags=re.DOTALL), encoding="utf-8")
    found = browse(bare, VIEWS + "found.views = shown();")
    assert found["views"] == ["overview", "tasks", "efficiency", "claims", "provenance"]


def test_the_three_questions_are_answered_on_the_first_screen(page):
    script = """
    const bottom = (id) => document.getElementById(id).getBoundingClientRect().bottom;
    found.wide = ["table-overview", "table-summary", "figure-quality-and-cost"].map(bottom);
    found.heads = [...document.querySelectorAll("#table-overview thead th")].map((one) => one.textContent.trim());
    """
    found = browse(page, script)
    assert max(found["wide"]) < 900
    assert found["heads"][:4] == ["attention", "score [95 %]", "better · open · worse", "training, tokens/s"]
    phone = browse_narrow(
        page, "found.phone = document.getElementById('table-overview').getBoundingClientRect().bottom;"
    )
    assert phone["phone"] < 844


def browse_narrow(page: Path, script: str) -> dict[str, Any]:
    """As ``browse`` in a frame of 390 x 844, because Chromium opens no window narrower than 500."""
    text = page.read_text(encoding="utf-8").replace("<head>", f"<head><script>{WATCH}</script>", 1)
    after = f"""<script>{script}
    found.width = document.documentElement.scrollWidth;
    setTimeout(() => parent.postMessage(JSON.stringify(found), "*"), 50);</script></body>"""
    page.with_name("framed.html").write_text(text.replace("</body>", after), encoding="utf-8")
    outer = page.with_name("frame.html")
    outer.write_text(
        '<pre id="found"></pre><script>addEventListener("message", (event) => '
        '{ document.getElementById("found").textContent = event.data; });</script>'
        '<iframe src="framed.html" style="width:390px;height:844px;border:0"></iframe>',
        encoding="utf-8",
    )
    shown = run("--virtual-time-budget=3000", "--window-size=500,900", "--dump-dom", outer.as_uri())
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)
    return json.loads(html.unescape(found))


FIGURE = """
const figure = document.getElementById("figure-efficiency-causal_self-forward-1-8-64-float32-cpu");
location.hash = figure.id;
for (const one of document.querySelectorAll("section.view")) one.classList.toggle("current", one.contains(figure));
const svg = figure.querySelector("svg"), tip = document.querySelector(".tip");
const entry = (name) => [...svg.querySelectorAll(".entry")].find((one) => one.textContent.trim() === name);
// The middle of the marker of a series that is the furthest to the right in the left half of the figure: that at 8K.
const lines = (number) => [...svg.querySelectorAll(`[data-series="${number}"]`)].filter((one) => !one.matches(".entry"));
const marker = (number) => {
  const middle = svg.getBoundingClientRect().left + svg.getBoundingClientRect().width / 2;
  const boxes = lines(number).flatMap((one) => [...one.querySelectorAll("use")]).map((one) => one.getBoundingClientRect());
  const box = boxes.filter((one) => one.right < middle && one.bottom < svg.getBoundingClientRect().bottom - 40)
    .sort((a, b) => b.left - a.left)[0];
  return {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2};
};
const move = (place) => svg.dispatchEvent(new PointerEvent("pointermove", {...place, bubbles: true}));
"""


def test_the_pointer_shows_the_value_of_the_point_below_it(page):
    script = """
    const number = Number(entry("lavo").dataset.series);
    move(marker(number)); found.tip = tip.innerText; found.bold = tip.querySelector("b").innerText; found.hidden = tip.hidden;
    svg.dispatchEvent(new PointerEvent("pointerleave")); found.left = tip.hidden;
    """
    found = browse(page, FIGURE + script)
    seconds = 1.7e-6 * 8192 + 2e-4  # as the sweep was made
    assert found["bold"] == f"lavo: {1e3 * seconds:.1f} ms"
    assert found["tip"].startswith("length (tokens): 8K")
    assert "performer: 24.8 ms" in found["tip"]
    assert (found["hidden"], found["left"]) == (False, True)


def test_a_legend_entry_hides_its_series_and_shows_it_again(page):
    script = """
    const lavo = entry("lavo"), number = Number(lavo.dataset.series);
    const seen = (one) => lines(one).every((part) => getComputedStyle(part).visibility === "visible");
    const place = marker(number);
    found.entries = [...svg.querySelectorAll(".entry")].map((one) => [one.textContent.trim(), one.getAttribute("role"), one.getAttribute("tabindex")]);
    lavo.dispatchEvent(new MouseEvent("click", {bubbles: true}));
    found.hidden = [seen(number), seen(Number(entry("flash").dataset.series)), lavo.getAttribute("aria-pressed")];
    move(place); found.tip = tip.hidden ? "" : tip.innerText;
    lavo.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
    found.shown = [seen(number), lavo.getAttribute("aria-pressed")];
    """
    found = browse(page, FIGURE + script)
    assert [name for name, _, _ in found["entries"]] == ["softmax", "flash", "lavo", "performer", "my_att"]
    assert {tuple(rest) for _, *rest in found["entries"]} == {("button", "0")}
    assert found["hidden"] == [False, True, "false"]
    assert "lavo" not in found["tip"]
    assert found["shown"] == [True, "true"]


def test_every_point_of_a_figure_lies_where_the_svg_has_its_marker(page):
    """The data beside a figure and the picture are one: each marker drawn is where the script would look for its value."""
    script = """
    {
    const {axes} = JSON.parse(figure.querySelector("script").textContent);
    const {box: [left, top, right, bottom], x, y, lines: drawn} = axes[0];
    const place = (axis, value, from, to) => {
      const [low, high] = axis.limits.map(Math.log);
      return from + (Math.log(Array.isArray(value) ? value[0] : value) - low) / (high - low) * (to - from);
    };
    let xs;
    found.wanted = drawn.flatMap((line) => { xs = line.x ?? xs; return line.y.map((value, i) => [place(x, xs[i], left, right), place(y, value, bottom, top)]); });
    found.there = [...svg.querySelectorAll("[data-series] use")].map((one) => [Number(one.getAttribute("x")), Number(one.getAttribute("y"))]);
    found.scales = [x.scale, y.scale];
    }
    """
    found = browse(page, FIGURE + script)
    assert found["scales"] == ["log", "log"]
    assert len(found["wanted"]) == 6 * 5 - 3
    for wanted in found["wanted"]:
        assert min(abs(wanted[0] - x) + abs(wanted[1] - y) for x, y in found["there"]) < 0.3


@pytest.mark.parametrize("width", [500, 1440])  # Chromium opens no narrower window
def test_the_page_is_no_wider_than_the_window(page, width):
    assert browse(page, width=width, height=844)["width"] <= width


def test_the_page_is_no_wider_than_a_phone(page):
    script = """
    found.widths = {};
    for (const view of document.querySelectorAll("section.view")) {
      for (const one of document.querySelectorAll("section.view")) one.classList.toggle("current", one === view);
      found.widths[view.id] = document.documentElement.scrollWidth;
    }
    found.captions = [...document.querySelectorAll(".caption")].filter((one) => one.offsetParent).map((one) => one.offsetWidth);
    """
    found = browse_narrow(page, script)
    assert found["errors"] == []
    assert max(found["widths"].values()) <= 390
    assert min(found["captions"]) > 300


def test_every_part_is_reached_by_keyboard_and_named(page):
    script = """
    found.regions = [...document.querySelectorAll(".scroll")].every((one) => one.tabIndex === 0
      && (one.getAttribute("aria-label") || document.getElementById(one.getAttribute("aria-labelledby"))?.textContent));
    found.skip = document.querySelector(".skip").getAttribute("href");
    found.main = document.querySelector("main").id;
    found.nameless = [...document.querySelectorAll("button, a, [role=button]")].filter((one) => !one.textContent.trim()).length;
    """
    found = browse(page, script)
    assert found["regions"]
    assert found["skip"] == f"#{found['main']}"
    assert found["nameless"] == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(page, scheme):
    """WCAG 2: a contrast of 4.5 for every text in the page's own colours, and in shaded cells."""
    text = page.read_text(encoding="utf-8")
    media = "@media (prefers-color-scheme: dark)"
    assert media in text
    themed = page.with_name(f"{scheme}.html")
    themed.write_text(text.replace(media, "@media all" if scheme == "dark" else "@media not all"), encoding="utf-8")
    script = """
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const over = ([r, g, b, a = 1], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
    const luminance = (colour) => { const [r, g, b] = colour.map((c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const ground = (one) => { if (!one) return [255, 255, 255]; return over(rgb(getComputedStyle(one).backgroundColor), ground(one.parentElement)); };
    found.low = [];
    for (const one of document.querySelectorAll("main p, main td, main th, main li, main a, main summary, header a, figcaption, .note, button")) {
      if (!one.textContent.trim()) continue;
      const [a, b] = [luminance(over(rgb(getComputedStyle(one).color), ground(one))), luminance(ground(one))].sort((x, y) => y - x);
      if ((a + 0.05) / (b + 0.05) < 4.5) found.low.push([one.tagName, one.className, one.textContent.trim().slice(0, 30)]);
    }
    found.dark = luminance(ground(document.body)) < 0.1;
    """
    found = browse(themed, script)
    assert found["dark"] == (scheme == "dark")
    assert found["low"] == []


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no pdftotext: apt-get install poppler-utils")
def test_print_clips_no_table(page, tmp_path):
    """Every heading and every last cell of every table stands inside the paper."""
    paper = tmp_path / "report.pdf"
    run("--no-pdf-header-footer", "--virtual-time-budget=3000", f"--print-to-pdf={paper}", page.as_uri())
    subprocess.run(["pdftotext", "-bbox", str(paper), str(tmp_path / "words.html")], check=True, timeout=60)
    text = (tmp_path / "words.html").read_text(encoding="utf-8")
    inside = []
    for sheet in re.findall(r'<page width="([\d.]+)" height="([\d.]+)">(.*?)</page>', text, re.DOTALL):
        width = float(sheet[0])
        assert width > float(sheet[1])  # wide tables need the long side
        for left, right, word in re.findall(r'xMin="([-\d.]+)".*?xMax="([-\d.]+)".*?>(.*?)</word>', sheet[2]):
            assert -1 <= float(left) <= float(right) <= width + 1, word
            inside.append(html.unescape(word))
    printed = "".join(inside)
    script = """
    found.last = [...document.querySelectorAll("table.data")].flatMap((table) => [...table.rows].map((row) => row.cells[row.cells.length - 1].textContent));
    """
    for cell in browse(page, script)["last"]:
        assert all(word in printed for word in cell.split())  # one by one, because a cell of words has several lines
    commands = [
        word
        for line in page.with_suffix(".md").read_text().splitlines()
        if line.startswith("lavo-bench run")
        for word in line.split()
    ]
    assert commands
    assert all(word in printed for word in commands)
