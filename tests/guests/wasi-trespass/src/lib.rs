//! Activities for `wasm32-wasip2` that reach for files and sockets. A host either refuses the
//! component by the names of these imports, or lets it in and gives them nothing.

use backstitch_sdk::{Error, Result, activities, export_activities};

/// Each reaches for one thing.
#[activities(task_queue = "wasi-tasks")]
pub trait Trespass {
    /// The length of a file.
    async fn read_file(path: String) -> usize;
    /// Connects to an address such as `127.0.0.1:5432`.
    async fn connect(address: String);
}

/// The standard library, as far as the host lets it reach.
#[derive(Debug)]
pub struct Std;

impl Trespass for Std {
    async fn read_file(path: String) -> Result<usize> {
        std::fs::read(path)
            .map(|bytes| bytes.len())
            .map_err(|error| Error::application("no-file", error.to_string()).non_retryable())
    }

    async fn connect(address: String) -> Result<()> {
        std::net::TcpStream::connect(address)
            .map(drop)
            .map_err(|error| Error::application("no-socket", error.to_string()).non_retryable())
    }
}

export_activities!(Std as Trespass);
