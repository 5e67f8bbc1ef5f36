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

mod access;
mod address;
mod body;
mod connect;
mod decide;
mod exchange;
mod manifest;
mod policy;
mod secret_name;
mod secrets;
#[cfg(test)]
mod tests;

pub(crate) use access::Egress;
pub use access::EgressConfig;
pub use address::{Network, NotANetwork};
pub use connect::{EgressError, tls};
pub(crate) use exchange::{Caller, Http};
pub use manifest::{BadManifest, Manifest};
