"""A hostile page in a real browser, which finds the room at the page's own origin (DNS rebinding)."""

from __future__ import annotations

import json
import queue
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.helpers.marks import needs, over_tls
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve, Started

pytestmark = [pytest.mark.once, needs(shutil.which("chromium"), "chromium")]

# A browser starts slowly on a busy machine.
START_SECONDS = 60.0

# Any token but CONNECT, TRACE and TRACK; the browser itself writes `get` and others of its own in capitals.
METHODS = ["POST", "PUT", "Delete", "patch", "hello", "exit", "M-SEARCH", "!", "_", "A1", "#$%&'*+-.^_`|~", "x" * 21]
# Each reaches the room: a method and a path that are longer than a line, cross-origin requests, and what isn't `fetch`.
OTHERS = ["method", "path", "no-cors", "cors", "preflight", "beacon", "form", "websocket", "events", "image"]

PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body><script>
const body = "/nick admin\\nthe page says hello\\n", other = location.origin.replace("room", "other");
const say = (path, method, options = {}) =>
    fetch(path, {method, body, ...options}).then(answer => answer.status, error => `${error}`);
const ended = (source, ...ends) => new Promise(done => ends.forEach(end => source[end] = done));

async function attack(methods) {
    const answers = {};
    for (const method of methods) answers[method] = await say("/", method);
    await say("/", "m".repeat(9000));
    await say("/" + "p".repeat(9000), "hello");
    await say(other, "POST", {mode: "no-cors"});
    await say(other, "POST", {mode: "cors"});
    await say(other, "hello", {mode: "cors"});
    if (location.protocol === "http:") await say(location.origin.replace("http", "https"), "POST", {mode: "no-cors"});
    navigator.sendBeacon("/", body);

    document.body.innerHTML = `<iframe name="answer"></iframe>
        <form method="post" enctype="text/plain" target="answer" action="/"><textarea name="x"></textarea></form>`;
    document.querySelector("textarea").value = "\\n" + body;
    const answered = ended(document.querySelector("iframe"), "onload");
    document.querySelector("form").submit();
    await answered;

    await ended(new WebSocket(location.origin.replace("http", "ws"), ["hello"]), "onclose");
    const events = new EventSource("/");
    await ended(events, "onerror");
    events.close();
    const image = new Image();
    image.src = "/";
    await ended(image, "onerror");
    return answers;
}

fetch("/rebind").then(() => attack(METHODS)).catch(error => `${error}`).then(report =>
    fetch("http://127.0.0.1:REPORT/", {method: "POST", mode: "no-cors", body: JSON.stringify(report)}));
</script>"""


class Site(ThreadingHTTPServer):
    """A web server for one test. `answer` makes a body of the path, the body and the connection of a request."""

    daemon_threads = False  # so that `server_close` waits for them

    def __init__(
        self, answer: Callable[[str, bytes, socket.socket], bytes], context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answer = answer
        self._connections: list[socket.socket] = []
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def go_away(self, last: socket.socket) -> None:
        """Stop listening, and end all connections but one, in which a request is to be answered.

        A browser opens connections ahead, and would send its next requests in them.
        """
        self.shutdown()
        self.socket.close()
        for connection in self._connections:
            if connection is not last:
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of the socket below TLS


class Answering(BaseHTTPRequestHandler):
    server: Site
    timeout = START_SECONDS

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = self.server.answer(self.path, sent, self.connection)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(site: Site) -> Iterator[int]:
    """Serve the site; its port is the value. A browser must be gone before the end: it keeps connections open."""
    thread = Thread(target=site.serve_forever, args=[0.01])
    thread.start()
    try:
        yield site.server_port
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


@contextmanager
def browser(folder: Path, url: str) -> Iterator[None]:
    """Open a page in Chromium, in which `room.test` and `other.test` are this machine, and nothing else is anywhere."""
    hosts = "MAP room.test 127.0.0.1, MAP other.test 127.0.0.1, EXCLUDE 127.0.0.1, MAP * ~NOTFOUND"
    quiet = "disable-background-networking disable-component-update disable-quic disable-sync no-first-run".split()
    machine = "headless=new no-sandbox disable-gpu disable-dev-shm-usage ignore-certificate-errors".split()
    options = [*quiet, *machine, f"user-data-dir={folder}", f"host-resolver-rules={hosts}"]
    with open(folder / "stderr", "wb") as log, open(folder / "stdout", "wb") as out:
        process = subprocess.Popen(["chromium", *[f"--{each}" for each in options], url], stdout=out, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@over_tls
def test_a_page_can_not_speak(serve: Serve, certificate: Path, tls: bool, tmp_path: Path) -> None:
    """By no method, however a page makes a request: the page gets an error, and the room hears nothing."""
    reports: queue.Queue[object] = queue.Queue()
    rooms: queue.Queue[Started] = queue.Queue()

    def take_report(path: str, body: bytes, last: socket.socket) -> bytes:
        reports.put(json.loads(body))
        return b""

    def attack(path: str, body: bytes, last: socket.socket) -> bytes:
        if path == "/rebind":
            site.go_away(last)
            rooms.put(serve(port=site.server_port))
            return b""
        return PAGE.replace("REPORT", str(report_port)).replace("METHODS", json.dumps(METHODS)).encode()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
    if context:
        context.load_cert_chain(certificate)
    site = Site(attack, context)
    with serving(Site(take_report)) as report_port, serving(site) as port:
        with browser(tmp_path, f"{'https' if tls else 'http'}://room.test:{port}/"):
            started = rooms.get(timeout=START_SECONDS)
            reader = started.peer()
            assert reports.get(timeout=START_SECONDS) == dict.fromkeys(METHODS, 400)
            requests, others = 0, set()
            while requests < len(METHODS + OTHERS):
                reason = started.events.wait_for("leave")
                requests += reason == "spoke HTTP"
                others |= {reason} - {"spoke HTTP"}
        assert others <= {"spoke TLS", "end of stream", "connection reset"}  # it opens connections ahead
        assert ("spoke TLS" in others) == (not tls)
        started.server.broadcast("sentinel")
        assert reader.line() == b"*** sentinel"
