//! Every flag etcd 3.7 knows, as data: its type, its default, and what this server does with it.

mod table;

use super::feature_gates::FeatureGates;
use super::go_value::{self, GoDuration};
use super::grammar::Arity;
use super::urls::Url;
pub use table::TABLE;

/// The type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Go's `flag.Bool`.
    Bool,
    /// A signed 64-bit integer.
    Int,
    /// An unsigned 64-bit integer.
    Uint,
    /// An unsigned 32-bit integer.
    Uint32,
    /// A Go duration.
    Duration,
    /// Any text.
    Text,
    /// A list of URLs; sorted, each once.
    Urls,
    /// A list of URLs that may be empty.
    UrlsOrNone,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// `Name=true,...`.
    Gates,
    /// Whatever follows is discarded.
    Discarded,
}

/// What becomes of a flag that is given a value other than its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does what it does in etcd.
    Served,
    /// It changes nothing, and this is why that is harmless.
    WithoutEffect(&'static str),
    /// The start ends with a message: going on would not be what was asked for.
    NotServed,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// Type of the value.
    pub kind: Kind,
    /// The default, as one would write it.
    pub default: &'static str,
    /// What is done with it.
    pub standing: Standing,
    /// One sentence for `--help`; empty for flags that are only tolerated.
    pub usage: &'static str,
}

impl Flag {
    /// Whether it needs a value.
    pub fn arity(&self) -> Arity {
        match self.kind {
            // etcd's discarded flags are switches that put up with any attached value.
            Kind::Bool | Kind::Discarded => Arity::Boolean,
            _ => Arity::Valued,
        }
    }

    /// Reads a value; the error is the cause that Go's or etcd's flag type names.
    pub fn read(&self, text: &str) -> Result<Value, String> {
        Ok(match self.kind {
            Kind::Bool => Value::Bool(go_value::parse_bool(text)?),
            Kind::Int => Value::Int(go_value::parse_int(text)?),
            Kind::Uint => Value::Uint(go_value::parse_uint(text)?),
            Kind::Uint32 => Value::Uint(go_value::parse_uint32(text)?.into()),
            Kind::Duration => Value::Duration(go_value::parse_duration(text)?),
            Kind::UrlsOrNone if text.is_empty() => Value::Urls(Vec::new()),
            Kind::Urls | Kind::UrlsOrNone => Value::Urls(Url::parse_list(text)?),
            Kind::OneOf(words) if !words.contains(&text) => return Err("invalid value".to_owned()),
            Kind::Gates => Value::Gates(FeatureGates::parse(text)?),
            Kind::Text | Kind::OneOf(_) | Kind::Discarded => Value::Text(text.to_owned()),
        })
    }

    /// The default as a value.
    pub fn default_value(&self) -> Value {
        self.read(self.default)
            .expect("a test reads every default of the table")
    }
}

/// The value of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Uint`] and [`Kind::Uint32`].
    Uint(u64),
    /// Of [`Kind::Duration`].
    Duration(GoDuration),
    /// Of [`Kind::Text`], [`Kind::OneOf`] and [`Kind::Discarded`].
    Text(String),
    /// Of [`Kind::Urls`] and [`Kind::UrlsOrNone`].
    Urls(Vec<Url>),
    /// Of [`Kind::Gates`].
    Gates(FeatureGates),
}

/// The flag of that name.
pub fn find(name: &str) -> Option<&'static Flag> {
    TABLE
        .iter()
        .flat_map(|(_, flags)| flags.iter())
        .find(|flag| flag.name == name)
}

/// All flags, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    TABLE.iter().flat_map(|(_, flags)| flags.iter())
}

/// The present name of a flag of etcd 3.5 and 3.6 that lost its `experimental-` prefix.
pub fn renamed(former: &str) -> Option<&'static Flag> {
    let name = former.strip_prefix("experimental-")?;
    FORMER_NAMES.contains(&name).then(|| find(name)).flatten()
}

/// Flags that were `--experimental-<name>` before etcd 3.7.
const FORMER_NAMES: &[&str] = &[
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "max-learners",
    "memory-mlock",
    "peer-skip-client-san-verification",
    "snapshot-catchup-entries",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_is_readable_and_every_name_is_there_once() {
        let mut names = BTreeSet::new();
        for flag in all() {
            flag.read(flag.default)
                .unwrap_or_else(|cause| panic!("{}: {cause}", flag.name));
            assert!(names.insert(flag.name), "{} twice", flag.name);
        }
        assert!(FORMER_NAMES.iter().all(|name| find(name).is_some()));
    }

    #[test]
    fn former_names_lead_to_present_flags() {
        let found = |name| renamed(name).map(|flag| flag.name);
        assert_eq!(
            found("experimental-watch-progress-notify-interval"),
            Some("watch-progress-notify-interval")
        );
        assert_eq!(found("experimental-name"), None);
        assert_eq!(found("watch-progress-notify-interval"), None);
    }

    #[test]
    fn served_flags_explain_themselves() {
        for flag in all().filter(|flag| flag.standing == Standing::Served) {
            assert!(!flag.usage.is_empty(), "{}", flag.name);
        }
    }
}
