// A worker of the TypeScript library for `tests/crash/workers.rs`; see `worker.py`.

import { existsSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { Failure, LATER, Worker, currentContext } from "../../workers/typescript/src/index.js";

const [url, folder, habit, concurrency, leaseMs, graceMs] = process.argv.slice(2);

function leave(name, text = "") {
  const path = join(folder, name);
  writeFileSync(`${path}.part`, text);
  renameSync(`${path}.part`, path);
}

const worker = new Worker({
  url: url.split(","),
  taskQueue: habit === "later" ? "default" : "outside",
  concurrency: Number(concurrency),
  leaseMs: Number(leaseMs),
  graceMs: Number(graceMs),
});

worker.activities({
  async work(n) {
    const context = currentContext();
    const { idempotencyKey: key, attempt, traceparent, heartbeatDetails: details } = context;
    leave(`begun-${n}-${attempt}`, JSON.stringify({ key, attempt, traceparent, details }));
    if (habit === "quick") await sleep(20);
    if (habit === "flaky" && attempt === 1) {
      context.heartbeat({ at: 7 });
      throw new Failure("again", "the first time", { retryAfterMs: 20, details: { n } });
    }
    while (habit === "patient" && !existsSync(join(folder, `open-${n}`))) {
      if (context.signal.aborted) {
        leave(`cancelled-${n}`);
        break;
      }
      await sleep(5);
    }
    return n;
  },

  late() {
    leave("token", currentContext().token);
    return LATER;
  },
});

const ended = worker.run();
leave(`up-${process.pid}`);
await ended;
