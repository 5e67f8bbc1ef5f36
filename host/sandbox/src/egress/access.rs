//! What all attempts of a host share: the way out, the secrets, and turns to use them.

use std::path::PathBuf;
use std::sync::Arc;

use backstitch_core::limits;
use tokio::sync::Semaphore;

use super::address::Network;
use super::connect::{Connector, EgressError};
use super::manifest::Manifest;
use super::secrets::Secrets;

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
    pub(super) connector: Connector,
    pub(super) secrets: Secrets,
    /// Turns to have a request under way.
    pub(super) open: Arc<Semaphore>,
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
