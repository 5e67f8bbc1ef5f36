"""The worker: it polls, has attempts run on threads, keeps their leases, and tells what they gave.

One thread polls, one beats, and each place has one that runs attempts and answers; each has a connection of its
own. A place is taken from the poll until the answer is heard: nothing here grows beyond `concurrency`.
"""

import logging
import os
import queue
import signal
import threading
import time
from typing import Any, Callable, Dict, Optional, Sequence, Set, TypeVar, Union, overload

from ._attempt import Attempt, Context, Failure, to_json
from ._host import Away, Hosts, Refused
from ._inputs import MISFIT, Parameters

log = logging.getLogger("backstitch_worker")

F = TypeVar("F", bound=Callable[..., Any])

#: How often to ask again when no host answers, at first and at last.
PACE_S, PACE_MAX_S = 0.1, 5.0
#: How long a poll waits at the host, and how much longer for its answer.
POLL_WAIT_S, POLL_SLACK_S = 30.0, 30.0
#: How long a host may take for an answer.
ANSWER_S = 40.0
#: How long a worker that stops waits for the end of its poll, and for each task that it gives back.
RELEASE_S = 5.0


class Worker:
    """Carries out activities of one task queue.

    * Heartbeats go out by themselves, three in each lease. An attempt whose lease is lost all the same is never
      answered: somebody else may have it. It hears of it as it hears that it is cancelled.
    * What an attempt gave is told until a host takes it or refuses it, as long as the lease lives.
    * `url` is a host, or several of one database: what one does not answer is asked of the next.
    * SIGTERM, SIGINT and :meth:`stop` end :meth:`run`: no new tasks; those under way get `grace` seconds, and
      are then given back, which is no attempt. A second signal ends the grace.

    What it refuses: exactly-once. A worker that dies may have had its effect; the same call is then made again
    under the same :attr:`Context.idempotency_key`.
    """

    def __init__(self, url: Union[str, Sequence[str]], task_queue: str = "default", *, concurrency: int = 16, lease: float = 30.0,
                 grace: float = 10.0, name: Optional[str] = None, tenant: Optional[str] = None) -> None:
        if not 1 <= concurrency <= 1000:
            raise ValueError(f"a concurrency of {concurrency}; it must be 1 to 1,000")
        urls = [url] if isinstance(url, str) else list(url)
        self._connect: Callable[[], Hosts] = lambda: Hosts(urls, tenant)
        self._polls, self._beats, self._releases = (self._connect() for _ in range(3))
        self._poll = {"task_queue": task_queue, "lease_ms": round(lease * 1000)}
        self._poll.update(worker=name or f"python-{os.getpid()}", wait_ms=round(POLL_WAIT_S * 1000))
        self._concurrency, self._lease_s, self._grace_s = concurrency, lease, grace
        self._activities: Dict[str, Any] = {}
        # Signals may interrupt anything, and this kind of queue alone bears that.
        self._orders: "queue.SimpleQueue[Optional[Refused]]" = queue.SimpleQueue()
        self._todo: "queue.SimpleQueue[Attempt]" = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._attempts: Set[Attempt] = set()
        self._threads = 0

    @overload
    def activity(self, name: F) -> F: ...
    @overload
    def activity(self, name: str) -> Callable[[F], F]: ...
    def activity(self, name: Union[F, str]) -> Any:
        """Registers a function: under its own name, or under another, `@worker.activity("work")`.

        It gets the call's arguments by position. If its first parameter is annotated :class:`Context`, that is
        the attempt's. What it returns is the call's output, as JSON.
        """
        if not isinstance(name, str):
            return self.activity(name.__name__)(name)

        def register(function: F) -> F:
            self._activities[name] = (function, Parameters(function, Context))
            return function

        return register

    def stop(self) -> None:
        """Ends :meth:`run`, from any thread; a second time: without grace."""
        self._orders.put(None)

    def run(self) -> None:
        """Works until it is stopped. Raises :class:`Refused` if the host refuses the polls themselves; a host
        that is away is waited for."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            for one in (signal.SIGTERM, signal.SIGINT):
                before[one] = signal.signal(one, lambda *_: self.stop())
        try:
            polling = self._start(self._keep_polling)
            self._start(self._keep_beating)
            refused = self._orders.get()
            self._stopping.set()
            until = time.monotonic() + RELEASE_S
            while polling.is_alive() and time.monotonic() < until:
                self._polls.hang_up()
                polling.join(0.05)
            self._finish()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
        if refused is not None:
            raise refused

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        # A daemon: the program ends with its own thread, whatever an abandoned attempt still does.
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        return thread

    def _keep_polling(self) -> None:
        pace = PACE_S
        while not self._stopping.is_set():
            # Not one task more than can be begun at once: a lease must not be spent waiting.
            with self._changed:
                free = self._concurrency - len(self._attempts)
                if free <= 0:
                    self._changed.wait(0.1)
                    continue
            poll = to_json({**self._poll, "names": list(self._activities), "max": free})
            try:
                tasks = self._polls.post("poll", poll, POLL_WAIT_S + POLL_SLACK_S)["tasks"]
            except (Refused, Away) as error:
                if isinstance(error, Refused) and error.final:
                    return self._orders.put(error)
                if not self._stopping.is_set():
                    log.warning("no tasks can be had; asking again: %s", error)
                self._stopping.wait(pace)
                pace = min(pace * 2, PACE_MAX_S)
                continue
            pace = PACE_S
            for task in tasks:
                self._begin(Attempt(task))

    def _begin(self, attempt: Attempt) -> None:
        if self._stopping.is_set():
            return self._give_back(attempt)
        with self._changed:
            self._attempts.add(attempt)
            # Its lease may be shorter than all others: whoever beats is to look at it.
            self._changed.notify_all()
            if self._threads < len(self._attempts):
                self._threads += 1
                self._start(self._carry_out)
        self._todo.put(attempt)

    def _carry_out(self) -> None:
        host = self._connect()
        while True:
            attempt = self._todo.get()
            self._try(attempt)
            self._tell(host, attempt)
            with self._changed:
                self._attempts.discard(attempt)
                self._changed.notify_all()

    def _try(self, attempt: Attempt) -> None:
        function, parameters = self._activities[attempt.context.activity]
        try:
            arguments = parameters.arguments(attempt.context.task["input"])
        except MISFIT as error:
            return attempt.fail(Failure("bad-input", str(error), retryable=False))
        try:
            attempt.complete(function(*[attempt.context] * parameters.takes_context, *arguments))
        except Failure as failure:
            attempt.fail(failure)
        except BaseException as error:  # SystemExit too: it would end this thread, and nothing else
            log.exception("%s of %r has failed", attempt, attempt.context.activity)
            attempt.fail(Failure(type(error).__name__, str(error)))

    def _tell(self, host: Hosts, attempt: Attempt) -> None:
        """Tells what an attempt gave, until it is heard or the lease is lost."""
        pace = PACE_S
        while not attempt.settled.is_set():
            try:
                if attempt.failure is not None and attempt.context._news is not None:
                    # The next attempt is to hear of it.
                    self._send_beat(host, attempt, ANSWER_S)
                host.post(attempt.verb, attempt.named(attempt.answer), ANSWER_S)
                return attempt.settled.set()
            except Refused as refused:
                if refused.final and (refused.status == 409 or not attempt.make_plain(str(refused))):
                    log.warning("the answer of %s was refused, and is dropped: %s", attempt, refused)
                    return attempt.settled.set()
                log.warning("the answer of %s was not taken: %s", attempt, refused)
            except Away as away:
                log.warning("the answer of %s was not heard; it is told again: %s", attempt, away)
            attempt.settled.wait(pace)
            pace = min(pace * 2, PACE_MAX_S)

    def _send_beat(self, host: Hosts, attempt: Attempt, timeout_s: float) -> Any:
        news = attempt.context._news
        details = b"" if news is None else b'"details":' + news
        view = host.post("heartbeat", attempt.named(details), timeout_s)
        if attempt.context._news is news:
            attempt.context._news = None
        return view

    def _keep_beating(self) -> None:
        while True:
            with self._changed:
                beating = [attempt for attempt in self._attempts if not attempt.settled.is_set()]
                first = min(beating, key=lambda attempt: attempt.beat_at, default=None)
                until = float("inf") if first is None else first.beat_at - time.monotonic()
                if until > 0:
                    # Or until another attempt begins: the host has given it the lease that its call allows.
                    self._changed.wait(min(until, self._lease_s / 3))
                    continue
            # While one is told of, the others must not be late.
            self._beat(first, min(attempt.lease_s for attempt in beating) / 3)

    def _beat(self, attempt: Attempt, patience_s: float) -> None:
        asked = time.monotonic()
        left = attempt.lives_until - asked
        try:
            if left <= 0:
                raise Refused(409, "lease-over", "no heartbeat got through in time")
            view = self._send_beat(self._beats, attempt, min(left, patience_s))
        except (Refused, Away) as error:
            log.warning("a heartbeat of %s was lost: %s", attempt, error)
            if isinstance(error, Refused) and error.status == 409:
                return attempt.abandon()
            attempt.beat_at = min(time.monotonic() + attempt.lease_s / 10, attempt.lives_until)
            return
        if view["cancel"]:
            attempt.context._over.set()
        # Without a lease it is to be answered later, and nothing is lost by silence.
        attempt.lease_s = view.get("lease_ms", float("inf")) / 1000
        attempt.lives_until, attempt.beat_at = asked + attempt.lease_s, asked + attempt.lease_s / 3

    def _finish(self) -> None:
        until = time.monotonic() + self._grace_s
        with self._changed:
            while self._attempts and time.monotonic() < until and self._orders.empty():
                self._changed.wait(0.05)
            left = [attempt for attempt in self._attempts if not attempt.settled.is_set()]
        for attempt in left:
            attempt.abandon()
        for attempt in left:
            self._give_back(attempt)

    def _give_back(self, attempt: Attempt) -> None:
        """If there is no host to take it, the task goes on when its lease is over."""
        # Not on the connection of the polls: a worker that hangs up there can say no more.
        try:
            if attempt.context._news is not None:
                self._send_beat(self._releases, attempt, RELEASE_S)
            self._releases.post("release", attempt.named(), RELEASE_S)
        except (Refused, Away) as error:
            log.warning("%s could not be given back: %s", attempt, error)
