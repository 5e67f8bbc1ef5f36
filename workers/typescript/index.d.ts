/** Carries out activities of Backstitch workflows in a JavaScript or TypeScript program of one's own. */

/** A function that carries out an activity: it gets the call's arguments, and gives the call's output. */
export type Activity = (...args: any[]) => unknown;

/** What a function for an activity of this type may give: its output now, soon, or by somebody else. */
export type Outcome<Output> = Awaited<Output> | typeof LATER | Promise<Awaited<Output> | typeof LATER>;

/** Functions for activities that an interface describes, each with the arguments and the output of its member. */
export type Implementation<Activities extends { [Name in keyof Activities]: Activity }> = {
  [Name in keyof Activities]: (...args: Parameters<Activities[Name]>) => Outcome<ReturnType<Activities[Name]>>;
};

/** What an activity returns that somebody else answers, who has {@link Context.token}. */
export const LATER: unique symbol;

export interface WorkerOptions {
  /** A host, such as `http://127.0.0.1:7467`, or several of one database: what one does not answer is asked of the next. */
  url: string | readonly string[];
  /** Unless given: `default`. */
  taskQueue?: string;
  /** Attempts at a time, 1 to 1,000. Unless given: 16. */
  concurrency?: number;
  /** How long the worker may be silent before others get its tasks. Unless given: 30,000. */
  leaseMs?: number;
  /** How long attempts may go on when the worker is stopped. Unless given: 10,000. */
  graceMs?: number;
  /** What the worker calls itself, for people. */
  name?: string;
  /** Whose tasks. */
  tenant?: string;
  /** Where lines for people go. Unless given: `console.warn`. */
  log?: (line: string) => void;
}

/**
 * Carries out activities of one task queue.
 *
 * - Heartbeats go out by themselves, three in each lease. An attempt whose lease is lost all the same is never
 *   answered: somebody else may have it. Its `signal` is aborted.
 * - What an attempt gave is told until a host takes it or refuses it, as long as the lease lives.
 * - What it refuses: exactly-once. A worker that dies may have had its effect; the same call is then made again
 *   under the same {@link Context.idempotencyKey}.
 */
export class Worker {
  constructor(options: WorkerOptions);

  /**
   * Registers one activity. Too few arguments, or a `parse` that throws, fail the attempt for good, as `bad-input`.
   *
   * @param options.parse checks the arguments, and may convert them; a schema's `parse` fits.
   */
  activity<Args extends any[]>(
    name: string,
    run: (...args: Args) => unknown,
    options?: { parse?: (input: unknown) => Args | Promise<Args> },
  ): this;

  /** Registers the functions of an object: `worker.activities<Mail>({ async send_mail(to, text) { … } })`. */
  activities<Activities extends { [Name in keyof Activities]: Activity }>(
    functions: Implementation<Activities>,
  ): this;

  /**
   * Works until SIGTERM, SIGINT or {@link stop}: then there are no new tasks; those under way get their grace, and
   * are then given back, which is no attempt. If a signal stopped it and attempts that were given back do not
   * end, the process exits a second later. Rejects with {@link Refused} if the host refuses the polls themselves;
   * a host that is away is waited for.
   */
  run(): Promise<void>;

  /** Ends {@link run}; a second time: without grace. */
  stop(): void;
}

export interface FailureOptions {
  /** Whether another attempt may succeed. Unless given: true. */
  retryable?: boolean;
  /** The next attempt is made no sooner, whatever the call's policy says. */
  retryAfterMs?: number;
  /** Whatever else the workflow should have, as JSON. */
  details?: unknown;
  cause?: unknown;
}

/** How an attempt fails. Any other error is one with its name as its code, and may be tried again. */
export class Failure extends Error {
  /** @param code stable, for the workflow to match on @param message for people */
  constructor(code: string, message?: string, options?: FailureOptions);
  code: string;
  retryable: boolean;
  retryAfterMs?: number;
  details?: unknown;
}

/** A host has understood what it was asked, and does not do it. */
export class Refused extends Error {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  /** Whether it would say the same again. */
  get final(): boolean;
}

/** The context of the attempt that this is called in, after any number of awaits. Throws outside of one. */
export function currentContext(): Context;

/** What an attempt is told, and can say while it runs. */
export interface Context {
  /** The same for every attempt of one call, and for no other call. */
  readonly idempotencyKey: string;
  /** 1 for the first. What is given back does not count; what is lost does. */
  readonly attempt: number;
  /** What the attempts before this one said last. */
  readonly heartbeatDetails: unknown;
  /** Aborted when nobody waits for the outcome any more, at least not from here. */
  readonly signal: AbortSignal;
  /** What whoever answers later has to show. */
  readonly token: string;
  /** W3C trace context of the attempt. */
  readonly traceparent: string;
  /** When nobody waits for this attempt any more, RFC 3339, if there is such a time. */
  readonly deadline?: string;
  readonly activity: string;
  readonly taskQueue: string;
  readonly runId: string;
  readonly workflowId: string;
  /** The number of the call in its run. */
  readonly op: number;
  /** Everything that the host says of the task. */
  readonly task: Readonly<Record<string, unknown>>;
  /**
   * Tells how far it is: the next attempt hears of it if this one fails or is lost. It goes with the next heartbeat,
   * which is at most a third of the lease away; before a failure, and when the task is given back.
   */
  heartbeat(details: unknown): void;
}
