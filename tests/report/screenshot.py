#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Takes pictures of a report with Chromium: the whole page, wide and narrow, light and dark, and a small one for the README.

    tests/report/screenshot.py build/demo/report.html -o FOLDER
    tests/report/screenshot.py build/demo/report.html --readme FILE.png
"""
import argparse
import pathlib

from playwright.sync_api import sync_playwright

from support import launch, open_report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("-o", "--output", type=pathlib.Path, help="folder for the pictures of the whole page")
    parser.add_argument("--readme", type=pathlib.Path, help="file for the small picture")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            for name, width, scheme in [("desktop", 1280, "light"), ("desktop-dark", 1280, "dark"),
                ("phone", 375, "light"), ("phone-dark", 375, "dark")]:
                page = open_report(browser, arguments.report, width, scheme=scheme, has_touch=width < 400,
                    is_mobile=width < 400)
                page.screenshot(path=arguments.output / f"report-{name}.png", full_page=True)
                page.close()
        if arguments.readme:
            page = open_report(browser, arguments.report, 900)
            # The lift says what the tool is for in one picture.
            box = page.locator("figure:has(#plot-lift)").bounding_box()
            clip = {"x": box["x"] - 12, "y": box["y"] - 12, "width": box["width"] + 24, "height": box["height"] + 12}
            page.screenshot(path=arguments.readme, clip=clip, full_page=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
