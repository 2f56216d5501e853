//! Where output goes and the forms that it takes.
//!
//! Commands write to an [`Io`] and never to the process's streams themselves, so
//! that tests see what a user would see.

use std::io::{Read, Write};

use comfy_table::{ContentArrangement, Table, presets};
use kvorum_client::{Item, insert_bytes};
use serde_json::{Map, Value};

use crate::args::Format;
use crate::failure::Failure;

/// A command's input and output.
pub(crate) struct Io<'a> {
    pub(crate) input: &'a mut (dyn Read + Send),
    pub(crate) out: &'a mut (dyn Write + Send),
    pub(crate) err: &'a mut (dyn Write + Send),
    pub(crate) in_is_terminal: bool,
    pub(crate) out_is_terminal: bool,
    pub(crate) err_is_terminal: bool,
}

impl Io<'_> {
    /// Prints one line of output.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Prints an item: key, tab, value; the key alone if its value was not asked for.
    pub(crate) fn item(&mut self, item: &Item) -> Result<(), Failure> {
        let key = escape(&item.key);
        match &item.value {
            None => self.line(&key),
            Some(value) => self.line(&format!("{key}\t{}", escape(value))),
        }
    }

    /// Prints rows under a header, aligned in columns or with borders.
    pub(crate) fn rows(
        &mut self,
        format: Format,
        header: &[&str],
        rows: Vec<Vec<String>>,
    ) -> Result<(), Failure> {
        let mut table = Table::new();
        table.set_content_arrangement(ContentArrangement::Disabled);
        let preset = if format == Format::Table { presets::UTF8_FULL_CONDENSED } else { presets::NOTHING };
        table.load_style(preset).set_header(header.to_vec()).add_rows(rows);
        if format != Format::Table {
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// A line on standard error that is rewritten while something goes on.
///
/// Where standard error is no terminal, stages become lines of their own and
/// details are left out.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stage: String,
    on_line: bool,
}

impl Progress {
    /// A new stage has begun.
    pub(crate) fn stage(&mut self, io: &mut Io<'_>, text: &str) {
        if self.stage == text {
            return;
        }
        text.clone_into(&mut self.stage);
        if io.err_is_terminal {
            self.rewrite(io, text);
        } else {
            // Progress is a courtesy: if nobody can read it, the work goes on.
            let _ = writeln!(io.err, "{text}");
        }
    }

    /// Something new within the stage.
    pub(crate) fn detail(&mut self, io: &mut Io<'_>, text: &str) {
        if io.err_is_terminal {
            let line = format!("{}: {text}", self.stage);
            self.rewrite(io, &line);
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self, io: &mut Io<'_>) {
        if self.on_line {
            self.rewrite(io, "");
            self.on_line = false;
        }
    }

    fn rewrite(&mut self, io: &mut Io<'_>, text: &str) {
        self.on_line = true;
        let _ = write!(io.err, "\r\x1b[2K{text}").and_then(|()| io.err.flush());
    }
}

/// Bytes as one word of a line: text stays as it is; control characters,
/// backslashes and what is not UTF-8 become `\t`, `\n`, `\r`, `\\` or `\xHH`.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\\' => out.push_str("\\\\"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    hex(&mut out, c.encode_utf8(&mut buffer).as_bytes());
                }
                c => out.push(c),
            }
        }
        hex(&mut out, chunk.invalid());
    }
    out
}

fn hex(out: &mut String, bytes: &[u8]) {
    out.extend(bytes.iter().map(|byte| format!("\\x{byte:02x}")));
}

/// An item as the API shows it.
pub(crate) fn item_json(item: &Item) -> Map<String, Value> {
    let mut object = Map::new();
    insert_bytes(&mut object, "key", &item.key);
    if let Some(value) = &item.value {
        insert_bytes(&mut object, "value", value);
    }
    let numbers = [
        ("create_revision", Some(item.create_revision)),
        ("mod_revision", Some(item.mod_revision)),
        ("version", Some(item.version)),
        ("lease", item.lease),
    ];
    for (name, number) in numbers {
        object.extend(number.map(|number| (name.to_owned(), number.into())));
    }
    object
}

/// A size for people: `512 B`, `1.5 MiB`.
pub(crate) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        // Rounded to one digit, 1023.95 would read 1024.0.
        if size < 1023.95 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    format!("{size:.1} {unit}")
}

/// What is known, or a dash.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Captured;

    #[test]
    fn escaped_bytes_are_one_word_and_readable() {
        assert_eq!(escape("käse 1".as_bytes()), "käse 1");
        assert_eq!(escape(b"a\tb\nc\\d\r\0\x7f"), "a\\tb\\nc\\\\d\\r\\x00\\x7f");
        assert_eq!(escape(b"\xff\xc3a"), "\\xff\\xc3a");
        assert_eq!(escape("\u{85}".as_bytes()), "\\xc2\\x85");
    }

    #[test]
    fn sizes_are_rounded_to_their_unit() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (1_048_575, "1.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(human_size(bytes), shown);
        }
    }

    #[test]
    fn text_columns_are_aligned_without_borders() {
        let mut captured = Captured::default();
        let rows = vec![vec!["1".to_owned(), "long".to_owned()], vec!["22".to_owned(), "x".to_owned()]];
        captured.io().rows(Format::Text, &["ID", "NAME"], rows.clone()).unwrap();
        assert_eq!(captured.out(), "ID  NAME\n1   long\n22  x\n");
        let mut captured = Captured::default();
        captured.io().rows(Format::Table, &["ID", "NAME"], rows).unwrap();
        assert!(captured.out().starts_with('┌'), "{}", captured.out());
    }

    #[test]
    fn progress_is_lines_of_stages_where_there_is_no_terminal() {
        let mut captured = Captured::default();
        let mut progress = Progress::default();
        let mut io = captured.io();
        progress.stage(&mut io, "one");
        progress.detail(&mut io, "50 %");
        progress.stage(&mut io, "one");
        progress.stage(&mut io, "two");
        progress.clear(&mut io);
        assert_eq!(captured.err(), "one\ntwo\n");
    }
}
