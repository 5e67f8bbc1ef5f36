//! Clients that keep quiet, and clients that are too many.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;

/// Never reached by a machine that works.
const DEADLINE: Duration = Duration::from_secs(60);
/// A timeout that is over while a test waits for it.
const SHORT: Duration = Duration::from_millis(100);
/// One that is not.
const LONG: Duration = Duration::from_secs(3_600);

const PATIENT: Timeouts = Timeouts { head: LONG, idle: LONG, write: LONG };
const REQUEST: &[u8] = b"GET /at-once HTTP/1.1\r\nhost: x\r\n\r\n";

/// A door, and what is behind it.
struct Rig {
    address: SocketAddr,
    stopping: CancellationToken,
    served: JoinHandle<()>,
    /// Lets `/later` answer.
    later: Arc<Notify>,
    /// Says that nobody listens to `/for-ever` any more.
    given_up: Arc<Notify>,
}

/// Says that it is gone.
struct Told(Arc<Notify>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

async fn rig(timeouts: Timeouts, room: Room) -> Rig {
    let door = Door::open("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, stopping) = (door.address, CancellationToken::new());
    let (later, given_up) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (answer_later, told) = (Arc::clone(&later), Arc::clone(&given_up));
    let for_ever = move || {
        let told = Told(Arc::clone(&told));
        async move {
            let parts = futures::stream::repeat_with(move || {
                let _kept = &told;
                Ok::<_, Infallible>(vec![0; 64 << 10])
            });
            Body::from_stream(parts)
        }
    };
    let router = Router::new()
        .route("/at-once", get(async || "now"))
        .route(
            "/later",
            get(async move || {
                answer_later.notified().await;
                "now"
            }),
        )
        .route("/for-ever", get(for_ever));
    let door = door.with_timeouts(timeouts).with_room(room);
    let served = tokio::spawn(door.answer(router, stopping.clone()));
    Rig { address, stopping, served, later, given_up }
}

impl Rig {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection that has said this before the host has heard of it.
    fn said(&self, bytes: &[u8]) -> TcpStream {
        let mut client = std::net::TcpStream::connect(self.address).unwrap();
        client.write_all(bytes).unwrap();
        client.set_nonblocking(true).unwrap();
        TcpStream::from_std(client).unwrap()
    }

    async fn stop(self) {
        self.stopping.cancel();
        tokio::time::timeout(DEADLINE, self.served).await.unwrap().unwrap();
    }
}

/// Waits until the host closes a connection; what it said before.
async fn closed(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // Closed with something unread, it is reset.
    let _ = tokio::time::timeout(DEADLINE, client.read_to_end(&mut bytes)).await.expect("it is closed");
    String::from_utf8(bytes).unwrap()
}

/// Makes a request and reads its answer.
async fn asked(client: &mut TcpStream) {
    client.write_all(REQUEST).await.unwrap();
    answered(client).await;
}

async fn answered(client: &mut TcpStream) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\nnow") {
        let read = tokio::time::timeout(DEADLINE, client.read_buf(&mut bytes)).await.expect("an answer");
        assert_ne!(read.unwrap(), 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
    }
    assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for_however_slowly_it_goes_on() {
    let rig = rig(Timeouts { head: SHORT, ..PATIENT }, Room::default()).await;
    let mut quiet = rig.said(&REQUEST[..20]);
    let mut other = rig.connect().await;
    asked(&mut other).await;
    // One byte after the other is no better than none.
    let (mut heard, mut slow) = rig.said(&REQUEST[..1]).into_split();
    let drips = tokio::spawn(async move {
        while slow.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    assert_eq!(closed(&mut quiet).await, "");
    let _ = tokio::time::timeout(DEADLINE, heard.read_to_end(&mut Vec::new())).await.expect("it is closed");
    tokio::time::timeout(DEADLINE, drips).await.unwrap().unwrap();
    // By now the timeout of heads has passed twice since this one had its answer: it is idle, and may be.
    asked(&mut other).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed_and_one_that_waits_for_its_answer_is_not() {
    let rig = rig(Timeouts { idle: SHORT, ..PATIENT }, Room::default()).await;
    let mut waiting = rig.said(b"GET /later HTTP/1.1\r\nhost: x\r\n\r\n");
    let (mut silent, mut once) = (rig.said(b""), rig.said(REQUEST));
    answered(&mut once).await;
    assert_eq!((closed(&mut silent).await, closed(&mut once).await), (String::new(), String::new()));
    rig.later.notify_one();
    answered(&mut waiting).await;
    assert_eq!(closed(&mut waiting).await, "");
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_connection() {
    let rig = rig(Timeouts { write: SHORT, ..PATIENT }, Room::default()).await;
    let _deaf = rig.said(b"GET /for-ever HTTP/1.1\r\nhost: x\r\n\r\n");
    tokio::time::timeout(DEADLINE, rig.given_up.notified()).await.expect("it is given up");
    rig.stop().await;
}

#[tokio::test]
async fn connections_beyond_those_there_may_be_are_closed_until_there_is_room() {
    for room in [Room { all: 2, peer: 9 }, Room { all: 9, peer: 2 }] {
        let rig = rig(PATIENT, room).await;
        let (mut one, mut two) = (rig.connect().await, rig.connect().await);
        asked(&mut one).await;
        asked(&mut two).await;
        assert_eq!(closed(&mut rig.connect().await).await, "");
        asked(&mut two).await;
        drop(one);
        // When the host has noticed.
        tokio::time::timeout(DEADLINE, async {
            loop {
                let mut next = rig.connect().await;
                let mut byte = [0; 1];
                let _ = next.write_all(REQUEST).await;
                if matches!(next.read(&mut byte).await, Ok(1)) {
                    break;
                }
            }
        })
        .await
        .expect("there is room again");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_host_that_stops_answers_what_it_was_asked_and_keeps_no_connection() {
    let rig = rig(PATIENT, Room::default()).await;
    let (mut idle, mut waiting) = (rig.connect().await, rig.connect().await);
    asked(&mut idle).await;
    asked(&mut waiting).await;
    waiting.write_all(b"GET /later HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    rig.later.notify_one();
    answered(&mut waiting).await;
    rig.stopping.cancel();
    assert_eq!((closed(&mut idle).await, closed(&mut waiting).await), (String::new(), String::new()));
    rig.stop().await;
}
