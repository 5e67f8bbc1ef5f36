/**
 * The worker: it polls, has attempts run, keeps their leases, and tells what they gave.
 *
 * A place is taken from the poll until the answer is heard: nothing here grows beyond the concurrency.
 */

import { EventEmitter, once } from "node:events";

import { Attempt, Failure, pause } from "./attempt.js";
import { Hosts, Refused } from "./host.js";

/** How often to ask again when no host answers, at first and at last. */
const PACE_MS = 100;
const PACE_MAX_MS = 5_000;
/** How long a poll waits at the host, and how much longer for its answer. */
const POLL_WAIT_MS = 30_000;
const POLL_SLACK_MS = 30_000;
/** How long a host may take for an answer. */
const ANSWER_MS = 40_000;
/** How long a worker that stops tries to give one task back. */
const RELEASE_MS = 5_000;
/** How long a program that a signal has stopped lives on when attempts that were given back do not end. */
const EXIT_MS = 1_000;
const SIGNALS = ["SIGTERM", "SIGINT"];

export class Worker {
  #activities = new Map();
  #attempts = new Set();
  #ends = new EventEmitter();
  #stopping = new AbortController();
  #graceOver = new AbortController();
  #givenBack = [];
  #concurrency;
  #graceMs;
  #log;
  #poll;
  #polls;
  #beats;
  #answers;

  constructor({ url, taskQueue = "default", concurrency = 16, leaseMs = 30_000, graceMs = 10_000, ...rest }) {
    if (!(Number.isInteger(concurrency) && concurrency >= 1 && concurrency <= 1_000)) {
      throw new RangeError(`a concurrency of ${concurrency}; it must be 1 to 1,000`);
    }
    const { name = `node-${process.pid}`, tenant, log = (line) => console.warn(line) } = rest;
    [this.#polls, this.#beats, this.#answers] = [1, 2, 3].map(() => new Hosts([url].flat(), tenant));
    this.#poll = { task_queue: taskQueue, lease_ms: leaseMs, wait_ms: POLL_WAIT_MS, worker: name };
    this.#concurrency = concurrency;
    this.#graceMs = graceMs;
    this.#log = log;
  }

  activity(name, run, { parse } = {}) {
    const fit = (input) => {
      if (!Array.isArray(input)) throw new TypeError("the input is no array of arguments");
      if (input.length < run.length) throw new TypeError(`${input.length} arguments of ${run.length} were given`);
      return input;
    };
    this.#activities.set(name, { run, parse: parse ?? fit });
    return this;
  }

  activities(functions) {
    for (const [name, run] of Object.entries(functions)) this.activity(name, run.bind(functions));
    return this;
  }

  stop() {
    if (this.#stopping.signal.aborted) this.#graceOver.abort();
    this.#stopping.abort();
  }

  async run() {
    let signalled = false;
    const onSignal = () => {
      signalled = true;
      this.stop();
    };
    for (const signal of SIGNALS) process.on(signal, onSignal);
    try {
      const refused = await this.#keepPolling();
      this.#stopping.abort();
      await this.#finish();
      if (refused) throw refused;
    } finally {
      for (const signal of SIGNALS) process.off(signal, onSignal);
      for (const host of [this.#polls, this.#beats, this.#answers]) host.close();
      // What they wait for would keep the program alive. What comes after run() has this long.
      if (signalled && this.#attempts.size > 0) setTimeout(() => process.exit(), EXIT_MS).unref();
    }
  }

  /** Ends when the worker is stopped, or with what the host refuses. */
  async #keepPolling() {
    const { signal } = this.#stopping;
    const names = [...this.#activities.keys()];
    let pace = PACE_MS;
    while (!signal.aborted) {
      // Not one task more than can be begun at once: a lease must not be spent waiting.
      const max = this.#concurrency - this.#attempts.size;
      if (max <= 0) {
        await once(this.#ends, "end", { signal }).catch(() => {});
        continue;
      }
      const poll = JSON.stringify({ ...this.#poll, names, max });
      try {
        const { tasks } = await this.#polls.post("poll", poll, POLL_WAIT_MS + POLL_SLACK_MS, signal);
        pace = PACE_MS;
        for (const task of tasks) this.#begin(new Attempt(task));
      } catch (error) {
        if (error instanceof Refused && error.final) return error;
        if (!signal.aborted) this.#log(`no tasks can be had; asking again: ${error.message}`);
        await pause(pace, signal);
        pace = Math.min(pace * 2, PACE_MAX_MS);
      }
    }
  }

  #begin(attempt) {
    if (this.#stopping.signal.aborted) {
      this.#givenBack.push(this.#giveBack(attempt));
      return;
    }
    this.#attempts.add(attempt);
    this.#keepBeating(attempt);
    this.#carryOut(attempt);
  }

  async #carryOut(attempt) {
    await this.#try(attempt);
    await this.#tell(attempt);
    this.#attempts.delete(attempt);
    this.#ends.emit("end");
  }

  async #try(attempt) {
    const { activity, task } = attempt.context;
    const { run, parse } = this.#activities.get(activity);
    let input;
    try {
      input = await parse(task.input);
    } catch (error) {
      return attempt.fail(new Failure("bad-input", error.message, { retryable: false }));
    }
    try {
      attempt.complete(await attempt.within(async () => run(...input)));
    } catch (error) {
      if (error instanceof Failure) return attempt.fail(error);
      this.#log(`${attempt} of ${activity} has failed: ${error?.stack ?? error}`);
      attempt.fail(new Failure(error?.name ?? "Error", String(error?.message ?? error)));
    }
  }

  /** Tells what an attempt gave, until it is heard or the lease is lost. */
  async #tell(attempt) {
    let pace = PACE_MS;
    while (!attempt.settled.aborted) {
      try {
        // The next attempt is to hear of it.
        if (attempt.failure && attempt.context.news) await this.#sendBeat(this.#answers, attempt, ANSWER_MS);
        await this.#answers.post(attempt.verb, attempt.named(attempt.answer), ANSWER_MS);
        return attempt.settle();
      } catch (error) {
        if (error instanceof Refused && error.final && (error.status === 409 || !attempt.makePlain(error.message))) {
          this.#log(`the answer of ${attempt} was refused, and is dropped: ${error.message}`);
          return attempt.settle();
        }
        this.#log(`the answer of ${attempt} was not taken; it is told again: ${error.message}`);
      }
      await pause(pace, attempt.settled);
      pace = Math.min(pace * 2, PACE_MAX_MS);
    }
  }

  async #sendBeat(host, attempt, timeoutMs) {
    const { news } = attempt.context;
    const view = await host.post("heartbeat", attempt.named(news && `"details":${news}`), timeoutMs);
    if (attempt.context.news === news) attempt.context.news = undefined;
    return view;
  }

  async #keepBeating(attempt) {
    let leaseMs = attempt.context.task.lease_ms;
    let livesUntil = attempt.taken + leaseMs;
    let beatAt = attempt.taken + leaseMs / 3;
    for (;;) {
      await pause(beatAt - performance.now(), attempt.settled);
      if (attempt.settled.aborted) return;
      const asked = performance.now();
      try {
        if (asked >= livesUntil) throw new Refused(409, "lease-over", "no heartbeat got through in time");
        const view = await this.#sendBeat(this.#beats, attempt, Math.min(livesUntil - asked, leaseMs / 3));
        if (view.cancel) attempt.cancel("nobody waits for the outcome any more");
        // Without a lease it is to be answered later, and nothing is lost by silence.
        if (view.lease_ms === undefined) return;
        leaseMs = view.lease_ms;
        livesUntil = asked + leaseMs;
        beatAt = asked + leaseMs / 3;
      } catch (error) {
        if (attempt.settled.aborted) return;
        this.#log(`a heartbeat of ${attempt} was lost: ${error.message}`);
        if (error instanceof Refused && error.status === 409) {
          attempt.settle();
          return attempt.cancel("the lease is lost");
        }
        beatAt = Math.min(performance.now() + leaseMs / 10, livesUntil);
      }
    }
  }

  async #finish() {
    const { signal } = this.#graceOver;
    const timer = setTimeout(() => this.#graceOver.abort(), this.#graceMs);
    while (this.#attempts.size > 0 && !signal.aborted) await once(this.#ends, "end", { signal }).catch(() => {});
    clearTimeout(timer);
    for (const attempt of this.#attempts) {
      if (attempt.settled.aborted) continue;
      attempt.settle();
      attempt.cancel("the worker is stopped, and the task given back");
      this.#givenBack.push(this.#giveBack(attempt));
    }
    await Promise.all(this.#givenBack);
  }

  /** If there is no host to take it, the task goes on when its lease is over. */
  async #giveBack(attempt) {
    try {
      if (attempt.context.news) await this.#sendBeat(this.#answers, attempt, RELEASE_MS);
      await this.#answers.post("release", attempt.named(), RELEASE_MS);
    } catch (error) {
      this.#log(`${attempt} could not be given back: ${error.message}`);
    }
  }
}
