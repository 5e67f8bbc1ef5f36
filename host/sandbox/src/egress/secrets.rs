//! The operator's secrets: one file each in a directory, as orchestrators mount them.
//!
//! | file | holds |
//! |---|---|
//! | `NAME` | the secret; a line break at its end is not part of it |
//! | `NAME.hosts` | which hosts may have it: a pattern in each line, as in a manifest; `#` begins a comment |
//!
//! A manifest is its author's word, so it cannot say alone where a secret goes: without `NAME.hosts`, or for a host that
//! is not in it, a secret is not sent. Both are read when they are used, so a secret can be exchanged under
//! a running host. A value leaves this module as a header that is marked as sensitive, and no other
//! way: it is in no log, no error and no ledger, and no guest has it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use backstitch_core::limits;
use http::{HeaderName, HeaderValue};

use super::manifest::{Piece, Rule};
use super::policy::{Host, HostPattern};
use super::secret_name::SecretName;

/// A value, which nothing can show.
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret is not sent. Says its name, never a part of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSecret {
    #[error("this host holds no secrets: none of its options names their directory")]
    NoDirectory,
    #[error("this host has no secret {0}")]
    Missing(SecretName),
    #[error("the file {file} of secret {name} cannot be read: {error}")]
    Unreadable {
        /// Whose.
        name: SecretName,
        /// Which.
        file: String,
        /// Why.
        error: io::Error,
    },
    #[error("the file of secret {name} has more than {max} bytes", max = limits::SECRET_BYTES_MAX)]
    TooLarge {
        /// Whose.
        name: SecretName,
    },
    #[error("secret {0} cannot stand in a header: it is empty, or not one line of visible ASCII")]
    NotAHeader(SecretName),
    #[error("the operator does not let {to} have secret {name}: {name}.hosts does not name it")]
    NotFor {
        /// Which secret.
        name: SecretName,
        /// Who was to have it.
        to: String,
    },
    #[error("{name}.hosts, line {line}: {problem}")]
    BadHosts {
        /// Whose.
        name: SecretName,
        /// From 1 on.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
}

/// The secrets of one host.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    dir: Option<PathBuf>,
    /// Those about whose permissions a word was said already.
    warned: Mutex<BTreeSet<SecretName>>,
}

impl Secrets {
    /// Those in `dir`; none: there are none.
    pub(crate) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, warned: Mutex::default() }
    }

    /// The headers that a rule puts into a request to `host`. Reads files.
    pub(crate) fn headers(
        &self,
        rule: &Rule,
        host: &Host,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, NoSecret> {
        let host = HostPattern::Exactly(host.clone());
        for name in rule.secrets() {
            self.permit(name, &host)?;
        }
        let headers = rule.headers.iter().map(|header| {
            let mut value = String::new();
            for piece in &header.pieces {
                match piece {
                    Piece::Text(text) => value.push_str(text),
                    Piece::Secret(name) => value.push_str(&self.read(name)?.0),
                }
            }
            // Texts and secrets were looked at one by one.
            let mut value = HeaderValue::from_str(&value).expect("visible ASCII is a header's value");
            value.set_sensitive(true);
            Ok((header.name.clone(), value))
        });
        headers.collect()
    }

    /// What keeps this host from sending what a rule asks for.
    pub(crate) fn obstacles(&self, rule: &Rule) -> Vec<NoSecret> {
        let problem = |name| self.permit(name, &rule.host).and_then(|()| self.read(name).map(drop)).err();
        rule.secrets().filter_map(problem).collect()
    }

    fn permit(&self, name: &SecretName, to: &HostPattern) -> Result<(), NoSecret> {
        let text = self.file(name, &format!("{name}.hosts"))?;
        // Without the file nobody may have it, and whoever has neither file is told of the secret.
        let text = match text {
            Some(text) => text,
            None => self.read(name).map(|_| String::new())?,
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let permitted: HostPattern = line.parse().map_err(|problem| NoSecret::BadHosts {
                name: name.clone(),
                line: number + 1,
                problem: format!("{problem}"),
            })?;
            if permitted.covers(to) {
                return Ok(());
            }
        }
        Err(NoSecret::NotFor { name: name.clone(), to: to.to_string() })
    }

    fn read(&self, name: &SecretName) -> Result<Secret, NoSecret> {
        let text = self.file(name, &name.0)?.ok_or_else(|| NoSecret::Missing(name.clone()))?;
        let secret = text.strip_suffix('\n').unwrap_or(&text);
        let secret = secret.strip_suffix('\r').unwrap_or(secret);
        let is_visible = |b: u8| (b' '..=b'~').contains(&b);
        if secret.is_empty() || !secret.bytes().all(is_visible) {
            return Err(NoSecret::NotAHeader(name.clone()));
        }
        Ok(Secret(secret.to_owned()))
    }

    /// The text of a file of the directory; none: there is no such file.
    fn file(&self, name: &SecretName, file: &str) -> Result<Option<String>, NoSecret> {
        let path = self.dir.as_deref().ok_or(NoSecret::NoDirectory)?.join(file);
        let unreadable = |error| NoSecret::Unreadable { name: name.clone(), file: file.to_owned(), error };
        let opened = match File::open(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        if file == name.0 {
            self.warn_if_open_to_all(name, &path, &opened);
        }
        let mut bytes = Vec::new();
        opened.take(limits::SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() > limits::SECRET_BYTES_MAX {
            return Err(NoSecret::TooLarge { name: name.clone() });
        }
        String::from_utf8(bytes).map(Some).map_err(|_| NoSecret::NotAHeader(name.clone()))
    }

    /// Orchestrators mount secrets so that all users of a container can read them: no reason to refuse,
    /// but elsewhere a slip.
    fn warn_if_open_to_all(&self, name: &SecretName, path: &Path, file: &File) {
        let is_open = file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if is_open && warned.insert(name.clone()) {
            tracing::warn!(secret = %name, file = %path.display(), "every user of this machine can read a secret");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::manifest::Manifest;
    use super::*;

    fn rule(host: &str) -> Rule {
        let json = format!(
            r#"{{"egress": [{{"host": "{host}", "methods": ["GET"],
                 "headers": {{"authorization": "Bearer {{{{secret:token}}}}", "x-plain": "1"}}}}], "secrets": ["token"]}}"#
        );
        Manifest::parse(&json).unwrap().rules.remove(0)
    }

    fn secrets(files: &[(&str, &str)]) -> (Secrets, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        (Secrets::new(Some(dir.path().to_owned())), dir)
    }

    fn sent(secrets: &Secrets, to: &str) -> Result<String, String> {
        let headers = secrets.headers(&rule(to), &to.parse().unwrap()).map_err(|error| error.to_string())?;
        let [(name, value), _] = &headers[..] else { panic!("{headers:?}") };
        assert!(value.is_sensitive() && !format!("{headers:?}").contains("s3cret"), "{headers:?}");
        Ok(format!("{name}: {}", value.to_str().unwrap()))
    }

    #[test]
    fn a_secret_goes_where_the_operator_lets_it_and_nowhere_else() {
        let (secrets, dir) =
            secrets(&[("token", "s3cret\n"), ("token.hosts", "# ours\n\n*.pay.example # and partners\n")]);
        assert_eq!(sent(&secrets, "eu.pay.example"), Ok("authorization: Bearer s3cret".into()));
        for stranger in ["pay.example", "evil.example", "xpay.example", "127.0.0.1"] {
            let refused = sent(&secrets, stranger).unwrap_err();
            assert!(refused.contains(&format!("does not let {stranger} have secret token")), "{refused}");
        }
        assert_eq!(secrets.obstacles(&rule("*.pay.example")).len(), 0);
        assert_eq!(secrets.obstacles(&rule("*.example.com")).len(), 1, "more than the operator allows");
        // Exchanged under a running host.
        fs::write(dir.path().join("token"), "s3cret-two").unwrap();
        assert_eq!(sent(&secrets, "eu.pay.example"), Ok("authorization: Bearer s3cret-two".into()));
        fs::remove_file(dir.path().join("token.hosts")).unwrap();
        assert!(sent(&secrets, "eu.pay.example").unwrap_err().contains("does not let"));
    }

    #[test]
    fn what_is_missing_or_unfit_is_told_without_the_secret() {
        let hosts = ("token.hosts", "a.example");
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[], "no secret token"),
            (&[hosts], "no secret token"),
            (&[hosts, ("token", "")], "cannot stand in a header"),
            (&[hosts, ("token", "s3cret\nx: y")], "cannot stand in a header"),
            (&[hosts, ("token", &"s".repeat(limits::SECRET_BYTES_MAX + 1))], "more than 8192 bytes"),
            (&[("token", "s3cret"), ("token.hosts", "a.example*")], "token.hosts, line 1: "),
        ];
        for (files, expected) in cases {
            let (secrets, _dir) = secrets(files);
            let refused = sent(&secrets, "a.example").unwrap_err();
            assert!(refused.contains(expected) && !refused.contains("s3cret"), "{refused}");
        }
        let refused = sent(&Secrets::new(None), "a.example").unwrap_err();
        assert!(refused.contains("holds no secrets"), "{refused}");
        assert_eq!(format!("{:?}", Secret("s3cret".into())), "Secret(…)");
    }

    #[test]
    fn a_name_is_a_file_of_the_directory() {
        for name in ["", ".", "..", "../token", "a/b", "token.hosts", "a b", "ä", &"a".repeat(129)] {
            assert!(name.parse::<SecretName>().is_err(), "{name:?}");
        }
        assert!("payments_token-2".parse::<SecretName>().is_ok());
    }
}
