// The types of Backstitch's HTTP API. Made of docs/openapi.json, not by hand:
// cargo run -p backstitch -- internal openapi --typescript > docs/api.d.ts

/** One page of open tasks, in the order of their runs and calls. */
export type ActivityListView = {
  /** The tasks. */
  activities: ActivityView[];
  /** Pass it as `cursor` for the next page; absent on the last one. */
  next_cursor?: string | null;
};

/** A call that workers outside may take, or that one has. */
export type ActivityView = {
  /** Which attempt, 1 for the first. */
  attempt: number;
  /** When the attempt is over, RFC 3339. */
  deadline?: string | null;
  /** What the last heartbeat said. */
  heartbeat_details?: unknown;
  /** When its worker is taken for dead, RFC 3339. */
  leased_until?: string | null;
  /** The activity. */
  name: string;
  /** When it was offered, RFC 3339. */
  offered_at: string;
  /** The call. */
  op: number;
  /** The run. */
  run_id: string;
  /** `offered`, `leased`, `held` (the worker answers later), or `given-up` (nobody waits for it). */
  state: string;
  /** The queue. */
  task_queue: string;
  /** Who has it, as the worker calls itself. */
  worker?: string | null;
  /** Its workflow id. */
  workflow_id: string;
};

/** A task that was carried out: exactly one of `output` and `failure`. */
export type AnswerTask = {
  /** Why there is none. */
  failure?: null | TaskFailure;
  /** What the workflow gets. */
  output?: unknown;
  /** Which task. */
  token: string;
};

/** A typed value that a run says about itself. */
export type Attribute = {
  /** At most 1,024 bytes. */
  text: string;
} | {
  /** Finite. */
  number: number;
} | {
  /** Yes or no. */
  flag: boolean;
} | {
  /** Milliseconds since the epoch. */
  "time-ms": number;
};

/** What a run is found by under one name. */
export type AttributeValue = string | number | boolean | {
  /** RFC 3339. */
  time: string;
};

/** Body of `POST /v1/schedules/{name}/backfill`. */
export type BackfillSchedule = {
  /** The first time, in milliseconds since the epoch. */
  from_ms: number;
  /** What happens if a run is open; none: what the schedule says. */
  overlap?: null | Overlap;
  /** The last one, in milliseconds since the epoch. */
  to_ms: number;
};

/** Bytes that are no JSON. */
export type Component = Blob;

/** Body of `POST /v1/schedules`. */
export type CreateSchedule = {
  /** Unique in the tenant. */
  name: string;
  /** Why it is paused. */
  note?: string;
  /** Whether it is made paused. */
  paused?: boolean;
  /** What is started when. */
  spec: Spec;
};

/** Answer to a deploy. */
export type DeployedView = {
  /** Its size in bytes. */
  bytes: number;
  /** False if these very bytes were there already. */
  created: boolean;
  /** The component. */
  digest: Digest;
  /** `workflow` or `activity`. */
  kind: string;
  /** What it serves from now on. */
  names: NameView[];
  /** What its activities may reach and this host cannot do yet, for want of a secret. */
  warnings?: string[];
};

/** What serves a name now. */
export type DeploymentView = NameView & {
  /** Since when, RFC 3339 with milliseconds, UTC. */
  deployed_at: string;
  /** The component. */
  digest: Digest;
  /** `workflow` or `activity`. */
  kind: string;
  /** What the component's activities may reach, as it was deployed with; none: nothing. */
  manifest?: unknown;
};

/** Answer to `GET /v1/deployments`. */
export type DeploymentsView = {
  /** What serves which name now. */
  deployments: DeploymentView[];
};

/** SHA-256 of a component's bytes, in hexadecimal digits. */
export type Digest = string;

/** The guest and the ledger disagree: the first place where they do. */
export type Divergence = {
  /** The guest's frames at the guilty call, innermost first. */
  backtrace?: string | null;
  /** What the guest asked for or did now. */
  guest: string;
  /** What the ledger holds. */
  ledger: string;
  /** The command's number, or where the run should have ended. */
  op: number;
  /** The ledger row, where there is one. */
  seq?: number | null;
};

/** Nothing to say but that it is done: an object, so that there is room for more one day. */
export type Done = {};

/** Times at the same distance, counted from the epoch. */
export type Every = {
  /** The distance, in milliseconds. */
  every_ms: number;
  /** How long after the epoch the first one is, in milliseconds; less than the distance. */
  offset_ms?: number;
};

/** An ordinary error of an activity or a workflow. */
export type Failure = {
  /** How many attempts there were of the call that ended with it; absent: it is no call's. */
  attempts?: number;
  /** Stable, for programs. */
  code: string;
  /** Whatever the author attached. */
  details?: unknown;
  /** Whose doing. */
  kind: FailureKind;
  /** For people. */
  message: string;
  /** The next attempt is made no sooner than this, in milliseconds. */
  retry_after_ms?: number | null;
  /** Whether another attempt could succeed. */
  retryable: boolean;
};

/** Whose doing a failure is. */
export type FailureKind = "application" | "timeout" | "cancelled" | "terminated";

/** Why a run is parked, or cannot be led along its ledger. */
export type Fault = {
  /** The guest's frames, innermost first. */
  backtrace?: string | null;
  /** For programs. */
  kind: FaultKind;
  /** For people. */
  message: string;
};

/** What kind of fault, for programs. */
export type FaultKind = "panic" | "trap" | "fuel" | "memory" | "stack" | "limit" | "protocol" | "divergence" | "corrupt" | "component" | "host-lost" | "too-slow";

/** A new run from the first rows of another. */
export type ForkRun = {
  /** The last row that is taken. */
  at_seq: number;
  /** On the component that serves the workflow now, instead of the one that the run is pinned to. */
  deployed?: boolean;
  /** What the new run is called. None: made up. */
  workflow_id?: string | null;
};

/** How the host is. */
export type HealthView = {
  /** Activations since this host started. */
  activations: number;
  /** Activity attempts running now. */
  activities_running: number;
  /** Activity attempts started since this host started. */
  activities_started: number;
  /** What Postgres said last, if it does not take writes. */
  database?: string | null;
  /** This host. */
  host_id: string;
  /** Runs this host has in memory, and of those with a live guest. */
  runs_loaded: number;
  /** Runs of which the database has lost rows that were committed, since this host started. */
  runs_rewound: number;
  /** Runs taken over from other hosts since this host started. */
  runs_taken_over: number;
  /** Guests kept warm. */
  runs_warm: number;
  /** `ok` or `degraded`. */
  status: string;
  /** Version of this program. */
  version: string;
};

/** A sign of life. */
export type HeartbeatTask = {
  /** What the next attempt is told if this one fails; none: as before. */
  details?: unknown;
  /** Of which task. */
  token: string;
};

/** Answer to a heartbeat. */
export type HeartbeatView = {
  /** Nobody waits for the task any more: put away what is in hand. */
  cancel: boolean;
  /** How long the worker may be silent from now on, in milliseconds; absent: it will answer later. */
  lease_ms?: number | null;
};

/** The document. */
export type History = {
  /** When it closed. */
  closed_at?: string | null;
  /** What went in and came out. */
  data?: null | HistoryData;
  /** The component it is pinned to. Histories of before this format was made do not know it. */
  digest?: null | Digest;
  /** `FORMAT`. */
  format: string;
  /** Where its ledger ended when it closed. */
  head?: null | HistoryHead;
  /** The run. */
  run_id: string;
  /** When it was started, RFC 3339 with milliseconds, UTC. */
  started_at: string;
  /** What it waits for, and what is known about it. */
  state?: null | HistoryState;
  /** How it stands. */
  status?: null | RunStatus;
  /** Its ledger. */
  timeline?: HistoryRow[] | null;
  /** Which workflow. */
  workflow: string;
  /** What its starter called it. */
  workflow_id: string;
};

/** What went in and came out: JSON text. */
export type HistoryData = {
  /** Of a run that failed, was cancelled or was terminated. */
  failure?: string | null;
  /** Absent only if the ledger has lost its first row. */
  input?: string | null;
  /** Of a run that completed. */
  output?: string | null;
};

/** Where a ledger ends. */
export type HistoryHead = {
  /** The checksum of the last. */
  chain: string;
  /** How many rows it has. */
  rows: number;
};

/** A `Row` as a document keeps it. */
export type HistoryRow = {
  /** When it was recorded, in milliseconds since the epoch. */
  at_ms: number;
  /** Which attempt of an activity. */
  attempt?: number | null;
  /** The checksum over the row before and this one. */
  chain: string;
  /** Options and the like: JSON text. */
  detail?: string | null;
  /** What kind of row, as the number that is kept. */
  kind: number;
  /** Workflow, activity, signal or change. */
  name?: string | null;
  /** The command it is or belongs to. */
  op?: number | null;
  /** Input, output or failure: JSON text. */
  payload?: string | null;
  /** Its place. */
  seq: number;
};

/** What is known about a run besides its ledger. */
export type HistoryState = {
  /** Attributes for searches: JSON text. */
  attributes: string;
  /** Which row of its ledger is not what was written, and why that is known. */
  damage?: string | null;
  /** What it keeps of itself: JSON text. */
  entity?: string | null;
  /** Why it is parked. */
  fault?: null | Fault;
  /** Counts the runs of one workflow id. */
  generation: number;
  /** The run that started it. */
  parent_run_id?: string | null;
  /** Signals that came in and that nothing has awaited yet. */
  signals_kept: number;
  /** Open ops, in call order. */
  waits_for: WaitView[];
};

/** What happens to a start whose workflow id is taken by a run. */
export type IdReuse = "reject" | "use-existing" | "allow-closed";

/** One page of a ledger. */
export type LedgerView = {
  /** Pass it as `from_seq` for the next page; absent on the last one. */
  next_seq?: number | null;
  /** In ledger order. */
  rows: RowView[];
};

/** What a tenant may store from now on: all of it. */
export type LimitTenant = {
  /** The largest payload that is taken from clients, workers and activities; absent: 2 MiB, as for everybody. */
  payload_bytes_max?: number | null;
  /** Bytes of payloads out of row from which on no payload above 256 KiB is taken; absent: no bound. */
  stored_bytes_max?: number | null;
};

/** That a host is alive. */
export type LiveView = {
  /** `live`. */
  status: string;
};

/** A name that a component serves. */
export type NameView = {
  /** Workflow or activity. */
  name: string;
  /** Activities only. */
  task_queue?: string | null;
};

/** What becomes of a time when a run of the schedule is open. */
export type Overlap = "skip" | "buffer-one" | "buffer-all" | "cancel-other" | "terminate-other" | "allow-all";

/** Why the calendar starts nothing. */
export type PausedView = {
  /** Who paused it, and why. */
  note: string;
  /** Since when. */
  since: string;
};

/** What happens if a time comes too early or too late. */
export type Policy = {
  /** How late a time may be and still have its run, in milliseconds. */
  catch_up_ms?: number | null;
  /** If a run of an earlier time is open. */
  overlap?: Overlap;
  /** Whether a run that fails or times out pauses the schedule. */
  pause_on_failure?: boolean;
  /** How many runs the calendar starts; none: no bound. */
  remaining_starts?: number | null;
};

/** Asks for tasks. */
export type PollTasks = {
  /** How long the worker may be silent about each, in milliseconds; none: 30,000. */
  lease_ms?: number | null;
  /** At most so many, 1 to 1,000. */
  max?: number;
  /** Of which activities; none: of all. */
  names?: string[] | null;
  /** From which queue. */
  task_queue?: string;
  /** How long to wait for the first, in milliseconds, up to 60,000. */
  wait_ms?: number;
  /** What the worker calls itself, for people. */
  worker?: string;
};

/** A problem as it is sent. */
export type ProblemDocument = {
  /** Stable, for programs. */
  code: string;
  /** What happened, why, and what to do. */
  detail: string;
  /** Where the code is explained, relative to the host. */
  help?: string | null;
  /** `urn:uuid:` and the incident number under which the host's log has more. */
  instance?: string | null;
  /** The HTTP status. */
  status: number;
  /** The HTTP status in words. */
  title: string;
  /** `urn:backstitch:problem:` and the code. */
  type: string;
};

/** Answer to a query. */
export type QueryView = {
  /** The guest's answer. */
  output: unknown;
  /** What was asked. */
  query: string;
  /** Rows of the ledger that the answer takes into account. */
  rows: number;
  /** The run. */
  run_id: string;
};

/** That a host is ready for requests. */
export type ReadyView = {
  /** How far the machine's clock is ahead of the database's. */
  clock_skew_ms: number;
  /** This host. */
  host_id: string;
  /** How long ago the last heartbeat was sent that the database has taken. */
  lease_age_ms: number;
  /** How long its lease lasts, in milliseconds. */
  lease_ms: number;
  /** `ready`. */
  status: string;
  /** How long the writer has been at the statement that it is at. */
  writer_busy_ms: number;
};

/** Body of a cancel or terminate request. An empty body is one without a reason. */
export type ReasonBody = {
  /** Who asks and why; kept in the ledger. */
  reason?: string;
};

/** A start. */
export type RecentStartView = {
  /** Why there is no run. */
  error?: string | null;
  /** Its nominal time. */
  scheduled_at: string;
  /** When it was made. */
  started_at: string;
  /** What the run is called. */
  workflow_id: string;
};

/** Answer to the wish that what stands beside the ledgers be repaired: what became of some runs, and where to go on. */
export type RepairsView = {
  /** Those of them whose entity or attributes were missing or wrong, and are right now. */
  amended: number;
  /** Closed runs that were compared with their ledgers. */
  closed: number;
  /** Closed runs whose ledgers are damaged: nothing is made anew from those. */
  damaged: number;
  /** Closed runs that had timers or tasks left. */
  leftovers: number;
  /** The last run of these: `after` of the next request. Absent: there are no more. */
  next?: string | null;
  /** Open runs that were asked to make anew what follows from their ledgers. */
  runs: number;
};

/** Body of `PUT /v1/schedules/{name}`. */
export type ReplaceSchedule = {
  /** What is started when from now on. */
  spec: Spec;
  /** The revision of the spec that was changed, if it matters: none is replaced unseen then. */
  spec_revision?: string | null;
};

/** What came out of a replay. */
export type ReplayVerdict = {
  verdict: "identical";
} | {
  /** Where and how. */
  divergence: Divergence;
  verdict: "diverged";
} | {
  /** What happened. */
  fault: Fault;
  verdict: "faulted";
};

/** Answer to `replay`. */
export type ReplayView = ReplayVerdict & {
  /** Commands that the guest repeated. */
  commands: number;
  /** The component that was led along its ledger. */
  digest: Digest;
  /** Fuel used, about one unit for each wasm instruction. */
  fuel: number;
  /** Rows that were gone over. */
  rows: number;
  /** The run. */
  run_id: string;
};

/** A run that is to go on from an earlier row: it is stopped, and a new run of its workflow id begins there. A reset needs the row; a repair, of a run whose ledger is damaged, finds the last one before the damage itself. */
export type ResetRun = {
  /** On the component that serves the workflow now, instead of the one that the run is pinned to. */
  deployed?: boolean;
  /** Forget the signals that came after the row, instead of sending them to the new run. */
  drop_signals?: boolean;
  /** Who asks and why; kept with the run that is stopped. */
  reason?: string;
  /** The last row that is kept. */
  to_seq?: number | null;
};

/** One ledger row. */
export type RowView = {
  /** When it was recorded, RFC 3339 with milliseconds, UTC. */
  at: string;
  /** Which attempt of an activity. */
  attempt?: number | null;
  /** Options and the like. Of the start of a run without the seeds of its random numbers: exports have them. */
  detail?: unknown;
  /** What kind of row. */
  kind: string;
  /** Workflow, activity, signal or change. */
  name?: string | null;
  /** The command it is or belongs to. */
  op?: number | null;
  /** Input, output or failure. */
  payload?: unknown;
  /** Its place. */
  seq: number;
  /** Where the payload is, if it is larger than 256 KiB: it has a route of its own. */
  stored?: null | StoredView;
};

/** How many runs stand how. */
export type RunCountView = {
  /** Of each status that some of them have. */
  by_status: StatusCountView[];
  /** All that were asked for. */
  runs: number;
};

/** A run with what it waits for. */
export type RunDetailView = RunView & {
  /** Which row of its ledger is not what was written, and why that is known. */
  damage?: string | null;
  /** Its entity; absent if it never wrote to it. */
  entity?: unknown;
  /** Its input; absent only if the ledger has lost its first row, or what it said. */
  input?: unknown;
  /** Rows of its ledger. */
  rows: number;
  /** Signals that came in and that nothing has awaited yet. */
  signals_kept: number;
  /** On which terms it was started, and what it descends from, as row 0 of its ledger says; absent: on the usual ones. */
  start?: unknown;
  /** Open ops, in call order. */
  waits_for: WaitView[];
};

/** One page of a listing. */
export type RunListView = {
  /** Pass it as `cursor` for the next page; absent on the last one. */
  next_cursor?: string | null;
  /** Newest first. */
  runs: RunView[];
};

/** Where a run stands. `running`, `parked` and `paused` are open, the others closed for good. */
export type RunStatus = "running" | "parked" | "paused" | "completed" | "failed" | "cancelled" | "terminated" | "continued" | "timed-out";

/** A run. */
export type RunView = {
  /** What it is found by: an object of texts, numbers, `true`, `false` and times, which are RFC 3339 with milliseconds, UTC. Absent if there is nothing. */
  attributes?: unknown;
  /** When it closed. */
  closed_at?: string | null;
  /** The component it is pinned to. */
  digest: Digest;
  /** Its failure, if it failed, was cancelled or was terminated. */
  failure?: null | Failure;
  /** Why it is parked. */
  fault?: null | Fault;
  /** Counts the runs of one workflow id: continue-as-new adds one. */
  generation: number;
  /** Its result, if it completed. */
  output?: unknown;
  /** The run that started it. */
  parent_run_id?: string | null;
  /** Its identity. */
  run_id: string;
  /** When it was started, RFC 3339 with milliseconds, UTC. */
  started_at: string;
  /** Where it stands. */
  status: RunStatus;
  /** Which workflow. */
  workflow: string;
  /** The name its starter gave it; unique in the tenant. */
  workflow_id: string;
};

/** One page of a listing. */
export type ScheduleListView = {
  /** Pass it as `cursor` for the next page; absent on the last one. */
  next_cursor?: string | null;
  /** By name. */
  schedules: ScheduleView[];
};

/** A schedule. */
export type ScheduleView = {
  /** Backfills that are not finished. */
  backfills: number;
  /** When the schedule was made. */
  created_at: string;
  /** Starts that were refused. */
  failed: number;
  /** Times that came while no host was there, and were too late when one was. */
  missed: number;
  /** Unique in the tenant. */
  name: string;
  /** The next times, at most five. */
  next_times: string[];
  /** Set while the calendar starts nothing. */
  paused?: null | PausedView;
  /** The latest starts, oldest first. */
  recent: RecentStartView[];
  /** Starts that the calendar has left; absent: no bound. */
  remaining_starts?: number | null;
  /** Runs that are open, oldest first. */
  running: ScheduledRunView[];
  /** Times that had no run because another run was open. */
  skipped: number;
  /** What is started when. */
  spec: Spec;
  /** Names this spec: another one has another. */
  spec_revision: string;
  /** Runs that were started. */
  started: number;
  /** Times that wait for them to close. */
  waiting: number;
};

/** An open run of a schedule. */
export type ScheduledRunView = {
  /** Its nominal time. */
  scheduled_at: string;
  /** What it is called. */
  workflow_id: string;
};

/** A signal to be sent. */
export type SendSignal = {
  /** A second signal of the same id is dropped. */
  id?: string | null;
  /** What the guest waits for. */
  name: string;
  /** What it gets; the bytes are kept. Missing: `null`. */
  payload?: unknown;
};

/** Answers to many tasks. */
export type SettleTasks = {
  /** At most 1,000. */
  answers: AnswerTask[];
};

/** What became of one answer. */
export type SettledTask = {
  /** If it is not 200: stable, for programs. */
  code?: string | null;
  /** If it is not 200: for people. */
  detail?: string | null;
  /** 200: it is durable, now or from before. Otherwise as a request of its own would have ended. */
  status: number;
};

/** What became of many answers. */
export type SettledView = {
  /** In the order of the answers. */
  results: SettledTask[];
};

/** What a schedule starts, and when. */
export type Spec = {
  /** What happens if a time comes too early or too late. */
  policy?: Policy;
  /** What is started. */
  what: What;
  /** When. */
  when: When;
};

/** A run to be started. */
export type StartRun = {
  /** Its input; the bytes are kept. Missing: `null`. */
  input?: unknown;
  /** On which terms. */
  options?: StartTerms;
  /** What happens if the workflow id is taken. */
  reuse?: IdReuse;
  /** A signal for the run, whether it is started now or was there. */
  signal?: null | SendSignal;
  /** A deployed workflow's name. */
  workflow: string;
  /** Unique among the open runs of the tenant. None: made up. */
  workflow_id?: string | null;
};

/** On which terms a run is started. A start that is repeated keeps those of the first. */
export type StartTerms = {
  /** What the run is found by. */
  attributes?: { [name: string]: AttributeValue };
  /** The workflow begins so much later. It can be signalled and terminated meanwhile. */
  delay_ms?: number | null;
  /** Bound on this run and those that continue it as new, together. */
  execution_timeout_ms?: number | null;
  /** For people: shown with the run, never given to the workflow. */
  memo?: unknown;
  /** Whose activities get the next free place: 1 first, 5 last; none: 3. */
  priority?: number | null;
  /** Bound on this run, from its beginning; it closes as `timed-out`. */
  run_timeout_ms?: number | null;
};

/** Answer to a start. */
export type StartedView = RunView & {
  /** False if a run of this id, workflow and input was there already. */
  created: boolean;
};

/** How many runs have a status. */
export type StatusCountView = {
  /** How many. */
  runs: number;
  /** The status. */
  status: RunStatus;
};

/** A payload that is kept out of its row. */
export type StoredView = {
  /** How long the payload is. */
  bytes: number;
  /** Whether it is stored sealed. */
  sealed: boolean;
  /** SHA-256 of what is stored: of the payload itself, unless it is sealed. */
  sha256: Digest;
};

/** Why an attempt failed. */
export type TaskFailure = {
  /** Stable, for the workflow to match on. */
  code?: string;
  /** Whatever else the workflow should have. */
  details?: unknown;
  /** For people. */
  message?: string;
  /** The next attempt is made no sooner, in milliseconds; none: as the call's policy says. */
  retry_after_ms?: number | null;
  /** Whether another attempt could succeed. */
  retryable?: boolean;
};

/** A task: one attempt at one call. */
export type TaskView = {
  /** 1 for the first attempt. */
  attempt: number;
  /** When nobody waits for this attempt any more, RFC 3339 with milliseconds, UTC. */
  deadline?: string | null;
  /** What the last heartbeat of the attempts before said. */
  heartbeat_details?: unknown;
  /** The same for every attempt of one call, and for no other call. */
  idempotency_key: string;
  /** Its arguments. */
  input: unknown;
  /** How long the worker may be silent about it, in milliseconds. From the answer of the poll on. */
  lease_ms: number;
  /** The activity. */
  name: string;
  /** The number of the call. */
  op: number;
  /** The run that made the call. */
  run_id: string;
  /** The queue it came from. */
  task_queue: string;
  /** What to show with everything that is said about it. Opaque. */
  token: string;
  /** W3C trace context: the trace is the run's, the parent is the call's attempt. */
  traceparent: string;
  /** That run's workflow id. */
  workflow_id: string;
};

/** Answer to a poll. */
export type TasksView = {
  /** None, if there were none in time. */
  tasks: TaskView[];
};

/** What a tenant may store, and has stored. */
export type TenantView = {
  /** The largest payload that is taken from clients, workers and activities; absent: 2 MiB, as for everybody. */
  payload_bytes_max?: number | null;
  /** Bytes of payloads out of row. */
  stored_bytes: number;
  /** Bytes of payloads out of row from which on no payload above 256 KiB is taken; absent: no bound. */
  stored_bytes_max?: number | null;
};

/** The terms of each start. */
export type Terms = {
  /** What the run is found by, besides `schedule` and `scheduled-at`. */
  attributes?: { [name: string]: Attribute };
  /** What its entity begins as. */
  entity?: unknown;
  /** For people. */
  memo?: unknown;
  /** 1 is served first, 5 last. */
  priority?: number | null;
  /** Bound on the run, in milliseconds. */
  run_timeout_ms?: number | null;
};

/** Names a task and says nothing else. */
export type TokenBody = {
  /** Which task. */
  token: string;
};

/** Body of `POST /v1/schedules/{name}/trigger`. */
export type TriggerSchedule = {
  /** What happens if a run is open; none: what the schedule says. */
  overlap?: null | Overlap;
};

/** Answer to a trigger. */
export type TriggeredView = {
  /** What the run is called, if the overlap policy lets it start. */
  workflow_id: string;
};

/** Answer to an update. */
export type UpdateView = {
  /** Whether there is an answer yet. */
  answered: boolean;
  /** The workflow's error. */
  failure?: null | Failure;
  /** The answer, if it is not a failure. */
  output?: unknown;
  /** The run. */
  run_id: string;
  /** What the update is called: with it, the same update can be asked for again. */
  update_id: string;
};

/** One op that a run waits for. */
export type WaitView = {
  /** When it will be due: a timer's end, a retry's start. */
  due_at?: string | null;
  /** `activity`, `timer`, `signal` or `child`. */
  kind: string;
  /** The command's number. */
  op: number;
  /** For people: the activity with its queue and attempt, the timer's end, the signal's name … */
  what: string;
};

/** What a schedule starts. */
export type What = {
  /** What the workflow ids begin with; none: the schedule's name. */
  id_prefix?: string | null;
  /** Its input. Missing: `null`. */
  input?: unknown;
  /** On which terms. */
  terms?: Terms;
  /** A workflow's name. */
  workflow: string;
};

/** The times of all expressions and intervals together, each once. */
export type When = {
  /** Cron expressions of five fields. */
  cron?: string[];
  /** No time after, in milliseconds since the epoch. */
  end_at_ms?: number | null;
  /** Intervals. */
  every?: Every[];
  /** Each start is late by up to so many milliseconds, always by the same for the same time, and never beyond the next time. */
  jitter_ms?: number;
  /** No time before, in milliseconds since the epoch. */
  start_at_ms?: number | null;
  /** The IANA name of the zone of their times; none: UTC. */
  time_zone?: string | null;
};

/** What each operation is asked and answers. Answers other than these are problems. */
export interface Operations {
  /** Calls that workers outside may take, or have. */
  list_activities: {
    method: "GET";
    route: "/v1/activities";
    query: { task_queue?: string; run?: string; limit?: number; cursor?: string };
    header: { "backstitch-tenant"?: string };
    answers: { 200: ActivityListView };
  };
  /** Says what came of a task. The same answer counts once. */
  complete_task: {
    method: "POST";
    route: "/v1/activities:complete";
    header: { "backstitch-tenant"?: string };
    body: AnswerTask;
    answers: { 200: Done };
  };
  /** The task will be answered later, by whoever has its token. */
  defer_task: {
    method: "POST";
    route: "/v1/activities:defer";
    header: { "backstitch-tenant"?: string };
    body: TokenBody;
    answers: { 200: Done };
  };
  /** Says why a task failed. The same answer counts once. */
  fail_task: {
    method: "POST";
    route: "/v1/activities:fail";
    header: { "backstitch-tenant"?: string };
    body: AnswerTask;
    answers: { 200: Done };
  };
  /** Keeps a task. */
  heartbeat_task: {
    method: "POST";
    route: "/v1/activities:heartbeat";
    header: { "backstitch-tenant"?: string };
    body: HeartbeatTask;
    answers: { 200: HeartbeatView };
  };
  /** Waits for tasks. Without any in time, the answer is an empty list. */
  poll_tasks: {
    method: "POST";
    route: "/v1/activities:poll";
    header: { "backstitch-tenant"?: string };
    body: PollTasks;
    answers: { 200: TasksView };
  };
  /** Gives a task back: it goes to the next worker, and is no attempt. */
  release_task: {
    method: "POST";
    route: "/v1/activities:release";
    header: { "backstitch-tenant"?: string };
    body: TokenBody;
    answers: { 200: Done };
  };
  /** Says how many tasks ended, in one request. */
  settle_tasks: {
    method: "POST";
    route: "/v1/activities:settle";
    header: { "backstitch-tenant"?: string };
    body: SettleTasks;
    answers: { 200: SettledView };
  };
  /** What serves which name now. */
  list_deployments: {
    method: "GET";
    route: "/v1/deployments";
    header: { "if-none-match"?: string; "backstitch-tenant"?: string };
    answers: { 200: DeploymentsView; 304: undefined };
  };
  /** Deploys a component: it serves the names that it describes from now on. */
  deploy: {
    method: "POST";
    route: "/v1/deployments";
    header: { "backstitch-manifest"?: string; "backstitch-tenant"?: string };
    body: Component;
    answers: { 200: DeployedView; 201: DeployedView };
  };
  /** How the host is. Answered with 200 also when it is degraded. */
  health: {
    method: "GET";
    route: "/v1/health";
    answers: { 200: HealthView };
  };
  /** That the host is alive: it answers. Nothing else is asked, so an outage of Postgres gets no host restarted. */
  live: {
    method: "GET";
    route: "/v1/health/live";
    answers: { 200: LiveView };
  };
  /** Whether the host is ready: it has its lease, the database takes its heartbeats, and its writer gets through. */
  ready: {
    method: "GET";
    route: "/v1/health/ready";
    answers: { 200: ReadyView };
  };
  /** This document. */
  openapi: {
    method: "GET";
    route: "/v1/openapi.json";
    header: { "if-none-match"?: string };
    answers: { 200: unknown; 304: undefined };
  };
  /** The same to be read: one page. */
  reference: {
    method: "GET";
    route: "/v1/reference";
    header: { "if-none-match"?: string };
    answers: { 200: string; 304: undefined };
  };
  /** Has all that follows from the ledgers of some runs made anew: timers, tasks, messages of children, entities, attributes. To be repeated behind `next` as long as there is one. */
  repair_all: {
    method: "POST";
    route: "/v1/repairs";
    query: { after?: string };
    answers: { 202: RepairsView };
  };
  /** How many runs there are, by status. */
  count_runs: {
    method: "GET";
    route: "/v1/run-count";
    query: { status?: "running" | "parked" | "paused" | "completed" | "failed" | "cancelled" | "terminated" | "continued" | "timed-out"; workflow?: string; where?: string };
    header: { "backstitch-tenant"?: string };
    answers: { 200: RunCountView };
  };
  /** Runs, newest first. */
  list_runs: {
    method: "GET";
    route: "/v1/runs";
    query: { status?: "running" | "parked" | "paused" | "completed" | "failed" | "cancelled" | "terminated" | "continued" | "timed-out"; workflow?: string; where?: string; limit?: number; cursor?: string };
    header: { "backstitch-tenant"?: string };
    answers: { 200: RunListView };
  };
  /** Starts a run. */
  start_run: {
    method: "POST";
    route: "/v1/runs";
    header: { "idempotency-key"?: string; "backstitch-tenant"?: string };
    body: StartRun;
    answers: { 200: StartedView; 201: StartedView };
  };
  /** A run with what it waits for. */
  show_run: {
    method: "GET";
    route: "/v1/runs/{id}";
    path: { id: string };
    header: { "if-none-match"?: string; "backstitch-tenant"?: string };
    answers: { 200: RunDetailView; 304: undefined };
  };
  /** Gives a call this outcome, whoever is at it. */
  complete_activity: {
    method: "POST";
    route: "/v1/runs/{id}/activities/{op}/complete";
    path: { id: string; op: number };
    header: { "backstitch-tenant"?: string };
    body: unknown;
    answers: { 202: undefined };
  };
  /** Fails the attempt of a call that is next or under way, whoever is at it. */
  fail_activity: {
    method: "POST";
    route: "/v1/runs/{id}/activities/{op}/fail";
    path: { id: string; op: number };
    header: { "backstitch-tenant"?: string };
    body: TaskFailure;
    answers: { 202: undefined };
  };
  /** Makes the next attempt of a call now that waits for its time. */
  retry_activity: {
    method: "POST";
    route: "/v1/runs/{id}/activities/{op}/retry";
    path: { id: string; op: number };
    header: { "backstitch-tenant"?: string };
    answers: { 202: undefined };
  };
  /** Asks a run to stop. */
  cancel_run: {
    method: "POST";
    route: "/v1/runs/{id}/cancel";
    path: { id: string };
    query: { cancel_id?: string };
    header: { "backstitch-tenant"?: string };
    body: ReasonBody;
    answers: { 202: undefined };
  };
  /** The runs that a run has started, oldest first: all of them. */
  list_children: {
    method: "GET";
    route: "/v1/runs/{id}/children";
    path: { id: string };
    header: { "backstitch-tenant"?: string };
    answers: { 200: RunListView };
  };
  /** A new run from the first rows of another. */
  fork_run: {
    method: "POST";
    route: "/v1/runs/{id}/fork";
    path: { id: string };
    header: { "backstitch-tenant"?: string };
    body: ForkRun;
    answers: { 200: StartedView; 201: StartedView };
  };
  /** A run as one portable document. */
  export_run: {
    method: "GET";
    route: "/v1/runs/{id}/history";
    path: { id: string };
    query: { allow?: string };
    header: { "backstitch-tenant"?: string };
    answers: { 200: History };
  };
  /** A page of a run's ledger, or each row as it comes. */
  read_ledger: {
    method: "GET";
    route: "/v1/runs/{id}/ledger";
    path: { id: string };
    query: { from_seq?: number; limit?: number };
    header: { "last-event-id"?: string; "backstitch-tenant"?: string };
    answers: { 200: LedgerView | string };
  };
  /** The payload of a ledger's row, byte for byte as it was given. */
  read_payload: {
    method: "GET";
    route: "/v1/runs/{id}/ledger/{seq}/payload";
    path: { id: string; seq: number };
    header: { "backstitch-tenant"?: string };
    answers: { 200: unknown };
  };
  /** Holds a run until it is resumed. */
  pause_run: {
    method: "POST";
    route: "/v1/runs/{id}/pause";
    path: { id: string };
    header: { "backstitch-tenant"?: string };
    body: ReasonBody;
    answers: { 202: undefined };
  };
  /** Asks a run something. Writes nothing. */
  query_run: {
    method: "POST";
    route: "/v1/runs/{id}/query/{name}";
    path: { id: string; name: string };
    header: { "backstitch-tenant"?: string };
    body: unknown;
    answers: { 200: QueryView };
  };
  /** Lets a new run of the workflow id go on from the sound rows of a run whose ledger is damaged. */
  repair_run: {
    method: "POST";
    route: "/v1/runs/{id}/repair";
    path: { id: string };
    header: { "backstitch-tenant"?: string };
    body: ResetRun;
    answers: { 200: StartedView; 201: StartedView };
  };
  /** Leads a component along a run's ledger, and says where they disagree. Writes nothing. */
  replay_run: {
    method: "POST";
    route: "/v1/runs/{id}/replay";
    path: { id: string };
    header: { "backstitch-tenant"?: string };
    body: null | Component;
    answers: { 200: ReplayView };
  };
  /** Stops a run and lets a new one of its workflow id go on from an earlier row. */
  reset_run: {
    method: "POST";
    route: "/v1/runs/{id}/reset";
    path: { id: string };
    header: { "backstitch-tenant"?: string };
    body: ResetRun;
    answers: { 200: StartedView; 201: StartedView };
  };
  /** The run as soon as it has closed or is parked, or as it is when the wait is over. */
  await_result: {
    method: "GET";
    route: "/v1/runs/{id}/result";
    path: { id: string };
    query: { wait_ms?: number };
    header: { "backstitch-tenant"?: string };
    answers: { 200: RunView };
  };
  /** Lets a paused run go on. */
  resume_run: {
    method: "POST";
    route: "/v1/runs/{id}/resume";
    path: { id: string };
    header: { "backstitch-tenant"?: string };
    body: ReasonBody;
    answers: { 202: undefined };
  };
  /** Makes a parked run try again. */
  retry_run: {
    method: "POST";
    route: "/v1/runs/{id}/retry";
    path: { id: string };
    header: { "backstitch-tenant"?: string };
    answers: { 202: undefined };
  };
  /** Sends a signal to a run. */
  signal_run: {
    method: "POST";
    route: "/v1/runs/{id}/signals/{name}";
    path: { id: string; name: string };
    query: { signal_id?: string };
    header: { "backstitch-tenant"?: string };
    body: unknown;
    answers: { 202: undefined };
  };
  /** Stops a run without asking it. */
  terminate_run: {
    method: "POST";
    route: "/v1/runs/{id}/terminate";
    path: { id: string };
    header: { "backstitch-tenant"?: string };
    body: ReasonBody;
    answers: { 202: undefined };
  };
  /** Makes an update of a run, and waits for its answer. */
  update_run: {
    method: "POST";
    route: "/v1/runs/{id}/updates/{name}";
    path: { id: string; name: string };
    query: { update_id?: string; wait_ms?: number };
    header: { "backstitch-tenant"?: string };
    body: unknown;
    answers: { 200: UpdateView; 202: UpdateView };
  };
  /** Schedules, by name. */
  list_schedules: {
    method: "GET";
    route: "/v1/schedules";
    query: { limit?: number; cursor?: string };
    header: { "backstitch-tenant"?: string };
    answers: { 200: ScheduleListView };
  };
  /** Makes a schedule. */
  create_schedule: {
    method: "POST";
    route: "/v1/schedules";
    header: { "backstitch-tenant"?: string };
    body: CreateSchedule;
    answers: { 201: ScheduleView };
  };
  /** Forgets a schedule. Its runs go on. */
  delete_schedule: {
    method: "DELETE";
    route: "/v1/schedules/{name}";
    path: { name: string };
    header: { "backstitch-tenant"?: string };
    answers: { 204: undefined };
  };
  /** A schedule, with its next times and its open runs. */
  show_schedule: {
    method: "GET";
    route: "/v1/schedules/{name}";
    path: { name: string };
    header: { "backstitch-tenant"?: string };
    answers: { 200: ScheduleView };
  };
  /** Replaces what a schedule starts when. */
  replace_schedule: {
    method: "PUT";
    route: "/v1/schedules/{name}";
    path: { name: string };
    header: { "backstitch-tenant"?: string };
    body: ReplaceSchedule;
    answers: { 200: ScheduleView };
  };
  /** Asks for the runs of a period of the past. */
  backfill_schedule: {
    method: "POST";
    route: "/v1/schedules/{name}/backfill";
    path: { name: string };
    header: { "backstitch-tenant"?: string };
    body: BackfillSchedule;
    answers: { 202: undefined };
  };
  /** Lets the calendar start nothing. */
  pause_schedule: {
    method: "POST";
    route: "/v1/schedules/{name}/pause";
    path: { name: string };
    header: { "backstitch-tenant"?: string };
    body: ReasonBody;
    answers: { 200: ScheduleView };
  };
  /** Lets the calendar go on. */
  resume_schedule: {
    method: "POST";
    route: "/v1/schedules/{name}/resume";
    path: { name: string };
    header: { "backstitch-tenant"?: string };
    body: ReasonBody;
    answers: { 200: ScheduleView };
  };
  /** Asks for a run now. Each repeat counts. */
  trigger_schedule: {
    method: "POST";
    route: "/v1/schedules/{name}/trigger";
    path: { name: string };
    header: { "backstitch-tenant"?: string };
    body: TriggerSchedule;
    answers: { 202: TriggeredView };
  };
  /** What the tenant may store, and has stored. */
  show_tenant: {
    method: "GET";
    route: "/v1/tenant";
    header: { "backstitch-tenant"?: string };
    answers: { 200: TenantView };
  };
  /** Says what the tenant may store from now on: what is left out has no bound of its own any more. */
  limit_tenant: {
    method: "PUT";
    route: "/v1/tenant";
    header: { "backstitch-tenant"?: string };
    body: LimitTenant;
    answers: { 200: TenantView };
  };
}
