"""A headless Chromium driven through chromedriver's own protocol (W3C WebDriver), with nothing to install in Python."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def missing() -> str | None:
    """What has to be installed, or None."""
    lacking = [name for name in ("chromedriver",) if not shutil.which(name)]
    if not any(map(shutil.which, BROWSERS)):
        lacking.append("chromium")
    return f"not installed: {', '.join(lacking)} (Debian: chromium, chromium-driver)" if lacking else None


class Browser:
    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        content = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            self.address + path, content, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path: Path) -> None:
        self.call("POST", "/url", {"url": path.resolve().as_uri()})

    def resize(self, width: int, height: int) -> None:
        """A screen of that many pixels; a window cannot be narrower than 500."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": screen})

    def run(self, script: str) -> Any:
        """The value of a JavaScript function body."""
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def log(self) -> list[str]:
        """Messages of the console since the last call."""
        return [f"{e['level']}: {e['message']}" for e in self.call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


@contextlib.contextmanager
def browser(width: int = 1300, height: int = 1000) -> Iterator[Browser]:
    """A fresh headless browser without network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    page = Browser(f"http://127.0.0.1:{port}")
    try:
        _wait(page)
        program = next(filter(None, map(shutil.which, BROWSERS)))
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
        options = {"binary": program, "args": [*arguments, "--host-resolver-rules=MAP * 0.0.0.0"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = page.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        page.address += f"/session/{session['sessionId']}"
        yield page
        page.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(timeout=20)


def _wait(page: Browser) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            page.call("GET", "/status")
            return
        time.sleep(0.1)
    raise TimeoutError("chromedriver did not start")
