//! Payloads at rest: AES-256-GCM with keys of the operator, from a file or from a command's output.
//!
//! | of a sealed payload | |
//! |---|---|
//! | 1 byte | the version of this table, 2 |
//! | 1 byte, then so many | the name of the key |
//! | 12 bytes | the nonce |
//! | the rest | ciphertext and tag |
//!
//! Each place (run, op, column, row or message; or part) has keys of its own, derived from the operator's by
//! HKDF-SHA256 (RFC 5869). What comes before the nonce is the associated data, and the place behind it; of version 1,
//! whose places were runs and ops, the place alone. Version 1 is opened and not written. The nonce is the beginning of an HMAC-SHA256 of the text under the second of
//! those keys: the same text at the same place is sealed to the same bytes, as
//! [`PayloadCodec`] wants it, and no nonce serves two texts.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

pub use backstitch_ledger::{PayloadCodec, Payloads};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{aead, hkdf, hmac};

/// Keys that payloads are sealed with. Never shown.
pub struct PayloadKeys {
    /// The first of the file; none: nothing is sealed, and what was is opened.
    sealing: Option<String>,
    keys: HashMap<String, hkdf::Prk>,
}

impl fmt::Debug for PayloadKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys, sealing with {:?}", self.keys.len(), self.sealing)
    }
}

/// Keys that cannot be had. Says nothing of what they are.
#[derive(Debug, thiserror::Error)]
pub enum NoPayloadKeys {
    /// The file or the command.
    #[error("{0}")]
    Unreadable(#[from] std::io::Error),
    /// The command failed.
    #[error("the command ended with {0}")]
    Command(std::process::ExitStatus),
    /// One of the lines.
    #[error("line {0} is no key: write a name, a space and the base64 of 32 random bytes")]
    Malformed(usize),
    /// A name that stands on two lines.
    #[error("line {0} has the name of a key before it")]
    Repeated(usize),
    /// No line at all.
    #[error("there is no key")]
    Empty,
}

/// Bytes of a key: AES-256.
const KEY_BYTES: usize = 32;
/// Bytes of a key's name: it is part of whatever is sealed.
const KEY_NAME_BYTES_MAX: usize = 64;
/// What stands in place of the first key where nothing is to be sealed.
const NO_KEY: &str = "none";
/// The first byte of what is sealed. Append-only.
const VERSION: u8 = 2;
/// That of what was bound to its place alone.
const VERSION_OF_PLACES: u8 = 1;

impl PayloadKeys {
    /// Keys of a file.
    pub fn read(file: &Path) -> Result<Self, NoPayloadKeys> {
        Self::parse(&std::fs::read_to_string(file)?)
    }

    /// Keys that a shell command prints, as the file would hold them. What it says on stderr is seen.
    pub fn ask(command: &str) -> Result<Self, NoPayloadKeys> {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", command]).stdin(std::process::Stdio::null()).stderr(std::process::Stdio::inherit());
        let output = shell.output()?;
        if !output.status.success() {
            return Err(NoPayloadKeys::Command(output.status));
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// `NAME BASE64` on each line; empty lines and lines that begin with `#` are not looked at. The first key seals,
    /// all open. A first line `none` seals nothing: for the time until all hosts have a new key.
    pub fn parse(text: &str) -> Result<Self, NoPayloadKeys> {
        let lines = text.lines().map(str::trim).zip(1..);
        let mut lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')).peekable();
        let seals = lines.next_if(|(line, _)| *line == NO_KEY).is_none();
        let mut found = Self { sealing: None, keys: HashMap::new() };
        for (line, at) in lines {
            let malformed = || NoPayloadKeys::Malformed(at);
            let (name, key) = line.split_once(char::is_whitespace).ok_or_else(malformed)?;
            let key = BASE64.decode(key.trim()).map_err(|_| malformed())?;
            if key.len() != KEY_BYTES || name.len() > KEY_NAME_BYTES_MAX || name == NO_KEY {
                return Err(malformed());
            }
            let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"backstitch payloads 1").extract(&key);
            if found.keys.insert(name.to_owned(), prk).is_some() {
                return Err(NoPayloadKeys::Repeated(at));
            }
            if seals && found.sealing.is_none() {
                found.sealing = Some(name.to_owned());
            }
        }
        if found.keys.is_empty() { Err(NoPayloadKeys::Empty) } else { Ok(found) }
    }
}

/// The keys of one place.
struct PlaceKeys {
    cipher: aead::LessSafeKey,
    nonces: hmac::Key,
}

impl PlaceKeys {
    fn derive(key: &hkdf::Prk, version: u8, place: &[u8]) -> Self {
        const SHORT: &str = "HKDF gives up to 255 times 32 bytes";
        let mut bytes = [0; 2 * KEY_BYTES];
        let label: &[u8] = if version == VERSION_OF_PLACES { b"" } else { b"backstitch place 2" };
        let info = [label, place];
        let derived = key.expand(&info, Length).expect(SHORT);
        derived.fill(&mut bytes).expect(SHORT);
        let (cipher, nonces) = bytes.split_at(KEY_BYTES);
        let cipher = aead::UnboundKey::new(&aead::AES_256_GCM, cipher).expect("it has 32 bytes");
        Self { cipher: aead::LessSafeKey::new(cipher), nonces: hmac::Key::new(hmac::HMAC_SHA256, nonces) }
    }

    fn nonce(&self, plain: &[u8]) -> [u8; aead::NONCE_LEN] {
        let tag = hmac::sign(&self.nonces, plain);
        let mut nonce = [0; aead::NONCE_LEN];
        nonce.copy_from_slice(&tag.as_ref()[..aead::NONCE_LEN]);
        nonce
    }
}

/// How much key material a place has.
struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        2 * KEY_BYTES
    }
}

impl PayloadCodec for PayloadKeys {
    fn key_id(&self) -> Option<&str> {
        self.sealing.as_deref()
    }

    fn seal(&self, place: &[u8], plain: &[u8]) -> Vec<u8> {
        let name = self.sealing.as_deref().expect("only what has a key id is asked to seal");
        let keys = PlaceKeys::derive(&self.keys[name], VERSION, place);
        let nonce = keys.nonce(plain);
        let length = u8::try_from(name.len()).expect("names of keys are short");
        let mut sealed = Vec::with_capacity(2 + name.len() + nonce.len() + plain.len() + aead::MAX_TAG_LEN);
        sealed.extend([VERSION, length]);
        sealed.extend(name.as_bytes());
        let bound = [&sealed, place].concat();
        sealed.extend(nonce);
        let at = sealed.len();
        sealed.extend(plain);
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let tag = keys.cipher.seal_in_place_separate_tag(nonce, aead::Aad::from(bound), &mut sealed[at..]);
        sealed.extend(tag.expect("a payload is much shorter than 64 GiB").as_ref());
        sealed
    }

    fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        let short = || "it is too short".to_owned();
        let [version, length, rest @ ..] = sealed else { return Err(short()) };
        if !matches!(*version, VERSION | VERSION_OF_PLACES) {
            return Err(format!("it was sealed by a later version of this program ({version})"));
        }
        let (name, rest) = rest.split_at_checked(usize::from(*length)).ok_or_else(short)?;
        let bound = match *version {
            VERSION_OF_PLACES => place.to_vec(),
            _ => [&[*version, *length], name, place].concat(),
        };
        let name = String::from_utf8_lossy(name);
        let key = self.keys.get(&*name).ok_or_else(|| {
            format!("its key {name:?} is not among those of this host; add it to the payload keys")
        })?;
        let (nonce, rest) = rest.split_at_checked(aead::NONCE_LEN).ok_or_else(short)?;
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| short())?;
        let mut text = rest.to_vec();
        let cipher = PlaceKeys::derive(key, *version, place).cipher;
        let plain = cipher.open_in_place(nonce, aead::Aad::from(bound), &mut text).map_err(|_| {
            format!("it was changed or belongs elsewhere, or {name:?} is not the key that it was sealed with")
        })?;
        let length = plain.len();
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const TWO: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

    fn keys(text: &str) -> PayloadKeys {
        PayloadKeys::parse(text).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_at_its_place_with_its_key_and_nowhere_else() {
        let sealing = keys(&format!("one {ONE}\n"));
        let sealed = sealing.seal(b"run 1", b"{\"secret\":1}");
        assert_eq!(sealing.open(b"run 1", &sealed).unwrap(), b"{\"secret\":1}");
        assert!(sealing.open(b"run 2", &sealed).unwrap_err().contains("belongs elsewhere"));
        let other = keys(&format!("one {TWO}"));
        assert!(other.open(b"run 1", &sealed).unwrap_err().contains("not the key"));
        let named = keys(&format!("two {ONE}"));
        assert!(named.open(b"run 1", &sealed).unwrap_err().contains("\"one\" is not among"));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealing.open(b"run 1", &changed).is_err(), "byte {at}");
            assert!(sealing.open(b"run 1", &sealed[..at]).is_err(), "the first {at} bytes");
        }
    }

    #[test]
    fn the_same_text_at_the_same_place_is_sealed_alike_and_differs_elsewhere() {
        let keys = keys(&format!("one {ONE}"));
        let sealed = keys.seal(b"here", b"text");
        assert_eq!(keys.seal(b"here", b"text"), sealed);
        assert_ne!(keys.seal(b"there", b"text"), sealed);
        let nonce = |sealed: &[u8]| sealed[5..17].to_vec();
        assert_ne!(nonce(&keys.seal(b"here", b"tex")), nonce(&sealed));
    }

    #[test]
    fn the_sealed_form_never_changes() {
        let keys = keys(&format!("one {ONE}"));
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(&keys.seal(b"place", b"null")),
            "02036f6e65363c6bc498011eebb10a7740d9f0cad1885738296f76cbd2c8df720c222f5175"
        );
        let before = "01036f6e658b0b67c27d3cd08c605642f0a04e70c50840501af86443f51fd7a2071d683bf9";
        let bytes = |at| u8::from_str_radix(&before[at..at + 2], 16).unwrap();
        let before: Vec<u8> = (0..before.len()).step_by(2).map(bytes).collect();
        assert_eq!(keys.open(b"place", &before).unwrap(), b"null", "what the first version has sealed");
        assert!(keys.open(b"elsewhere", &before).is_err());
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let before = keys(&format!("one {ONE}"));
        let after = keys(&format!("# newest first\n\n two  {TWO}\none {ONE}\n"));
        assert_eq!(after.key_id(), Some("two"));
        assert_eq!(after.open(b"x", &before.seal(b"x", b"1")).unwrap(), b"1");
        let waiting = keys(&format!("none\none {ONE}"));
        assert_eq!(waiting.key_id(), None);
        assert_eq!(waiting.open(b"x", &before.seal(b"x", b"1")).unwrap(), b"1");
    }

    #[test]
    fn a_line_that_is_no_key_is_named_and_not_shown() {
        let error = |text: String| PayloadKeys::parse(&text).unwrap_err().to_string();
        assert!(error(format!("one {ONE}\ntwo c2hvcnQ=")).starts_with("line 2 is no key"));
        assert!(error(ONE.to_owned()).starts_with("line 1 is no key"));
        assert!(!error(ONE.to_owned()).contains("AAEC"));
        assert!(error(format!("one {ONE}\none {TWO}")).starts_with("line 2 has the name"));
        assert_eq!(error("# nothing\n".to_owned()), "there is no key");
        assert_eq!(error("none\n".to_owned()), "there is no key");
    }
}
