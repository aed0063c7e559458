"""The admin port's page in a real browser: what it says when all is well, of a member that is missing, of a log that is stalled."""
import json
import threading

import pytest
from harness import wait_until
from watchers import chromium, page_of
from watchers import shown as text

PATIENCE_S = 10  # it is two seconds on an idle machine; here a browser and three nodes share two cores with other tests


@pytest.fixture(scope="module")
def browser():
    driver = chromium()
    yield driver
    driver.quit()


@pytest.fixture
def group(rig):
    g = rig.group(durability="async", durability_lag_max="3s", election_timeout="2s")  # leadership is not the matter here
    stop = threading.Event()

    def load(m):
        with m.client(timeout=60) as c:
            while not stop.is_set():
                c.pipeline([("SET", "k", 1), ("GET", "k"), ("GET", "j")])
                stop.wait(0.01)
    leader = g.leader()
    t = threading.Thread(target=load, args=(leader,))
    t.start()
    yield g, leader
    stop.set()
    t.join()


def shows(browser, selector, words, seconds=PATIENCE_S):
    wait_until(lambda: words in text(browser, selector), seconds, lambda: f"{words!r} in {text(browser, selector)!r}, {text(browser, '#problems')!r}", every=0.1)


def number(browser, selector):
    return float(browser.execute_script("return parseFloat(document.querySelector(arguments[0]).innerText) || 0", selector))


def luminance(rgb):
    parts = [int(x) / 255 for x in rgb[rgb.index("(") + 1:rgb.index(")")].split(",")[:3]]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(browser, selector):
    ink, paper = browser.execute_script("""const e = document.querySelector(arguments[0]);
        let p = e; while (getComputedStyle(p).backgroundColor === 'rgba(0, 0, 0, 0)') p = p.parentElement;
        return [getComputedStyle(e).color, getComputedStyle(p).backgroundColor]""", selector)
    high, low = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_page(group, browser):
    g, leader = group
    browser.get(page_of(leader))
    shows(browser, "#sentence", "All is well", 20)
    zones = text(browser, "#zones")
    assert all(f"zone {m.zone}" in zones for m in g) and "leader" in zones and zones.count("log up to date") >= 2, zones
    wait_until(lambda: number(browser, "#writes") > 0 and number(browser, "#reads") > 0, 10, "rates are shown")
    wait_until(lambda: len(browser.execute_script("return document.querySelector('#writes-chart .curve').getAttribute('points')").split()) > 2, 10,
               "the chart has points")
    assert "writes are refused at 3.0 s" in text(browser, "#lag")
    for card in ("#latency", "#log", "#totals"):
        assert text(browser, card), card

    # readable on a phone, light and dark
    for dark in (False, True):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        for width in (360, 1200):
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
            wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= wide[1], f"{wide} at {width}"
        for selector in ("#sentence", "h2", ".soft", "dd", ".chip.leader"):
            assert contrast(browser, selector) >= 4.5, (selector, dark)
        ground = luminance(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert (ground < 0.1) == dark
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    # nothing is asked of any other place, and nothing went wrong
    origin = page_of(leader)
    assert all(e.startswith(origin) for e in browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)"))
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]

    # a member goes, then another: a stalled log; and its end
    first, second = g.others(leader)
    g.pause(first)
    shows(browser, "#problems", f"{first.name} ({first.zone}) has not been heard", PATIENCE_S + 2)
    assert "One more loss ends service." in text(browser, "#problems") and "attention" in text(browser, "#sentence")
    g.pause(second)
    shows(browser, "#sentence", "Something is wrong")
    shows(browser, "#problems", "The majority is lost")
    shows(browser, "#problems", "Writes are refused (CLUSTERDOWN)", PATIENCE_S + 3)
    assert "Start the members that are missing" in text(browser, "#problems")
    wait_until(lambda: len(browser.execute_script("return document.querySelectorAll('#lag-chart .refused')")) > 0, PATIENCE_S, "the chart is red")
    g.resume(first)
    g.resume(second)
    wait_until(lambda: "Something is wrong" not in text(browser, "#sentence") and "heard" not in text(browser, "#problems"), 20, "all is well again")

    # what was seen is there for who opens it now, and a node that is gone is said to be
    history = json.loads(leader.http("/history")[1])
    refusing = history["fields"].index("refusing")
    assert any(s[refusing] for s in history["samples"])
    last = history["samples"][-1][0]
    newer = json.loads(leader.http(f"/history?since={last}")[1])["samples"]
    assert all(s[0] > last for s in newer) and len(newer) < len(history["samples"])


def test_page_of_a_follower_and_of_one_that_is_gone(rig, browser):
    g = rig.group(election_timeout="2s")
    follower = g.others(g.leader())[0]
    browser.get(page_of(follower))
    shows(browser, "#sentence", f"this node follows {g.leader().name}", 20)
    assert follower.name in text(browser, "#who")
    g.kill9_zone(follower)
    shows(browser, "#sentence", "does not answer", PATIENCE_S + 5)
