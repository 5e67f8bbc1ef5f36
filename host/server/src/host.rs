//! A host: one process's part in running an installation's workflows.
//!
//! A host lives in *terms*. A term is one registration: an identity, a lease, a scheduler, a writer
//! and the loops that feed them. When the lease is lost (the process was stopped, or cut off from
//! the database for too long), everything of the term is dropped, and the host registers anew as
//! somebody else. Nothing needs to be handed over: the ledger is all there is.

mod config;
mod terms;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use backstitch_core::{HostId, limits};
use backstitch_engine::clock::Clock;
use backstitch_engine::closings::Closings;
use backstitch_engine::counters::Counters;
use backstitch_engine::driver::{Input, Inputs};
use backstitch_engine::guests::{self, Inline};
use backstitch_engine::quota::Quotas;
use backstitch_engine::registry::ComponentRegistry;
use backstitch_engine::room::Room;
use backstitch_engine::tenure::Tenure;
use backstitch_engine::term::Term;
use backstitch_ledger::{ConnectOptions, LeaseHeartbeat, Ledger};
use backstitch_sandbox::{Sandbox, SandboxConfig};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::config::{HostConfig, HostError};
use self::terms::HostState;
use crate::local::Workers;
use crate::service::Service;

/// A running host.
pub struct Host {
    service: Service,
    stop: CancellationToken,
    terms: JoinHandle<()>,
    threads: Vec<std::thread::JoinHandle<()>>,
    current: watch::Receiver<Option<Term>>,
    /// Those in this process.
    pub(crate) workers: Workers,
}

impl Host {
    /// Connects, brings the schema up to date, and starts to work. Fails rather than waits.
    pub async fn start(config: HostConfig) -> Result<Self, HostError> {
        let (ledger, heartbeat, clock) = connect(&config).await?;
        let quotas = Quotas::default();
        quotas.refresh(&ledger).await?;
        let programs = ComponentRegistry::new(ledger.clone(), sandbox(&config)?, quotas.clone());
        programs.refresh().await?;

        let (jobs, jobs_waiting) = crossbeam_channel::unbounded();
        let (done, _) = watch::channel(None::<Inputs>);
        let scheduler = done.clone();
        let tenure = Tenure::new(config.lease_ms);
        let bound = Duration::from_millis(config.at_once_ms);
        let inline =
            Inline { programs: programs.clone(), clock: clock.clone(), tenure: tenure.clone(), bound };
        let threads = guests::spawn(config.guest_threads, &jobs_waiting, &inline, move |activated| {
            // Between two terms nobody wants it: the run is read from its ledger again.
            let inputs = scheduler.borrow().clone();
            if let Some(inputs) = inputs {
                let _ = inputs.blocking_send(Input::Activated(activated));
            }
        })?;
        let closings = Closings::default();
        let (current, current_seen) = watch::channel(None);
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let readings = Room::new(limits::READINGS_MAX, config.ledger_memory_bytes_max);
        let service = Service::new(
            (ledger.clone(), readings),
            programs.clone(),
            quotas,
            current_seen.clone(),
            closings.clone(),
            Arc::clone(&counters),
            (clock.clone(), tenure.clone()),
        );
        let room = Room::new(limits::LOADS_RUNNING_MAX, config.ledger_memory_bytes_max);
        let fixed = HostState {
            config,
            ledger,
            heartbeat,
            clock,
            tenure,
            programs,
            room,
            jobs,
            done,
            closings,
            counters,
            current,
            service: service.clone(),
            stop: stop.clone(),
            split: AtomicBool::new(false),
        };
        let mut current = current_seen;
        let terms = tokio::spawn(fixed.serve());
        // A host that is ready has a lease: a start that is accepted can be owned.
        let _ = current.wait_for(Option::is_some).await;
        Ok(Self { service, stop, terms, threads, current, workers: Workers::default() })
    }

    /// What clients call.
    pub fn service(&self) -> Service {
        self.service.clone()
    }

    /// Who this host is now.
    pub fn host_id(&self) -> Option<HostId> {
        self.current.borrow().as_ref().map(|term| term.host)
    }

    /// A view on who this host is: changes when it has to register anew.
    pub fn host_ids(&self) -> impl Future<Output = HostId> + use<> {
        let mut current = self.current.clone();
        let before = self.host_id();
        async move {
            loop {
                let now = current.borrow_and_update().as_ref().map(|term| term.host);
                match now {
                    Some(host) if before != Some(host) => return host,
                    _ if current.changed().await.is_err() => std::future::pending().await,
                    _ => {}
                }
            }
        }
    }

    /// Finishes what is on its way, gives up its runs, and ends.
    pub async fn shutdown(self) {
        self.workers.stop().await;
        self.stop.cancel();
        if let Err(error) = self.terms.await {
            tracing::error!(%error, "the host did not end well");
        }
        let _ = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                let _ = thread.join();
            }
        })
        .await;
    }
}

/// The database, brought up to date, with a connection for the lease; and its time.
async fn connect(config: &HostConfig) -> Result<(Ledger, Arc<LeaseHeartbeat>, Clock), HostError> {
    let options = ConnectOptions {
        payloads: config.payloads.clone(),
        lease_ms: config.lease_ms,
        schema: config.schema.clone(),
        ..ConnectOptions::new(&config.database_url)
    };
    let ledger = Ledger::connect(options).await?;
    // Before anything else takes what connections the server has left, and for as long as the host lives.
    let heartbeat = Arc::new(ledger.heartbeat()?);
    let clock = Clock::new(&heartbeat.read_clock().await?);
    if let Some(wrong) = clock.wrong() {
        return Err(HostError::Clock(wrong));
    }
    ledger.prepare_schema().await?;
    ledger.check_keys().await?;
    ledger.ensure_partitions(clock.now_ms()).await?;
    if let Some(dead) = config.predecessor {
        ledger.declare_dead(dead).await?;
    }
    Ok((ledger, heartbeat, clock))
}

fn sandbox(config: &HostConfig) -> Result<Sandbox, HostError> {
    let sandbox = Sandbox::new(SandboxConfig {
        cache_dir: config.cache_dir.clone(),
        compiler: config.compiler.clone(),
        // Guests on threads, and guests that come back from there, are alive besides the warm ones.
        warm_runs_max: config.warm_runs_max + 2 * config.guest_threads + 16,
        activities_max: config.activities_max,
        guest_time: config.guest_time,
        memory_bytes_max: config.guest_memory_bytes_max,
        egress: config.egress.clone(),
    })?;
    Ok(sandbox)
}
