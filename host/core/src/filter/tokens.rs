//! The words of a condition: a text, cut into tokens with their places.

use std::sync::Arc;

use super::condition::{Comparator, FilterError};

/// A word of the language.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A field, a keyword or a name.
    Word(Arc<str>),
    /// What stood in quotes.
    Text(Arc<str>),
    /// Finite.
    Number(f64),
    Comparator(Comparator),
    Open,
    Close,
    Comma,
    Dot,
    /// Behind the last one.
    End,
}

/// Cuts `text` up. The last token is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (length, token) = token(&text[at..]).map_err(|(offset, problem)| {
            let at = at + offset;
            FilterError { at, problem }
        })?;
        found.push((at, token));
        at += length;
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

/// The token at the beginning of `text`, and its length; or what is wrong, and where.
fn token(text: &str) -> Result<(usize, Token), (usize, String)> {
    use Comparator::{AtLeast, AtMost, Equal, Less, More, NotEqual};
    // Longer signs first: a shorter one may be their beginning.
    let signs = [
        ("!=", Token::Comparator(NotEqual)),
        ("<=", Token::Comparator(AtMost)),
        (">=", Token::Comparator(AtLeast)),
        ("=", Token::Comparator(Equal)),
        ("<", Token::Comparator(Less)),
        (">", Token::Comparator(More)),
        ("(", Token::Open),
        (")", Token::Close),
        (",", Token::Comma),
        (".", Token::Dot),
    ];
    for (foreign, ours) in [("==", "="), ("<>", "!="), ("&&", "and"), ("||", "or")] {
        if text.starts_with(foreign) {
            return Err((0, format!("there is no `{foreign}`; write `{ours}`")));
        }
    }
    for (sign, token) in signs {
        if text.starts_with(sign) {
            return Ok((sign.len(), token));
        }
    }
    let mut chars = text.chars();
    let first = chars.next().unwrap_or_default();
    let second = chars.next().unwrap_or_default();
    if first == '"' || first == '\'' {
        quoted(text, first)
    } else if first.is_ascii_digit() || (first == '-' && second.is_ascii_digit()) {
        number(text)
    } else if first.is_alphabetic() || first == '_' {
        let word = beginning(text, |c| c.is_alphanumeric() || c == '_' || c == '-');
        Ok((word.len(), Token::Word(word.into())))
    } else {
        let problem = format!("{first:?} has no meaning here; texts stand in quotes, such as \"running\"");
        Err((0, problem))
    }
}

/// The text in quotes at the beginning of `text`.
fn quoted(text: &str, quote: char) -> Result<(usize, Token), (usize, String)> {
    let mut said = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok((at + 1, Token::Text(said.into()))),
            '\\' => said.push(match chars.next() {
                Some((_, c @ ('\\' | '"' | '\''))) => c,
                Some((_, 'n')) => '\n',
                Some((_, 'r')) => '\r',
                Some((_, 't')) => '\t',
                Some((_, c)) => {
                    let problem =
                        format!("a text has no `\\{}`; there is \\\\ \\\" \\' \\n \\r \\t", c.escape_debug());
                    return Err((at, problem));
                }
                None => break,
            }),
            '\0' => return Err((at, "a text holds no character NUL".to_owned())),
            _ => said.push(c),
        }
    }
    Err((0, format!("the text that begins here has no {quote} at its end")))
}

/// The number at the beginning of `text`.
fn number(text: &str) -> Result<(usize, Token), (usize, String)> {
    // With what can be no number, so that `5and` and `1-2` are told as a whole.
    let digits = beginning(text, |c| c.is_alphanumeric() || matches!(c, '.' | '+' | '-' | '_'));
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((digits.len(), Token::Number(number))),
        _ => Err((0, format!("{digits} is no number; write one such as 5, -0.5 or 1e6"))),
    }
}

/// As much of `text` as consists of these.
fn beginning(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    text.split_once(|c| !belongs(c)).map_or(text, |(word, _)| word)
}
