//! Data on standard output: a table, a wider one, JSON or YAML.
//!
//! Every command that prints data makes one [`Value`] of it, which is its JSON and its YAML, and a text for reading.

use crate::exit::{Exit, Failure, Outcome};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write};

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For reading.
    Table,
    /// For reading, with everything.
    Wide,
    /// For programs.
    Json,
    /// For programs and for reading.
    Yaml,
}

/// The flag of every command that prints data.
#[derive(Debug, Clone, Args)]
pub(crate) struct Output {
    /// How data is written
    #[arg(long = "output", short = 'o', env = "CONCUR_OUTPUT", value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: Format,
}

impl Output {
    /// Writes data. `text` makes what is for reading, of everything if it is given true.
    pub(crate) fn show(&self, value: &Value, text: impl FnOnce(bool) -> String) -> Outcome {
        write(&match self.format {
            Format::Table => text(false),
            Format::Wide => text(true),
            Format::Json => format!("{value:#}\n"),
            Format::Yaml => yaml(value),
        })
    }

    /// Writes one of many pieces of data as it comes: JSON takes one line each.
    pub(crate) fn show_next(&self, value: &Value, text: impl FnOnce(bool) -> String) -> Outcome {
        match self.format {
            Format::Json => write(format!("{value}\n")),
            Format::Yaml => write(format!("---\n{}", yaml(value))),
            _ => self.show(value, text),
        }
    }
}

/// Writes to standard output. A reader that has gone has had enough.
pub(crate) fn write(text: impl AsRef<[u8]>) -> Outcome {
    let mut to = std::io::stdout().lock();
    match to.write_all(text.as_ref()).and_then(|()| to.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(Exit::Failure, format!("cannot write: {error}"))),
        _ => Ok(()),
    }
}

/// Rows under headings, in columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        // A format's width has sixteen bits; a cell that wide is not read as a column anyway.
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0).min(200)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes for reading: text as it is, without what would disturb a terminal.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Bytes for programs: text under the name, anything else in base 64 under `NAME_base64`.
pub(crate) fn put_bytes(into: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => into.insert(name.into(), text.into()),
        Err(_) => into.insert(format!("{name}_base64"), base64(bytes).into()),
    };
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, i| bits << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// A value as YAML: texts in quotes, as YAML reads JSON's.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    put_yaml(value, 0, &mut text);
    text
}

fn put_yaml(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (i, (name, field)) in fields.iter().enumerate() {
                indent(if i == 0 { 0 } else { depth }, out);
                let _ = write!(out, "{name}:");
                put_inside(field, depth, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                indent(if i == 0 { 0 } else { depth }, out);
                out.push_str("- ");
                put_yaml(item, depth + 1, out);
            }
        }
        plain => {
            let _ = writeln!(out, "{plain}");
        }
    }
}

/// What stands behind a field's name: on the same line if it is short, else below it.
fn put_inside(value: &Value, depth: usize, out: &mut String) {
    let is_long = matches!(value, Value::Object(fields) if !fields.is_empty()) || matches!(value, Value::Array(items) if !items.is_empty());
    if is_long {
        out.push('\n');
        indent(depth + 1, out);
        put_yaml(value, depth + 1, out);
    } else {
        out.push(' ');
        put_yaml(value, depth, out);
    }
}

fn indent(depth: usize, out: &mut String) {
    (0..depth).for_each(|_| out.push_str("  "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_nests_as_json_does() {
        let value = json!([{"name": "n1", "voters": [1, 2], "lists": [[1], []]}, {"none": null, "empty": {}}]);
        let expected = "- name: \"n1\"\n  voters:\n    - 1\n    - 2\n  lists:\n    - - 1\n    - []\n- none: null\n  empty: {}\n";
        assert_eq!(yaml(&value), expected);
    }

    #[test]
    fn bytes_are_shown_whatever_they_are() {
        assert_eq!(readable("naïve\n\x1b[31m".as_bytes()), "naïve\\n\\u{1b}[31m");
        assert_eq!(readable(b"a\xffb"), "a\\xffb");
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")] {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["KEY", "VALUE"]);
        table.row(["größe".into(), "1".into()]);
        table.row(["k".into(), "long value".into()]);
        assert_eq!(table.text(), "KEY    VALUE\ngröße  1\nk      long value\n");
    }
}
