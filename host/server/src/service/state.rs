//! What every question of a client is answered with.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstitch_core::{Row, RunId, Scope};
use backstitch_engine::clock::Clock;
use backstitch_engine::closings::Closings;
use backstitch_engine::counters::Counters;
use backstitch_engine::matcher::TaskMatcher;
use backstitch_engine::notifier::HostNotifier;
use backstitch_engine::quota::Quotas;
use backstitch_engine::registry::ComponentRegistry;
use backstitch_engine::room::{Permit, Room};
use backstitch_engine::tenure::Tenure;
use backstitch_engine::term::Term;
use backstitch_ledger::{Ledger, Notifier, RunInfo, RunRef};
use tokio::sync::{Notify, Semaphore, broadcast, watch};

use super::error::{ServiceError, between_terms, out_of_time, unknown_run};
use super::give_back::give_back;

/// The host, as clients see it. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// Over the connections of clients.
    pub(super) ledger: Ledger,
    /// Over the host's own: what may take its time, or must not wait behind clients.
    pub(super) patient: Ledger,
    pub(super) programs: ComponentRegistry,
    pub(super) term: watch::Receiver<Option<Term>>,
    pub(super) closings: Closings,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
    pub(super) tenure: Tenure,
    pub(super) matcher: TaskMatcher,
    pub(super) notifier: HostNotifier,
    pub(super) quotas: Quotas,
    /// Turns to lead a guest along a whole ledger for a client.
    pub(super) computing: Arc<Semaphore>,
    /// For ledgers and pages of ledgers, until clients have them.
    pub(super) room: Room,
    /// Somebody has changed a schedule.
    pub(super) schedule_hint: Arc<Notify>,
    /// Which schedules have started which runs here, of late.
    pub(super) scheduled: Arc<Mutex<Scheduled>>,
}

/// Runs that schedules have started here, each with its schedule.
pub(super) type Scheduled = lru::LruCache<RunId, (Scope, Arc<str>)>;

/// Runs of schedules that are remembered until they close: one that is forgotten is found closed by a check that is due.
const SCHEDULED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Guests that are led along whole ledgers for clients at once. Each takes a processor for as long as it computes; the
/// others wait for their turn.
const COMPUTING_MAX: usize = 4;
/// How often a parked run is looked at that is to stop.
pub(super) const PARKED_POLL: Duration = Duration::from_millis(50);
/// How often a waiting client's run is looked at when another host has it.
pub(super) const RESULT_POLL: Duration = Duration::from_millis(500);

impl Service {
    /// `room`: for ledgers that clients wait for.
    pub(crate) fn new(
        (ledger, room): (Ledger, Room),
        programs: ComponentRegistry,
        quotas: Quotas,
        term: watch::Receiver<Option<Term>>,
        closings: Closings,
        counters: Arc<Counters>,
        (clock, tenure): (Clock, Tenure),
    ) -> Self {
        let notifier = HostNotifier::new(Notifier::spawn(ledger.clone()), term.clone());
        let matcher = TaskMatcher::new(give_back(ledger.clone(), notifier.clone(), clock.clone()));
        let computing = Arc::new(Semaphore::new(COMPUTING_MAX));
        let schedule_hint = Arc::new(Notify::new());
        let scheduled = Arc::new(Mutex::new(lru::LruCache::new(SCHEDULED_MAX)));
        let (ledger, patient) = (ledger.for_clients(), ledger);
        Self {
            ledger,
            patient,
            programs,
            term,
            closings,
            counters,
            clock,
            tenure,
            matcher,
            notifier,
            quotas,
            computing,
            room,
            schedule_hint,
            scheduled,
        }
    }

    /// The same for what the host does of its own accord.
    pub(crate) fn for_host(&self) -> Self {
        Self { ledger: self.patient.clone(), ..self.clone() }
    }

    /// Runs that close or are parked on this host from now on. A receiver that lags misses some.
    pub fn closings(&self) -> broadcast::Receiver<RunId> {
        self.closings.all()
    }

    /// Whether anything may begin.
    pub(crate) fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// Where workers poll for tasks.
    pub(crate) fn matcher(&self) -> &TaskMatcher {
        &self.matcher
    }

    /// Tells others what to look at.
    pub(crate) fn notifier(&self) -> &HostNotifier {
        &self.notifier
    }

    pub(super) fn term(&self) -> Result<Term, ServiceError> {
        let term = self.term.borrow().clone();
        term.ok_or_else(|| self.clock.wrong().map_or_else(between_terms, out_of_time))
    }

    /// Who a run is, without its payloads.
    pub(super) async fn find_id(&self, scope: Scope, id: &str) -> Result<RunId, ServiceError> {
        let found = match id.parse::<RunId>() {
            // Its status is asked for only to know that it is there and of this tenant.
            Ok(run) => self.ledger.run_status(scope, run).await?.map(|_| run),
            Err(_) => self.ledger.run_id(scope, RunRef::WorkflowId(id)).await?,
        };
        found.ok_or_else(|| unknown_run(id))
    }

    pub(super) async fn find(&self, scope: Scope, id: &str) -> Result<RunInfo, ServiceError> {
        let by = id.parse::<RunId>().map_or(RunRef::WorkflowId(id), RunRef::Id);
        self.ledger.run(scope, by).await?.ok_or_else(|| unknown_run(id))
    }

    pub(super) async fn info(&self, scope: Scope, by: RunRef<'_>) -> Result<RunInfo, ServiceError> {
        let found = self.ledger.run(scope, by).await?;
        found.ok_or_else(|| ServiceError::Internal(format!("{by:?} was here a moment ago")))
    }

    /// A whole ledger, and the room that it takes for as long as it, or `copies` of it, are in memory.
    pub(super) async fn whole(&self, run: RunId, copies: usize) -> Result<(Vec<Row>, Permit), ServiceError> {
        Ok(self.room.read(&self.ledger, run, copies).await?)
    }

    /// Room for a page of a ledger.
    pub(crate) async fn room_for_page(&self) -> Permit {
        self.room.turn().await
    }
}
