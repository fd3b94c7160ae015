"""A headless Chromium that shows pages of the report, driven by selenium."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE, PAPER = 1200, 390, 718  # A4 less margins, in CSS pixels


def find(names):
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One page at a time, with what it asked of the network and what it complained about."""

    def __init__(self, profile: Path) -> None:
        webdriver = pytest.importorskip(
            "selenium.webdriver", reason="selenium is not installed: pip install .[browser]"
        )
        binary = find(["chromium", "chromium-browser", "google-chrome"])
        driver = find(["chromedriver"])
        if not (binary and driver):
            pytest.skip(
                "no Chromium with its driver: install the packages chromium-driver, chromium"
            )
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(executable_path=driver)
        )

    def open(self, html: str, folder: Path, *, width=DESKTOP, scheme="light", media="screen"):
        """Show a page, and wait until it is loaded."""
        path = folder / "page.html"
        path.write_text(html, encoding="utf-8")
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width <= PHONE,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", media=media, features=features)
        self.driver.get("about:blank")
        self.complaints()  # Those of the page before.
        self.requests()
        self.driver.get(path.as_uri())
        return path.as_uri()

    def devtools(self, command: str, **arguments):
        return self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script: str, *arguments):
        """Evaluate a script on the page, which its policy does not stop."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """What is on the console since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> dict[str, str]:
        """What was asked for since this was last asked; and why it was refused, if it was."""
        addresses, refusals = {}, {}
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            values = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                addresses[values["requestId"]] = values["request"]["url"]
            elif message["method"] == "Network.loadingFailed":
                refusals[values["requestId"]] = values.get("blockedReason", values["errorText"])
        return {address: refusals.get(key, "") for key, address in addresses.items()}

    def screenshot(self, path: Path) -> bytes:
        """The whole page as PNG."""
        root = "document.documentElement"
        width, height = self.run(f"return [{root}.scrollWidth, {root}.scrollHeight]")
        clip = {"x": 0, "y": 0, "scale": 1, "width": width, "height": height}
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        content = base64.b64decode(shot["data"])
        path.write_bytes(content)
        return content

    def paper(self) -> bytes:
        """The page as it is printed, as PDF."""
        return base64.b64decode(self.devtools("Page.printToPDF", printBackground=True)["data"])

    def close(self) -> None:
        self.driver.quit()
