//! Why there is no private cluster.

use std::path::PathBuf;

/// Why there is no private cluster. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// PostgreSQL is not installed.
    #[error(
        "no PostgreSQL server programs found{asked}. Install them:\n    {install}\nor set DATABASE_URL to use a server that runs already"
    )]
    NoBinaries {
        /// Where they had to be.
        asked: String,
        /// What installs them here.
        install: &'static str,
    },
    /// We are root, and there is nobody to run the server.
    #[error(
        "PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`; start as an ordinary user"
    )]
    NoUser,
    /// The server's user cannot get to the folder.
    #[error("the user `{user}`, who runs the private Postgres because we are root, may not enter {}; choose another data directory than {}", blocked.display(), dir.display())]
    Unreachable {
        /// Who.
        user: &'static str,
        /// Which folder on the way is closed.
        blocked: PathBuf,
        /// Where the cluster was to be.
        dir: PathBuf,
    },
    /// Nobody is called what we run as.
    #[error("the user that this program runs as has no name, by which a private Postgres would know it")]
    NoName,
    /// Another host runs on the folder.
    #[error("another process uses {}; stop it, or choose another data directory", .0.display())]
    InUse(PathBuf),
    /// The server of a dead host does not end.
    #[error("the Postgres of an earlier host still runs on {} as process {pid}; stop it with: kill -INT {pid}", dir.display())]
    StillRunning {
        /// The folder.
        dir: PathBuf,
        /// The server.
        pid: i32,
    },
    /// `initdb` failed.
    #[error("the private Postgres could not be set up (initdb): {0}")]
    Initdb(String),
    /// The server did not come up.
    #[error("the private Postgres did not start; the end of {}:\n{tail}", log.display())]
    Start {
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// The operating system said no.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What we wanted.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The server runs, but did not do what it was asked.
    #[error("the private Postgres refused: {0}")]
    Refused(#[source] sqlx::Error),
}
