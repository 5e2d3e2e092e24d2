"""Small HTTP servers on the loopback address: files with range requests, and a paged STAC API."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

Answer = tuple[int, bytes, dict[str, str]]


@contextmanager
def serve(answer: Callable[[str, str, bytes, dict[str, str]], Answer]) -> Iterator[str]:
    """Serve ``answer(method, path, body, headers)`` and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content, headers = answer(self.command, self.path, body, dict(self.headers))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.close_connection = headers.get("Connection") == "close"
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_HEAD = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def files(folder: Path) -> Callable[[str, str, bytes, dict[str, str]], Answer]:
    """Answers from a folder, with range requests as object stores give them."""

    def answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        target = folder / urlparse(path).path.lstrip("/")
        if not target.is_file():
            return 404, b"not found", {}
        content = target.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
        if wanted is None:
            return 200, content, {"Accept-Ranges": "bytes"}
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        span = f"bytes {start}-{end}/{len(content)}"
        return 206, content[start : end + 1], {"Content-Range": span, "Accept-Ranges": "bytes"}

    return answer


class PagedApi:
    """A STAC API that answers every search with all its items, a few on each page.

    ``failures`` maps a page to how many requests for it fail with 503; ``circle`` makes the last page
    link to the first.
    """

    def __init__(
        self,
        items: list[dict[str, Any]],
        *,
        size: int = 2,
        failures: dict[int, int] | None = None,
        circle: bool = False,
    ) -> None:
        self.items, self.size, self.circle = items, size, circle
        self.failures = dict(failures or {})
        self.asked: list[dict[str, Any]] = []

    def __call__(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        root = f"http://{headers['Host']}"
        address = urlparse(path)
        if address.path != "/search":
            return self._json(200, self._landing(root))
        asked = (
            json.loads(body) if body else {key: value[0] for key, value in parse_qs(address.query).items()}
        )
        self.asked.append(asked)
        number = int(asked.get("page", 0))
        if self.failures.get(number, 0) > 0:
            self.failures[number] -= 1
            return self._json(503, {"description": "come back later"})
        features = self.items[number * self.size : (number + 1) * self.size]
        last = (number + 1) * self.size >= len(self.items)
        links = []
        if not last or self.circle:
            following = 0 if last else number + 1
            links.append(
                {"rel": "next", "href": f"{root}/search", "method": "POST", "body": {"page": following}}
            )
        return self._json(200, {"type": "FeatureCollection", "features": features, "links": links})

    @staticmethod
    def _json(status: int, document: dict[str, Any]) -> Answer:
        return status, json.dumps(document).encode(), {"Content-Type": "application/json"}

    @staticmethod
    def _landing(root: str) -> dict[str, Any]:
        return {
            "type": "Catalog",
            "id": "api",
            "stac_version": "1.0.0",
            "description": "a STAC API",
            "conformsTo": [
                "https://api.stacspec.org/v1.0.0/core",
                "https://api.stacspec.org/v1.0.0/item-search",
            ],
            "links": [
                {"rel": "root", "href": root, "type": "application/json"},
                {"rel": "self", "href": root, "type": "application/json"},
                {"rel": "search", "href": f"{root}/search", "type": "application/geo+json", "method": "POST"},
            ],
        }
