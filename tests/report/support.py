# SPDX-License-Identifier: Apache-2.0
"""What the tests of `moeroute report` and the pictures share: running the command, opening its page."""
import json
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("MOEROUTE_BIN", ROOT / "build/release/bin")) / "moeroute"


def report(results, output, *options):
    """Runs the command; `results` is a file, a folder or what is to stand in results.json."""
    if isinstance(results, dict):
        path = output.with_suffix(".json")
        path.write_text(json.dumps(results, ensure_ascii=False), encoding="utf-8")
        results = path
    return subprocess.run([BINARY, "report", results, "-o", output, *options], capture_output=True, text=True,
        timeout=300)


def written(results, output, *options):
    done = report(results, output, *options)
    assert done.returncode == 0, done.stderr
    return output


def launch(playwright):
    """The system's Chromium or Chrome: Playwright would download one of its own."""
    found = [path for path in map(shutil.which, ["chromium", "chromium-browser", "google-chrome"]) if path]
    if not found:
        raise FileNotFoundError("no chromium, chromium-browser or google-chrome on PATH")
    return playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])


def open_report(browser, path, width, height=800, scheme="light", prepare=None, **options):
    """A page of `browser` with all charts drawn; `prepare` sees the page before it loads anything."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
    if prepare:
        prepare(page)
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("html[data-drawn=yes]", timeout=120_000)
    return page
