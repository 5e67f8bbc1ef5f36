//! Says aloud what others should look at: hosts that there are tasks or messages, the watcher of names that
//! something was deployed. Everything that is said here would be found without it, later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backstitch_core::HostId;
use backstitch_core::matcher::Queue;
use backstitch_ledger::Notifier;
use tokio::sync::{Notify, watch};

use crate::term::Term;

/// See the module. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct HostNotifier {
    notifier: Notifier,
    /// Who this host is now.
    term: watch::Receiver<Option<Term>>,
    /// Whether there are other hosts: a notification is a transaction.
    others: Arc<AtomicBool>,
    deployed: Arc<Notify>,
}

impl HostNotifier {
    /// One that takes the host to be alone until it hears otherwise.
    pub fn new(notifier: Notifier, term: watch::Receiver<Option<Term>>) -> Self {
        Self { notifier, term, others: Arc::default(), deployed: Arc::default() }
    }

    /// A task waits in the database.
    pub fn offered(&self, queue: &Queue) {
        if self.others.load(Ordering::Relaxed) {
            self.notifier.tasks(queue.tenant, &queue.name);
        }
    }

    /// There are messages for runs of a host: this one, or another.
    pub fn messages(&self, host: HostId) {
        match &*self.term.borrow() {
            Some(term) if term.host == host => term.inbox_wakeup.notify_one(),
            _ => self.notifier.messages(host),
        }
    }

    /// Another component may serve a name now.
    pub fn deployed(&self) {
        self.deployed.notify_one();
    }

    /// Waits until it does.
    pub async fn until_deployed(&self) {
        self.deployed.notified().await;
    }

    /// Whether there are hosts besides this.
    pub fn set_others(&self, others: bool) {
        self.others.store(others, Ordering::Relaxed);
    }
}
