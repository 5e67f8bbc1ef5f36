"""A worker of the Python library for `tests/crash/workers.rs`.

    worker.py URL DIR HABIT CONCURRENCY LEASE_MS GRACE_MS

What it does with a call depends on its habit; what it has seen it leaves in DIR.
"""

import json
import logging
import os
import sys
import time

from backstitch_worker import LATER, Context, Failure, Worker

url, folder, habit, concurrency, lease_ms, grace_ms = sys.argv[1:]


def leave(name: str, text: str = "") -> None:
    path = os.path.join(folder, name)
    with open(f"{path}.part", "w") as file:
        file.write(text)
    os.rename(f"{path}.part", path)


worker = Worker(
    url.split(","),
    "default" if habit == "later" else "outside",
    concurrency=int(concurrency),
    lease=int(lease_ms) / 1000,
    grace=int(grace_ms) / 1000,
)


@worker.activity("work")
def work(context: Context, n: int) -> int:
    told = {
        "key": context.idempotency_key,
        "attempt": context.attempt,
        "traceparent": context.traceparent,
        "details": context.heartbeat_details,
    }
    leave(f"begun-{n}-{context.attempt}", json.dumps(told))
    if habit == "quick":
        time.sleep(0.02)
    if habit == "flaky" and context.attempt == 1:
        context.heartbeat({"at": 7})
        raise Failure("again", "the first time", retry_after=0.02, details={"n": n})
    while habit == "patient" and not os.path.exists(os.path.join(folder, f"open-{n}")):
        if context.wait_cancelled(0.005):
            leave(f"cancelled-{n}")
            break
    return n


@worker.activity
def late(context: Context, name: str) -> object:
    leave("token", context.token)
    return LATER


logging.basicConfig()
worker.run()
