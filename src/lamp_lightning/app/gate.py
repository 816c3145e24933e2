"""What every request passes before anything reads it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOCAL = ("127.0.0.1", "localhost", "::1")
SLACK = 1 << 20  # bytes of a request beside its files
# Nothing comes from elsewhere, so that the page works without a network and tells nobody that it is used.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)


class Gate:
    """An ASGI middleware: refuses what is too large, comes from another site, or asks for another host.

    Args:
        app: what comes after it.
        largest: bytes of a request, by what it says of itself.
        hosts: names under which the page may be asked for; None: any, where it is open to a network.
    """

    def __init__(self, app: Any, *, largest: int, hosts: tuple[str, ...] | None) -> None:
        self.app = app
        self.largest = largest
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        refused = self._refused(headers)
        if refused is not None:
            await _answer(send, *refused)
            return

        async def with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *map(_nameless, message.get("headers", [])),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, with_policy)

    def _refused(self, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and message for a request that goes no further."""
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.largest:
            return 413, f"File size exceeded: {self.largest - SLACK:,} bytes are the most that can be sent."
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return 421, "This page is not at that address."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "Another site may not use this page."
        return None


def _nameless(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """An answer without the name of its file: then a download is called as its link says."""
    name, value = header
    return (name, value.partition(b";")[0]) if name.lower() == b"content-disposition" else header


def _name(host: str) -> str:
    """A host without its port."""
    return urlsplit(f"//{host}").hostname or ""


async def _answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*head, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})
