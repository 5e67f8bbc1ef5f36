//! A network that stands still, or loses one reply of the database: the server has done what it was asked, and nobody hears.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Sits between hosts and the server.
pub(crate) struct Proxy {
    /// The database, through here.
    pub(crate) url: String,
    lost: Arc<AtomicBool>,
    still: watch::Sender<bool>,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Proxy {
    /// Passes everything on, until it is told to [stand still](Self::stand_still).
    pub(crate) async fn passing(database: &str) -> Self {
        Self::losing(database, b"\0no reply has this\0").await
    }

    /// Passes nothing on any more, and breaks nothing off; or passes on what has waited.
    pub(crate) fn stand_still(&self, still: bool) {
        self.still.send_replace(still);
    }

    /// Breaks the connection over the first reply that contains `tag`, instead of passing it on.
    pub(crate) async fn losing(database: &str, tag: &'static [u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (_, rest) = database.split_once("host=").unwrap();
        let encoded = rest.split('&').next().unwrap();
        let server = PathBuf::from(encoded.replace("%2F", "/")).join(".s.PGSQL.5432");
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let url = database.replacen(encoded, &dir.path().to_string_lossy().replace('/', "%2F"), 1);
        let lost = Arc::new(AtomicBool::new(false));
        let (flag, still) = (Arc::clone(&lost), watch::Sender::new(false));
        let stands = still.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(relay(client, server, tag, Arc::clone(&flag), stands.subscribe()));
            }
        });
        Self { url, lost, still, task, _dir: dir }
    }

    /// Whether it has happened.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(
    client: UnixStream,
    server: UnixStream,
    tag: &[u8],
    lost: Arc<AtomicBool>,
    still: watch::Receiver<bool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut asking = still.clone();
    let questions = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(bytes @ 1..) = from_client.read(&mut buffer).await {
            let _ = asking.wait_for(|still| !still).await;
            if to_server.write_all(&buffer[..bytes]).await.is_err() {
                return;
            }
        }
    };
    let mut answering = still;
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        let mut seen = Vec::new();
        while let Ok(bytes @ 1..) = from_server.read(&mut buffer).await {
            let _ = answering.wait_for(|still| !still).await;
            // The tag may come in two pieces.
            seen.drain(..seen.len().saturating_sub(tag.len()));
            seen.extend_from_slice(&buffer[..bytes]);
            let found = seen.windows(tag.len()).any(|window| window == tag);
            if found && !lost.swap(true, Ordering::Relaxed) {
                return;
            }
            if to_client.write_all(&buffer[..bytes]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = questions => {}
        () = answers => {}
    }
}
