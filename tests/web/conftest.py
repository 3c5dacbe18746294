"""Headless Chromium over its debugging pipe (Chrome DevTools Protocol), and the page it shows."""

import base64
import functools
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from argan.web import MARK, Server

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "examples" / "web"
PAGE = Path(os.environ.get("ARGAN_WEB_PAGE", ROOT / "out" / "web"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--force-color-profile=srgb", "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # Chromium's own requests
)  # fmt: skip
PATIENCE_S = 120
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36,
        "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}  # fmt: skip
TEXTS = {"Enter": "\r", " ": " "}
SHIFT = 8


class Browser:
    """Chromium with a profile of its own; messages end in a zero byte."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.downloads, self.log = folder / "downloads", folder / "net.json"
        self.downloads.mkdir(parents=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        pipes = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        own = (f"--user-data-dir={folder / 'profile'}", f"--log-net-log={self.log}")
        self.process = subprocess.Popen(
            ["bash", "-c", pipes, "bash", str(CHROMIUM), *FLAGS, *own, *flags],
            pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._id, self._rest = 0, b""

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._read()).get("id") != self._id:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = self._in.read1(1 << 20)
            assert part, "Chromium ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def asked(self) -> set[str]:
        """Who was asked for something by a page or a worker, as "host:port"; once it is closed."""
        events = json.loads(self.log.read_text(errors="replace"))["events"]
        requests = [event["params"] for event in events if "initiator" in event.get("params", {})]
        return {urlsplit(p["url"]).netloc for p in requests if p["initiator"] != "not an origin"}

    def tab(self) -> "Tab":
        return Tab(self)

    def close(self) -> None:
        self.call("Browser.close")
        self.process.wait(30)
        self._out.close()
        self._in.close()


class Tab:
    """One page, as somebody sees and operates it."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "DOM"):
            self.call(f"{domain}.enable")
        browser.call(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(browser.downloads)
        )
        watch = "window.longTasks = []; new PerformanceObserver((list) => longTasks.push("
        watch += "...list.getEntries().map((task) => task.duration))).observe({type: 'longtask'})"
        self.call("Page.addScriptToEvaluateOnNewDocument", source=watch)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def run(self, script: str) -> Any:
        """The value of a script, awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str, patience: float = PATIENCE_S) -> Any:
        """Wait for a script to be true -> its value."""
        end = time.monotonic() + patience
        while not (value := self.run(condition)):
            assert time.monotonic() < end, f"{condition} stayed {value}; {self.alert()}"
            time.sleep(0.02)
        return value

    def alert(self) -> str:
        return self.run("document.querySelector('#alert:not([hidden]) span')?.textContent ?? ''")

    def go(self, url: str, width: int = 1280, height: int = 800, scale: float = 1) -> None:
        self.size(width, height, scale)
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def size(self, width: int, height: int, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=scale, mobile=width < 600,
        )  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=width < 600)

    def prefer(self, **features: str) -> None:
        listed = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def choose(self, selector: str, path: Path) -> None:
        """A file in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def open(self, photo: Path) -> None:
        """Open a photo and wait for its careful preview."""
        self.run("document.getElementById('photo').dataset.quality = ''")
        self.choose("#input-files", photo)
        self.settled()

    def settled(self) -> None:
        """Wait for the careful preview, or a complaint."""
        complaint = "document.querySelector('#alert:not([hidden])')"
        self.until(f"document.getElementById('photo').dataset.quality === 'final' || !!{complaint}")

    def set(self, selector: str, value: object) -> None:
        """The value of a control, as somebody would set it; the preview follows."""
        self.run(f"""(() => {{
            document.getElementById('photo').dataset.quality = '';
            const control = document.querySelector({json.dumps(selector)});
            if (control.type === 'radio') control.checked = true;
            else control.value = {json.dumps(str(value))};
            control.dispatchEvent(new Event('input', {{bubbles: true}}));
            control.dispatchEvent(new Event('change', {{bubbles: true}}));
        }})()""")

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """At a place of an element, in shares of its sides."""
        at = self.run(f"""(() => {{
            const box = document.querySelector({json.dumps(selector)});
            box.scrollIntoView({{block: 'nearest'}});
            const {{left, top, width, height}} = box.getBoundingClientRect();
            return [left + {x} * width, top + {y} * height];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1
            )

    def press(self, key: str, shift: bool = False) -> None:
        common = {
            "key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key],
            "modifiers": SHIFT if shift else 0,
        }  # fmt: skip
        text = {"text": TEXTS[key]} if key in TEXTS else {}
        down = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=down, **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def saved(self, format: str, act: Callable[[], None] | None = None) -> Path:
        """Save as "jpeg", "png" or "depth" -> the file."""
        for old in self.browser.downloads.iterdir():
            old.unlink()
        if act is None:
            self.set("#format", format)
            self.click("#save")
        else:
            act()
        end = time.monotonic() + PATIENCE_S
        while True:
            files = [p for p in self.browser.downloads.iterdir() if p.suffix != ".crdownload"]
            if files and files[0].stat().st_size:
                return files[0]
            assert time.monotonic() < end and not self.alert(), f"nothing was saved; {self.alert()}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    if not (PAGE / MARK).is_file():
        pytest.skip("the page is not built: make web")
    listed = (PAGE / MARK).read_text()
    native = hashlib.sha256((ROOT / "runtime" / "argan" / "native.cpp").read_bytes()).hexdigest()
    stale = [
        path.name
        for path in PAGE.rglob("*")
        if (source := SOURCES / path.relative_to(PAGE)).is_file()
        and source.read_bytes() != path.read_bytes()
    ]
    assert not stale and native in listed, f"the page is of other sources ({stale}): make web"
    with Server(PAGE, 0) as server, in_thread(server):
        yield server


@contextmanager
def in_thread(server: HTTPServer) -> Iterator[HTTPServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()


class Plain(SimpleHTTPRequestHandler):
    """A host that knows nothing of the page and sends none of its headers."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def plain_host(server: Server, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Another copy of the page by such a host: its address, its folder."""
    folder = shutil.copytree(PAGE, tmp_path / "page")
    handler = functools.partial(Plain, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as host, in_thread(host):
        yield f"http://127.0.0.1:{host.server_address[1]}/", folder


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")

    def start(*flags: str) -> Browser:
        return Browser(tmp_path_factory.mktemp("chromium"), *(flags or ("--disable-gpu",)))

    return start


@pytest.fixture(scope="session")
def loaded(launch: Callable[..., Browser], server: Server) -> Iterator[Tab]:
    """The page, its model loaded."""
    browser = launch()
    tab = Tab(browser)
    tab.go(server.address)
    tab.until("document.getElementById('model-name').textContent")
    yield tab
    browser.close()


@pytest.fixture
def tab(loaded: Tab) -> Tab:
    """The same, everything set as it was."""
    loaded.size(1280, 800)
    loaded.run("document.querySelector('form').reset()")
    loaded.set("[name=view][value=result]", "result")
    loaded.set("#aperture", 22)  # f/1.8
    return loaded
