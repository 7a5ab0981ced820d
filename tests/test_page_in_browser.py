"""The HTML page in a real browser: tables sort, filter and copy; nothing is fetched, no error, no page wider than a phone."""

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
Object.defineProperty(navigator, "clipboard", {value: {writeText: async (text) => { found.copied.push(text); }}});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    believable.write_results(folder / "quick")
    return build_report([folder / "quick"], folder / "report").html


def browse(page: Path, script: str = "", *, width: int = 1440, height: int = 900) -> dict[str, Any]:
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
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"),
            *("--virtual-time-budget=3000", "--dump-dom", copy.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (shown,) = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(shown))


COLUMN = """
const table = document.getElementById("table-forecasting-informer-causal_self");
const column = (index) => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[index]?.textContent.trim());
const head = (index) => table.tHead.rows[0].cells[index];
const tools = table.closest(".scroll").previousElementSibling;
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
    found = browse(page, COLUMN + script)
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
    found = browse(page, COLUMN + script)
    assert found["some"] == ["performer"]
    assert len(found["all"]) > 5


def test_a_table_is_copied_in_three_forms(page):
    script = 'for (const button of tools.querySelectorAll("button")) button.click();'
    csv, markdown, latex = browse(page, COLUMN + script)["copied"]
    assert csv.startswith("attention,seeds,mse ↓,")
    assert markdown.splitlines()[1].count("---") == markdown.splitlines()[0].count("|") - 1
    assert latex.startswith("\\begin{tabular}{lrrrrrrr}\n\\toprule\nattention & seeds & mse $\\downarrow$ &")
    assert "softmax & 3 & " in latex
    assert "\\\\\n\\bottomrule\n\\end{tabular}" in latex
    assert "±" not in latex


@pytest.mark.parametrize("width", [500, 1440])  # Chromium opens no narrower window
def test_the_page_is_no_wider_than_the_window(page, width):
    assert browse(page, width=width, height=844)["width"] <= width


def test_every_part_is_reached_by_keyboard_and_named(page):
    script = """
    found.regions = [...document.querySelectorAll(".scroll")].every((one) => one.tabIndex === 0 && one.getAttribute("aria-label"));
    found.skip = document.querySelector(".skip").getAttribute("href");
    found.main = document.querySelector("main").id;
    found.nameless = [...document.querySelectorAll("button")].filter((one) => !one.textContent.trim()).length;
    """
    found = browse(page, script)
    assert found["regions"]
    assert found["skip"] == f"#{found['main']}"
    assert found["nameless"] == 0
