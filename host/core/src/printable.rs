//! What of a text that somebody else chose may be shown: in a log, on a terminal, in a problem document.
//!
//! A guest, a client or a service chooses names, messages and payloads. Shown as they are, they move the cursor of
//! whoever looks at them, pass for another line of a log, or look like another text. The rule, everywhere:
//!
//! | character | in [`line`] | in [`lines`] | in [`json`] |
//! |---|---|---|---|
//! | line feed, tab | `\n`, `\t` | stays | stays: it is white space |
//! | carriage return | `\r` | `\r` | a blank: it is white space |
//! | other controls: C0, DEL, C1 | `\u{9b}` | `\u{9b}` | `\u009b` |
//! | line and paragraph separator | `\u{2028}` | `\u{2028}` | `\u2028` |
//! | what turns writing around, or has no width | `\u{202e}` | `\u{202e}` | `\u202e` |
//! | half of a surrogate pair, as JSON has it | stays: in JSON text it is an escape already | | |
//!
//! What is stored is never changed by this: payloads are kept byte for byte.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character does something else than show itself.
pub fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Marks and embeddings that turn writing around (UAX #9), and separators that break lines.
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            // No width at all: byte order mark, interlinear marks, and the tags that spell ASCII unseen.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether a character cannot be seen, so that two texts with and without it look the same. Those that
/// [`deceives`] names, and those that are part of some scripts and emoji: shown, but no part of an id.
pub fn is_invisible(c: char) -> bool {
    deceives(c)
        || matches!(c,
            // Soft hyphen, grapheme joiner, fillers, vowel separators, variation selectors
            // (Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties).
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0080}'..='\u{e0fff}'
            // A Braille cell without dots.
            | '\u{2800}')
}

/// As one line.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, deceives, |shown, c| shown.extend(c.escape_default()))
}

/// As one line of at most `bytes_max` bytes.
pub fn line_of(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max && !text.contains(deceives) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        // What is shown of the rest would be cut.
        if shown.len() > bytes_max {
            break;
        }
        if deceives(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    cut(&mut shown, bytes_max);
    Cow::Owned(shown)
}

/// As lines: line breaks and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    let is_shown = |c: char| deceives(c) && !matches!(c, '\n' | '\t');
    escaped(text, is_shown, |shown, c| shown.extend(c.escape_default()))
}

/// As JSON text of the same value.
pub fn json(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| deceives(c) && !matches!(c, '\n' | '\t');
    escaped(text, is_hidden, |shown, c| {
        // No text of JSON has one: it is white space, and a blank is as good.
        if c == '\r' {
            return shown.push(' ');
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(shown, "\\u{unit:04x}").expect("writing to a string cannot fail");
        }
    })
}

fn escaped(
    text: &str,
    is_escaped: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) { escape(&mut shown, c) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Cuts `text` to at most `bytes_max` bytes at a character's edge and marks the cut.
pub fn cut(text: &mut String, bytes_max: usize) {
    const MARK: &str = " …(cut)";
    if text.len() > bytes_max {
        let mut end = bytes_max.saturating_sub(MARK.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECEIVING: [char; 15] = [
        '\u{0}',
        '\u{1b}',
        '\r',
        '\u{7f}',
        '\u{85}',
        '\u{9b}',
        '\u{61c}',
        '\u{200b}',
        '\u{200f}',
        '\u{2028}',
        '\u{2029}',
        '\u{202e}',
        '\u{2066}',
        '\u{feff}',
        '\u{e0041}',
    ];

    #[test]
    fn what_shows_itself_stays_as_it_is() {
        for text in ["", "größe ✓", "日本語", "a\"b\\c", "👩‍🚀".replace('\u{200d}', "").as_str(), "עברית"]
        {
            assert!(matches!(line(text), Cow::Borrowed(shown) if shown == text), "{text}");
            assert_eq!((lines(text).as_ref(), json(text).as_ref()), (text, text));
        }
    }

    #[test]
    fn nothing_that_deceives_is_left_in_any_form() {
        for c in DECEIVING {
            let text = format!("a{c}b");
            assert!(!line(&text).contains(deceives), "{c:?}");
            assert!(!lines(&text).contains(c), "{c:?}");
            assert!(is_invisible(c), "{c:?}");
        }
        assert_eq!(line("a\nERROR forged\u{1b}[2J\u{9b}1A"), "a\\nERROR forged\\u{1b}[2J\\u{9b}1A");
        assert_eq!(lines("a\n\tb\r\u{202e}"), "a\n\tb\\r\\u{202e}");
    }

    #[test]
    fn json_text_keeps_its_value() {
        let value: String = DECEIVING.iter().filter(|c| !c.is_ascii_control()).collect();
        let text = format!("[\n\t\"{value}\"\r\n]");
        let shown = json(&text);
        assert!(!shown.contains(|c| deceives(c) && !matches!(c, '\n' | '\t')), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [value]);
        assert_eq!(json("\"\\ud800\""), "\"\\ud800\"", "half a pair is an escape already");
    }

    #[test]
    fn a_line_is_cut_where_it_is_too_long_as_it_is_shown() {
        assert_eq!(line_of("größe ✓", 100), "größe ✓");
        assert_eq!(line_of(&"é".repeat(50), 30), format!("{} …(cut)", "é".repeat(10)));
        for length in 0..60 {
            let text = "\u{1}é".repeat(length);
            let shown = line_of(&text, 30);
            assert!(shown.len() <= 30 && !shown.contains(deceives), "{shown}");
            assert_eq!(shown.ends_with("…(cut)"), line(&text).len() > 30, "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_no_part_of_an_id() {
        for c in ['\u{ad}', '\u{200d}', '\u{3164}', '\u{fe0f}', '\u{e0101}', '\u{2800}'] {
            assert!(is_invisible(c), "{c:?}");
        }
        for c in ['a', 'é', '日', ' ', '\u{a0}', '👩', ':'] {
            assert!(!is_invisible(c), "{c:?}");
        }
    }
}
