//! Addresses, directories and durations: what they are unless somebody says otherwise, and how what
//! somebody said is read. Decides only; the environment comes in through [`backstitch_engine::ambient`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use backstitch_engine::ambient;

/// Where a host listens unless told otherwise: this machine only, for there is no login yet.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7467";

/// Where clients look for a host unless told otherwise.
pub const HOST_URL_DEFAULT: &str = "http://127.0.0.1:7467";

/// The directory in which a host keeps what outlives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

/// No place for data could be found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither XDG_DATA_HOME nor HOME is set, so there is no default place for data")]
pub struct NoDataDir;

impl DataDir {
    /// The directory `given`, or else the user's: `$XDG_DATA_HOME/backstitch`, by default
    /// `~/.local/share/backstitch`. For root it is `/var/lib/backstitch`: the private Postgres then
    /// runs as an unprivileged user, who cannot look into root's home.
    pub fn resolve(given: Option<PathBuf>) -> Result<Self, NoDataDir> {
        let xdg = ambient::variable_path("XDG_DATA_HOME");
        let home = ambient::variable_path("HOME");
        Self::choose(given, ambient::is_root(), xdg, home)
    }

    fn choose(
        given: Option<PathBuf>,
        root: bool,
        xdg: Option<PathBuf>,
        home: Option<PathBuf>,
    ) -> Result<Self, NoDataDir> {
        // The XDG specification: a relative path is to be ignored.
        let xdg = xdg.filter(|path| path.is_absolute());
        let chosen = match (given, root) {
            (Some(given), _) => Some(given),
            (None, true) => Some(PathBuf::from("/var/lib/backstitch")),
            (None, false) => {
                xdg.or_else(|| home.map(|home| home.join(".local/share"))).map(|base| base.join("backstitch"))
            }
        };
        chosen.map(Self).ok_or(NoDataDir)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the private Postgres cluster lives.
    pub fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }

    /// Where compiled components are kept. May be deleted at any time.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }
}

/// Reads `1500ms`, `30s`, `5m`, `2h` or a bare number of seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor_ms = match unit.trim_start() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 24 * 3_600_000,
        _ => return Err(malformed(text)),
    };
    let number: u64 = number.parse().map_err(|_| malformed(text))?;
    number.checked_mul(factor_ms).map(Duration::from_millis).ok_or_else(|| malformed(text))
}

fn malformed(text: &str) -> String {
    format!("{text:?} is no duration: write 1500ms, 30s, 5m, 2h or 1d")
}

/// A database URL without its password, for people and logs.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    match authority.rsplit_once('@') {
        Some((login, place)) => match login.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:***@{place}{path}"),
            None => url.to_owned(),
        },
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_seconds_are_the_default() {
        for (text, ms) in [
            ("0", 0),
            ("30", 30_000),
            ("1500ms", 1_500),
            ("5 s", 5_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "1.5s", "-1s", "1w", "99999999999999999999", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn data_goes_where_the_postgres_user_can_follow() {
        let home = || Some(PathBuf::from("/home/ada"));
        let choose = |given: Option<&str>, root, xdg: Option<&str>, home| {
            DataDir::choose(given.map(PathBuf::from), root, xdg.map(PathBuf::from), home)
                .map(|dir| dir.path().display().to_string())
        };
        assert_eq!(choose(Some("x"), true, Some("/xdg"), home()), Ok("x".into()));
        assert_eq!(choose(None, true, Some("/xdg"), home()), Ok("/var/lib/backstitch".into()));
        assert_eq!(choose(None, false, Some("/xdg"), home()), Ok("/xdg/backstitch".into()));
        assert_eq!(choose(None, false, Some("xdg"), home()), Ok("/home/ada/.local/share/backstitch".into()));
        assert_eq!(choose(None, false, None, None), Err(NoDataDir));
    }

    #[test]
    fn a_shown_database_url_has_no_password() {
        assert_eq!(without_password("postgres://u:p@h:1/d?x=y"), "postgres://u:***@h:1/d?x=y");
        assert_eq!(without_password("postgres://u:p@ss@h/d"), "postgres://u:***@h/d");
        assert_eq!(without_password("postgres://u@h/d"), "postgres://u@h/d");
        assert_eq!(without_password("postgres:///d?host=/run/pg"), "postgres:///d?host=/run/pg");
    }
}
