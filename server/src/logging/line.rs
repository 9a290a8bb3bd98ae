//! One line: an event and its time in, bytes out.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

use super::FATAL;
use crate::config::LogFormat;

thread_local! {
    static LINE: RefCell<Line> = RefCell::new(Line::default());
}

/// Builds the line of `event` and hands it to `write`.
pub(super) fn with_line(format: LogFormat, at: Duration, event: &Event<'_>, write: impl FnOnce(&[u8])) {
    LINE.with(|line| {
        // Taken while a line is being built only if a field's own formatting logs; that line is dropped.
        if let Ok(mut line) = line.try_borrow_mut() {
            line.clear();
            event.record(&mut *line);
            line.assemble(format, at, event.metadata());
            write(line.text.as_bytes());
        }
    });
}

/// The parts of a line. Fields are JSON already, `,"key":value` each; `error` stands apart because it comes last.
#[derive(Default)]
struct Line {
    text: String,
    message: String,
    fields: String,
    error: String,
}

impl Line {
    fn clear(&mut self) {
        self.text.clear();
        self.message.clear();
        self.fields.clear();
        self.error.clear();
    }

    fn assemble(&mut self, format: LogFormat, at: Duration, metadata: &Metadata<'_>) {
        let mut stamp = Stamp::default();
        stamp.set(at);
        let caller = Caller(
            metadata.file().unwrap_or_default(),
            metadata.line().unwrap_or_default(),
        );
        let (level, text) = (level_name(metadata), &mut self.text);
        let written = match format {
            LogFormat::Json => write!(
                text,
                r#"{{"level":"{level}","ts":"{stamp}","caller":"{caller}","msg":"#
            )
            .and_then(|()| push_json(text, &self.message))
            .and_then(|()| writeln!(text, "{}{}}}", self.fields, self.error)),
            LogFormat::Console => {
                let fields = self.fields.strip_prefix(',').unwrap_or(&self.fields);
                let error = if fields.is_empty() {
                    self.error.strip_prefix(',').unwrap_or(&self.error)
                } else {
                    &self.error
                };
                write!(text, "{stamp}\t{level}\t{caller}\t{}", self.message).and_then(|()| {
                    if fields.is_empty() && error.is_empty() {
                        writeln!(text)
                    } else {
                        writeln!(text, "\t{{{fields}{error}}}")
                    }
                })
            }
        };
        written.expect("a String takes everything");
    }

    /// Where the value of `field` goes, its key written.
    fn value_of(&mut self, field: &Field) -> &mut String {
        let part = if field.name() == "error" {
            &mut self.error
        } else {
            &mut self.fields
        };
        part.push(',');
        push_json(part, field.name()).expect("a String takes everything");
        part.push(':');
        part
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        write!(self.value_of(field), "{value}").expect("a String takes everything");
    }
}

impl Visit for Line {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            push_json(self.value_of(field), value).expect("a String takes everything");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.message, "{value:?}").expect("a String takes everything");
            return;
        }
        let text = self.value_of(field);
        text.push('"');
        // A value whose own formatting fails is cut short there.
        let _ = write!(Escaped(text), "{value:?}");
        text.push('"');
    }
}

/// A JSON string, quotes included.
fn push_json(text: &mut String, value: &str) -> fmt::Result {
    text.push('"');
    Escaped(text).write_str(value)?;
    text.push('"');
    Ok(())
}

/// Escapes what JSON strings must not hold.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, value: &str) -> fmt::Result {
        let mut rest = value;
        while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
            let (plain, special) = rest.split_at(at);
            self.0.push_str(plain);
            let byte = special.as_bytes()[0];
            match byte {
                b'"' => self.0.push_str("\\\""),
                b'\\' => self.0.push_str("\\\\"),
                b'\n' => self.0.push_str("\\n"),
                b'\r' => self.0.push_str("\\r"),
                b'\t' => self.0.push_str("\\t"),
                _ => write!(self.0, "\\u{byte:04x}")?,
            }
            rest = &special[1..];
        }
        self.0.push_str(rest);
        Ok(())
    }
}

fn level_name(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        Level::ERROR if metadata.target() == FATAL => "fatal",
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// `directory/file.rs:line`, where a crate's `src` counts for nothing.
struct Caller<'a>(&'a str, u32);

impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.rsplit(['/', '\\']).filter(|part| *part != "src");
        let file = parts.next().unwrap_or_default();
        match parts.next() {
            Some(directory) => write!(f, "{directory}/{file}:{}", self.1),
            None => write!(f, "{file}:{}", self.1),
        }
    }
}

/// A moment in the local zone, to the microsecond.
#[derive(Default)]
struct Stamp {
    text: String,
}

impl Stamp {
    fn set(&mut self, at: Duration) {
        let local = local_time(at);
        let offset = local.tm_gmtoff;
        self.text.clear();
        let written = write!(
            self.text,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}",
            local.tm_year + 1900,
            local.tm_mon + 1,
            local.tm_mday,
            local.tm_hour,
            local.tm_min,
            local.tm_sec,
            at.subsec_micros()
        )
        .and_then(|()| {
            if offset == 0 {
                return self.text.write_char('Z');
            }
            let sign = if offset < 0 { '-' } else { '+' };
            let minutes = offset.abs() / 60;
            write!(self.text, "{sign}{:02}{:02}", minutes / 60, minutes % 60)
        });
        written.expect("a String takes everything");
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn local_time(at: Duration) -> libc::tm {
    let seconds = libc::time_t::try_from(at.as_secs()).unwrap_or_default();
    // SAFETY: an all-zero `tm` is a valid value of that plain C struct.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right types, and the function keeps neither.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut local) };
    local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_a_directory_and_a_file() {
        for (file, rendered) in [
            ("server/src/server.rs", "server/server.rs:7"),
            ("storage/src/wal/segment.rs", "wal/segment.rs:7"),
            ("/home/x/h2-0.4.20/src/lib.rs", "h2-0.4.20/lib.rs:7"),
            ("main.rs", "main.rs:7"),
        ] {
            assert_eq!(Caller(file, 7).to_string(), rendered);
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut text = String::new();
        push_json(&mut text, "a\"b\\c\u{1}\td\u{e9}").expect("a String takes everything");
        assert_eq!(text, "\"a\\\"b\\\\c\\u0001\\td\u{e9}\"");
        let back: String = serde_json::from_str(&text).expect("valid");
        assert_eq!(back, "a\"b\\c\u{1}\td\u{e9}");
    }

    #[test]
    fn stamps_have_microseconds_and_a_zone() {
        let mut stamp = Stamp::default();
        stamp.set(Duration::from_micros(1_700_000_000_000_042));
        let text = stamp.to_string();
        assert!(text.starts_with("2023-11-1"), "{text}");
        assert!(text[19..].starts_with(".000042"), "{text}");
        assert!(
            text.ends_with('Z') || text.as_bytes()[26] == b'+' || text.as_bytes()[26] == b'-',
            "{text}"
        );
    }
}
