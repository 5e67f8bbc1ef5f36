//! How a manifest names a secret.

use std::fmt;
use std::str::FromStr;

/// The name of a secret, and of its file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SecretName(pub(super) String);

/// Names of secrets; the bound leaves room for `.hosts` in a file's name.
const NAME_BYTES_MAX: usize = 128;

impl FromStr for SecretName {
    type Err = String;

    /// Letters, digits, `_` and `-`: no dot and no slash, so that a name is a file of the directory.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_fine) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is no name of a secret: letters, digits, _ and -, at most {NAME_BYTES_MAX}"
            ))
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
