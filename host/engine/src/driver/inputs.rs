//! How a driver is spoken to.

use backstitch_core::RunId;
use backstitch_ledger::Reader;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::live::Live;

/// What the scheduler of a host is told.
pub type Input = backstitch_scheduler::Input<Live>;
/// A run to be started.
pub type Start = backstitch_scheduler::Start<Live>;
/// A task that was carried out.
pub type Settle = backstitch_scheduler::Settle<Live>;
/// A call that is to be completed by others.
pub type Deferring = backstitch_scheduler::Deferring<Live>;
/// Who works on a part of a batch.
pub type Batch = mpsc::Sender<()>;

/// Messages that may wait for the driver; senders wait for room.
const MESSAGES_WAITING_MAX: usize = 4_096;

/// What a driver is told and asked.
#[expect(clippy::large_enum_variant, reason = "nearly all are inputs: a box would cost each an allocation")]
pub enum Message {
    /// For its scheduler.
    Input(Input),
    /// What of the inbox of these runs is in hand?
    InHand(Vec<RunId>, oneshot::Sender<InHandNow>),
    /// Whose due timers wait for their runs to be read?
    Absent(oneshot::Sender<Vec<RunId>>),
}

/// What is to be left out when the inbox is read.
#[derive(Debug, Default)]
pub struct InHandNow {
    /// What is to be read for each run.
    pub readers: Vec<Reader>,
    /// Messages that cannot be read.
    pub unreadable: Vec<Uuid>,
}

/// The scheduler has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Speaks to a driver. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Inputs(mpsc::Sender<Message>);

/// A way to speak to a driver, and the driver's end of it.
pub fn channel() -> (Inputs, mpsc::Receiver<Message>) {
    let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
    (Inputs(sender), receiver)
}

impl Inputs {
    /// Tells the scheduler something.
    pub async fn send(&self, input: Input) -> Result<(), Gone> {
        self.0.send(Message::Input(input)).await.map_err(|_| Gone)
    }

    /// The same, from a thread that may wait.
    pub fn blocking_send(&self, input: Input) -> Result<(), Gone> {
        self.0.blocking_send(Message::Input(input)).map_err(|_| Gone)
    }

    /// What of the inbox of these runs the scheduler has in hand.
    pub async fn in_hand(&self, runs: Vec<RunId>) -> Result<InHandNow, Gone> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Message::InHand(runs, reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Runs whose due timers wait for them to be read.
    pub async fn absent(&self) -> Result<Vec<RunId>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Message::Absent(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}
