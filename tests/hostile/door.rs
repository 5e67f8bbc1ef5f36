//! A host's door in a real process: as many connections as there may be, and what the process keeps to itself. What
//! becomes of connections that keep quiet is tested beside `api/door.rs`, where the clock can be short.

use std::os::unix::process::ExitStatusExt;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::{DEADLINE, HostOptions, TestHost, database, eventually, skipped};

async fn connect(host: &TestHost) -> TcpStream {
    TcpStream::connect(host.url.trim_start_matches("http://")).await.unwrap()
}

/// Whether the host closes a connection, or leaves it open for as long as it takes to close another.
async fn closed(connection: &mut TcpStream) {
    let read = tokio::time::timeout(DEADLINE, connection.read(&mut [0; 1])).await.expect("it is closed");
    assert!(!matches!(read, Ok(1..)), "the host says something unasked");
}

#[tokio::test]
async fn connections_beyond_those_that_a_host_or_an_address_may_have_are_closed() {
    let database = database().await;
    for bounds in [["--connections-max", "3"], ["--peer-connections-max", "3"]] {
        let host = bounds.into_iter().fold(HostOptions::new(&database), HostOptions::arg);
        let host = TestHost::start(host).await;
        let mut inside = Vec::new();
        for _ in 0..3 {
            inside.push(connect(&host).await);
        }
        closed(&mut connect(&host).await).await;
        assert!(host.client.health().await.is_err(), "nobody else comes in");
        assert!(host.log().contains("there is no room for more"), "{}", host.log());
        drop(inside.pop());
        // When the host has noticed.
        eventually("there is room again", async || host.client.health().await.ok()).await;
    }
}

/// A bound of a process, as it is and as it may become.
fn bound(pid: u32, name: &str) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[tokio::test]
async fn a_host_makes_room_for_files_and_leaves_its_memory_to_nobody() {
    let database = database().await;
    let options = || HostOptions {
        before: Some("ulimit -S -n 256; ulimit -S -c unlimited".to_owned()),
        ..HostOptions::new(&database)
    };
    let host = TestHost::start(options()).await;
    let (soft, hard) = bound(host.pid(), "Max open files");
    assert!(soft == hard || soft.parse::<u64>().unwrap() >= 1 << 20, "{soft} of {hard}");
    assert_eq!(bound(host.pid(), "Max core file size"), ("0".to_owned(), "0".to_owned()));
    // Whoever looks for what is wrong with a host can have it otherwise.
    let open = TestHost::start(options().arg("--allow-dumps")).await;
    assert_ne!(bound(open.pid(), "Max core file size").1, "0");
    // The kernel says by the owner of what it shows of a process whether others may look into it. Root owns all.
    use std::os::unix::fs::MetadataExt;
    let owner = |host: &TestHost| std::fs::metadata(format!("/proc/{}/environ", host.pid())).unwrap().uid();
    assert_eq!(owner(&host), 0);
    let me = std::fs::metadata("/proc/self").unwrap().uid();
    assert_eq!(owner(&open), me);
}

#[tokio::test]
async fn a_host_that_is_killed_by_a_fault_writes_no_core() {
    let database = database().await;
    // Where a core would be written, and so many blocks of it at most.
    let place = tempfile::tempdir().unwrap();
    let options = || HostOptions {
        before: Some(format!("cd {}; ulimit -c 64", place.path().display())),
        ..HostOptions::new(&database)
    };
    let mut host = TestHost::start(options()).await;
    host.signal("-ABRT");
    let exit = host.exit().await;
    assert_eq!((exit.signal(), exit.core_dumped()), (Some(6), false));
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    // Where the system writes none at all, this shows nothing.
    let mut open = TestHost::start(options().arg("--allow-dumps")).await;
    open.signal("-ABRT");
    if !open.exit().await.core_dumped() {
        skipped("this system writes no core of a process that may have one either");
    }
}
