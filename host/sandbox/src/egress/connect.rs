//! From a host's name to a connection: resolves, judges every address, dials those that may be dialled, and
//! puts TLS around it.
//!
//! A name is resolved once for each request. The addresses that were judged are the ones that are dialled, so a
//! name that means something else a moment later (DNS rebinding) changes nothing. TLS is verified for the name
//! that the guest asked for, against Mozilla's authorities and those of the operator. The environment's
//! proxies are not asked: a proxy would resolve the name again.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstitch_core::limits;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::address::{Class, Network, class, is_own};
use super::policy::{Host, Target};

/// What the operator names for activities cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The file of certificate authorities.
    #[error("the certificate authorities in {file} cannot be read: {problem}")]
    Authorities {
        /// Which.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// The directory of secrets.
    #[error("secrets are to be read from {0}, which is no directory")]
    Secrets(PathBuf),
    /// The TLS library refuses its own defaults.
    #[error("no TLS: {0}")]
    Tls(rustls::Error),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreached {
    #[error("{host} is {address}, of a network that the operator has denied")]
    Denied {
        /// What was asked for.
        host: Host,
        /// What it means.
        address: IpAddr,
    },
    #[error("{host} is {address}, {class}, and the operator has not allowed its network")]
    Prohibited {
        /// What was asked for.
        host: Host,
        /// What it means.
        address: IpAddr,
        /// What that is for.
        class: Class,
    },
    #[error(
        "a secret does not go to {host} ({address}) in the clear: only to a network that the operator has allowed"
    )]
    InTheClear {
        /// What was asked for.
        host: Host,
        /// What it means.
        address: IpAddr,
    },
    #[error("the name {host} cannot be resolved: {error}")]
    Unresolved {
        /// Which.
        host: Host,
        /// What the resolver said.
        error: io::Error,
    },
    #[error("no connection to {host} ({address}): {error}")]
    Refused {
        /// What was asked for.
        host: Host,
        /// Which of its addresses was tried last.
        address: SocketAddr,
        /// What the network said.
        error: io::Error,
    },
    #[error("no TLS with {host}: {error}")]
    Tls {
        /// What was asked for.
        host: Host,
        /// What rustls said.
        error: io::Error,
    },
    #[error("no TLS with {host}: {error}")]
    Name {
        /// What was asked for.
        host: Host,
        /// Why no certificate can be for it.
        error: InvalidDnsNameError,
    },
}

/// A connection, with TLS or without.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What a name means. It may block.
pub(crate) type Resolver = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Makes connections.
pub(crate) struct Connector {
    allowed: Vec<Network>,
    denied: Vec<Network>,
    is_own: fn(IpAddr) -> bool,
    tls: TlsConnector,
    resolver: Resolver,
    lookups: Arc<Semaphore>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Connector {
    pub(crate) fn new(
        allowed: Vec<Network>,
        denied: Vec<Network>,
        ca_file: Option<&Path>,
    ) -> Result<Self, EgressError> {
        Ok(Self {
            allowed,
            denied,
            is_own,
            tls: TlsConnector::from(Arc::new(tls(ca_file)?)),
            resolver: Arc::new(system),
            lookups: Arc::new(Semaphore::new(limits::LOOKUPS_RUNNING_MAX)),
        })
    }

    /// The same with another resolver.
    #[cfg(test)]
    pub(crate) fn resolving(self, resolver: Resolver) -> Self {
        Self { resolver, ..self }
    }

    /// The same on a machine with other addresses.
    #[cfg(test)]
    pub(crate) fn having(self, is_own: fn(IpAddr) -> bool) -> Self {
        Self { is_own, ..self }
    }

    /// Connects. `has_secret`: what will be sent is not for everybody's eyes.
    pub(crate) async fn open(&self, target: &Target, has_secret: bool) -> Result<Box<dyn Stream>, Unreached> {
        let host = &target.host;
        let addresses = self.addresses(target, has_secret && !target.is_tls()).await?;
        let tcp = dial(host, &addresses).await?;
        if !target.is_tls() {
            return Ok(Box::new(tcp));
        }
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.clone())
                .map_err(|error| Unreached::Name { host: host.clone(), error })?,
            Host::Address(address) => ServerName::from(*address),
        };
        let tls = self.tls.connect(name, tcp).await;
        Ok(Box::new(tls.map_err(|error| Unreached::Tls { host: host.clone(), error })?))
    }

    /// The addresses that may be dialled: at least one. If none may, the reason for the first.
    async fn addresses(&self, target: &Target, in_the_clear: bool) -> Result<Vec<SocketAddr>, Unreached> {
        let resolved = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self
                .resolve(name)
                .await
                .map_err(|error| Unreached::Unresolved { host: target.host.clone(), error })?,
        };
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in resolved.into_iter().take(limits::ADDRESSES_TRIED_MAX) {
            match self.judge(&target.host, address, in_the_clear) {
                Ok(()) => allowed.push(SocketAddr::new(address, target.port)),
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        match (allowed.is_empty(), refused) {
            (false, _) => Ok(allowed),
            (true, Some(why)) => Err(why),
            (true, None) => Err(Unreached::Unresolved {
                host: target.host.clone(),
                error: io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
            }),
        }
    }

    fn judge(&self, host: &Host, address: IpAddr, in_the_clear: bool) -> Result<(), Unreached> {
        if self.denied.iter().any(|network| network.contains(address)) {
            return Err(Unreached::Denied { host: host.clone(), address });
        }
        if self.allowed.iter().any(|network| network.contains(address)) {
            return Ok(());
        }
        match class(address).or_else(|| (self.is_own)(address).then_some(Class::Own)) {
            Some(class) => Err(Unreached::Prohibited { host: host.clone(), address, class }),
            None if in_the_clear => Err(Unreached::InTheClear { host: host.clone(), address }),
            None => Ok(()),
        }
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let turn = Arc::clone(&self.lookups).acquire_owned().await.expect("never closed");
        let (resolver, name) = (Arc::clone(&self.resolver), name.to_owned());
        let looked_up = tokio::task::spawn_blocking(move || {
            // Held by the thread: whoever asked may have gone before the resolver gives up.
            let _turn = turn;
            resolver(&name)
        });
        looked_up.await.map_err(io::Error::other)?
    }
}

fn system(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// One address after the other, in the resolver's order. Gives up with the last one's reason.
async fn dial(host: &Host, addresses: &[SocketAddr]) -> Result<TcpStream, Unreached> {
    let mut failed = None;
    for address in addresses {
        let connected = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok(tcp)
        };
        match connected.await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => failed = Some(Unreached::Refused { host: host.clone(), address: *address, error }),
        }
    }
    Err(failed.expect("there is at least one address"))
}

/// How a host meets servers over TLS: those that Mozilla's authorities vouch for, and the operator's own.
pub fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, EgressError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(file) = ca_file {
        let unreadable = |problem: String| EgressError::Authorities { file: file.to_owned(), problem };
        let before = roots.len();
        let certificates =
            CertificateDer::pem_file_iter(file).map_err(|error| unreadable(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(unreadable("there is no certificate in it".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(EgressError::Tls)?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
