//! Text that becomes part of a page.

use std::fmt::{self, Write as _};

/// A page that grows.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// Adds markup. What comes from outside must be [`escape`]d before.
    pub(super) fn add(&mut self, markup: fmt::Arguments<'_>) {
        self.0.write_fmt(markup).expect("a string takes everything");
    }

    /// Adds markup that is always the same.
    pub(super) fn text(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// Text that stands for itself, between tags and within quotes of attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            // Neither HTML nor SVG may have them, and marks of direction could hide what is there.
            _ if character.is_control() || is_invisible(character) => out.push('\u{fffd}'),
            _ => out.push(character),
        }
    }
    out
}

fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A number with thin gaps between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    out
}

/// Nanoseconds as people read them.
pub(super) fn duration(nanos: u64) -> String {
    let seconds = nanos as f64 / 1e9;
    if seconds >= 120.0 {
        let whole = seconds.round() as u64;
        if whole >= 7_200 {
            format!("{} h {} min", whole / 3_600, whole % 3_600 / 60)
        } else {
            format!("{} min {} s", whole / 60, whole % 60)
        }
    } else if seconds >= 10.0 {
        format!("{seconds:.1} s")
    } else if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.01 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{:.1} ms", seconds * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_hostile_stands_for_itself() {
        let hostile = "</script><img src=x onerror='a(\"b\")'>&\0\u{202e}\n";
        let expected =
            "&lt;/script&gt;&lt;img src=x onerror=&#39;a(&quot;b&quot;)&#39;&gt;&amp;\u{fffd}\u{fffd}\n";
        assert_eq!(escape(hostile), expected);
        assert_eq!(escape("grüße → 1"), "grüße → 1");
    }

    proptest! {
        #[test]
        fn nothing_that_is_escaped_can_end_a_tag_or_a_quote(text in "\\PC*|.*") {
            prop_assert!(!escape(&text).contains(['<', '>', '"', '\'', '\0']));
        }
    }

    #[test]
    fn numbers_and_times_are_easy_to_read() {
        assert_eq!((grouped(0).as_str(), grouped(1_234_567).as_str()), ("0", "1\u{2009}234\u{2009}567"));
        assert_eq!(grouped(123_456), "123\u{2009}456");
        let times =
            [0, 1_500_000, 45_000_000, 2_345_000_000, 61_000_000_000, 125_000_000_000, 7_300_000_000_000];
        let texts: Vec<_> = times.into_iter().map(duration).collect();
        assert_eq!(texts, ["0.0 ms", "1.5 ms", "45 ms", "2.35 s", "61.0 s", "2 min 5 s", "2 h 1 min"]);
    }
}
