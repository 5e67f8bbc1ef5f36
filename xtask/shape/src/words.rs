//! Words that only this project had, for things that the field has a word for. They do not come back.
//!
//! | where | what is looked at |
//! |---|---|
//! | Rust sources, tests included | every identifier, word by word: `weed_out`, `WeedOut` and `WEED_OUT` are the same |
//! | the documents | whole words, of a shorter list: most of these words mean something else in a sentence |
//!
//! Strings and comments of sources are left alone, and so are names of [`SENTENCE_WORDS`] words or more: tests are called
//! by sentences, and a sentence may say what it likes.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use anyhow::Context as _;
use proc_macro2::{TokenStream, TokenTree};
use serde::Serialize;

/// A word, and what to use instead. Words of an identifier that follow each other are separated by `_`.
type Rule = (&'static str, &'static str);

/// What no identifier has.
const BANNED: [Rule; 39] = [
    ("beat", "heartbeat, or renew for a lease"),
    ("beaten", "renewed, or extended"),
    ("bury", "reject_child_start"),
    ("chair", "poller state"),
    ("crier", "notifier"),
    ("cries", "notifications"),
    ("cry", "notification"),
    ("departure", "poller grace"),
    ("desk", "task matcher"),
    ("draft", "speculative append"),
    ("facts", "RunIdentity"),
    ("forsake", "request_cancel"),
    ("forsaken", "cancel_requested"),
    ("give_up", "abandon"),
    ("heart", "heartbeat"),
    ("lay", "enqueue"),
    ("pace", "backoff"),
    ("patience", "deadline, or timeout"),
    ("plant", "insert_fork"),
    ("planted", "inserted"),
    ("pulse", "heartbeat"),
    ("relieve", "superseded"),
    ("relieved", "superseded"),
    ("retrace", "replay check"),
    ("revive", "rehydrate"),
    ("seat", "poll guard"),
    ("secluded", "import_free"),
    ("set_aside", "defer"),
    ("silence_ms", "heartbeat_timeout_ms"),
    ("stillborn", "child start rejected"),
    ("take_up", "requeue"),
    ("timer_hint", "timer wake-up"),
    ("tools", "Deps"),
    ("unborn", "child start rejected"),
    ("unled", "ReplayError"),
    ("weed", "drop_gapped"),
    ("weeded", "gap-free, or dropped"),
    ("wish", "poll request"),
    ("witness", "probe_commit"),
];

/// What no document has: here the word can only be ours.
const BANNED_IN_PROSE: [Rule; 7] = [
    ("crier", "notifier"),
    ("forsaken", "cancelled"),
    ("secluded", "free of imports"),
    ("stillborn", "a child whose start was rejected"),
    ("unborn", "a child that was not started"),
    ("unled", "not replayed"),
    ("weeded", "dropped"),
];

/// Names of so many words are sentences.
const SENTENCE_WORDS: usize = 5;
/// Where the sources are.
const SOURCES: [&str; 8] =
    ["bench", "client", "guest-sdk", "host", "tests/simulation", "wire", "worker", "xtask"];
/// Where the documents are.
const DOCUMENTS: [&str; 6] =
    ["ARCHITECTURE.md", "README.md", "SECURITY.md", "SPECIFICATION.md", "bench/README.md", "docs/src"];
/// Folders that hold nothing that is written by hand.
const SKIPPED: [&str; 3] = ["target", "node_modules", ".git"];

/// A word that is not to be used.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    file: PathBuf,
    line: usize,
    /// The identifier, or the word of the document.
    name: String,
    instead: &'static str,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, name, instead } = self;
        write!(f, "{}:{line}: `{name}` is a word of our own; use: {instead}", file.display())
    }
}

/// Reads all sources and documents; the words that are not to be there.
///
/// # Errors
/// A file that cannot be read, or is no Rust.
pub(crate) fn measure(repository: &Path) -> anyhow::Result<Vec<Found>> {
    let mut banned = Vec::new();
    for path in files(repository, &SOURCES, "rs")? {
        let text = fs::read_to_string(repository.join(&path)).with_context(|| path.display().to_string())?;
        let found = identifiers(&text).with_context(|| path.display().to_string())?;
        banned.extend(found.into_iter().filter_map(|(name, line)| {
            rule(&BANNED, &name).map(|instead| Found { file: path.clone(), line, name, instead })
        }));
    }
    for path in files(repository, &DOCUMENTS, "md")? {
        let text = fs::read_to_string(repository.join(&path)).with_context(|| path.display().to_string())?;
        banned.extend(in_prose(&path, &text));
    }
    Ok(banned)
}

/// The files below these places that end so, as they are called in the repository.
fn files(repository: &Path, places: &[&str], ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut todo: Vec<PathBuf> = places.iter().map(PathBuf::from).collect();
    let mut files = Vec::new();
    while let Some(path) = todo.pop() {
        let there = repository.join(&path);
        if there.is_dir() {
            for entry in fs::read_dir(&there).with_context(|| path.display().to_string())? {
                let name = entry?.file_name();
                if !SKIPPED.iter().any(|skipped| name == *skipped) {
                    todo.push(path.join(name));
                }
            }
        } else if path.extension().is_some_and(|found| found == ending) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Every identifier of a source, those in macros included, and its line.
fn identifiers(text: &str) -> anyhow::Result<Vec<(String, usize)>> {
    let tokens = TokenStream::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    let (mut todo, mut found) = (vec![tokens], Vec::new());
    while let Some(tokens) = todo.pop() {
        for token in tokens {
            match token {
                TokenTree::Ident(name) => found.push((name.span().start(), name.to_string())),
                TokenTree::Group(group) => todo.push(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(place, name)| (name, place.line)).collect())
}

/// What to use instead of an identifier, if one of the rules says so.
fn rule(rules: &[Rule], name: &str) -> Option<&'static str> {
    let words = split(name);
    if words.len() >= SENTENCE_WORDS {
        return None;
    }
    let has = |banned: &str| {
        let banned: Vec<&str> = banned.split('_').collect();
        words
            .windows(banned.len())
            .any(|some| some.iter().zip(&banned).all(|(one, other)| is_same(one, other)))
    };
    rules.iter().find(|(banned, _)| has(banned)).map(|(_, instead)| *instead)
}

/// Whether a word is this one, or more than one of it.
fn is_same(word: &str, banned: &str) -> bool {
    let plural = word.strip_suffix("es").or_else(|| word.strip_suffix('s'));
    word == banned || plural == Some(banned) || word.strip_suffix('s') == Some(banned)
}

/// The words of an identifier, in lower case.
fn split(name: &str) -> Vec<String> {
    let letters: Vec<char> = name.strip_prefix("r#").unwrap_or(name).chars().collect();
    let mut words = vec![String::new()];
    for (index, letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| letters[before]);
        let begins = letter.is_uppercase()
            && (before.is_some_and(|before| !before.is_uppercase())
                || letters.get(index + 1).is_some_and(|after| after.is_lowercase()));
        if begins || *letter == '_' {
            words.push(String::new());
        }
        if *letter != '_'
            && let Some(word) = words.last_mut()
        {
            word.extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The banned words of a document.
fn in_prose(file: &Path, text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        found.extend(words.filter_map(|word| {
            let (_, instead) =
                BANNED_IN_PROSE.iter().find(|(banned, _)| word.eq_ignore_ascii_case(banned))?;
            Some(Found { file: file.to_owned(), line, name: word.to_owned(), instead })
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banned(source: &str) -> Vec<(String, usize)> {
        let found = identifiers(source).unwrap().into_iter();
        found.filter(|(name, _)| rule(&BANNED, name).is_some()).collect()
    }

    #[test]
    fn a_banned_word_is_found_wherever_it_is_in_an_identifier() {
        let source = "struct Desk;\nfn ask() {\n    vec![self.open_desks(TASK_DESK_MAX), it.set_aside_now(), r#weed]\n}\n";
        let found = banned(source);
        let names: Vec<_> = found.iter().map(|(name, line)| (name.as_str(), *line)).collect();
        assert_eq!(
            names,
            [("Desk", 1), ("open_desks", 3), ("TASK_DESK_MAX", 3), ("set_aside_now", 3), ("r#weed", 3)]
        );
        assert_eq!(rule(&BANNED, "witnesses"), Some("probe_commit"));
    }

    #[test]
    fn ordinary_words_strings_comments_and_sentences_are_left_alone() {
        let source = "/// At a desk.\nfn heartbeat_task(desktop: Seating, set: u8) {\n    // weed\n    set(\"desk\", aside);\n}\n\
                      fn what_is_set_aside_is_fenced_with_the_rest() {}\n";
        assert_eq!(banned(source), []);
    }

    #[test]
    fn a_document_is_searched_for_whole_words() {
        let found = in_prose(Path::new("a.md"), "A desk.\nThe `Crier`, and criers, unled_after.\n");
        let said: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["a.md:2: `Crier` is a word of our own; use: notifier"]);
    }

    #[test]
    fn an_identifier_is_split_where_a_reader_does() {
        for (name, words) in [
            ("drop_gapped", vec!["drop", "gapped"]),
            ("HTTPHeadMax", vec!["http", "head", "max"]),
            ("LEASE_MS_MAX", vec!["lease", "ms", "max"]),
            ("_r2d2", vec!["r2d2"]),
        ] {
            assert_eq!(split(name), words, "{name}");
        }
    }

    #[test]
    fn each_word_is_in_its_place() {
        for rules in [&BANNED[..], &BANNED_IN_PROSE] {
            assert!(rules.is_sorted_by(|one, other| one.0 < other.0), "{rules:?}");
        }
    }
}
