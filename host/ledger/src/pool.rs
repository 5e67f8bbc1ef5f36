//! A few sessions that many share, each for one statement or transaction.
//!
//! What it has and sqlx' own pool has not: a reply that does not come is given up, by our own clock; a call that is
//! dropped ends its session, so that the server stops working on what nobody waits for; a session that a pooler has
//! exchanged, or that is at another server than the lease, is noticed when it is lent; and where the server has no room for
//! another session, one of the [reserve](Pool::with_reserve) is borrowed, and who borrows gives back what is idle.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt, TryStreamExt};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres};
use sqlx::{Either, Execute, Executor, PgConnection, SqlStr};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::Failure;
use crate::opening::{self, Opening, REPLY_MS_MAX, lost, within};
use crate::tie::Tie;

/// How long a caller waits for a session before it is told that there is none, in milliseconds.
const ACQUIRE_MS_MAX: u64 = 5_000;
/// How long a session that was in use may take to say that it is still there, in milliseconds: the caller has then still
/// time for another.
const FIT_MS_MAX: u64 = 2_000;
/// A session that nobody has wanted for so long is closed.
const IDLE_MAX: Duration = Duration::from_mins(5);
/// First and last pause between two tries to open a session, in milliseconds.
const RETRY_MS: (u64, u64) = (10, 500);

/// Sessions that are shared. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    opening: Opening,
    statement_ms_max: u64,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    reserve: Option<Pool>,
    /// Who borrows of this one, and gives way to it.
    borrower: OnceLock<Weak<Inner>>,
    /// Sessions that others want first.
    wanted: Arc<AtomicUsize>,
    /// Where its sessions have to be.
    tie: Tie,
    /// To be told when the server has no room for one that is needed: whoever can do without may give way.
    crowded: Arc<Notify>,
}

struct Idle {
    connection: PgConnection,
    since: Instant,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("places", &self.0.places.available_permits()).finish_non_exhaustive()
    }
}

impl Pool {
    /// At most `max` sessions that begin as `opening` says, none of them yet. `statement_ms_max`: the server's own bound.
    /// None is opened while others are `wanted` first; `crowded` is told when there is no room for one. None is lent that is
    /// elsewhere than `tie` wants it.
    pub(crate) fn new(
        opening: Opening,
        max: u32,
        statement_ms_max: u64,
        (wanted, crowded): (&Arc<AtomicUsize>, &Arc<Notify>),
        tie: &Tie,
    ) -> Self {
        Self(Arc::new(Inner {
            opening,
            statement_ms_max,
            places: Arc::new(Semaphore::new(max as usize)),
            idle: Mutex::default(),
            reserve: None,
            borrower: OnceLock::new(),
            wanted: Arc::clone(wanted),
            tie: tie.clone(),
            crowded: Arc::clone(crowded),
        }))
    }

    /// While the server has no room for any session of its own, it borrows of `reserve`.
    pub(crate) fn with_reserve(self, reserve: Self) -> Self {
        let inner = Arc::into_inner(self.0).expect("it was just made");
        let borrower = Self(Arc::new(Inner { reserve: Some(reserve.clone()), ..inner }));
        reserve.0.borrower.set(Arc::downgrade(&borrower.0)).ok();
        borrower
    }

    /// A session for one transaction, which has begun.
    pub(crate) async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        let mut lent = self.acquire().await?;
        lent.bounded(async |connection| connection.execute("begin").await.map(drop)).await?;
        Ok(Transaction(lent))
    }

    /// Gives back every session that is not in use; later calls fail as unavailable.
    pub(crate) fn close(&self) {
        self.0.places.close();
        self.idle().clear();
    }

    /// Closes a session that is not in use, so that the server has room for another; whether there was one.
    pub(crate) fn make_room(&self) -> bool {
        self.idle().pop().is_some()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session, which goes back when it is [done](Lent::done) with, and is closed if it never is.
    async fn acquire(&self) -> Result<Lent, sqlx::Error> {
        let deadline = Instant::now() + Duration::from_millis(ACQUIRE_MS_MAX);
        match tokio::time::timeout_at(deadline, self.lend()).await {
            Ok(Err(error)) if is_full(&error) => match &self.0.reserve {
                Some(reserve) => Box::pin(reserve.acquire()).await,
                None => Err(error),
            },
            Ok(lent) => lent,
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    async fn lend(&self) -> Result<Lent, sqlx::Error> {
        let Inner { opening, statement_ms_max, places, reserve, borrower, wanted, crowded, tie, .. } =
            &*self.0;
        tie.check()?;
        let place = Arc::clone(places).acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let lent = |connection| Lent {
            connection: Some(connection),
            reply_ms_max: statement_ms_max.saturating_add(REPLY_MS_MAX),
            pool: self.clone(),
            place,
        };
        let mut pause_ms = RETRY_MS.0;
        loop {
            // Whoever had one may have given it back since the last try.
            if let Some(connection) = self.fit().await {
                return Ok(lent(connection));
            }
            let opened = match wanted.load(Ordering::Relaxed) {
                0 => opening.open().await,
                // Not a reason to borrow: whoever lends would be kept from its own work.
                _ => Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into())),
            };
            match opened {
                Ok(mut connection) => {
                    tie.join(&mut connection).await?;
                    return Ok(lent(connection));
                }
                Err(error) if is_full(&error) && reserve.is_some() => return Err(error),
                Err(error) if is_full(&error) => {
                    crowded.notify_one();
                    if let Some(borrower) = borrower.get().and_then(Weak::upgrade) {
                        Self(borrower).make_room();
                    }
                }
                Err(error) if is_starting(&error) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = (pause_ms * 2).min(RETRY_MS.1);
        }
    }

    /// A session that nobody has, and that can be used.
    async fn fit(&self) -> Option<PgConnection> {
        loop {
            // Not held while the session is asked.
            let Idle { mut connection, .. } = { self.idle().pop() }?;
            match within(FIT_MS_MAX, is_fit(&mut connection, &self.0.tie)).await {
                Ok(true) => return Some(connection),
                Ok(false) => {}
                // The others will be no better, and the caller has no time to find that out one by one.
                Err(_) => self.idle().clear(),
            }
        }
    }
}

/// Whether a session that was in use is still what it was, and takes writes: one that began while the database took none
/// refuses them for as long as it lives. One that is elsewhere than the lease is given up for a new one, whose place tells
/// which of the two has moved.
async fn is_fit(connection: &mut PgConnection, tie: &Tie) -> Result<bool, sqlx::Error> {
    macro_rules! asking {
        ($place:literal) => {
            concat!(
                "select coalesce(current_setting($1, true) = pg_backend_pid()::text, false),
                        current_setting('transaction_read_only') = 'off', ",
                $place
            )
        };
    }
    let query = match tie.mark() {
        // There may be no table of leases yet.
        None => sqlx::query_as(asking!("true")).bind(opening::MARK),
        Some((host, mark)) => sqlx::query_as(asking!(
            "coalesce((select beats >= $4 from leases where shard = $2 and host_id = $3), false)"
        ))
        .bind(opening::MARK)
        .bind(tie.shard().0)
        .bind(host.0)
        .bind(mark),
    };
    let (is_marked, is_writable, is_here): (bool, bool, bool) = query.fetch_one(connection).await?;
    if !is_marked {
        tracing::error!(problem = opening::POOLED, "a session is given up");
    }
    Ok(is_marked && is_writable && is_here)
}

/// Whether the server has no room for one more session.
pub(crate) fn is_full(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "53300")
}

/// Whether nobody answers yet.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        error => error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .is_some_and(|code| code == "57P03"),
    }
}

/// A session that somebody has.
struct Lent {
    connection: Option<PgConnection>,
    reply_ms_max: u64,
    pool: Pool,
    #[expect(dead_code, reason = "held, not read")]
    place: OwnedSemaphorePermit,
}

impl Lent {
    fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is there until it is done with")
    }

    /// Nothing of it is under way any more: the next may have it.
    fn done(mut self) {
        if let Some(connection) = self.connection.take()
            && !self.pool.0.places.is_closed()
        {
            let now = Instant::now();
            let mut idle = self.pool.idle();
            idle.retain(|idle| now - idle.since < IDLE_MAX);
            idle.push(Idle { connection, since: now });
        }
    }

    /// The same after an answer: one that was refused has done the session no harm.
    fn done_with<T>(self, answer: &Result<T, sqlx::Error>) {
        match answer {
            Err(error) if Failure::of(error) == Failure::Lost => {}
            _ => self.done(),
        }
    }

    async fn bounded<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let bound = self.reply_ms_max;
        within(bound, ask(self.connection())).await
    }
}

/// A transaction that has begun. Its session is closed, and the transaction undone, if it is dropped.
pub(crate) struct Transaction(Lent);

impl Transaction {
    /// Commits. An error leaves it open whether it was.
    pub(crate) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let committed = self.0.bounded(async |connection| connection.execute("commit").await.map(drop)).await;
        self.0.done_with(&committed);
        committed
    }

    /// Undoes it.
    pub(crate) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        let undone = self.0.bounded(async |connection| connection.execute("rollback").await.map(drop)).await;
        self.0.done_with(&undone);
        undone
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transaction").field(&self.0.pool).finish()
    }
}

/// Each reply is waited for as long as one to the pool itself.
impl<'t> Executor<'t> for &'t mut Transaction {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let bound = self.0.reply_ms_max;
        let answers = self.0.connection().fetch_many(query);
        let next = move |mut answers: BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>| async move {
            let answer = within(bound, answers.try_next()).await?;
            Ok(answer.map(|answer| (answer, answers)))
        };
        futures::stream::try_unfold(answers, next).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let bound = self.0.reply_ms_max;
        Box::pin(within(bound, self.0.connection().fetch_optional(query)))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        't: 'e,
    {
        let bound = self.0.reply_ms_max;
        Box::pin(within(bound, self.0.connection().prepare_with(sql, parameters)))
    }
}

impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        // One answer at a time: the reader is the one who drives the asking.
        let (mut answers, read) = futures::channel::mpsc::channel(0);
        let pool = self.clone();
        let ask = async move {
            let mut lent = pool.acquire().await?;
            let bound = lent.reply_ms_max;
            let asked = async {
                let mut stream = lent.connection().fetch_many(query);
                while let Some(answer) = within(bound, stream.try_next()).await? {
                    if answers.send(answer).await.is_err() {
                        return Err(lost("nobody reads the answer"));
                    }
                }
                Ok(())
            };
            let asked = asked.await;
            lent.done_with(&asked);
            asked
        };
        let failed = futures::stream::once(ask).filter_map(async |asked: Result<(), _>| asked.err().map(Err));
        futures::stream::select(read.map(Ok), failed).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut lent = self.acquire().await?;
            let bound = lent.reply_ms_max;
            let answer = within(bound, lent.connection().fetch_optional(query)).await;
            lent.done_with(&answer);
            answer
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(async move {
            let mut lent = self.acquire().await?;
            let bound = lent.reply_ms_max;
            let prepared = within(bound, lent.connection().prepare_with(sql, parameters)).await;
            lent.done_with(&prepared);
            prepared
        })
    }
}
