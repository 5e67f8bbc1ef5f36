//! The way out of an activity: HTTP to where its deployment's manifest and this host's operator both let it.
//!
//! ```text
//! guest ── wasi:http ──▶ exchange ──▶ policy    may it ask this of that host?      (the author's manifest)
//!                           ├───────▶ connect   resolve, judge the addresses, dial (the operator's networks)
//!                           ├───────▶ secrets   headers that no guest ever sees    (the operator's hosts)
//!                           └───────▶ body      bytes in both directions, counted
//! ```
//!
//! Nothing is allowed that is not said. No redirect is followed, no proxy is asked, no connection is used twice: a
//! guest that follows a redirect makes another request, which is judged as the first was. What is refused
//! is an error code in the guest and a line in the log with the reason, which may name what the author
//! need not know.

mod address;
mod body;
mod connect;
mod exchange;
mod manifest;
mod policy;
mod secrets;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use backstitch_core::limits;
use tokio::sync::Semaphore;

pub use address::{Network, NotANetwork};
pub use connect::{EgressError, tls};
pub(crate) use exchange::{Caller, Http};
pub use manifest::{BadManifest, Manifest};

use connect::Connector;
use secrets::Secrets;

/// What a host's operator lets activities reach, and with what.
#[derive(Clone, Debug, Default)]
pub struct EgressConfig {
    /// Networks that are reached although they are not of the public internet.
    pub networks: Vec<Network>,
    /// Networks that are never reached, whatever else is said of them.
    pub denied: Vec<Network>,
    /// Where the secrets are that manifests name; none: there are none.
    pub secrets_dir: Option<PathBuf>,
    /// Certificate authorities in PEM that are trusted beside Mozilla's.
    pub ca_file: Option<PathBuf>,
}

/// What all attempts of a host share.
#[derive(Debug)]
pub(crate) struct Egress {
    connector: Connector,
    secrets: Secrets,
    /// Turns to have a request under way.
    open: Arc<Semaphore>,
}

impl Egress {
    /// Reads the certificate authorities. Secrets are read when they are used.
    pub(crate) fn new(config: EgressConfig) -> Result<Self, EgressError> {
        if let Some(dir) = config.secrets_dir.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(EgressError::Secrets(dir.clone()));
        }
        Ok(Self {
            connector: Connector::new(config.networks, config.denied, config.ca_file.as_deref())?,
            secrets: Secrets::new(config.secrets_dir),
            open: Arc::new(Semaphore::new(limits::HTTP_REQUESTS_OPEN_MAX)),
        })
    }

    /// What of a manifest this host cannot do for want of a secret. Reads files.
    pub(crate) fn obstacles(&self, manifest: &Manifest) -> Vec<String> {
        let mut obstacles: Vec<String> = Vec::new();
        for obstacle in manifest.rules.iter().flat_map(|rule| self.secrets.obstacles(rule)) {
            let obstacle = obstacle.to_string();
            if !obstacles.contains(&obstacle) {
                obstacles.push(obstacle);
            }
        }
        obstacles
    }
}
