"""A worker for the queue `mail-tasks`.

    PYTHONPATH=workers/python python3 workers/python/examples/mail.py http://127.0.0.1:7467
"""

import logging
import sys
from dataclasses import dataclass
from typing import List, Optional

from backstitch_worker import LATER, Context, Failure, Worker

worker = Worker(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7467", task_queue="mail-tasks")


@dataclass
class Mail:
    to: str
    text: str
    reply_to: Optional[str] = None


@worker.activity
def send_mail(context: Context, mail: Mail) -> str:
    if "@" not in mail.to:
        raise Failure("bad-address", f"{mail.to!r} is no address", retryable=False)
    # A mail server that knows this key sends the mail once, however often it is asked.
    return f"sent {len(mail.text)} characters under {context.idempotency_key}"


@worker.activity
def send_all(context: Context, mails: List[Mail]) -> int:
    done: int = context.heartbeat_details or 0
    for mail in mails[done:]:
        if context.cancelled:
            raise Failure("cancelled", f"after {done} mails", retryable=False)
        send_mail(context, mail)
        done += 1
        context.heartbeat(done)
    return done


@worker.activity("ask")
def ask_somebody(context: Context, question: str) -> object:
    print(f"{question} Answer with {context.token}", flush=True)
    return LATER


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    worker.run()
