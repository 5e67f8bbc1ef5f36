/** One attempt at one call: what it is told, what it may say, and how it can end. */

import { AsyncLocalStorage } from "node:async_hooks";
import { setTimeout as sleep } from "node:timers/promises";

/** What a host takes as the details of a heartbeat. */
const HEARTBEAT_BYTES_MAX = 64 << 10;

const contexts = new AsyncLocalStorage();

export const LATER = Symbol("answered later");

export class Failure extends Error {
  constructor(code, message = "", { retryable = true, retryAfterMs, details, cause } = {}) {
    super(message, { cause });
    this.name = "Failure";
    Object.assign(this, { code, retryable, retryAfterMs, details });
  }

  /** As the host takes it. */
  wire() {
    const retry_after_ms = this.retryAfterMs === undefined ? undefined : Math.max(0, Math.round(this.retryAfterMs));
    const { code, message, retryable, details } = this;
    return { code: String(code), message: String(message), retryable: Boolean(retryable), retry_after_ms, details };
  }
}

export function currentContext() {
  const context = contexts.getStore();
  if (context === undefined) throw new Error("currentContext() is for what an activity calls");
  return context;
}

/** Waits, and no longer than until `signal`. */
export async function pause(ms, signal) {
  await sleep(ms, undefined, { signal }).catch(() => {});
}

/** JSON; throws for what has none. Like JSON.stringify it says null for NaN, and leaves functions in objects out. */
function toJson(value) {
  const text = JSON.stringify(value === undefined ? null : value);
  if (text === undefined) throw new TypeError(`a ${typeof value} is not JSON`);
  return text;
}

class Context {
  #task;
  signal;
  news;

  constructor(task, signal) {
    this.#task = task;
    this.signal = signal;
  }

  get task() { return this.#task; }
  get activity() { return this.#task.name; }
  get taskQueue() { return this.#task.task_queue; }
  get runId() { return this.#task.run_id; }
  get workflowId() { return this.#task.workflow_id; }
  get op() { return this.#task.op; }
  get attempt() { return this.#task.attempt; }
  get idempotencyKey() { return this.#task.idempotency_key; }
  get token() { return this.#task.token; }
  get deadline() { return this.#task.deadline; }
  get heartbeatDetails() { return this.#task.heartbeat_details; }
  get traceparent() { return this.#task.traceparent; }

  heartbeat(details) {
    const said = toJson(details);
    if (Buffer.byteLength(said) > HEARTBEAT_BYTES_MAX) {
      throw new RangeError(`details of ${said.length} characters: say where to go on, not what was done`);
    }
    this.news = said;
  }
}

/** An attempt, as its worker has it. */
export class Attempt {
  #over = new AbortController();
  #settled = new AbortController();
  #plain = false;
  taken = performance.now();
  /** How its end is told, once it has ended: with which verb, and with what beside the token. */
  verb = "defer";
  answer = "";
  failure;

  constructor(task) {
    this.context = new Context(task, this.#over.signal);
  }

  toString() {
    const { attempt, op, runId } = this.context;
    return `attempt ${attempt} of op ${op} of run ${runId}`;
  }

  /** Aborted when nothing more is said about it: it is answered, lost, or given back. */
  get settled() {
    return this.#settled.signal;
  }

  settle() {
    this.#settled.abort();
  }

  /** It should end. It may clean up, and answer if it is not settled. */
  cancel(why) {
    this.#over.abort(new Failure("cancelled", why, { retryable: false }));
  }

  /** Carries `run` out in the context of this attempt. */
  within(run) {
    return contexts.run(this.context, run);
  }

  complete(output) {
    if (output !== LATER) this.#end("complete", "output", output);
  }

  fail(failure) {
    this.failure = failure;
    this.#end("fail", "failure", failure.wire());
  }

  #end(verb, part, value) {
    try {
      this.answer = `"${part}":${toJson(value)}`;
      this.verb = verb;
    } catch (error) {
      this.makePlain(error.message);
    }
  }

  /** No host takes what it gave: it becomes what any takes. False if it was that before. */
  makePlain(why) {
    if (this.#plain) return false;
    this.#plain = true;
    this.failure ??= new Failure("bad-output", why, { retryable: false });
    this.failure.details = undefined;
    this.fail(this.failure);
    return true;
  }

  /** A document about this attempt. */
  named(part = "") {
    return `{"token":${JSON.stringify(this.context.token)}${part && ","}${part}}`;
  }
}
