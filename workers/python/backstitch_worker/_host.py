"""Hosts, seen from a worker: what is posted to them, and what they say.

Every verb may be repeated: the same answer counts once, and tasks of a poll that nobody heard come back
when their lease is over.
"""

import http.client
import json
import socket
import time
from typing import Any, Optional, Sequence
from urllib.parse import urlsplit


class Refused(Exception):
    """A host has understood what it was asked, and does not do it."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({code}, HTTP {status})")
        self.status, self.code, self.detail = status, code, detail

    @property
    def final(self) -> bool:
        """Whether it would say the same again."""
        return self.status < 500 and self.status not in (408, 429)


class Away(Exception):
    """Nobody answers: whether the request took effect is unknown."""


class Hosts:
    """Hosts of one database, each over a connection that is kept. They belong to one thread, but for :meth:`hang_up`.

    Any of them takes what is said of a task, and every verb may be repeated: what one does not answer is asked of the
    next, and whoever answers is kept to.
    """

    def __init__(self, urls: Sequence[str], tenant: Optional[str]) -> None:
        self._hosts = [Host(url, tenant) for url in urls]
        if not self._hosts:
            raise ValueError("a worker needs the address of a host, such as http://127.0.0.1:7467")
        self._current = 0
        self._hung_up = False

    def post(self, verb: str, body: bytes, timeout_s: float) -> Any:
        """What a host answers within so many seconds. Raises :class:`Refused`, or :class:`Away`."""
        over = time.monotonic() + timeout_s
        for left in reversed(range(len(self._hosts))):
            try:
                return self._hosts[self._current].post(verb, body, max(0.01, over - time.monotonic()))
            except (Refused, Away) as error:
                if self._hung_up or (isinstance(error, Refused) and error.final):
                    raise
                self._current = (self._current + 1) % len(self._hosts)
                if left == 0 or time.monotonic() >= over:
                    raise
        raise AssertionError("there is at least one host")

    def hang_up(self) -> None:
        """See :meth:`Host.hang_up`. Nothing is asked of another host afterwards."""
        self._hung_up = True
        self._hosts[self._current].hang_up()


class Host:
    """One connection that is kept. It belongs to one thread, but for :meth:`hang_up`.

    ``http.client`` sets TCP_NODELAY. It has to be set: a request goes out in two writes, and the second would
    wait for the delayed acknowledgement of the first, 40 ms each time.
    """

    def __init__(self, url: str, tenant: Optional[str]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a host, such as http://127.0.0.1:7467")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port)
        self._path = f"{parts.path.rstrip('/')}/v1/activities:"
        self._headers = {"content-type": "application/json"}
        if tenant is not None:
            self._headers["backstitch-tenant"] = tenant

    def post(self, verb: str, body: bytes, timeout_s: float) -> Any:
        """What the host answers. Raises :class:`Refused`, or :class:`Away`."""
        # A host closes connections on which nothing happens: then it has not seen the request.
        for kept in (self._connection.sock is not None, False):
            try:
                status, text = self._exchange(verb, body, timeout_s)
                answer = json.loads(text)
                break
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._connection.close()
                if not kept or isinstance(error, socket.timeout):
                    raise Away(f"no answer to {verb}: {error or type(error).__name__}") from error
        if status == 200:
            return answer
        known = answer if isinstance(answer, dict) else {}
        raise Refused(status, known.get("code", f"http-{status}"), known.get("detail", "no reason was given"))

    def _exchange(self, verb: str, body: bytes, timeout_s: float) -> "tuple[int, bytes]":
        connection = self._connection
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.request("POST", self._path + verb, body, self._headers)
        response = connection.getresponse()
        return response.status, response.read()

    def hang_up(self) -> None:
        """Says, from any thread, that no answer is wanted any more. One that is on its way is still heard: a
        task in it would otherwise be lost until its lease is over."""
        sock = self._connection.sock
        if sock is not None:
            try:
                # Not the method of a TLS socket, which would take reading away too.
                socket.socket.shutdown(sock, socket.SHUT_WR)
            except OSError:
                pass
