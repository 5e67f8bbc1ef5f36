//! The HTTP API of a host: JSON over HTTP/1.1 under `/v1`, on loopback unless told otherwise.
//!
//! This room translates. Requests become calls of [`Service`](crate::service::Service), errors become [`problem`] documents;
//! nothing is decided here except who may ask ([`guard`]), how much ([`extract`]) and for how long.
//! [`backstitch_wire`] is the other end of the same wire and has the types of both.

mod codes;
mod described;
mod door;
mod etag;
mod extract;
mod guard;
pub mod openapi;
pub mod problem;
mod reference;
mod router;
mod routes;
mod schedule_routes;
mod spec_routes;
mod state;
mod steer_routes;
mod stream;
mod task_routes;
pub mod typescript;

pub use self::door::{Door, Room, Timeouts};
pub use self::extract::trim;
pub use self::router::router;
