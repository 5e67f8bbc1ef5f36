//! Every bound of the system, in one place, each with the reason for its size.
//!
//! A guest that meets a bound of its own run is parked; a client that meets one is told which.
//! Nothing here may be reached by the well-behaved: figures are generous by an order of magnitude.

/// One payload: an input, an output, a signal. Larger ones would make every page of a history and
/// every group commit unpredictable; they belong in a store, with a reference in the payload.
pub const PAYLOAD_BYTES_MAX: usize = 2 << 20;

/// A payload that is kept in its row. A larger one would make whatever reads the row read it too: the row has
/// a reference, and the payload a place of its own.
pub const PAYLOAD_INLINE_BYTES_MAX: usize = 256 << 10;

/// A part of a payload that is kept out of row: what is written, read and sealed at once.
pub const PAYLOAD_PART_BYTES: usize = 256 << 10;

/// Nesting of a payload. Postgres' parser recurses, so does nearly every client's.
pub const JSON_DEPTH_MAX: usize = 128;

/// Names of workflows, activities, queues, signals, changes, and ids given by users. Fits an index
/// entry together with the rest of its key.
pub const NAME_BYTES_MAX: usize = 256;

/// A failure's code: for programs to match on.
pub const CODE_BYTES_MAX: usize = 128;

/// A failure's or fault's message: for people to read; a longer one is cut.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// A trap's backtrace, as text: the innermost frames tell the story.
pub const BACKTRACE_BYTES_MAX: usize = 16 << 10;

/// Commands that a guest may give between two events. Ten times the widest fan-out that is good for
/// anyone; a wider one is a tree of children. Counted from event to event, as fuel is, so that the
/// size of a batch cannot change who is parked; a whole activation is bounded by what a run may hold.
pub const ACTIVATION_COMMANDS_MAX: usize = 10_000;

/// Bytes of commands that a guest may give between two events: they are committed in one statement.
pub const ACTIVATION_BYTES_MAX: usize = 16 << 20;

/// Rows of one run's ledger: beyond it, replay is no longer a matter of milliseconds. A run that
/// needs more continues as new.
pub const RUN_ROWS_MAX: u32 = 200_000;

/// Bytes of payload in one run's ledger: a replay holds them in memory.
pub const RUN_BYTES_MAX: u64 = 256 << 20;

/// Changes of code that one run may ask about: each answer is remembered.
pub const RUN_CHANGES_MAX: usize = 10_000;

/// A run's entity, as text: all of it is written whenever some of it has changed, and held by the
/// guest's host. A larger one belongs in a store. Part of the [rules](crate::rules), as the next one.
pub const ENTITY_BYTES_MAX: usize = 256 << 10;

/// Names of a path into an entity.
pub const ENTITY_PATH_NAMES_MAX: usize = 32;

/// Attributes of one run: each is a row with an index entry.
pub const ATTRIBUTES_MAX: usize = 64;

/// A text among the attributes. Fits an index entry together with the rest of its key.
pub const ATTRIBUTE_BYTES_MAX: usize = 1_024;

/// The memo of a start: it is shown with the run, never given to the guest.
pub const MEMO_BYTES_MAX: usize = 64 << 10;

/// The end of the year 9999, in milliseconds since the epoch: what RFC 3339 can write.
pub const TIME_MS_MAX: u64 = 253_402_300_799_999;

/// Parents above a run: a tree of workflows that is deeper has lost its way.
pub const RUN_DEPTH_MAX: u32 = 32;

/// Open children of one run: each is a run that somebody has to stop when it closes.
pub const CHILDREN_OPEN_MAX: usize = 10_000;

/// Signals kept for waits that have not been made yet. Whoever appends a signal asks first: once a
/// row, it is delivered.
pub const SIGNALS_BUFFERED_MAX: usize = 10_000;

/// Ids of messages that a run which continues as new passes on, the latest: whoever repeats a message does so within
/// minutes, and all of them are in row 0 of each run that follows.
pub const HEARD_IDS_MAX: usize = 1_000;

/// Messages that wait for one run. Whoever sends faster than the run reads is told to wait, before the database is full
/// of it.
pub const INBOX_ITEMS_MAX: u32 = 10_000;
/// Messages that a host cannot read and leaves out of its checks: beyond so many it finds them once more.
pub const UNREADABLE_ITEMS_MAX: usize = 1_000;
/// Bytes of messages that one check of the inbox brings: what one statement writes.
pub const INBOX_CHECK_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// Room beyond [`INBOX_ITEMS_MAX`] for what ends such a state: cancel, terminate, pause, resume, retry.
pub const INBOX_REQUESTS_MAX: u32 = 100;

/// Generations of one workflow id that are gone through: by a message after a run that continues as new faster than it
/// comes, by an update back to where it was received, and by who looks whether those before have unread messages. A run
/// that continues as new every few milliseconds takes a second for so many.
pub const GENERATIONS_FOLLOWED_MAX: u32 = 100;

/// How often a start is decided anew because another under the same workflow id was faster: each time, one has got through.
pub const STARTS_TRIED_MAX: usize = 32;

/// Sources of random numbers of one run: a fork of a fork of a fork has one for each cut, and all of them are in
/// its first row. One that is cut more often than this goes on drawing as the last.
pub const RANDOM_SOURCES_MAX: usize = 100;

/// Longest durable sleep: a hundred years, leap days included.
pub const SLEEP_MS_MAX: u64 = 36_525 * 24 * 3600 * 1000;

/// Attempts of one activity that can be counted; also what "no limit" means.
pub const ATTEMPTS_MAX: u32 = i32::MAX as u32;

/// Fuel between two events, of runs under the [current rules](crate::Rules): some tens of milliseconds of pure
/// computing, and a second where every step waits for memory. Refilled at each delivery, so that the size of a
/// batch cannot change who traps. Another number is another rule.
pub const FUEL_PER_EVENT: u64 = 250_000_000;

/// Processor time of a guest between two events, in milliseconds: what fuel does not see. Fuel allows a
/// fraction of it, so that whoever meets this bound has found work that costs none.
pub const EVENT_MS_MAX: u64 = 10_000;

/// How many times [`EVENT_MS_MAX`] a guest may compute in one activation: a replay has many events, and their
/// sum must end too.
pub const ACTIVATION_EVENTS_LONG_MAX: u32 = 60;

/// Linear memory of one workflow instance.
pub const WORKFLOW_MEMORY_BYTES_MAX: usize = 64 << 20;

/// Linear memory of one activity instance.
pub const ACTIVITY_MEMORY_BYTES_MAX: usize = 256 << 20;

/// Memory of a machine that does not say how much it has: what the smallest that anybody would choose has.
pub const MACHINE_MEMORY_BYTES_DEFAULT: u64 = 2 << 30;

/// Elements of one table: function pointers of a guest, with room for large ones.
pub const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Linear memories of one component: a Rust, C or JavaScript guest has one, a Python one shares one among its
/// libraries. A slot of the pool of instances has as many, so that whoever has a slot has room.
pub const MEMORIES_MAX: usize = 2;
/// Tables of one component, and of a slot: its own, and one through which `wit-component` links it.
pub const TABLES_MAX: usize = 4;
/// Core instances of one component, and of a slot: a Python guest has one for each of its libraries.
pub const CORE_INSTANCES_MAX: usize = 64;

/// Wasm stack of a guest: a thousand frames of ordinary code.
pub const WASM_STACK_BYTES: usize = 512 << 10;

/// Data that one host call may lift out of a guest, in bytes as Wasmtime counts them.
pub const HOSTCALL_BYTES_MAX: usize = 8 << 20;

/// Fuel that a host call costs, besides one unit for each byte that the guest hands over: about the
/// time it takes, so that a loop of calls runs dry as soon as a loop of instructions does. Part of the
/// [rules](crate::rules).
pub const HOSTCALL_FUEL: u64 = 400;

/// The same under the first rules.
pub const HOSTCALL_FUEL_FIRST: u64 = 100;

/// Fuel of each part that is handed over one by one: an element of a list, a text among options.
pub const HOSTCALL_PART_FUEL: u64 = 50;

/// Frames of a trap's backtrace: the innermost ones tell the story.
pub const BACKTRACE_FRAMES_MAX: usize = 64;

/// Handles (streams, pollables, descriptors) that one guest holds at once: each is host memory.
pub const RESOURCES_MAX: usize = 1_000;

/// Log lines of one activation that are kept; the rest is counted and dropped.
pub const LOG_LINES_PER_ACTIVATION_MAX: usize = 1_000;
/// Bytes of one log line; the rest is cut.
pub const LOG_LINE_BYTES_MAX: usize = 8 << 10;

/// A component file. A guest with an embedded JavaScript or Python runtime is 10 to 40 MiB.
pub const COMPONENT_BYTES_MAX: usize = 64 << 20;
/// Functions of a component, over all its modules.
pub const COMPONENT_FUNCTIONS_MAX: u32 = 200_000;
/// Modules of a component: one for each of its core instances, which are as many at most.
pub const CORE_MODULES_MAX: u32 = 64;
/// Types of a component, over all its modules: toolchains emit some hundred for each.
pub const COMPONENT_TYPES_MAX: u32 = 50_000;
/// Imports of a component, over all its modules: libraries that are linked at run time import thousands.
pub const COMPONENT_IMPORTS_MAX: u32 = 100_000;
/// Exports of a component, over all its modules: see [`COMPONENT_IMPORTS_MAX`].
pub const COMPONENT_EXPORTS_MAX: u32 = 100_000;
/// Globals of a component, over all its modules: each has a place in every instance.
pub const COMPONENT_GLOBALS_MAX: u32 = 100_000;
/// Data and element segments of a component: the snapshot of an interpreter has ten thousand.
pub const COMPONENT_SEGMENTS_MAX: u32 = 100_000;
/// Aliases, canonical functions and instances by which a component links its modules: a few for each import.
pub const COMPONENT_ITEMS_MAX: u32 = 100_000;
/// Custom sections of a component: names, producers, debug information.
pub const CUSTOM_SECTIONS_MAX: u32 = 1_000;
/// Parameters, or results, of one function type. A branch table checks all of them for each of its targets, so this
/// bounds what one byte can cost.
pub const FUNCTION_PARAMS_MAX: u32 = 128;
/// Locals of one function: what the largest loop of an interpreter has, many times over.
pub const FUNCTION_LOCALS_MAX: u32 = 20_000;
/// Code of one function: compilers take more than linear time for it.
pub const FUNCTION_BYTES_MAX: u32 = 2 << 20;
/// Name of one function or module in the name section: a backtrace repeats it for each of its frames.
pub const SYMBOL_BYTES_MAX: u32 = 64 << 10;
/// Names that one component may describe.
pub const COMPONENT_NAMES_MAX: usize = 1_000;

/// Time for looking at a component before it is compiled, in milliseconds: the largest that a toolchain makes takes
/// one of its seconds.
pub const ADMIT_MS_MAX: u64 = 30_000;
/// Memory of the process that compiles a component.
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 4 << 30;
/// Time of that process, in milliseconds.
pub const COMPILE_MS_MAX: u64 = 120_000;

/// Time of that process for the component's own description of itself, in milliseconds.
pub const DESCRIBE_MS_MAX: u64 = 10_000;
/// Descriptors of that process: its three, and one for the image of each linear memory.
pub const COMPILE_DESCRIPTORS_MAX: u64 = 32;
/// Niceness of that process. What it computes is never urgent; with more, it would starve on a busy machine and be
/// taken for a compile bomb.
pub const COMPILE_NICENESS: i32 = 5;
/// What that process says of a component, but for machine code and the description: names of imports, mostly.
pub const VERDICT_BYTES_MAX: usize = 8 << 20;
/// A component's description of itself, as that process passes it on: what one host call may carry, as JSON.
pub const DESCRIPTION_BYTES_MAX: usize = 64 << 20;
/// Components compiled at once for runs, and as many for those who deploy: each compilation uses every core and up to
/// 4 GiB. Runs that need a component do not wait for strangers' deployments.
pub const COMPILES_RUNNING_MAX: usize = 1;
/// Components whose bytes wait for their compilation, for runs: each is up to 64 MiB in memory.
pub const COMPILES_WAITING_MAX: usize = 4;
/// Deployments, and replays of components that are not deployed, that one host works on or holds waiting. Each has up
/// to 64 MiB of memory, and may take minutes; who comes then is told to come again.
pub const DEPLOYMENTS_OPEN_MAX: usize = 16;
/// Machine code of one component: some ten times the largest that a toolchain makes of one.
pub const ARTEFACT_BYTES_MAX: usize = 512 << 20;
/// Files of compiled code that are kept, three for each component; the oldest go, and are compiled again when needed.
pub const CACHE_FILES_MAX: usize = 3_000;

/// Workflow instances kept warm in one host. The kernel's `vm.max_map_count` caps resident instances
/// near 10,000; the others are replayed when something happens to them.
pub const WARM_RUNS_MAX: usize = 5_000;

/// How long the calls of one activation may be carried out on the thread of its guest, which other
/// guests wait for. A thousand small calls fit.
pub const CALLS_AT_ONCE_MS: u64 = 10;
/// Activity attempts running at once in one host.
pub const ACTIVITIES_RUNNING_MAX: usize = 256;

/// One attempt of an in-host activity whose author set no start-to-close bound.
pub const ACTIVITY_MS_DEFAULT: u64 = 60_000;

/// Tasks that one poll of a worker takes: what one process can have under way, many times over.
pub const TASKS_POLLED_MAX: u32 = 1_000;
/// Names of activities in one poll.
pub const TASK_NAMES_MAX: usize = 1_000;
/// Longest wait of a poll, in milliseconds: shorter, by enough for an answer, than the minute after which proxies
/// take a connection for dead.
pub const TASK_WAIT_MS_MAX: u64 = 50_000;
/// How long a worker that says nothing is believed to live, in milliseconds, if it does not say.
pub const TASK_LEASE_MS: u64 = 30_000;
/// Shortest lease: a heartbeat has to get through in a third of it.
pub const TASK_LEASE_MS_MIN: u64 = 100;
/// Longest lease. Whoever needs longer has heartbeats, or answers later.
pub const TASK_LEASE_MS_MAX: u64 = 3_600_000;
/// Answers to tasks in one request.
pub const TASKS_SETTLED_MAX: usize = 1_000;

/// How long a poll that has tasks already waits for those that are reserved for it and being committed, in
/// milliseconds: longer than a commit takes.
pub const RESERVED_WAIT_MS: u64 = 100;
/// How long a poller is expected back after its poll was answered, in milliseconds: a round trip within one data
/// centre, to a worker that has a thousand tasks to begin first.
pub const POLLER_GRACE_MS: u64 = 50;
/// Workers of which a host remembers whether they come back in time. One that is forgotten is not expected back.
pub const WORKERS_REMEMBERED_MAX: usize = 1_024;
/// Leases of which a host remembers which poller has them. An answer under a forgotten one makes no room ahead of time.
pub const LEASES_REMEMBERED_MAX: usize = 16_384;
/// Kinds of pollers of which a host remembers that the database had nothing for them. What is forgotten is checked
/// again.
pub const EMPTY_CHECKS_MAX: usize = 1_024;
/// Counters of offers in one host. Queues share them; a needless check of the database is all that comes of it.
pub const OFFER_COUNTERS: usize = 256;
/// A deployment's manifest, as JSON: it travels in a header, and every host holds those that serve.
pub const MANIFEST_BYTES_MAX: usize = 16 << 10;
/// Places that one manifest lets its activities reach: each request is compared with all of them.
pub const EGRESS_RULES_MAX: usize = 64;
/// Headers that one of those places is sent.
pub const EGRESS_HEADERS_MAX: usize = 16;
/// One secret: a key or a token. It has to fit a header.
pub const SECRET_BYTES_MAX: usize = 8 << 10;

/// HTTP requests that one attempt may make, those that are refused included: one that needs more asks for
/// pages, or is a loop.
pub const HTTP_REQUESTS_PER_ATTEMPT_MAX: u32 = 1_000;
/// HTTP requests of one attempt under way at once, the reading of their answers included.
pub const HTTP_REQUESTS_OPEN_PER_ATTEMPT_MAX: usize = 16;
/// HTTP requests of one host under way at once: each is a socket and its buffers. More wait for their turn.
pub const HTTP_REQUESTS_OPEN_MAX: usize = 512;
/// Names looked up at once in one host: the system's resolver holds a thread for each.
pub const LOOKUPS_RUNNING_MAX: usize = 32;
/// Addresses of one name that are tried before it is given up.
pub const ADDRESSES_TRIED_MAX: usize = 8;
/// From the turn of an HTTP request until there is a connection, TLS included, in milliseconds. A service
/// that takes longer is away.
pub const HTTP_CONNECT_MS_MAX: u64 = 10_000;
/// The body of one HTTP request.
pub const HTTP_REQUEST_BYTES_MAX: u64 = 16 << 20;
/// The body of one HTTP response: its activity holds it in memory, and may have 256 MiB of that.
pub const HTTP_RESPONSE_BYTES_MAX: u64 = 64 << 20;
/// Bodies of all HTTP requests of one attempt together, and of all responses: a thousand large ones are a
/// transfer, and no step of a workflow.
pub const HTTP_BYTES_PER_ATTEMPT_MAX: u64 = 256 << 20;
/// What a guest may write of an HTTP request's body at once: so much of each is held until it is sent.
pub const HTTP_WRITE_BYTES_MAX: usize = 64 << 10;
/// Headers of one HTTP request as Wasmtime counts them: their bytes, and what it takes to hold them.
pub const HTTP_REQUEST_HEADER_BYTES_MAX: usize = 64 << 10;
/// The head of one HTTP response: status and headers. What one more read brings may go beyond it.
pub const HTTP_RESPONSE_HEADER_BYTES_MAX: usize = 64 << 10;
/// Headers of one HTTP response.
pub const HTTP_RESPONSE_HEADERS_MAX: usize = 128;

/// Rows of a run, the latest, among which an answer to a task is looked for that a worker gives a second time.
pub const OUTCOME_ROWS_MAX: i64 = 10_000;

/// Connections of clients to one host: each is a file, and a buffer for what comes in.
pub const API_CONNECTIONS_MAX: usize = 8_192;
/// Connections of one peer: as many as there may be requests. Whoever has these leaves as many to the others.
pub const API_CONNECTIONS_PER_PEER_MAX: usize = 4_096;
/// From the first byte of a request's head to its last, in milliseconds: a head is one packet, or a few.
pub const API_HEAD_MS_MAX: u64 = 10_000;
/// How long a connection may have no request under way, in milliseconds: longer than clients and proxies
/// commonly keep one, so that they are the ones who close it.
pub const API_IDLE_MS_MAX: u64 = 120_000;
/// How long a client may take nothing of what it is sent, in milliseconds. The system's buffers are full by then.
pub const API_WRITE_MS_MAX: u64 = 30_000;
/// What of a request a connection holds before somebody reads it: a head with a manifest in it has a quarter of it.
pub const API_BUFFER_BYTES_MAX: usize = 64 << 10;

/// What a heartbeat says: it is kept in memory while the attempt runs and goes into the ledger with its
/// failure, so it is a place to go on from, not the work done so far.
pub const HEARTBEAT_BYTES_MAX: usize = 64 << 10;

/// Runs' contributions that are committed in one statement.
pub const BATCH_APPENDS_MAX: usize = 1_000;
/// Bytes of payload in one statement: Postgres' message limit is 1 GiB, our memory is not.
pub const BATCH_BYTES_MAX: usize = 32 << 20;
/// Longest wait of the writer for company, in microseconds: a fraction of any commit.
pub const LINGER_US_MAX: u64 = 300;
/// How long a writer is idle before it looks after its connection, in milliseconds: a database that came back without
/// its last commits is noticed within it, also by a host that has nothing to write.
pub const WRITER_IDLE_MS: u64 = 1_000;
/// Runs whose lost appends the writer remembers: more than can be on their way to it, twice over.
pub const GAP_RUNS_MAX: usize = 10_000;
/// Appends that wait for locks which others hold, and those behind them: so many again as may wait for the writer, and
/// then it takes no more.
pub const APPENDS_ASIDE_MAX: usize = 4_096;
/// Appends that wait for the writer; a full queue slows the host down instead of growing.
pub const WRITER_QUEUE_MAX: usize = 4_096;

/// Timers, inbox items and runs that one claim takes: long enough to be cheap, short enough to
/// spread over hosts.
pub const CLAIM_ROWS_MAX: i64 = 500;

/// Small ledgers of a takeover that are read in one query: enough to be cheap.
pub const LEDGERS_READ_MAX: usize = 32;
/// Rows of a ledger that is read together with others: nearly every run that waits has fewer.
pub const LEDGER_ROWS_SMALL: u32 = 64;
/// Bytes of one: [`LEDGERS_READ_MAX`] of them are held at once, for each of [`LOADS_RUNNING_MAX`] readers.
pub const LEDGER_BYTES_SMALL: usize = 64 << 10;
/// Bytes of a larger ledger that are read at once.
pub const LEDGER_PAGE_BYTES: usize = 1 << 20;
/// What a row takes in memory besides its texts, about: a ledger of 200,000 small rows is no small ledger.
pub const ROW_BYTES: usize = 256;
/// Readers of ledgers at once in a takeover: each has a connection of the pool while it asks.
pub const LOADS_RUNNING_MAX: usize = 4;
/// Bytes of whole ledgers in one host, twice: of runs that are being loaded, from the first row read until their guests
/// have replayed them; and of those that clients wait for (exports, queries, forks, what a run waits for), until
/// the last of it is written to them. The largest ledger fits, with all its rows, and a second one while the first is
/// replayed. A host with little memory has less.
pub const LEDGERS_BYTES_MAX: usize = 640 << 20;
/// How long a host tries to make a component ready that it could not make ready for a reason of its own (no memory, no
/// process), in milliseconds, before the runs that wait for it are parked.
pub const COMPONENT_LOAD_MS_MAX: u64 = 30_000;
/// Hosts lost over one run before it is parked: the first two may have died of anything, the third had it on trial, alone.
pub const HOSTS_LOST_MAX: u16 = 3;
/// How long after a host was lost guests begin behind their first rows, in milliseconds: long enough that whoever repeats a
/// start does it in this time.
pub const HOST_LOST_MS: u64 = 600_000;
/// How long a host lives before it puts runs on trial, in milliseconds: a host that dies sooner, as one of a fleet that is
/// killed again and again, dies of something else.
pub const TRIALS_AFTER_MS: u64 = 2_000;
/// How long an attempt of an activity is on trial, in milliseconds: what has not killed its host by then is none that
/// does so at once, and others wait for their turn.
pub const TRIAL_MS_MAX: u64 = 10_000;
/// How long news of runs that went on are gathered, in milliseconds, before they are written down in one statement.
pub const TRIAL_NEWS_MS: u64 = 100;

/// Messages and timers that wait for one run while it is loaded: the others stay in the database and come again.
pub const ARRIVALS_WAITING_MAX: usize = 16;
/// The payload of a message that waits in memory for a run to be loaded; a larger one is read again.
pub const ARRIVAL_BYTES_MAX: usize = 4 << 10;

/// Clients' small ledgers and pages of ledgers held at once.
pub const READINGS_MAX: usize = 64;
/// Bytes of a ledger's page that a client gets in one answer.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// How long a host may be silent before others take its runs, in milliseconds. A pause this long
/// costs a host its lease but never a run its ledger, so it may be short.
pub const LEASE_MS: u64 = 3_000;

/// How long the making of a week's partition waits for a lock that others may hold, in milliseconds: so long everybody
/// waits who comes after it. There are weeks of time to try it again.
pub const PARTITION_LOCK_MS: u64 = 100;

/// How far a host's wall clock may differ from the database's before it is warned about, in milliseconds: NTP keeps clocks
/// a hundred times closer.
pub const SKEW_WARNED_MS: u64 = 2_000;
/// Beyond it the host does not serve: signatures of pushes and many certificates are refused that are more than five
/// minutes off.
pub const SKEW_MS_MAX: u64 = 5 * 60 * 1000;

/// How long Postgres may work on one statement that a client waits for, in milliseconds: longer than a count over
/// millions of runs takes, shorter than a client's patience.
pub const CLIENT_STATEMENT_MS_MAX: u64 = 10_000;

/// Rows of one page of a listing or a ledger.
pub const PAGE_ROWS_MAX: u32 = 1_000;

/// The text of a search's condition: it travels in a URL, and bounds what a list of values can hold.
pub const FILTER_BYTES_MAX: usize = 4 << 10;
/// Comparisons of one condition: each may be a lookup for every run that is searched.
pub const FILTER_COMPARISONS_MAX: usize = 32;
/// Parentheses and negations around a comparison: what reads and writes them recurses.
pub const FILTER_DEPTH_MAX: usize = 16;
/// A schedule's name and the prefix of its workflow ids: with a time and a word behind it, a prefix is
/// still a name.
pub const SCHEDULE_NAME_BYTES_MAX: usize = 200;

/// Cron expressions and intervals of one schedule: all of them are asked for each next time.
pub const SCHEDULE_RULES_MAX: usize = 100;

/// Shortest interval of a schedule, in milliseconds: each time is a run and a change of the schedule's
/// row. What comes more often is a workflow with a timer.
pub const SCHEDULE_EVERY_MS_MIN: u64 = 100;

/// Times that one check of a schedule deals with. A host that was down for long catches up in several.
pub const SCHEDULE_TIMES_MAX: usize = 1_000;

/// Runs that one check of a schedule starts: all of them are started again if the host dies before it
/// has noted them.
pub const SCHEDULE_STARTS_MAX: usize = 100;

/// Times of one schedule that wait for a run to close: they are rewritten at each change.
pub const SCHEDULE_WAITING_MAX: usize = 1_000;

/// Open runs that one schedule remembers. Only runs that may overlap can be more; the oldest are
/// forgotten.
pub const SCHEDULE_RUNNING_MAX: usize = 100;

/// Latest starts that a schedule shows.
pub const SCHEDULE_RECENT_MAX: usize = 10;

/// Backfills of one schedule that are not finished.
pub const SCHEDULE_BACKFILLS_MAX: usize = 10;

/// How late a time may be and still have its run, in milliseconds, if its schedule does not say: a year
/// covers every outage, as it does in Temporal.
pub const SCHEDULE_CATCH_UP_MS: u64 = 365 * 24 * 3600 * 1000;

/// Longest wait, in milliseconds, until a host looks whether the run that others wait for has closed.
pub const SCHEDULE_CHECK_MS: u64 = 500;
