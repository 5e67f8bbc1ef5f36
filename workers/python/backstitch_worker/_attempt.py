"""One attempt at one call: what it is told, what it may say, and how it can end."""

import dataclasses
import json
import threading
import time
from typing import Any, Mapping, Optional

#: What a host takes as the details of a heartbeat.
HEARTBEAT_BYTES_MAX = 64 << 10

#: What JSON can say, as Python has it.
Json = Any


#: What an activity returns that somebody else answers, who has :attr:`Context.token`.
LATER: Any = type("Later", (), {"__repr__": lambda self: "LATER"})()


class Failure(Exception):
    """How an attempt fails.

    ``code`` is stable, for the workflow to match on; ``message`` is for people. ``retryable``: another attempt
    may succeed; ``retry_after`` (seconds): it is made no sooner, whatever the call's policy says. ``details`` is
    whatever else the workflow should have.
    """

    def __init__(self, code: str, message: str = "", *, retryable: bool = True,
                 retry_after: Optional[float] = None, details: Json = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.retryable, self.details = str(code), str(message), bool(retryable), details
        self.retry_after_ms = None if retry_after is None else max(0, round(retry_after * 1000))


#: What a host knows of a failure.
FAILURE_PARTS = ("code", "message", "retryable", "retry_after_ms", "details")

#: What :func:`to_json` raises.
UNSAYABLE = (ValueError, TypeError, RecursionError)


def to_json(value: Json) -> bytes:
    """JSON that any host takes. Raises one of :data:`UNSAYABLE`."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    # Half a surrogate pair is a character to Python, and none to anybody else.
    return text.encode("utf-8", "replace")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


class Context:
    """What an attempt is told, and can say while it runs."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        #: Everything that the host says of the task.
        self.task = task
        self.activity: str = task["name"]
        self.task_queue: str = task["task_queue"]
        self.run_id: str = task["run_id"]
        self.workflow_id: str = task["workflow_id"]
        #: The number of the call in its run.
        self.op: int = task["op"]
        #: 1 for the first. What is given back does not count; what is lost does.
        self.attempt: int = task["attempt"]
        #: The same for every attempt of one call, and for no other call.
        self.idempotency_key: str = task["idempotency_key"]
        #: What whoever answers later has to show.
        self.token: str = task["token"]
        #: When nobody waits for this attempt any more, RFC 3339, if there is such a time.
        self.deadline: Optional[str] = task.get("deadline")
        #: What the attempts before this one said last.
        self.heartbeat_details: Json = task.get("heartbeat_details")
        #: W3C trace context of the attempt.
        self.traceparent: str = task["traceparent"]
        self._over = threading.Event()
        self._news: Optional[bytes] = None

    def heartbeat(self, details: Json) -> None:
        """Tells how far it is: the next attempt hears of it if this one fails or is lost. It goes with the next
        heartbeat, which is at most a third of the lease away; before a failure, and when the task is given back."""
        said = to_json(details)
        if len(said) > HEARTBEAT_BYTES_MAX:
            raise ValueError(f"details of {len(said)} bytes: say where to go on, not what was done")
        self._news = said

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the outcome any more, at least not from here."""
        return self._over.is_set()

    def wait_cancelled(self, timeout: Optional[float] = None) -> bool:
        """Waits so many seconds for :attr:`cancelled`, and gives it."""
        return self._over.wait(timeout)


class Attempt:
    """An attempt, as its worker has it."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self.context = Context(task)
        self.lease_s: float = task["lease_ms"] / 1000
        self.lives_until = time.monotonic() + self.lease_s
        self.beat_at = time.monotonic() + self.lease_s / 3
        #: Nothing more is said about it: it is answered, lost, or given back.
        self.settled = threading.Event()
        #: How its end is told, once it has ended: with which verb, and with what beside the token.
        self.verb, self.answer = "defer", b""
        self.failure: Optional[Failure] = None
        #: Whether its answer has become one that a host must be able to take.
        self.plain = False

    def __str__(self) -> str:
        return f"attempt {self.context.attempt} of op {self.context.op} of run {self.context.run_id}"

    def abandon(self) -> None:
        """It is somebody else's. It should end: a thread cannot be stopped."""
        self.settled.set()
        self.context._over.set()

    def complete(self, output: Json) -> None:
        if output is not LATER:
            self._end("complete", "output", output)

    def fail(self, failure: Failure) -> None:
        self.failure = failure
        said = {part: getattr(failure, part) for part in FAILURE_PARTS}
        self._end("fail", "failure", {part: value for part, value in said.items() if value is not None})

    def _end(self, verb: str, part: str, value: Json) -> None:
        try:
            self.verb, self.answer = verb, to_json({part: value})[1:-1]
        except UNSAYABLE as error:
            self.make_plain(str(error))

    def make_plain(self, why: str) -> bool:
        """No host takes what it gave: it becomes what any takes, if it was not that yet."""
        if self.plain:
            return False
        self.plain = True
        if self.failure is None:
            self.failure = Failure("bad-output", why, retryable=False)
        self.failure.details = None
        self.fail(self.failure)
        return True

    def named(self, part: bytes = b"") -> bytes:
        """A document about this attempt."""
        return b'{"token":' + to_json(self.context.token) + (b"," + part if part else b"") + b"}"
