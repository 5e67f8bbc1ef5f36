//! A host as a child process. However the demo ends, the child ends with it, and its Postgres too.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

/// How long a host may take to stop when it is asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What a host logs: its news, and each attempt of an activity.
const LOG_FILTER: &str = "warn,backstitch=info,backstitch::activity=debug";

/// What `dev --json` says when it is ready.
#[derive(Deserialize)]
struct Ready {
    url: String,
}

pub(super) struct Host {
    child: Child,
    pub(super) url: String,
}

/// Where the host of a life writes its log.
pub(super) fn log(dir: &Path, life: u32) -> PathBuf {
    dir.join(format!("host-{life}.log"))
}

impl Host {
    /// Starts one and waits until it answers.
    pub(super) fn start(program: &Path, dir: &Path, life: u32, listen: &str) -> anyhow::Result<Self> {
        let path = log(dir, life);
        let mut command = Command::new(program);
        command.args(["dev", "--json", "--log-format", "json", "--log", LOG_FILTER, "--listen", listen]);
        command.arg("--data-dir").arg(dir.join("data"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&path)?);
        let mut child = command.spawn().context("cannot run backstitch dev")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        // From here on, every way out ends the child.
        let mut host = Self { child, url: String::new() };
        let ready = first_document(BufReader::new(stdout))
            .with_context(|| format!("the host did not get ready; its log says:\n{}", tail(&path)))?;
        host.url = ready.url;
        Ok(host)
    }

    /// The address in its URL.
    pub(super) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// SIGKILL: no destructor, no flush, no farewell.
    pub(super) fn kill(mut self) -> anyhow::Result<u32> {
        let pid = self.child.id();
        self.child.kill()?;
        self.child.wait()?;
        Ok(pid)
    }

    /// Asks it to stop, as Ctrl-C would, and expects it to do so well.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the host ended with {status}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the host does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both do nothing to a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The document that a host prints, over several lines, before it goes on running.
fn first_document(mut stdout: impl BufRead) -> anyhow::Result<Ready> {
    let mut text = String::new();
    while stdout.read_line(&mut text)? > 0 {
        if let Ok(ready) = serde_json::from_str(&text) {
            return Ok(ready);
        }
    }
    anyhow::bail!("it ended")
}

fn tail(path: &Path) -> String {
    const TAIL_LINES: usize = 20;
    let mut text = String::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_ready_when_its_document_is_whole() {
        let stdout = "{\n  \"url\": \"http://127.0.0.1:1\",\n  \"host_id\": \"x\"\n}\nmore";
        assert_eq!(first_document(stdout.as_bytes()).unwrap().url, "http://127.0.0.1:1");
        assert!(first_document("{\n".as_bytes()).is_err());
    }
}
