//! Names and titles that people choose: how long they may be, and which characters they may not
//! hold. Whoever shows them shows them as text; nothing here interprets them.

use crate::limits;

/// Why a name or title is refused. Whoever chose it is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is there, and something must be.
    #[error("{field} is empty")]
    Empty {
        /// Which name.
        field: &'static str,
    },
    /// Longer than allowed.
    #[error("{field} has {bytes} bytes; {most} are allowed")]
    TooLong {
        /// Which name.
        field: &'static str,
        /// Its size.
        bytes: usize,
        /// What is allowed.
        most: usize,
    },
    /// It holds a control character (Unicode category Cc), a line break included.
    #[error("{field} holds the control character U+{code:04X}")]
    Control {
        /// Which name.
        field: &'static str,
        /// The character.
        code: u32,
    },
    /// It holds a character that changes the direction of what stands beside it.
    #[error("{field} holds U+{code:04X}, which turns the direction of text; leave it out")]
    Direction {
        /// Which name.
        field: &'static str,
        /// The character.
        code: u32,
    },
}

impl NameError {
    /// The error's stable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "name_empty",
            Self::TooLong { .. } => "name_too_long",
            Self::Control { .. } => "name_control_character",
            Self::Direction { .. } => "name_direction_character",
        }
    }
}

/// A room's name, an identity or a person's name: 1 to [`limits::NAME_BYTES`] bytes.
///
/// # Errors
/// The first thing that is wrong with it; `field` says whose name it is.
pub fn check_name(field: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { field });
    }
    check_text(field, text, limits::NAME_BYTES)
}

/// Any text for people, of at most `most` bytes; it may be empty.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_text(field: &'static str, text: &str, most: usize) -> Result<(), NameError> {
    if text.len() > most {
        return Err(NameError::TooLong { field, bytes: text.len(), most });
    }
    for letter in text.chars() {
        let code = letter as u32;
        if letter.is_control() {
            return Err(NameError::Control { field, code });
        }
        if turns(letter) {
            return Err(NameError::Direction { field, code });
        }
    }
    Ok(())
}

/// As much of a text as may be shown, without the characters that [`check_text`] refuses: for names
/// that come from where nobody can be told to choose another.
#[must_use]
pub fn clean(text: &str, most: usize) -> String {
    let mut out = String::new();
    for letter in text.chars().filter(|&letter| !letter.is_control() && !turns(letter)) {
        if out.len() + letter.len_utf8() > most {
            break;
        }
        out.push(letter);
    }
    out
}

/// Embeddings, overrides and isolates of the bidirectional algorithm (Unicode UAX 9 section 2).
const fn turns(letter: char) -> bool {
    matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_everywhere_pass() {
        for good in ["Ann", "Žofie", "محمد", "李雷", "<script>", "O'Neil", "👩‍🚀", "a\u{200f}b"]
        {
            assert_eq!(check_name("name", good), Ok(()), "{good}");
            assert_eq!(clean(good, limits::NAME_BYTES), good);
        }
    }

    #[test]
    fn tricks_are_refused_by_name() {
        let code = |text: &str| check_name("name", text).unwrap_err().code();
        assert_eq!(code(""), "name_empty");
        assert_eq!(code(&"x".repeat(10_000)), "name_too_long");
        assert_eq!(code("a\nb"), "name_control_character");
        assert_eq!(code("a\u{7f}"), "name_control_character");
        for letter in ['\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}'] {
            assert_eq!(code(&format!("a{letter}b")), "name_direction_character");
        }
        assert_eq!(clean("a\u{202e}b\nc", 10), "abc");
        assert_eq!(clean(&"ä".repeat(65), 127).len(), 126);
    }
}
