//! Where the PostgreSQL programs are, and who may run them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::ClusterError;

/// Where packages put the server's programs, one folder for each major version.
const ROOTS: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
    ("/usr", "bin"),
    ("/usr/libexec", ""),
];

/// The folder that holds `postgres` and `initdb`: the one that was asked for, or else one that is on the
/// search path, or else the newest one that a package has installed.
///
/// `major`, if given, is the version that made the data: only its programs can read it, so they come first.
pub(super) fn find(asked: Option<&Path>, major: Option<&str>) -> Result<PathBuf, ClusterError> {
    let candidates = match asked {
        Some(folder) => vec![folder.to_owned()],
        None => on_search_path().into_iter().chain(installed()).collect(),
    };
    let usable: Vec<PathBuf> = candidates.into_iter().filter(|folder| holds_server(folder)).collect();
    let fitting =
        major.and_then(|major| usable.iter().find(|folder| version(folder) == Some(major.to_owned())));
    fitting.or(usable.first()).cloned().ok_or_else(|| ClusterError::NoBinaries {
        asked: asked.map_or(String::new(), |folder| format!(" in {}", folder.display())),
        install: install_command(),
    })
}

fn holds_server(folder: &Path) -> bool {
    folder.join("postgres").is_file() && folder.join("initdb").is_file()
}

/// Asks a shell, which knows the search path.
fn on_search_path() -> Option<PathBuf> {
    let output = Command::new("sh").args(["-c", "command -v postgres"]).stdin(Stdio::null()).output().ok()?;
    let program = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    Some(program.canonicalize().ok()?.parent()?.to_owned())
}

/// Newest version first.
fn installed() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = ROOTS
        .iter()
        .flat_map(|(root, leaf)| {
            let entries = fs::read_dir(root).into_iter().flatten().flatten();
            entries.filter_map(move |entry| {
                let version = folder_version(&entry.file_name())?;
                Some((version, entry.path().join(leaf)))
            })
        })
        .collect();
    found.sort_by(|one, other| other.cmp(one));
    found.into_iter().map(|(_, folder)| folder).chain([PathBuf::from("/usr/bin")]).collect()
}

/// `17` of `17`, `postgresql@17`, `pgsql-17` and `postgresql17`.
fn folder_version(name: &OsStr) -> Option<u32> {
    let name = name.to_str()?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let prefix = &name[..name.len() - digits.len()];
    ["", "postgresql@", "pgsql-", "postgresql"].contains(&prefix).then(|| digits.parse().ok())?
}

/// The major version of the programs, as a data directory's `PG_VERSION` says it.
fn version(folder: &Path) -> Option<String> {
    let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(number.chars().take_while(char::is_ascii_digit).collect())
}

fn install_command() -> &'static str {
    if cfg!(target_os = "macos") {
        return "brew install postgresql@17";
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let families: Vec<&str> = release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .collect();
    let is = |family| families.contains(&family);
    if is("fedora") || is("rhel") || is("centos") {
        "sudo dnf install postgresql-server"
    } else if is("alpine") {
        "sudo apk add postgresql"
    } else if is("arch") {
        "sudo pacman -S postgresql"
    } else if is("suse") || is("opensuse") {
        "sudo zypper install postgresql-server"
    } else {
        "sudo apt-get install postgresql"
    }
}

/// Whom the server runs as, if that is not us.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: &'static str,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// None: we are an ordinary user, and the server runs as ourselves. Postgres refuses to run as root,
/// so root lends it a user who owns nothing else.
pub(super) fn server_user() -> Result<Option<User>, ClusterError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let user = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| Some(User { name, uid: numeric_id("-u", name)?, gid: numeric_id("-g", name)? }));
    user.map(Some).ok_or(ClusterError::NoUser)
}

/// What the user is called that we run as.
pub(super) fn own_name() -> Result<String, ClusterError> {
    let mut command = Command::new("id");
    command.arg("-un").stderr(Stdio::null());
    let output = command.output().or_else(|_| command.env("PATH", "/usr/bin:/bin").output());
    let name = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let name = name.map(|name| name.trim_end().to_owned()).unwrap_or_default();
    if name.is_empty() || name.contains(['"', '\n']) { Err(ClusterError::NoName) } else { Ok(name) }
}

/// Asks `id`, which knows every kind of user directory.
fn numeric_id(which: &str, name: &str) -> Option<u32> {
    let ask = |search_path: Option<&str>| {
        let mut command = Command::new("id");
        command.args([which, name]).stderr(Stdio::null()).envs(search_path.map(|path| ("PATH", path)));
        command.output()
    };
    // A search path without `id` does not mean that there is no such user.
    let output = ask(None).or_else(|_| ask(Some("/usr/bin:/bin"))).ok()?;
    let id = String::from_utf8(output.stdout).ok()?.trim_end().parse().ok()?;
    (output.status.success() && id != 0).then_some(id)
}

/// The first folder on the way to `path` that `user` may not enter.
pub(super) fn blocked_by(path: &Path, user: &User) -> Option<PathBuf> {
    let may_enter = |folder: &Path| {
        let Ok(metadata) = fs::metadata(folder) else { return true };
        let shift = match () {
            () if metadata.uid() == user.uid => 6,
            () if metadata.gid() == user.gid => 3,
            () => 0,
        };
        (metadata.mode() >> shift) & 1 == 1
    };
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    ancestors.into_iter().find(|folder| !may_enter(folder)).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_every_packager_tell_their_version() {
        for name in ["17", "postgresql@17", "pgsql-17", "postgresql17"] {
            assert_eq!(folder_version(OsStr::new(name)), Some(17), "{name}");
        }
        for name in ["bin", "lib64", "python3", "postgresql", "postgresql-common"] {
            assert_eq!(folder_version(OsStr::new(name)), None, "{name}");
        }
    }
}
