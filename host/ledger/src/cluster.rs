//! A private Postgres, for those who bring none: same dialect, same locks, same crash safety as theirs.
//!
//! It promises to listen on a Unix socket only, in a folder that nobody else can enter; to run as an
//! unprivileged user; to survive any crash of the host with what was committed (fsync stays on); and to
//! be gone soon after its host is, however the host ended. For that a shell script of 30 lines
//! stands between the two, in a process group of its own: it holds one end of a pipe and stops the
//! server when the other end closes, which the kernel sees to even after a SIGKILL.
//!
//! A lasting server knows who connects by their user of the operating system (peer authentication): the user it was
//! started by, the one it runs as, and nobody else. A host works with a role that owns its database and is no
//! superuser: [`Cluster::service_url`].
//!
//! It refuses to share: a lock on the folder keeps a second host out. A new host waits for the server of
//! a dead one to end before it starts its own.
//!
//! Starting and stopping block the thread (1 to 2 s the first time, 100 ms later).

mod error;
mod programs;
mod service;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

pub use error::ClusterError;
use programs::User;

/// The role that `initdb` makes: a superuser.
const ROLE: &str = "backstitch";
/// The role of hosts. It owns the database and what is in it, and can do nothing else.
const SERVICE_ROLE: &str = "backstitch_host";
/// Names the map from users of the operating system to roles.
const PEERS: &str = "backstitch";
/// Names the socket file; nothing listens on a port.
const PORT: u16 = 5432;
/// A socket's path must fit `sun_path`: 104 bytes on macOS, 108 on Linux, the last of them zero.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// How long another host may still be letting go of the folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How long the server of a dead host may take to end: its supervisor cuts it short after 30 s.
const PREVIOUS_WAIT: Duration = Duration::from_secs(40);
/// How long the server may take to come up, the replay of its log included.
const START_WAIT: Duration = Duration::from_secs(120);
/// How long it may take to go down.
const STOP_WAIT: Duration = Duration::from_secs(40);
/// How often to look.
const POLL: Duration = Duration::from_millis(5);
/// A log larger than this is set aside at the next start.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// What an error shows of the log.
const LOG_TAIL_BYTES: u64 = 2_000;

/// How to run a private cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Its folder. Everything in it belongs to the cluster; it is made if it does not exist.
    pub dir: PathBuf,
    /// The folder of the PostgreSQL programs; none: the search path, then where packages put them.
    pub pg_bin: Option<PathBuf>,
    /// Remove the folder when the server ends.
    pub ephemeral: bool,
    /// Further settings of the server, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

impl ClusterOptions {
    /// A lasting cluster in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), pg_bin: None, ephemeral: false, settings: Vec::new() }
    }
}

/// A private Postgres that runs. Dropping it stops it.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    socket_dir: PathBuf,
    supervisor: Child,
    /// The pipe whose end ends the server.
    leash: Option<ChildStdin>,
    pid: i32,
    /// Keeps other hosts out for as long as we live.
    _lock: File,
}

/// The first folder on the way to `dir` that keeps the private server's user out, if we are root and
/// there is one: another `dir` must then be chosen.
pub fn blocked_by(dir: &Path) -> Result<Option<PathBuf>, ClusterError> {
    Ok(programs::server_user()?.and_then(|user| programs::blocked_by(dir, &user)))
}

impl Cluster {
    /// Starts the server, after `initdb` if the folder is new, and waits until it takes connections.
    pub fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        let home = Home::prepare(&options.dir)?;
        let data = home.dir.join("data");
        home.wait_for_previous(&data)?;
        let major = fs::read_to_string(data.join("PG_VERSION")).ok();
        let bin = programs::find(options.pg_bin.as_deref(), major.as_deref().map(str::trim_end))?;
        if major.is_none() {
            home.initdb(&bin, &data, options.ephemeral)?;
        }
        let socket_dir = home.socket_dir()?;
        let mut supervisor = home.supervise(&bin, &data, &socket_dir, &options)?;
        let leash = supervisor.stdin.take();
        let mut cluster = Self { dir: home.dir, socket_dir, supervisor, leash, pid: 0, _lock: home.lock };
        cluster.pid = cluster.wait_until_ready(&data)?;
        Ok(cluster)
    }

    /// A cluster in a new folder under `/tmp`, which is removed when the server ends: for tests.
    pub fn ephemeral() -> Result<Self, ClusterError> {
        let dir = new_dir_in_tmp()?;
        Self::start(ClusterOptions { ephemeral: true, ..ClusterOptions::new(dir) })
    }

    /// Where to connect as superuser, for this program and for `psql`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Where to connect to another database of the cluster.
    pub fn url_of(&self, database: &str) -> String {
        self.url_as(database, ROLE)
    }

    fn url_as(&self, database: &str, role: &str) -> String {
        let socket_dir = encoded(&self.socket_dir.to_string_lossy());
        let database = encoded(database);
        format!("postgres:///{database}?host={socket_dir}&port={PORT}&user={role}&sslmode=disable")
    }

    /// Where hosts connect: as a role that is no superuser. Makes it, and gives it what earlier versions, which were
    /// superusers, have left. May be repeated.
    pub async fn service_url(&self) -> Result<String, ClusterError> {
        let mut connection = PgConnection::connect(&self.url()).await.map_err(ClusterError::Refused)?;
        service::prepare(&mut connection, SERVICE_ROLE).await.map_err(ClusterError::Refused)?;
        connection.close().await.ok();
        Ok(self.url_as("postgres", SERVICE_ROLE))
    }

    /// Makes an empty database and says where to connect to it.
    pub async fn create_database(&self, name: &str) -> Result<String, ClusterError> {
        let mut connection = PgConnection::connect(&self.url()).await.map_err(ClusterError::Refused)?;
        let statement = format!("create database \"{}\"", name.replace('"', "\"\""));
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .map_err(ClusterError::Refused)?;
        connection.close().await.ok();
        Ok(self.url_of(name))
    }

    /// The server's process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The cluster's folder, with `server.log` in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops the server and waits until it is gone. Not graceful: as if the power had failed.
    pub fn stop(mut self, graceful: bool) {
        self.end(Some(if graceful { "fast\n" } else { "immediate\n" }));
    }

    fn end(&mut self, how: Option<&str>) {
        let Some(mut leash) = self.leash.take() else { return };
        if let Some(how) = how {
            // If the supervisor is gone, so is the server.
            leash.write_all(how.as_bytes()).ok();
        }
        drop(leash);
        let ended = wait_for(STOP_WAIT, || !matches!(self.supervisor.try_wait(), Ok(None)));
        if !ended {
            tracing::error!(pid = self.pid, "the private Postgres does not end");
        }
    }

    fn wait_until_ready(&mut self, data: &Path) -> Result<i32, ClusterError> {
        let (pid_file, supervisor) = (data.join("postmaster.pid"), &mut self.supervisor);
        let mut pid = None;
        wait_for(START_WAIT, || {
            pid = ready_pid(&pid_file);
            pid.is_some() || !matches!(supervisor.try_wait(), Ok(None))
        });
        pid.ok_or_else(|| {
            let log = self.dir.join("server.log");
            // Read before the drop of an ephemeral cluster removes it.
            ClusterError::Start { tail: tail(&log), log }
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// The cluster's folder, locked, and the user who owns it.
struct Home {
    dir: PathBuf,
    user: Option<User>,
    lock: File,
}

impl Home {
    fn prepare(dir: &Path) -> Result<Self, ClusterError> {
        let dir = std::path::absolute(dir).map_err(failed("find", dir))?;
        let user = programs::server_user()?;
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(failed("make", parent))?;
        }
        if let Some(user) = &user
            && let Some(blocked) = programs::blocked_by(&dir, user)
        {
            return Err(ClusterError::Unreachable { user: user.name, blocked, dir });
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed("make", &dir))?;
        // One that was there may have let others in.
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).map_err(failed("close", &dir))?;
        if let Some(user) = &user {
            chown(&dir, Some(user.uid), Some(user.gid)).map_err(failed("give away", &dir))?;
        }
        let path = dir.join("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        let locked = wait_for(LOCK_WAIT, || lock.try_lock().is_ok());
        if locked { Ok(Self { dir, user, lock }) } else { Err(ClusterError::InUse(dir)) }
    }

    /// Waits until no server runs on the folder, and removes what a dead one has left: its process
    /// number may belong to someone else by now, which Postgres would take for itself.
    fn wait_for_previous(&self, data: &Path) -> Result<(), ClusterError> {
        let pid_file = data.join("postmaster.pid");
        let running = || pid_of(&pid_file).filter(|pid| is_server(*pid, data));
        if let Some(pid) = running() {
            tracing::info!(pid, "waiting for the Postgres of an earlier host to end");
            if !wait_for(PREVIOUS_WAIT, || running().is_none()) {
                return Err(ClusterError::StillRunning { dir: self.dir.clone(), pid });
            }
        }
        let socket = socket_file(&self.dir);
        for stale in [pid_file, socket.with_extension(format!("{PORT}.lock")), socket] {
            match fs::remove_file(&stale) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("remove", &stale)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A command that runs as the server's user, with none of our environment: `PG…` variables would
    /// change what the programs do.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_clear().envs([
            ("PATH", "/usr/bin:/bin"),
            ("LC_ALL", "C"),
            ("TZ", "UTC"),
        ]);
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Makes the data directory, under another name until it is complete.
    fn initdb(&self, bin: &Path, data: &Path, ephemeral: bool) -> Result<(), ClusterError> {
        let partial = data.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(failed("remove", &partial))?;
        }
        let mut command = self.command(bin.join("initdb"));
        command.arg("-D").arg(&partial).args(["-U", ROLE, "-E", "UTF8", "--locale=C"]);
        command.args(["--auth-local=trust", "--auth-host=reject", "--no-instructions"]);
        if ephemeral {
            command.arg("--no-sync");
        }
        let output = command.stdin(Stdio::null()).output().map_err(failed("run initdb of", bin))?;
        if !output.status.success() {
            return Err(ClusterError::Initdb(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()));
        }
        fs::rename(&partial, data).map_err(failed("rename", &partial))
    }

    /// Says who may connect as whom, and with which settings the server reads it.
    fn let_in_peers(&self) -> Result<Vec<String>, ClusterError> {
        let me = programs::own_name()?;
        let users = self.user.iter().map(|user| user.name).chain([me.as_str()]);
        let lines =
            users.flat_map(|user| [ROLE, SERVICE_ROLE].map(|role| format!("{PEERS} \"{user}\" {role}\n")));
        let files = [
            ("hba_file", "peers_hba.conf", format!("local all all peer map={PEERS}\n")),
            ("ident_file", "peers_ident.conf", lines.collect()),
        ];
        let write = |(setting, name, text): (&str, &str, String)| {
            let path = self.dir.join(name);
            fs::write(&path, text).map_err(failed("write", &path))?;
            if let Some(user) = &self.user {
                chown(&path, Some(user.uid), Some(user.gid)).map_err(failed("give away", &path))?;
            }
            Ok(format!("{setting}={}", path.display()))
        };
        files.into_iter().map(write).collect()
    }

    /// Our own folder, or a short one if a socket in it would have too long a path.
    fn socket_dir(&self) -> Result<PathBuf, ClusterError> {
        if socket_file(&self.dir).as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(self.dir.clone());
        }
        let short = new_dir_in_tmp()?;
        if let Some(user) = &self.user {
            chown(&short, Some(user.uid), Some(user.gid)).map_err(failed("give away", &short))?;
        }
        Ok(short)
    }

    fn supervise(
        &self,
        bin: &Path,
        data: &Path,
        socket_dir: &Path,
        options: &ClusterOptions,
    ) -> Result<Child, ClusterError> {
        let path = self.dir.join("server.log");
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            fs::rename(&path, path.with_extension("log.1")).map_err(failed("set aside", &path))?;
        }
        let log = OpenOptions::new().create(true).append(true).mode(0o640).open(&path);
        let log = log.map_err(failed("open", &path))?;
        let errors = log.try_clone().map_err(failed("open", &path))?;

        let mut command = self.command("/bin/sh");
        command.args(["-c", include_str!("cluster/supervise.sh"), "backstitch-postgres"]);
        // Nobody needs what an ephemeral server would write on its way down.
        command.arg(if options.ephemeral { "QUIT" } else { "INT" });
        command.arg(if socket_dir == self.dir { Path::new("") } else { socket_dir });
        command.arg(if options.ephemeral { &self.dir } else { Path::new("") });
        command.arg(bin.join("postgres")).arg("-D").arg(data).arg("-k").arg(socket_dir);
        command.args(["-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"]);
        command.args(["-c", &format!("port={PORT}"), "-c", "fsync=on", "-c", "log_destination=stderr"]);
        if !options.ephemeral {
            for setting in self.let_in_peers()? {
                command.arg("-c").arg(setting);
            }
        }
        for (name, value) in &options.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        command.stdin(Stdio::piped()).stdout(log).stderr(errors).process_group(0);
        command.spawn().map_err(failed("run the server in", bin))
    }
}

/// A name under `/tmp` that nobody can have prepared for us: making it fails if it exists. Short, and
/// not where `TMPDIR` says, for sockets go there.
fn new_dir_in_tmp() -> Result<PathBuf, ClusterError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/backstitch-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", &dir)(error)),
        }
    }
}

fn socket_file(dir: &Path) -> PathBuf {
    dir.join(format!(".s.PGSQL.{PORT}"))
}

/// The server's process, by the first line of its `postmaster.pid`.
fn pid_of(pid_file: &Path) -> Option<i32> {
    fs::read_to_string(pid_file).ok()?.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// The server's process, once the last line of its `postmaster.pid` says that it takes connections.
fn ready_pid(pid_file: &Path) -> Option<i32> {
    let text = fs::read_to_string(pid_file).ok()?;
    (text.lines().nth(7)?.trim() == "ready").then(|| pid_of(pid_file))?
}

/// Whether the process is a server that works on `data`, as far as can be told. A dead one that nobody
/// has buried yet has no command line.
fn is_server(pid: i32, data: &Path) -> bool {
    let Some(process) = rustix::process::Pid::from_raw(pid) else { return false };
    let gone = rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH);
    if gone || !Path::new("/proc/self/cmdline").exists() {
        return !gone;
    }
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command_line).contains(&*data.to_string_lossy())
}

/// Looks until `done` or `timeout` is over; whether it was done.
fn wait_for(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if done() {
            return true;
        }
        if began.elapsed() > timeout {
            return false;
        }
        sleep(POLL);
    }
}

fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let begin = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> ClusterError + 'a {
    move |source| ClusterError::Io { what, path: path.to_owned(), source }
}

/// Percent-encodes everything but the plainest characters.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let encode = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}
