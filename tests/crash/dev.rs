//! `backstitch dev`, whose private Postgres must neither outlive it nor lose anything.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::load::{ASKED, PACKAGES, approve, order};
use crate::support::{HostOptions, TestHost, check_ledgers, eventually};

async fn dev(data: &Path) -> TestHost {
    TestHost::start(HostOptions { command: "dev", ..HostOptions::new("").data(data) }).await
}

/// The private server's process.
fn server(data: &Path) -> String {
    let file = std::fs::read_to_string(data.join("postgres/data/postmaster.pid")).unwrap();
    file.lines().next().unwrap().trim().to_owned()
}

async fn gone(pid: &str) {
    eventually("the private Postgres ends", async || (!Path::new("/proc").join(pid).exists()).then_some(()))
        .await;
}

#[tokio::test]
async fn runs_go_on_when_dev_was_killed_and_is_started_again() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    // The server's user must be able to reach its folder.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o711)).unwrap();

    let mut host = dev(&data).await;
    host.deploy(&PACKAGES).await;
    host.start_run("approval", "asked", ASKED).await;
    host.start_run("follow_up", "asleep", r#"{"customer":"a@example.com","after":"2 seconds"}"#).await;
    host.start_run("steps", "steps", r#"{"n":300,"text":"abc"}"#).await;
    host.start_run("order_workflow", "order", order!("LEG-3374")).await;
    let pid = server(&data);
    host.kill();
    gone(&pid).await;

    let mut host = dev(&data).await;
    let pid = server(&data);
    approve(&host, "asked").await.unwrap();
    assert_eq!(host.output("asked").await, r#""approved""#);
    assert!(host.output("asleep").await.starts_with("\"mail-"));
    assert_eq!(host.output("steps").await, r#"{"n":300,"bytes":900}"#);
    assert!(host.output("order").await.contains("reserved"));
    check_ledgers(&host.database_url).await;
    host.signal("-TERM");
    assert!(host.exit().await.success(), "{}", host.log());
    gone(&pid).await;
}
