//! A network that loses one reply of the database: the server has done what it was asked, and nobody hears.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// Sits between hosts and the server.
pub(crate) struct Proxy {
    /// The database, through here.
    pub(crate) url: String,
    lost: Arc<AtomicBool>,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Proxy {
    /// Breaks the connection over the first reply that contains `tag`, instead of passing it on.
    pub(crate) async fn losing(database: &str, tag: &'static [u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (_, rest) = database.split_once("host=").unwrap();
        let encoded = rest.split('&').next().unwrap();
        let server = PathBuf::from(encoded.replace("%2F", "/")).join(".s.PGSQL.5432");
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let url = database.replacen(encoded, &dir.path().to_string_lossy().replace('/', "%2F"), 1);
        let lost = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&lost);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(relay(client, server, tag, Arc::clone(&flag)));
            }
        });
        Self { url, lost, task, _dir: dir }
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

async fn relay(client: UnixStream, server: UnixStream, tag: &[u8], lost: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let questions = tokio::io::copy(&mut from_client, &mut to_server);
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        let mut seen = Vec::new();
        while let Ok(bytes @ 1..) = from_server.read(&mut buffer).await {
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
        _ = questions => {}
        () = answers => {}
    }
}
