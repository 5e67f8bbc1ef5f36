//! A host, as others meet it: its terms, what clients can ask ([`service`]), the HTTP API ([`api`]), the same from within
//! a program ([`embed`]), and tasks that are pushed to endpoints ([`push`]).

pub mod api;
mod calendar;
pub mod embed;
pub mod host;
mod local;
pub mod push;
pub mod seal;
pub mod service;
mod time;
