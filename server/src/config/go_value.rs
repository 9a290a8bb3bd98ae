//! Values as Go's `flag` and `strconv` packages read them, with their error texts: operators' scripts rely on both.

use std::fmt;

/// Nanoseconds, signed, as Go's `time.Duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub i64);

impl GoDuration {
    /// As a length of time; negative ones count as none.
    pub fn length(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let sign = if self.0 < 0 { "-" } else { "" };
        let whole = std::time::Duration::from_nanos(self.0.unsigned_abs());
        write!(f, "{sign}{whole:?}")
    }
}

/// What Go's `flag` says about a value it cannot read.
const PARSE_ERROR: &str = "parse error";
/// What Go's `flag` says about a number that does not fit.
const OUT_OF_RANGE: &str = "value out of range";

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(PARSE_ERROR.to_owned()),
    }
}

/// A signed 64-bit integer in any of Go's bases.
pub fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = parse_magnitude(digits)?;
    let signed = if negative {
        -i128::from(magnitude)
    } else {
        i128::from(magnitude)
    };
    i64::try_from(signed).map_err(|_| OUT_OF_RANGE.to_owned())
}

/// An unsigned 64-bit integer in any of Go's bases. No sign.
pub fn parse_uint(text: &str) -> Result<u64, String> {
    parse_magnitude(text)
}

/// `strconv.ParseUint(text, 0, 32)`, with that function's own error text, because etcd's flag type passes it on.
pub fn parse_uint32(text: &str) -> Result<u32, String> {
    let cause = match parse_magnitude(text) {
        Ok(number) => match u32::try_from(number) {
            Ok(number) => return Ok(number),
            Err(_) => OUT_OF_RANGE,
        },
        Err(cause) if cause == OUT_OF_RANGE => OUT_OF_RANGE,
        Err(_) => "invalid syntax",
    };
    Err(format!("strconv.ParseUint: parsing {text:?}: {cause}"))
}

/// Digits with an optional `0x`, `0o`, `0b` or `0` prefix, and `_` between digits.
fn parse_magnitude(text: &str) -> Result<u64, String> {
    let bytes = text.as_bytes();
    let (base, digits, after_prefix) = match bytes {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest, true),
        [b'0', b'o' | b'O', rest @ ..] => (8, rest, true),
        [b'0', b'b' | b'B', rest @ ..] => (2, rest, true),
        [b'0', rest @ ..] if !rest.is_empty() => (8, rest, true),
        _ => (10, bytes, false),
    };
    let mut value: u64 = 0;
    let mut separator_allowed = after_prefix;
    let mut separated = false;
    let mut any = false;
    let mut overflow = false;
    for &byte in digits {
        if byte == b'_' {
            if !separator_allowed {
                return Err(PARSE_ERROR.to_owned());
            }
            separator_allowed = false;
            separated = true;
            continue;
        }
        let digit = char::from(byte)
            .to_digit(base)
            .ok_or_else(|| PARSE_ERROR.to_owned())?;
        separator_allowed = true;
        separated = false;
        any = true;
        match value
            .checked_mul(u64::from(base))
            .and_then(|v| v.checked_add(u64::from(digit)))
        {
            Some(next) => value = next,
            None => overflow = true,
        }
    }
    if !any || separated {
        return Err(PARSE_ERROR.to_owned());
    }
    if overflow {
        return Err(OUT_OF_RANGE.to_owned());
    }
    Ok(value)
}

/// `time.ParseDuration`, as the `flag` package reports it: whatever is wrong is a parse error.
pub fn parse_duration(text: &str) -> Result<GoDuration, String> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(GoDuration(0));
    }
    if rest.is_empty() {
        return Err(PARSE_ERROR.to_owned());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (nanoseconds, remainder) = duration_part(rest).ok_or_else(|| PARSE_ERROR.to_owned())?;
        total = total.saturating_add(nanoseconds);
        rest = remainder;
    }
    let limit = if negative { 1 << 63 } else { (1 << 63) - 1 };
    if total > limit {
        return Err(PARSE_ERROR.to_owned());
    }
    let signed = if negative {
        (total as i64).wrapping_neg()
    } else {
        total as i64
    };
    Ok(GoDuration(signed))
}

/// One `1.5h` at the start of `text`: its nanoseconds and what follows it.
fn duration_part(text: &str) -> Option<(u128, &str)> {
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanoseconds = u128::from(whole) * scale;
    let mut divisor: u128 = 1;
    let mut numerator: u128 = 0;
    // Digits past the 18th cannot be seen in nanoseconds of any unit.
    for digit in fraction.bytes().take(18) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        divisor *= 10;
    }
    nanoseconds += numerator * scale / divisor;
    Some((nanoseconds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_in_all_of_gos_bases() {
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("-10", -10),
            ("+7", 7),
            ("0x1F", 31),
            ("-0x10", -16),
            ("010", 8),
            ("0o17", 15),
            ("0b101", 5),
            ("1_000", 1000),
            ("0x_ff", 255),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(parse_int(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_integer_is_refused_with_gos_words() {
        for text in [
            "", "-", "abc", "1s", "0x", "08", "1.5", " 1", "_1", "1_", "1__0", "--1", "0b2",
        ] {
            assert_eq!(parse_int(text), Err("parse error".into()), "{text}");
        }
        for text in ["9223372036854775808", "99999999999999999999"] {
            assert_eq!(parse_int(text), Err("value out of range".into()), "{text}");
        }
        assert_eq!(parse_uint("-1"), Err("parse error".into()));
        assert_eq!(
            parse_uint32("4294967296"),
            Err("strconv.ParseUint: parsing \"4294967296\": value out of range".into())
        );
        assert_eq!(
            parse_uint32("x"),
            Err("strconv.ParseUint: parsing \"x\": invalid syntax".into())
        );
        assert_eq!(parse_uint32("4294967295"), Ok(u32::MAX));
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        const SECOND: i64 = 1_000_000_000;
        for (text, nanoseconds) in [
            ("0", 0),
            ("0s", 0),
            ("300ms", 300_000_000),
            ("10s", 10 * SECOND),
            ("1h30m", 5400 * SECOND),
            ("1.5s", 1_500_000_000),
            (".5m", 30 * SECOND),
            ("2h", 7200 * SECOND),
            ("-5s", -5 * SECOND),
            ("1us", 1000),
            ("1µs", 1000),
            ("7ns", 7),
        ] {
            assert_eq!(parse_duration(text), Ok(GoDuration(nanoseconds)), "{text}");
        }
        for text in ["", "5", "s", ".s", "1x", "1h 2m", "1..5s", "9999999h", "1s5"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_are_exactly_gos() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Ok(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Ok(false));
        }
        for text in ["", "yes", "on", "tRUE", "2"] {
            assert!(parse_bool(text).is_err(), "{text}");
        }
    }
}
