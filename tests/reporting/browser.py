"""A headless Chromium: what it says of a page, and what the page comes out as."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 90
_MEASURE = """<script>
window.addEventListener('load', () => {
  const size = e => { const b = e.getBoundingClientRect(); return [b.width, b.height]; };
  const shown = e => getComputedStyle(e);
  const svgText = [...document.querySelectorAll('svg.figure text')];
  const said = {
    width: innerWidth,
    content: document.documentElement.scrollWidth,
    figures: [...document.querySelectorAll('svg.figure')].map(size),
    marks: [...document.querySelectorAll('svg.figure')].map(e => e.querySelectorAll('path, use').length),
    ink: shown(document.body).color,
    paper: shown(document.body).backgroundColor,
    svgInk: [...new Set(svgText.map(e => shown(e).fill))],
    svgLetters: [...new Set(svgText.map(e => shown(e).fontFamily))],
    bodyLetters: shown(document.body).fontFamily,
    smallest: Math.min(...svgText.map(e => size(e)[1])),
    loaded: performance.getEntriesByType('resource').length,
    answer: document.querySelector('.answer').getBoundingClientRect().bottom,
  };
  parent.postMessage(JSON.stringify(said), '*');
});
</script>"""


_FRAME = """<!DOCTYPE html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<script>
addEventListener('message', event => {
  const out = document.createElement('pre');
  out.id = 'measured';
  out.textContent = event.data;
  document.body.append(out);
});
</script>
<body><iframe width="WIDTH" height="HEIGHT" style="border: 0" srcdoc="PAGE"></iframe></body>"""
"""A window of any width; the browser's own is never narrower than 500 pixels."""


@dataclass(frozen=True)
class Seen:
    """What came out: `console` lines of the page as it is, and what `_MEASURE` measured."""

    console: list[str]
    measured: dict[str, Any]


def chromium() -> str | None:
    """The program, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def look(page: str, folder: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> Seen:
    """Open a page as it is for its console, and with a measuring script for its layout."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    console = _run(folder, "page.html", dark)[1]
    without_policy = re.sub(r"<meta http-equiv[^>]*>", "", page, count=1)
    measuring = escape(without_policy.replace("<head>", f"<head>{_MEASURE}", 1))
    frame = _FRAME.replace("WIDTH", str(width)).replace("HEIGHT", str(height)).replace("PAGE", measuring)
    (folder / "frame.html").write_text(frame, encoding="utf-8")
    found = re.search(r'<pre id="measured">(.*?)</pre>', _run(folder, "frame.html", dark)[0])
    assert found, "the page was not loaded"
    lines = [line for line in console.splitlines() if "CONSOLE" in line]
    return Seen(lines, json.loads(unescape(found[1])))


def _run(folder: Path, file: str, dark: bool) -> tuple[str, str]:
    program = chromium()
    assert program is not None
    done = subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--disable-breakpad", "--enable-logging=stderr", "--window-size=1280,1000",
         f"--user-data-dir={folder / 'profile'}",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}",
         "--virtual-time-budget=2000", "--dump-dom", (folder / file).as_uri()],
        capture_output=True, text=True, timeout=_SECONDS, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr
