"""Who looks at a group besides its clients: Prometheus with our rules, and a browser on the page of the admin port.

    p = Prometheus(rig.dir / "prometheus", [m.admin_port for m in g]); rig.things.append(p)
    p.value("count(up==1)"); p.firing()              {"HoldfastDetached", ...}
    driver = chromium(); driver.get(page_of(m)); shown(driver, "#problems")
"""
import json
import pathlib
import urllib.parse
import urllib.request

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from harness import TOP, Process, free_port, wait_until

RULES = TOP / "config" / "alerts.yml"


class Prometheus(Process):
    """Debian's, with our rules as they are shipped; scrapes and evaluates twice a second, unless told otherwise."""

    def __init__(self, directory, targets, every_ms=500):
        super().__init__(pathlib.Path(directory), "prometheus")
        self.port = free_port()
        quoted = ", ".join(f"'127.0.0.1:{p}'" for p in targets)
        (self.dir / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {every_ms}ms, scrape_timeout: {every_ms - 20}ms, evaluation_interval: {every_ms}ms}}\n"
            f"rule_files: ['{RULES}']\n"
            f"scrape_configs: [{{job_name: holdfast, static_configs: [{{targets: [{quoted}]}}]}}]\n")
        self.spawn(["prometheus", f"--config.file={self.dir / 'prometheus.yml'}", f"--storage.tsdb.path={self.dir / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"])
        wait_until(self.answers, 60, lambda: f"Prometheus answers: {self.text()}")

    def ask(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as r:
            return json.load(r)["data"]

    def answers(self):
        try:
            return len(self.ask("/api/v1/targets")["activeTargets"]) > 0
        except OSError:
            return False

    def value(self, query):
        found = self.ask("/api/v1/query?query=" + urllib.parse.quote(query))["result"]
        return max((float(r["value"][1]) for r in found), default=None)

    def firing(self):
        return {a["labels"]["alertname"] for a in self.ask("/api/v1/alerts")["alerts"] if a["state"] == "firing"}


def chromium():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--window-size=1200,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    driver.set_page_load_timeout(60)
    return driver


def page_of(m):
    return f"http://127.0.0.1:{m.admin_port}/"


def shown(driver, selector):
    """The text that a reader sees there."""
    return driver.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')", selector)
