"""A headless Chromium, driven over its DevTools protocol: what a page shows, asks for and complains about."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from websocket import WebSocket, create_connection

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
PATIENCE_S = 30.0


class Tab:
    """One page. Events are taken in whenever something is asked of it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._asked = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._asked:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message.get("method", ""), message.get("params", {}))

    def _note(self, event: str, params: dict[str, Any]) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait for an expression to be true."""
        end = time.monotonic() + PATIENCE_S
        while not self.evaluate(f"!!({expression})"):
            assert time.monotonic() < end, f"{expression} did not come true; the page says: {self.text('body')[:2000]}"
            time.sleep(0.05)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def text(self, selector: str) -> str:
        """What a person reads there."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def shown(self, selector: str) -> bool:
        return bool(self.evaluate(f"document.querySelector({json.dumps(selector)})?.checkVisibility() ?? false"))

    def enter(self, selector: str, value: str, event: str = "input") -> None:
        """Give a field a value, as its user would."""
        self.evaluate(
            f"(field => {{ field.value = {json.dumps(value)};"
            f" field.dispatchEvent(new Event({json.dumps(event)}, {{bubbles: true}})) }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )

    def click(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str, code: int) -> None:
        """Press one key, wherever the focus is."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def look(self, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Set the window's size and the colour scheme that its user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 640
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, file: Path) -> None:
        """A screenshot of the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[str]:
    """A Chromium of its own, whose profile is in ``folder``; gives the address that it is driven by."""
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
    command = [CHROMIUM, *options, *quiet, "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    environment = {**os.environ, "TMPDIR": str(folder)}  # it leaves files there
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            yield f"http://127.0.0.1:{_port(folder / 'DevToolsActivePort', process)}"
        finally:
            process.terminate()


@contextmanager
def open_tab(address: str) -> Iterator[Tab]:
    """A new, empty page of a browser."""
    target = requests.put(f"{address}/json/new", timeout=PATIENCE_S).json()
    socket = create_connection(target["webSocketDebuggerUrl"], timeout=PATIENCE_S, suppress_origin=True)
    try:
        yield Tab(socket)
    finally:
        socket.close()
        requests.get(f"{address}/json/close/{target['id']}", timeout=PATIENCE_S)


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + PATIENCE_S
    while not (file.exists() and (lines := file.read_text().splitlines())):
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        assert time.monotonic() < end, "Chromium did not open its debugging port"
        time.sleep(0.05)
    return int(lines[0])
