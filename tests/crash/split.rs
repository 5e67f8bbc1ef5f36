//! A failover that is half done: the old primary and the new one are there, both take writes, and it depends on the
//! session which of them a host reaches.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use backstitch_core::Json;
use backstitch_ledger::{Cluster, ClusterOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinHandle};

use crate::load::{count, options};
use crate::support::{HostOptions, TestHost, check_ledgers, connect, eventually};

/// The numbers of the wire protocol by which a client asks for encryption.
const ENCRYPTION: [u32; 2] = [80_877_103, 80_877_104];

/// Leads each session to a server by what it calls itself.
struct Switch {
    url: String,
    routes: Arc<Mutex<Routes>>,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

struct Routes {
    default: PathBuf,
    to: HashMap<String, PathBuf>,
    open: Vec<(String, AbortHandle)>,
}

fn encoded_host(database: &str) -> &str {
    let (_, rest) = database.split_once("host=").unwrap();
    rest.split('&').next().unwrap()
}

fn socket(database: &str) -> PathBuf {
    PathBuf::from(encoded_host(database).replace("%2F", "/")).join(".s.PGSQL.5432")
}

impl Switch {
    async fn before(database: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let here = dir.path().to_string_lossy().replace('/', "%2F");
        let url = database.replacen(encoded_host(database), &here, 1);
        let routes = Routes { default: socket(database), to: HashMap::new(), open: Vec::new() };
        let routes = Arc::new(Mutex::new(routes));
        let shared = Arc::clone(&routes);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(lead(client, Arc::clone(&shared)));
            }
        });
        Self { url, routes, task, _dir: dir }
    }

    /// From now on sessions of this role are led to this database; those that are open break off.
    fn lead(&self, role: &str, database: &str) {
        let mut routes = self.routes.lock().unwrap();
        routes.to.insert(role.to_owned(), socket(database));
        for (_, session) in routes.open.extract_if(.., |(of, _)| of == role) {
            session.abort();
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A message of a session that begins: its bytes behind the length.
async fn first_words(client: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    loop {
        let mut words = vec![0; client.read_u32().await? as usize - 4];
        client.read_exact(&mut words).await?;
        let number = u32::from_be_bytes(words[..4].try_into().unwrap());
        if !ENCRYPTION.contains(&number) {
            return Ok(words);
        }
        client.write_all(b"N").await?;
    }
}

async fn lead(mut client: UnixStream, routes: Arc<Mutex<Routes>>) {
    let Ok(words) = first_words(&mut client).await else { return };
    let mut texts = words[4..].split(|byte| *byte == 0);
    let name = texts.find(|text| *text == b"application_name").and_then(|_| texts.next()).unwrap_or_default();
    let role = String::from_utf8_lossy(name).rsplit(' ').next().unwrap_or_default().to_owned();
    let relay = {
        let mut routes = routes.lock().unwrap();
        let server = routes.to.get(&role).unwrap_or(&routes.default).clone();
        let relay = tokio::spawn(async move {
            let Ok(mut server) = UnixStream::connect(server).await else { return };
            let length = u32::try_from(words.len() + 4).unwrap().to_be_bytes();
            if server.write_all(&[&length, &*words].concat()).await.is_ok() {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
        routes.open.push((role, relay.abort_handle()));
        relay
    };
    let _ = relay.await;
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_host_whose_sessions_reach_different_servers_ends_its_term_until_they_reach_one() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let (home, copied) = (dir.path().join("pg"), dir.path().join("copy"));
    let server = |home: &Path| Cluster::start(ClusterOptions::new(home)).unwrap();
    let cluster = server(&home);
    let database = cluster.create_database("split").await.unwrap();
    let switch = Switch::before(&database).await;
    // A lease that outlives the restart: the copy has it too, as a replica would.
    let host = TestHost::start(HostOptions { lease_ms: "30000", ..options(&switch.url) }).await;
    host.deploy(&["verbs-guest", "example-activities"]).await;
    host.start_run("collect", "run", "3").await;
    eventually("it waits", async || (host.rows("run").await.len() == 2).then_some(())).await;
    cluster.stop(true);
    copy(&home, &copied);
    let (cluster, other) = (server(&home), server(&copied));
    let elsewhere = other.url_of("split");
    let heard = async |word: usize| {
        let word = Json::of(&word).unwrap();
        eventually("it takes a word", async || host.client.signal("run", "item", &word).await.ok()).await;
    };
    let times = |words: &str| host.log().matches(words).count();
    for (n, role) in ["lease", "pool", "writer"].into_iter().enumerate() {
        switch.lead(role, &elsewhere);
        let said = "reach different servers: after a failover";
        eventually(&format!("{role}: the term ends"), async || (times(said) > n).then_some(())).await;
        let away = eventually("nothing is taken", async || host.client.health().await.ok()).await;
        assert_ne!(away.status, "ok", "{role}: {away:?}");
        switch.lead(role, &database);
        heard(n).await;
        let ready = async || (host.client.health().await.ok()?.status == "ok").then_some(());
        eventually("there is a term again", ready).await;
        assert_eq!(times(said), n + 1, "{role}: one term ended\n{}", host.log());
    }
    assert_eq!(host.output("run").await, "[0,1,2]");
    check_ledgers(&database).await;
    // Nothing that was said or done went to the other one.
    let mut connection = connect(&elsewhere).await;
    for left in ["select count(*) from ledger where seq > 1", "select count(*) from inbox"] {
        assert_eq!(count(&mut connection, left).await, 0, "{left}");
    }
    drop((host, connection));
    cluster.stop(false);
    other.stop(false);
}
