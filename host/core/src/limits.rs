//! Every bound of the system, in one place, each with the reason for its size.
//!
//! A guest that meets a bound of its own run is parked; a client that meets one is told which.
//! Nothing here may be reached by the well-behaved: figures are generous by an order of magnitude.

/// One payload: an input, an output, a signal. Larger ones would make every page of a history and
/// every group commit unpredictable; they belong in a store, with a reference in the payload.
pub const PAYLOAD_BYTES_MAX: usize = 2 << 20;

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

/// Signals kept for waits that have not been made yet. Whoever appends a signal asks first: once a
/// row, it is delivered.
pub const SIGNALS_BUFFERED_MAX: usize = 10_000;

/// Longest durable sleep: a hundred years, leap days included.
pub const SLEEP_MS_MAX: u64 = 36_525 * 24 * 3600 * 1000;

/// Attempts of one activity that can be counted; also what "no limit" means.
pub const ATTEMPTS_MAX: u32 = i32::MAX as u32;

/// Fuel (about one unit for each wasm instruction) between two events: some hundred milliseconds of
/// pure computing. Refilled at each delivery, so that the size of a batch cannot change who traps.
pub const FUEL_PER_EVENT: u64 = 500_000_000;

/// Linear memory of one workflow instance.
pub const WORKFLOW_MEMORY_BYTES_MAX: usize = 64 << 20;

/// Linear memory of one activity instance.
pub const ACTIVITY_MEMORY_BYTES_MAX: usize = 256 << 20;

/// Elements of one table: function pointers of a guest, with room for large ones.
pub const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Linear memories, tables and core instances of one component: a Rust, C or JavaScript guest has
/// one or two of each.
pub const MEMORIES_MAX: usize = 4;
/// See [`MEMORIES_MAX`].
pub const TABLES_MAX: usize = 16;
/// See [`MEMORIES_MAX`].
pub const CORE_INSTANCES_MAX: usize = 64;

/// Wasm stack of a guest: a thousand frames of ordinary code.
pub const WASM_STACK_BYTES: usize = 512 << 10;

/// Data that one host call may lift out of a guest, in bytes as Wasmtime counts them.
pub const HOSTCALL_BYTES_MAX: usize = 8 << 20;

/// Fuel that a host call costs, besides one unit for each byte that the guest hands over: about the
/// time it takes, so that a loop of calls runs dry as soon as a loop of instructions does.
pub const HOSTCALL_FUEL: u64 = 100;

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
/// Components within components: ours have none, composed ones have a few.
pub const COMPONENT_NESTING_MAX: u32 = 8;
/// Names that one component may describe.
pub const COMPONENT_NAMES_MAX: usize = 1_000;

/// Memory of the process that compiles a component.
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 4 << 30;
/// Time of that process, in milliseconds.
pub const COMPILE_MS_MAX: u64 = 120_000;

/// Components compiled at once: each compilation uses every core and up to 4 GiB.
pub const COMPILES_RUNNING_MAX: usize = 1;
/// Machine code of one component: some ten times the largest that a toolchain makes of one.
pub const ARTEFACT_BYTES_MAX: usize = 512 << 20;
/// Files of compiled code that are kept; the oldest go, and are compiled again when needed.
pub const CACHE_FILES_MAX: usize = 1_000;

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

/// Runs' contributions that are committed in one statement.
pub const BATCH_APPENDS_MAX: usize = 1_000;
/// Bytes of payload in one statement: Postgres' message limit is 1 GiB, our memory is not.
pub const BATCH_BYTES_MAX: usize = 32 << 20;
/// Longest wait of the writer for company, in microseconds: a fraction of any commit.
pub const LINGER_US_MAX: u64 = 300;
/// Runs whose lost appends the writer remembers: more than can be on their way to it, twice over.
pub const BROKEN_RUNS_MAX: usize = 10_000;
/// Appends that wait for the writer; a full queue slows the host down instead of growing.
pub const WRITER_QUEUE_MAX: usize = 4_096;

/// Timers, inbox items and runs that one claim takes: long enough to be cheap, short enough to
/// spread over hosts.
pub const CLAIM_ROWS_MAX: i64 = 500;

/// Ledgers of a takeover that are read in one query: enough to be cheap when they are small, few
/// enough to fit in memory when they are not.
pub const LEDGERS_READ_MAX: usize = 32;

/// How long a host may be silent before others take its runs, in milliseconds. A pause this long
/// costs a host its lease but never a run its ledger, so it may be short.
pub const LEASE_MS: u64 = 3_000;

/// Rows of one page of a listing or a ledger.
pub const PAGE_ROWS_MAX: u32 = 1_000;
