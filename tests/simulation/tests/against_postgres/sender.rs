//! A writer of the ledger crate, with a hook that loses replies and connections.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstitch_ledger::{Acks, Hook, HookFn, Item, Lease, Ledger, Outcome, Writer, WriterConfig};
use simulation::model::Reply;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{mpsc, watch};

use crate::postgres::Postgres;

/// What the hook goes by.
#[derive(Default)]
struct Control {
    /// How many statements were sent of what was sent last.
    sent: u64,
    fault: Option<(u64, Reply)>,
    /// The session of the writer.
    backend: i32,
}

pub(crate) struct Sender {
    items: mpsc::Sender<Item>,
    acks: mpsc::Receiver<Acks>,
    control: Arc<Mutex<Control>>,
    connections: watch::Receiver<u64>,
}

impl Sender {
    pub(crate) async fn new(ledger: &Ledger, lease: Lease, postgres: &mut Postgres) -> Self {
        let (items, receiver) = mpsc::channel(100);
        let (acks_sender, acks) = mpsc::channel(100);
        let control = Arc::new(Mutex::new(Control::default()));
        let hook = Some(hook(Arc::clone(&control), postgres.url.clone()));
        let config = WriterConfig { hook, ..WriterConfig::default() };
        let Writer { connections, .. } = Writer::spawn(ledger, lease, receiver, acks_sender, config).unwrap();
        let mut sender = Self { items, acks, control, connections };
        sender.connections.wait_for(|made| *made > 0).await.unwrap();
        sender.find_backend(postgres).await;
        sender
    }

    /// Sends all of it at once, and waits for what becomes of each.
    pub(crate) async fn send(
        &mut self,
        items: Vec<Item>,
        fault: Option<(u64, Reply)>,
        postgres: &mut Postgres,
    ) -> Vec<(u64, Outcome)> {
        {
            let mut control = self.control.lock().unwrap();
            (control.sent, control.fault) = (0, fault);
        }
        let count = items.len();
        // No await in between: on this thread the writer cannot take some of them.
        items.into_iter().for_each(|item| self.items.try_send(item).unwrap());
        let mut outcomes = Vec::new();
        while outcomes.len() < count {
            let acks = tokio::time::timeout(Duration::from_secs(60), self.acks.recv()).await;
            let acks = acks.expect("in time").expect("the writer tells of each");
            outcomes.extend(acks.tickets.into_iter().map(|ticket| (ticket, acks.outcome.clone())));
        }
        if fault.is_some() {
            self.find_backend(postgres).await;
        }
        outcomes
    }

    /// The session of the writer is the one that was not there before, if it has a new one.
    async fn find_backend(&mut self, postgres: &mut Postgres) {
        let new: Option<i32> = sqlx::query_scalar(
            "select pid from pg_stat_activity
             where application_name = 'backstitch writer' and datname = current_database() and pid <> all ($1)",
        )
        .bind(&postgres.known)
        .fetch_optional(&mut postgres.session)
        .await
        .unwrap();
        if let Some(new) = new {
            postgres.known.push(new);
            self.control.lock().unwrap().backend = new;
        }
    }
}

fn hook(control: Arc<Mutex<Control>>, url: String) -> HookFn {
    Arc::new(move |point| {
        let mut control = control.lock().unwrap();
        let faulty = |reply| control.fault.is_some_and(|fault| fault == (control.sent, reply));
        match point {
            "append-before" if faulty(Reply::Never) => {
                let (url, backend) = (url.clone(), control.backend);
                std::thread::spawn(move || end(&url, backend)).join().unwrap();
                Hook::Go
            }
            "append-sent" => {
                let is_lost = faulty(Reply::Lost);
                control.sent += 1;
                if is_lost { Hook::DropReply } else { Hook::Go }
            }
            _ => Hook::Go,
        }
    })
}

/// Ends a session, and waits until it is gone.
fn end(url: &str, backend: i32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut session = PgConnection::connect(url).await.unwrap();
        let ended: bool = sqlx::query_scalar("select pg_terminate_backend($1, 30000)")
            .bind(backend)
            .fetch_one(&mut session)
            .await
            .unwrap();
        assert!(ended, "the session of the writer is there, and goes");
        session.close().await.ok();
    });
}
