"""A worker and a host that is a few lines of Python: what one says when the other misbehaves."""

import json
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, List, Optional, Tuple

from backstitch_worker import LATER, Context, Failure, Refused, Worker
from backstitch_worker._host import Host

DEADLINE_S = 30.0

# What goes wrong here is meant to.
logging.getLogger("backstitch_worker").propagate = False
logging.getLogger("backstitch_worker").addHandler(logging.NullHandler())
Said = Tuple[str, Dict[str, Any]]


def eventually(what: str, condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.002)
    raise AssertionError(f"waited in vain: {what}")


class FakeHost:
    """Hands out the tasks it is given, and keeps what it is told. `answers` says otherwise than 200, for a verb:
    each status once, and the last one from then on."""

    def __init__(self, *tasks: Dict[str, Any], answers: Optional[Dict[str, List[int]]] = None) -> None:
        self.said: List[Said] = []
        self.tasks, self.answers, self.beat = list(tasks), answers or {}, {"cancel": False, "lease_ms": 30_000}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"]))
                if not text:
                    # The worker has hung up between the two halves of its request.
                    self.close_connection = True
                    return
                body = json.loads(text)
                verb = self.path.rsplit(":", 1)[1]
                status, answer = fake.answer(verb, body)
                if verb == "poll" and not answer.get("tasks"):
                    # Until the worker hangs up.
                    self.connection.settimeout(DEADLINE_S)
                    self.connection.recv(1)
                    self.close_connection = True
                    return
                reply = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, verb: str, body: Dict[str, Any]) -> Tuple[int, Dict[str, Any]]:
        if verb == "poll":
            tasks, self.tasks = self.tasks[: body["max"]], self.tasks[body["max"] :]
            return self.status(verb), {"tasks": tasks, "code": "refused", "detail": "no"}
        self.said.append((verb, body))
        status = self.status(verb)
        return status, self.beat if status == 200 and verb == "heartbeat" else {"code": "refused", "detail": "no"}

    def status(self, verb: str) -> int:
        statuses = self.answers.get(verb, [200])
        return statuses.pop(0) if len(statuses) > 1 else statuses[0]

    def told(self, verb: str) -> List[Dict[str, Any]]:
        return [body for said, body in self.said if said == verb]


def task(*arguments: Any, name: str = "work", lease_ms: int = 30_000) -> Dict[str, Any]:
    return {
        "token": f"token-{arguments}", "run_id": "r", "workflow_id": "w", "op": 0, "attempt": 1, "name": name,
        "task_queue": "q", "input": list(arguments), "idempotency_key": "r:0", "lease_ms": lease_ms,
        "traceparent": "00-1-2-01",
    }  # fmt: skip


class Working:
    """A worker on a thread of its own, for as long as the block."""

    def __init__(self, host: FakeHost, function: Callable[..., Any], **options: Any) -> None:
        self.worker = Worker(options.pop("urls", host.url), "q", **{"grace": 0.05, **options})
        self.worker.activity("work")(function)
        self.error: Optional[BaseException] = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        try:
            self.worker.run()
        except Refused as error:
            self.error = error

    def __enter__(self) -> "Working":
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.worker.stop()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive(), "it does not stop"


class Workers(unittest.TestCase):
    def test_numbers_of_any_length_come_and_go_unchanged(self) -> None:
        n = 2**70 + 1
        host = FakeHost(task(n))
        with Working(host, lambda n: n):
            (told,) = eventually("it is answered", lambda: host.told("complete"))
        self.assertEqual(told, {"token": task(n)["token"], "output": n})

    def test_a_lease_that_its_call_makes_short_is_kept(self) -> None:
        # The worker's own lease is so long that it would look at the task when that is over.
        host = FakeHost(task(1, lease_ms=600))
        host.beat["lease_ms"] = 600
        go_on = threading.Event()
        with Working(host, lambda n: go_on.wait(DEADLINE_S) and n, lease=300.0):
            eventually("so many heartbeats", lambda: len(host.told("heartbeat")) >= 6)
            go_on.set()
            eventually("the answer", lambda: host.told("complete"))

    def test_a_short_lease_is_kept_that_begins_while_a_long_one_is(self) -> None:
        host = FakeHost(task(1))
        go_on = threading.Event()
        with Working(host, lambda n: go_on.wait(DEADLINE_S) and n, lease=300.0, concurrency=2) as working:
            eventually("the first has begun", lambda: working.worker._attempts)
            host.beat["lease_ms"] = 600
            host.tasks.append(task(2, lease_ms=600))
            # It polls again.
            working.worker._polls.hang_up()
            eventually("heartbeats of the second", lambda: len(host.told("heartbeat")) >= 6)
            go_on.set()
            eventually("both answers", lambda: len(host.told("complete")) == 2)

    def test_what_one_host_does_not_answer_is_asked_of_the_next(self) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            sick = FakeHost(task(7), answers={"poll": [503], "complete": [503]})
            host = FakeHost(task(1))
            with Working(host, lambda n: n, urls=[away, sick.url, host.url]):
                eventually("the answer", lambda: host.told("complete"))
        self.assertEqual(host.told("complete")[0]["output"], 1)
        with self.assertRaises(ValueError):
            Worker([])

    def test_an_answer_is_told_until_it_is_heard(self) -> None:
        host = FakeHost(task(1), answers={"complete": [503, 429, 200]})
        with Working(host, lambda n: n):
            eventually("it is told three times", lambda: len(host.told("complete")) == 3)
        self.assertEqual(host.told("release"), [])

    def test_an_answer_that_is_nobodys_is_dropped(self) -> None:
        host = FakeHost(task(1), task(2), answers={"complete": [409, 200]})
        with self.assertLogs("backstitch_worker", "WARNING") as logs, Working(host, lambda n: n, concurrency=1):
            eventually("both are told", lambda: len(host.told("complete")) == 2)
        self.assertIn("refused", logs.output[0])

    def test_an_output_that_no_host_takes_is_a_failure_that_stays(self) -> None:
        for wrong, refused in ((float("nan"), 0), ({1, 2}, 0), ("too long", 1)):
            host = FakeHost(task(1), answers={"complete": [413]})
            with Working(host, lambda _, wrong=wrong: wrong):
                (told,) = eventually("it fails", lambda: host.told("fail"))
            self.assertEqual((told["failure"]["code"], told["failure"]["retryable"]), ("bad-output", False))
            self.assertEqual(len(host.told("complete")), refused)

    def test_how_an_attempt_fails(self) -> None:
        def work(kind: str) -> None:
            if kind == "known":
                raise Failure("busy", "later", retry_after=1.5, details={"queue": 7})
            raise SystemExit("not for the worker")

        host = FakeHost(task("known"), task("unknown"), task(3))
        with self.assertLogs("backstitch_worker", "ERROR"), Working(host, work):
            told = eventually("all fail", lambda: host.told("fail") if len(host.told("fail")) == 3 else None)
        by_code = {body["failure"]["code"]: body["failure"] for body in told}
        known = {"code": "busy", "message": "later", "retryable": True, "retry_after_ms": 1500}
        self.assertEqual(by_code["busy"], {**known, "details": {"queue": 7}})
        self.assertTrue(by_code["SystemExit"]["retryable"])
        self.assertFalse(by_code["bad-input"]["retryable"])

    def test_what_an_attempt_said_last_is_known_before_it_fails(self) -> None:
        def work(context: Context, n: int) -> None:
            context.heartbeat({"row": n})
            raise Failure("again")

        host = FakeHost(task(7))
        with Working(host, work):
            eventually("it fails", lambda: host.told("fail"))
        self.assertEqual([verb for verb, _ in host.said], ["heartbeat", "fail"])
        self.assertEqual(host.told("heartbeat")[0]["details"], {"row": 7})

    def test_three_heartbeats_go_out_in_a_lease_and_a_cancelled_attempt_hears_of_it(self) -> None:
        heard = threading.Event()

        def work(context: Context) -> None:
            context.wait_cancelled(DEADLINE_S)
            heard.set()

        host = FakeHost(task(lease_ms=300))
        host.beat = {"cancel": False, "lease_ms": 300}
        with Working(host, work, lease=0.3):
            begun = time.monotonic()
            eventually("there are heartbeats", lambda: len(host.told("heartbeat")) >= 6)
            self.assertGreater(time.monotonic() - begun, 0.45)
            self.assertFalse(heard.is_set())
            host.beat = {"cancel": True, "lease_ms": 300}
            eventually("it hears", heard.is_set)
            eventually("it may still answer", lambda: host.told("complete"))

    def test_an_attempt_whose_lease_is_lost_hears_of_it_and_is_never_answered(self) -> None:
        for lost in (409, 503):
            over = threading.Event()

            def work(context: Context) -> None:
                context.wait_cancelled(DEADLINE_S)
                over.set()

            host = FakeHost(task(lease_ms=300), answers={"heartbeat": [lost]})
            with Working(host, work, lease=0.3, grace=DEADLINE_S):
                eventually("it hears", over.is_set)
            # The worker has waited for its end, and there was time to answer.
            self.assertEqual({verb for verb, _ in host.said}, {"heartbeat"})

    def test_a_worker_that_is_stopped_gives_back_what_does_not_end_in_time(self) -> None:
        begun = threading.Event()

        def work(context: Context, n: int) -> int:
            if n == 2:
                context.heartbeat("half")
                begun.set()
                context.wait_cancelled(DEADLINE_S)
            return n

        host = FakeHost(task(1), task(2))
        with Working(host, work):
            eventually("they are under way", lambda: begun.is_set() and host.told("complete"))
        self.assertEqual([body["token"] for body in host.told("complete")], [task(1)["token"]])
        self.assertEqual(host.told("release"), [{"token": task(2)["token"]}])
        self.assertEqual(host.told("heartbeat")[-1]["details"], "half")

    def test_what_is_answered_later_is_deferred(self) -> None:
        host = FakeHost(task(1))
        with Working(host, lambda n: LATER):
            eventually("it is deferred", lambda: host.told("defer"))
        self.assertEqual({verb for verb, _ in host.said}, {"defer"})

    def test_a_worker_whose_polls_are_refused_ends(self) -> None:
        host = FakeHost(answers={"poll": [400]})
        host.tasks = []
        host.answer = lambda verb, body: (400, {"tasks": [1], "code": "invalid-poll", "detail": "no"})  # type: ignore
        working = Working(host, lambda: None)
        with working:
            working.thread.join(DEADLINE_S)
        self.assertEqual(getattr(working.error, "code", None), "invalid-poll")

    def test_the_example_works_until_it_is_told_to_stop(self) -> None:
        mail = {"to": "a@example.com", "text": "hello"}
        host = FakeHost(task([mail, mail], name="send_all"), task({"to": "nobody", "text": ""}, name="send_mail"))
        root = pathlib.Path(__file__).parent.parent
        program = [sys.executable, str(root / "examples" / "mail.py"), host.url]
        env = {**os.environ, "PYTHONPATH": str(root)}
        with subprocess.Popen(program, env=env, stderr=subprocess.DEVNULL) as process:
            try:
                eventually("both are answered", lambda: host.told("complete") and host.told("fail"))
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(DEADLINE_S), 0)
            finally:
                process.kill()
        self.assertEqual(host.told("complete")[0]["output"], 2)
        self.assertEqual(host.told("fail")[0]["failure"]["code"], "bad-address")

    def test_connections_are_kept_and_do_not_wait_for_acknowledgements(self) -> None:
        fake = FakeHost()
        host = Host(fake.url, None)
        host.post("release", b'{"token":"1"}', 5.0)
        first = host._connection.sock
        self.assertTrue(first.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        host.post("release", b'{"token":"2"}', 5.0)
        self.assertIs(host._connection.sock, first)
        # The host closes it, and the next request is made all the same.
        first.shutdown(socket.SHUT_RDWR)
        host.post("release", b'{"token":"3"}', 5.0)
        host._connection.close()
        self.assertEqual([body["token"] for body in fake.told("release")], ["1", "2", "3"])


if __name__ == "__main__":
    unittest.main()
