//! Log lines as etcd's zap writes them, because tools and people match on them: one JSON object per line, keys in the
//! order `level`, `ts`, `caller`, `msg`, fields, `error`.
//!
//! A line is built in a buffer of its thread and written at once, so lines of several threads do not mix. A line that
//! cannot be written is lost: logging never stops the server.

mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::config::{LogFormat, LogLevel, LogOutput, LogSettings};

/// Target of an `error!` after which the process ends: written with etcd's level `fatal`, at every `--log-level`.
pub const FATAL: &str = "fatal";

/// Target prefix of this project's own crates.
const OWN_TARGET: &str = "kelson";

/// Mode of a log file: its owner only.
const FILE_MODE: u32 = 0o600;

/// Lines of one message per second that are all written. Source: etcd's zap configuration.
const SAMPLE_FIRST: u32 = 100;
/// Beyond [`SAMPLE_FIRST`], one line in so many is written. Source: as above.
const SAMPLE_EVERY: u32 = 100;
/// Messages that are counted apart; others share.
const SAMPLE_SLOTS: usize = 512;

/// Starts logging for the whole process. Nothing is changed when it was started already.
pub fn start(settings: &LogSettings) -> Result<(), String> {
    let writer = Writer::open(settings)?;
    let subscriber = tracing_subscriber::registry()
        .with(filter(settings.level))
        .with(writer);
    // A second start finds a log that works.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Makes a panic a log line, and the death of the process. Release builds abort anyway; without this, others would live
/// on without the thread that panicked, and a member without its log thread accepts connections and answers nobody.
pub fn die_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let message = text
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or_default();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(target: FATAL, place, panic = message, "this process must stop: a promise within it was broken");
        std::process::abort();
    }));
}

/// Our own lines at `level`; libraries one step less talkative, and never below warnings by default.
fn filter(level: LogLevel) -> Targets {
    let (own, libraries) = match level {
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
        LogLevel::Info | LogLevel::Warn => {
            let own = if level == LogLevel::Info {
                LevelFilter::INFO
            } else {
                LevelFilter::WARN
            };
            (own, LevelFilter::WARN)
        }
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Fatal => (LevelFilter::OFF, LevelFilter::OFF),
    };
    // openraft warns of every attempt to reach a peer that is down; our own lines tell it once.
    let consensus = if level == LogLevel::Debug {
        libraries
    } else {
        libraries.min(LevelFilter::ERROR)
    };
    Targets::new()
        .with_default(libraries)
        .with_target("openraft", consensus)
        .with_target(OWN_TARGET, own)
        .with_target(FATAL, LevelFilter::ERROR)
}

/// Where a line goes.
enum Output {
    Stderr,
    Stdout,
    File(File),
    #[cfg(test)]
    Memory(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>),
}

impl Output {
    fn open(output: &LogOutput) -> Result<Self, String> {
        Ok(match output {
            LogOutput::Stderr => Self::Stderr,
            LogOutput::Stdout => Self::Stdout,
            LogOutput::File(path) => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(FILE_MODE)
                    .open(path);
                Self::File(
                    file.map_err(|error| format!("cannot open log output {}: {error}", path.display()))?,
                )
            }
        })
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().write_all(line),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                stdout.flush()
            }
            Self::File(file) => (&*file).write_all(line),
            #[cfg(test)]
            Self::Memory(bytes) => {
                bytes.lock().extend_from_slice(line);
                Ok(())
            }
        }
    }
}

/// The layer that turns events into lines.
struct Writer {
    format: LogFormat,
    outputs: Vec<Output>,
    sampler: Sampler,
}

impl Writer {
    fn open(settings: &LogSettings) -> Result<Self, String> {
        let outputs = settings
            .outputs
            .iter()
            .map(Output::open)
            .collect::<Result<_, _>>()?;
        Ok(Self::new(settings.format, outputs))
    }

    fn new(format: LogFormat, outputs: Vec<Output>) -> Self {
        Self {
            format,
            outputs,
            sampler: Sampler::default(),
        }
    }
}

impl<S: Subscriber> Layer<S> for Writer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let now = wall_clock();
        let metadata = event.metadata();
        if metadata.target() != FATAL && !self.sampler.admits(metadata.callsite(), now.as_secs()) {
            return;
        }
        line::with_line(self.format, now, event, |line| {
            for output in &self.outputs {
                // Nowhere is left to tell of a failure.
                let _ = output.write(line);
            }
        });
    }
}

/// Time since the Unix epoch, for time stamps alone.
#[expect(
    clippy::disallowed_methods,
    reason = "a time stamp for people; decides nothing"
)]
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Keeps a message that repeats without end from filling the disk.
struct Sampler {
    /// The second in the upper half, the lines seen in it in the lower.
    slots: Vec<AtomicU64>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            slots: (0..SAMPLE_SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Sampler {
    /// Whether a line of that call site is to be written in that second.
    fn admits(&self, callsite: tracing::callsite::Identifier, second: u64) -> bool {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(callsite);
        let slot = &self.slots[usize::try_from(hash).unwrap_or(0) % SAMPLE_SLOTS];
        let second = second << 32;
        let count = |packed: u64| {
            if packed & !0xffff_ffff == second {
                (packed & 0xffff_ffff) + 1
            } else {
                1
            }
        };
        let next = |packed: u64| Some(second | count(packed).min(0xffff_ffff));
        let before = slot
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .unwrap_or_default();
        let seen = u32::try_from(count(before)).unwrap_or(u32::MAX);
        seen <= SAMPLE_FIRST || (seen - SAMPLE_FIRST).is_multiple_of(SAMPLE_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing::{error, info, warn};

    use super::*;

    fn logged(level: LogLevel, format: LogFormat, act: impl FnOnce()) -> Vec<String> {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer::new(format, vec![Output::Memory(bytes.clone())]);
        let subscriber = tracing_subscriber::registry().with(filter(level)).with(writer);
        tracing::subscriber::with_default(subscriber, act);
        let text = String::from_utf8(bytes.lock().clone()).expect("lines are text");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_is_a_json_object_with_keys_in_etcds_order() {
        let lines = logged(LogLevel::Info, LogFormat::Json, || {
            let cause = io::Error::other("no \"luck\"");
            warn!(error = %cause, "local-member-id" = format_args!("{:x}", 255), count = 3, ok = true, "a\nb");
        });
        let line = &lines[0];
        let (head, tail) = line.split_once(r#","caller":"server/logging.rs:"#).expect(line);
        assert!(head.starts_with(r#"{"level":"warn","ts":"20"#), "{line}");
        let (number, tail) = tail.split_once('"').expect(line);
        assert!(number.parse::<u32>().is_ok(), "{line}");
        assert_eq!(
            tail,
            r#","msg":"a\nb","local-member-id":"ff","count":3,"ok":true,"error":"no \"luck\""}"#
        );
        let value: serde_json::Value = serde_json::from_str(line).expect("valid");
        let stamp = value["ts"].as_str().expect("a text");
        assert_eq!(&stamp[10..11], "T");
        assert_eq!(&stamp[19..20], ".");
    }

    #[test]
    fn console_lines_are_separated_by_tabs() {
        let lines = logged(LogLevel::Info, LogFormat::Console, || info!(a = 1, "hello"));
        let parts: Vec<&str> = lines[0].split('\t').collect();
        assert_eq!(parts[1], "info");
        assert_eq!(&parts[3..], ["hello", r#"{"a":1}"#]);
    }

    #[test]
    fn levels_below_the_setting_are_dropped_and_fatal_never_is() {
        let lines = logged(LogLevel::Fatal, LogFormat::Json, || {
            error!("dropped");
            error!(target: FATAL, "kept");
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with(r#"{"level":"fatal","#), "{}", lines[0]);
        let lines = logged(LogLevel::Info, LogFormat::Json, || {
            info!(target: "h2::server", "a library's chatter");
            tracing::debug!("detail");
        });
        assert_eq!(lines, [""; 0]);
    }

    #[test]
    fn a_message_that_repeats_is_thinned_out() {
        let sampler = Sampler::default();
        let admitted = |second, times| (0..times).filter(|_| sampler.admits(callsite(), second)).count();
        assert_eq!(admitted(7, 100), 100);
        assert_eq!(admitted(7, 250), 2);
        assert_eq!(admitted(8, 100), 100);
    }

    fn callsite() -> tracing::callsite::Identifier {
        use tracing::Metadata;
        use tracing::callsite::{Callsite, Identifier};
        use tracing::subscriber::Interest;
        struct Here;
        impl Callsite for Here {
            fn set_interest(&self, _: Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                unreachable!("only the address of the call site counts")
            }
        }
        static HERE: Here = Here;
        Identifier(&HERE)
    }
}
