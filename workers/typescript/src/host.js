/**
 * Hosts, seen from a worker: what is posted to them, and what they say.
 *
 * Every verb may be repeated: the same answer counts once, and tasks of a poll that nobody heard come back
 * when their lease is over.
 */

import http from "node:http";
import https from "node:https";

/** Connections for one purpose: enough to keep many attempts alive, few enough to ask for politely. */
const SOCKETS_MAX = 16;
/** How long a host may take to let a poll go that is not wanted any more. */
const HANG_UP_MS = 5_000;

/** A host has understood what it was asked, and does not do it. */
export class Refused extends Error {
  constructor(status, code, detail) {
    super(`${detail} (${code}, HTTP ${status})`);
    this.name = "Refused";
    Object.assign(this, { status, code, detail });
  }

  /** Whether it would say the same again. */
  get final() {
    return this.status < 500 && this.status !== 408 && this.status !== 429;
  }
}

/** Nobody answers: whether the request took effect is unknown. */
export class Away extends Error {}

/**
 * Hosts of one database. Any of them takes what is said of a task, and every verb may be repeated: what one does not
 * answer is asked of the next, and whoever answers is kept to.
 */
export class Hosts {
  #hosts;
  #current = 0;

  constructor(urls, tenant) {
    this.#hosts = urls.map((url) => new Host(url, tenant));
    if (this.#hosts.length === 0) throw new TypeError("a worker needs the address of a host, such as http://127.0.0.1:7467");
  }

  /** What a host answers within `timeoutMs`; rejects with Refused or Away. `signal`: an answer is not wanted any more. */
  async post(verb, body, timeoutMs, signal) {
    const over = performance.now() + timeoutMs;
    for (let left = this.#hosts.length - 1; ; left -= 1) {
      const asked = this.#current;
      try {
        return await this.#hosts[asked].post(verb, body, Math.max(10, over - performance.now()), signal);
      } catch (error) {
        if (signal?.aborted || (error instanceof Refused && error.final)) throw error;
        // Unless somebody else has gone on already.
        if (this.#current === asked) this.#current = (asked + 1) % this.#hosts.length;
        if (left === 0 || performance.now() >= over) throw error;
      }
    }
  }

  /** Lets the connections go. */
  close() {
    for (const host of this.#hosts) host.close();
  }
}

export class Host {
  #base;
  #headers;
  #agent;
  #request;

  constructor(url, tenant) {
    const { protocol, href } = new URL(url);
    if (protocol !== "http:" && protocol !== "https:") {
      throw new TypeError(`${url} is no address of a host, such as http://127.0.0.1:7467`);
    }
    const kind = protocol === "https:" ? https : http;
    this.#base = `${href.replace(/\/+$/, "")}/v1/activities:`;
    this.#headers = { "content-type": "application/json", ...(tenant && { "backstitch-tenant": tenant }) };
    this.#request = kind.request;
    // Without noDelay the second half of a request waits for an acknowledgement of the first, 40 ms each time.
    this.#agent = new kind.Agent({ keepAlive: true, noDelay: true, maxSockets: SOCKETS_MAX });
  }

  /** What the host answers; rejects with Refused or Away. `signal`: an answer is not wanted any more. */
  async post(verb, body, timeoutMs, signal) {
    let status, answer;
    try {
      const reply = await this.#exchange(verb, body, timeoutMs, signal);
      status = reply.status;
      answer = JSON.parse(reply.text);
    } catch (error) {
      // A host closes connections on which nothing happens: then it has not seen the request.
      if (error.reused && !signal?.aborted) return this.post(verb, body, timeoutMs, signal);
      throw new Away(`no answer to ${verb}: ${error.message || error.code}`);
    }
    if (status === 200) return answer;
    throw new Refused(status, answer?.code ?? `http-${status}`, answer?.detail ?? "no reason was given");
  }

  #exchange(verb, body, timeoutMs, signal) {
    const bytes = Buffer.from(body);
    const headers = { ...this.#headers, "content-length": bytes.length };
    return new Promise((resolve, reject) => {
      const request = this.#request(this.#base + verb, { method: "POST", agent: this.#agent, headers });
      let timer = setTimeout(() => request.destroy(new Error("it takes too long")), timeoutMs);
      // What is on its way is still heard: a task in it would otherwise be lost until its lease is over.
      const hangUp = () => {
        request.socket?.end();
        clearTimeout(timer);
        timer = setTimeout(() => request.destroy(), HANG_UP_MS);
      };
      request.on("socket", () => signal?.aborted && hangUp());
      signal?.addEventListener("abort", hangUp);
      request.on("close", () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", hangUp);
      });
      request.on("error", (error) => {
        reject(Object.assign(error, { reused: request.reusedSocket && error.code === "ECONNRESET" }));
      });
      request.on("response", (response) => {
        const chunks = [];
        response.on("data", (chunk) => chunks.push(chunk));
        response.on("end", () => resolve({ status: response.statusCode, text: Buffer.concat(chunks).toString() }));
        response.on("error", reject);
      });
      request.end(bytes);
    });
  }

  /** Lets the connections go. */
  close() {
    this.#agent.destroy();
  }
}
