"""Opens a page of `--report` in a browser without a window and uses it as people do.

    pip install playwright
    playwright install --with-deps chromium   # or the package chromium of the system
    python tools/check_report.py page.html [--screenshots FOLDER]

It fails if the page asks for anything outside itself, if its script reports an error, if a moved
handle or a menu does not change the picture, if a curve does not show its values, if a mark stands
outside its row, if a phone gets the plot of a wide screen, if anything can be scrolled sideways, or
if the page without scripts hides a picture. With --screenshots it leaves pictures of the page:
light, dark, on a tablet, on a phone, without scripts.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

DESK, TABLET, PHONE = [{"width": w, "height": h} for w, h in [(1100, 900), (700, 900), (360, 740)]]
SIDEWAYS = """() => {
  const wide = [...document.querySelectorAll('*')].filter((e) => {
    const box = e.getBoundingClientRect();
    const hangs_out = box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
    const scrolls = e.scrollWidth > e.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(e).overflowX);
    return !e.closest('svg') && (hangs_out || scrolls);
  });
  const all = document.documentElement;
  return (all.scrollWidth > innerWidth ? ['the page'] : []).concat(wide.map((e) => e.tagName + '.' + e.className));
}"""


class Checks:
    def __init__(self):
        self.failed = []

    def expect(self, holds, what):
        print("ok    " if holds else "FAILED", what)
        if not holds:
            self.failed.append(what)


def opened(browser, url, checks, **options):
    """The page in a context of its own. Errors of its script and requests are collected."""
    page = browser.new_context(**options).new_page()
    page.said, page.asked = [], []
    page.on("console", lambda m: page.said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: page.said.append(str(e)))
    page.on("request", lambda r: page.asked.append(r.url))
    page.goto(url, wait_until="load")
    return page


def quiet(page, url, checks, where):
    outside = [u[:80] for u in page.asked if u != url and not u.startswith("data:")]
    checks.expect(not page.said, f"{where}: no errors of the script {page.said or ''}")
    checks.expect(not outside, f"{where}: no request leaves the page {outside or ''}")


def slider(page, checks, where):
    """The handle of each comparison changes what is seen, and so does each button and each menu."""
    for k, compare in enumerate(page.query_selector_all(".compare")):
        frame, handle = compare.query_selector(".frame"), compare.query_selector(".handle")
        frame.scroll_into_view_if_needed()

        def at(value):
            handle.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(value))
            return frame.screenshot()

        shots = [at(10), at(90)]
        checks.expect(shots[0] != shots[1], f"{where}: the handle of comparison {k + 1} changes the picture")
        handle.focus()
        page.keyboard.press("Home")
        checks.expect(frame.evaluate("e => e.style.getPropertyValue('--at')") == "0%", f"{where}: it obeys the keyboard")
        box = frame.bounding_box()
        page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
        page.mouse.up()
        share = float(frame.evaluate("e => e.style.getPropertyValue('--at')").rstrip("%"))
        checks.expect(abs(share - 75) < 2, f"{where}: it follows the pointer")
        buttons = compare.query_selector_all("button")
        if len(buttons) > 1:
            shown = lambda: frame.query_selector(".over").get_attribute("src")
            before = shown()
            buttons[1].click()
            checks.expect(shown() != before, f"{where}: another picture can be chosen")
            buttons[0].click()
        menus(compare, frame, handle, checks, where)
        at(50)


def menus(compare, frame, handle, checks, where):
    """Every entry of a menu shows the picture of its name, on its side and not on the other."""
    sides = compare.query_selector_all("select")
    for menu, [mine, other, end] in zip(sides, [[".over", "img:not(.over)", 100], ["img:not(.over)", ".over", 0]]):
        said = menu.get_attribute("aria-label")
        entries = [option.inner_text() for option in menu.query_selector_all("option")]
        first, kept = menu.input_value(), frame.query_selector(other).get_attribute("src")
        handle.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(end))
        shown, shots = [], []
        for k, name in enumerate(entries):
            menu.select_option(index=k)
            picture = frame.query_selector(mine)
            picture.evaluate("e => e.decode()")
            own = compare.query_selector_all("figure img")[k]
            shown.append(picture.get_attribute("alt") == name and picture.get_attribute("src") == own.get_attribute("src"))
            shots.append(frame.screenshot())
        menu.select_option(first)
        checks.expect(len(entries) > 2 and all(shown), f"{where}: the menu {said} shows {', '.join(entries)}")
        checks.expect(len(set(shots)) == len(entries), f"{where}: the menu {said} changes what is seen")
        checks.expect(frame.query_selector(other).get_attribute("src") == kept, f"{where}: and not the other side")


def dots(page, checks, where):
    """Every row of a chart of dots has its name, its mark inside the row, and its value."""
    for chart in page.query_selector_all(".dots"):
        for row in chart.query_selector_all("li:not(.axis)"):
            name, value = [row.query_selector(part).inner_text() for part in (".name", ".written")]
            track = row.query_selector(".track").bounding_box()
            marks = [mark.bounding_box() for mark in row.query_selector_all(".dot, .mean")]
            middle = lambda box: box["x"] + box["width"] / 2 - track["x"]
            inside = all(-1 <= middle(box) <= track["width"] + 1 for box in marks)
            checks.expect(name and value and marks and inside, f"{where}: {len(marks)} marks of {name}: {value}")


def curves(page, checks, where):
    for chart in page.query_selector_all(".chart"):
        name = chart.query_selector("h3").inner_text()
        plot = chart.query_selector(".plot")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        said = chart.query_selector(".readout").inner_text()
        lines = [line.get_attribute("data-name") for line in chart.query_selector_all("polyline")]
        checks.expect(bool(lines) and all(line in said for line in lines), f"{where}: {name}: {said}")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("page", type=Path)
    arguments.add_argument("--screenshots", type=Path)
    arguments = arguments.parse_args()
    url, checks = arguments.page.resolve().as_uri(), Checks()

    def shot(page, name):
        if arguments.screenshots:
            arguments.screenshots.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=arguments.screenshots / f"{name}.png", full_page=True)

    with sync_playwright() as playwright:
        system = shutil.which("chromium") or shutil.which("chromium-browser")
        own = Path(playwright.chromium.executable_path).exists()
        browser = playwright.chromium.launch(executable_path=None if own else system, args=["--no-sandbox"])
        for where, options in [
            ("light", {"viewport": DESK, "color_scheme": "light"}),
            ("dark", {"viewport": DESK, "color_scheme": "dark"}),
            ("tablet", {"viewport": TABLET, "color_scheme": "light"}),
            ("phone", {"viewport": PHONE, "color_scheme": "light", "device_scale_factor": 2}),
        ]:
            page = opened(browser, url, checks, **options)
            slider(page, checks, where)
            curves(page, checks, where)
            dots(page, checks, where)
            for plot in page.query_selector_all("picture img"):
                is_own = plot.evaluate("e => e.currentSrc !== e.src")
                checks.expect(is_own == (where == "phone"), f"{where}: a plot is drawn for its width")
            for details in page.query_selector_all("summary"):
                details.click()
            page.set_viewport_size(options["viewport"])
            wide = page.evaluate(SIDEWAYS)
            checks.expect(not wide, f"{where}: nothing scrolls sideways {sorted(set(wide)) or ''}")
            quiet(page, url, checks, where)
            shot(page, where)
        paper = [opened(browser, url, checks, color_scheme=c).evaluate("getComputedStyle(document.body).backgroundColor")
                 for c in ("light", "dark")]
        checks.expect(paper[0] != paper[1], f"light and dark differ: {paper}")
        plain = opened(browser, url, checks, viewport=PHONE, java_script_enabled=False)
        images = plain.locator("img")
        seen = [images.nth(k).is_visible() for k in range(images.count())]
        checks.expect(all(seen), f"without scripts: all {len(seen)} pictures are seen")
        shot(plain, "without-scripts")
        browser.close()
    if checks.failed:
        raise SystemExit(f"{len(checks.failed)} checks failed")


if __name__ == "__main__":
    main()
