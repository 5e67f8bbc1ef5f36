// What the types accept and refuse. Checked by `npm run types`; never run.

import { Failure, LATER, Worker, currentContext } from "@backstitch/worker";

interface Mail {
  send_mail(to: string, text: string): string;
  count(n: number): Promise<number>;
}

const worker = new Worker({ url: "http://127.0.0.1:7467", taskQueue: "mail-tasks", concurrency: 16 });

worker.activities<Mail>({
  async send_mail(to, text) {
    const context = currentContext();
    context.heartbeat({ to: to.toUpperCase() });
    if (context.signal.aborted) throw new Failure("cancelled", "", { retryable: false, retryAfterMs: 5 });
    return `${text} ${context.attempt.toFixed()}`;
  },
  count: (n) => (n > 3 ? LATER : n),
});

// @ts-expect-error: one is missing
worker.activities<Mail>({ count: (n) => n });

worker.activities<Mail>({
  // @ts-expect-error: it is to give a string
  send_mail: (to, text) => to.length + text.length,
  // @ts-expect-error: it is to take a number
  count: (n: string) => n.length,
});

worker
  .activity("work", async (n: number) => n)
  .activity("checked", (n: number, s: string) => n + s.length, { parse: (input) => input as [number, string] })
  // @ts-expect-error: what is parsed is not what is taken
  .activity("unchecked", (n: number) => n, { parse: () => ["text"] as [string] });

// @ts-expect-error: there is no worker without a host
new Worker({ taskQueue: "mail-tasks" });

const stopped: Promise<void> = worker.run();
void stopped;
