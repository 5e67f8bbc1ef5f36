// A worker and a host that is a few lines of JavaScript: what one says when the other misbehaves.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import test from "node:test";
import { fileURLToPath } from "node:url";

import { Failure, LATER, Refused, Worker, currentContext } from "@backstitch/worker";
import { Host } from "../src/host.js";

const DEADLINE_MS = 30_000;

async function eventually(what, condition) {
  const until = performance.now() + DEADLINE_MS;
  for (;;) {
    const found = await condition();
    if (found) return found;
    assert.ok(performance.now() < until, `waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

function task(input, more = {}) {
  return {
    token: `token-${JSON.stringify(input)}`, run_id: "r", workflow_id: "w", op: 0, attempt: 1, name: "work",
    task_queue: "q", input, idempotency_key: "r:0", lease_ms: 30_000, traceparent: "00-1-2-01", ...more,
  };
}

/**
 * Hands out the tasks it is given, and keeps what it is told. `statuses` says otherwise than 200, for a verb: each
 * once, and the last one from then on.
 */
async function fakeHost(t, tasks, statuses = {}) {
  const fake = { said: [], sockets: new Set(), beat: { cancel: false, lease_ms: 30_000 } };
  const status = (verb) => {
    const left = statuses[verb] ?? [200];
    return left.length > 1 ? left.shift() : left[0];
  };
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const verb = request.url.split(":").at(-1);
    const body = JSON.parse(Buffer.concat(chunks).toString());
    const code = status(verb);
    let answer = { code: "refused", detail: "no" };
    if (verb === "poll" && code === 200) {
      answer = { tasks: tasks.splice(0, body.max) };
      // Until the worker hangs up.
      if (answer.tasks.length === 0) return;
    } else {
      fake.said.push([verb, body]);
      fake.sockets.add(request.socket);
      if (verb === "heartbeat" && code === 200) answer = fake.beat;
    }
    response.writeHead(code).end(JSON.stringify(answer));
  });
  server.on("connection", (socket) => socket.on("end", () => socket.destroy()));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  fake.url = `http://127.0.0.1:${server.address().port}`;
  fake.told = (verb) => fake.said.filter(([said]) => said === verb).map(([, body]) => body);
  return fake;
}

/** Runs a worker until `condition`, and gives what it logged. */
async function working(fake, run, condition, options = {}) {
  const logs = [];
  const { parse, ...rest } = options;
  const worker = new Worker({ url: fake.url, taskQueue: "q", graceMs: 50, log: (line) => logs.push(line), ...rest });
  const ended = worker.activity("work", run, { parse }).run();
  try {
    await eventually("what is waited for", condition);
  } finally {
    worker.stop();
    await ended;
  }
  return logs;
}

test("an answer is told until it is heard", async (t) => {
  const fake = await fakeHost(t, [task([7])], { complete: [503, 429, 200] });
  await working(fake, (n) => n, () => fake.told("complete").length === 3);
  assert.deepEqual(fake.told("complete")[2], { token: "token-[7]", output: 7 });
  assert.deepEqual(fake.told("release"), []);
});

test("what one host does not answer is asked of the next", async (t) => {
  const sick = await fakeHost(t, [], { poll: [503], complete: [503] });
  const gone = await fakeHost(t, []);
  const fake = await fakeHost(t, [task([7])]);
  // Nobody is at this address.
  const away = gone.url.replace(/:\d+$/, ":1");
  await working(fake, (n) => n, () => fake.told("complete").length === 1, { url: [away, sick.url, fake.url] });
  assert.equal(fake.told("complete")[0].output, 7);
  assert.throws(() => new Worker({ url: [] }), /needs the address/);
});

test("an answer that is nobody's is dropped", async (t) => {
  const fake = await fakeHost(t, [task([1]), task([2])], { complete: [409, 200] });
  const logs = await working(fake, (n) => n, () => fake.told("complete").length === 2, { concurrency: 1 });
  assert.match(logs[0], /refused, and is dropped/);
});

test("an output that no host takes is a failure that stays", async (t) => {
  for (const [wrong, refused] of [[1n, 0], [() => 1, 0], ["too long", 1]]) {
    const fake = await fakeHost(t, [task([])], { complete: [413] });
    await working(fake, () => wrong, () => fake.told("fail").length > 0);
    const { code, retryable } = fake.told("fail")[0].failure;
    assert.deepEqual([code, retryable, fake.told("complete").length], ["bad-output", false, refused]);
  }
});

test("how an attempt fails", async (t) => {
  const fake = await fakeHost(t, [task(["known"]), task(["unknown"]), task([]), task("no array")]);
  const run = (kind) => {
    if (kind === "known") throw new Failure("busy", "later", { retryAfterMs: 1500, details: { queue: 7 } });
    throw new RangeError("no");
  };
  await working(fake, run, () => fake.told("fail").length === 4);
  const failures = Object.fromEntries(fake.told("fail").map(({ token, failure }) => [token, failure]));
  const known = { code: "busy", message: "later", retryable: true, retry_after_ms: 1500, details: { queue: 7 } };
  assert.deepEqual(failures['token-["known"]'], known);
  assert.deepEqual(failures['token-["unknown"]'], { code: "RangeError", message: "no", retryable: true });
  for (const token of ["token-[]", 'token-"no array"']) {
    assert.deepEqual([failures[token].code, failures[token].retryable], ["bad-input", false]);
  }
});

test("arguments are what parse makes of them", async (t) => {
  const fake = await fakeHost(t, [task(["20"]), task(["x"])]);
  const parse = ([text]) => {
    if (!/^\d+$/.test(text)) throw new TypeError("no number");
    return [BigInt(text)];
  };
  await working(fake, (n) => String(n + 1n), () => fake.said.length === 2, { parse });
  assert.equal(fake.told("complete")[0].output, "21");
  assert.equal(fake.told("fail")[0].failure.code, "bad-input");
});

test("what an attempt said last is known before it fails", async (t) => {
  const fake = await fakeHost(t, [task([7], { heartbeat_details: { row: 6 } })]);
  const run = async () => {
    await null;
    const context = currentContext();
    assert.deepEqual(context.heartbeatDetails, { row: 6 });
    context.heartbeat({ row: 7 });
    throw new Failure("again");
  };
  await working(fake, run, () => fake.told("fail").length > 0);
  assert.deepEqual(fake.said.map(([verb]) => verb), ["heartbeat", "fail"]);
  assert.deepEqual(fake.told("heartbeat")[0].details, { row: 7 });
});

const untilAborted = () => once(currentContext().signal, "abort");

test("three heartbeats go out in a lease, and a cancelled attempt hears of it", async (t) => {
  const fake = await fakeHost(t, [task([], { lease_ms: 300 })]);
  fake.beat = { cancel: false, lease_ms: 300 };
  let heard = false;
  const run = async () => {
    await untilAborted();
    heard = true;
  };
  const begun = performance.now();
  await working(fake, run, () => {
    if (fake.told("heartbeat").length === 6 && fake.beat.cancel === false) {
      assert.ok(performance.now() - begun > 450, "they come too fast");
      assert.ok(!heard);
      fake.beat = { cancel: true, lease_ms: 300 };
    }
    return heard && fake.told("complete").length > 0;
  });
});

test("an attempt whose lease is lost hears of it, and is never answered", async (t) => {
  for (const lost of [409, 503]) {
    const fake = await fakeHost(t, [task([], { lease_ms: 300 })], { heartbeat: [lost] });
    let over = false;
    const run = async () => {
      await untilAborted();
      over = true;
    };
    // The worker waits for its end: there is time to answer.
    await working(fake, run, () => over, { graceMs: DEADLINE_MS });
    assert.deepEqual([...new Set(fake.said.map(([verb]) => verb))], ["heartbeat"]);
  }
});

test("a worker that is stopped gives back what does not end in time", async (t) => {
  const fake = await fakeHost(t, [task([1]), task([2])]);
  let begun = false;
  const run = async (n) => {
    if (n === 1) return n;
    currentContext().heartbeat("half");
    begun = true;
    await new Promise(() => {});
  };
  await working(fake, run, () => begun && fake.told("complete").length > 0);
  assert.deepEqual(fake.told("complete"), [{ token: "token-[1]", output: 1 }]);
  assert.deepEqual(fake.told("release"), [{ token: "token-[2]" }]);
  assert.equal(fake.told("heartbeat").at(-1).details, "half");
});

test("what is answered later is deferred", async (t) => {
  const fake = await fakeHost(t, [task([])]);
  await working(fake, () => LATER, () => fake.told("defer").length > 0);
  assert.deepEqual(fake.said.map(([verb]) => verb), ["defer"]);
});

test("a worker whose polls are refused ends", async (t) => {
  const fake = await fakeHost(t, [], { poll: [400] });
  const worker = new Worker({ url: fake.url }).activity("work", () => 1);
  await assert.rejects(worker.run(), (error) => error instanceof Refused && error.code === "refused");
});

test("the example works until it is told to stop", async (t) => {
  const mail = { to: "a@example.com", text: "hello" };
  const wrong = task([{ to: "nobody", text: "" }], { name: "send_mail" });
  const fake = await fakeHost(t, [task([[mail, mail]], { name: "send_all" }), wrong]);
  const file = fileURLToPath(new URL("../examples/mail.js", import.meta.url));
  const program = spawn(process.execPath, [file, fake.url], { stdio: "ignore" });
  t.after(() => program.kill("SIGKILL"));
  await eventually("both are answered", () => fake.told("complete").length > 0 && fake.told("fail").length > 0);
  program.kill("SIGTERM");
  assert.deepEqual(await once(program, "exit"), [0, null]);
  assert.equal(fake.told("complete")[0].output, 2);
  assert.equal(fake.told("fail")[0].failure.code, "bad-address");
});

test("a program whose attempts do not end exits all the same", async (t) => {
  const fake = await fakeHost(t, [task([])]);
  const program = spawn(process.execPath, ["--input-type=module", "--eval", `
    import { Worker } from "@backstitch/worker";
    const worker = new Worker({ url: ${JSON.stringify(fake.url)}, taskQueue: "q", graceMs: 1, leaseMs: 300 });
    worker.activity("work", () => {
      process.kill(process.pid, "SIGTERM");
      return new Promise((resolve) => setTimeout(resolve, ${10 * DEADLINE_MS}));
    });
    await worker.run();
  `], { stdio: "ignore", cwd: fileURLToPath(new URL("..", import.meta.url)) });
  t.after(() => program.kill("SIGKILL"));
  const ended = once(program, "exit", { signal: AbortSignal.timeout(DEADLINE_MS) });
  assert.deepEqual(await ended, [0, null]);
  assert.equal(fake.told("release").length, 1);
});

test("connections are kept, and one that the host has closed is replaced", async (t) => {
  const fake = await fakeHost(t, []);
  const host = new Host(fake.url);
  t.after(() => host.close());
  for (const token of ["1", "2"]) await host.post("release", JSON.stringify({ token }), DEADLINE_MS);
  assert.equal(fake.sockets.size, 1);
  for (const socket of fake.sockets) socket.destroy();
  await host.post("release", '{"token":"3"}', DEADLINE_MS);
  assert.equal(fake.sockets.size, 2);
});
