//! The `kelson` binary: flags in, exit code out.

use std::io::Write;
use std::process::ExitCode;

use kelson_server::config::{self, Ending, Loaded, LogSettings, usage};
use kelson_server::logging::{self, FATAL};
use kelson_server::offline;
use kelson_server::server;

/// What a put leaves is allocated by the thread that applies it and freed by the one that writes the database: the C
/// library's allocator has them wait for each other.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code of a command line that cannot be read. Source: Go's `flag` package.
const EXIT_SYNTAX: u8 = 2;

fn main() -> ExitCode {
    let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
    let arguments: Vec<String> = std::env::args_os().skip(1).map(text).collect();
    if let Some(code) = offline::run(&arguments) {
        return code;
    }
    let environment: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    match config::load(&arguments, &environment, config::default_route_address) {
        Ok(loaded) => run(loaded, &arguments),
        Err(ending) => end(ending),
    }
}

fn run(Loaded { config, notes }: Loaded, arguments: &[String]) -> ExitCode {
    if let Err(cause) = logging::start(&config.log) {
        return end(Ending::Invalid(cause));
    }
    logging::die_of_panics();
    for note in &notes {
        note.log();
    }
    tracing::info!(args = ?arguments, "Running: ");
    #[cfg(debug_assertions)]
    if let Err(cause) = kelson_server::fail_points::start() {
        return end(Ending::Invalid(cause));
    }
    raise_descriptor_limit();
    turn_size_limits_into_errors();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(target: FATAL, %error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(server::run(config));
    // What still runs is reading for clients that are gone.
    runtime.shutdown_background();
    code
}

/// Allows as many connections and files as the system lets this process have, as Go's runtime does.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live value of the right type.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above. When it fails, the former limit stays, and with it a server that works.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}

/// A write beyond a limit on file sizes becomes a failed write, which has a path and a log line, instead of a signal.
fn turn_size_limits_into_errors() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Ends without a server.
fn end(ending: Ending) -> ExitCode {
    match ending {
        Ending::Version => print(std::io::stdout(), &usage::version()),
        Ending::Help => print(std::io::stdout(), &usage::usage()),
        Ending::Syntax(message) => {
            print(std::io::stderr(), &format!("{message}\n{}", usage::usage()));
            return ExitCode::from(EXIT_SYNTAX);
        }
        Ending::Shadowed { variable } => {
            log_to_stderr();
            tracing::error!(
                target: FATAL,
                { "environment-variable" = variable },
                "conflicting environment variable is shadowed by corresponding command-line flag \
                 (either unset environment variable or disable flag)"
            );
            return ExitCode::FAILURE;
        }
        Ending::Invalid(message) => {
            log_to_stderr();
            tracing::error!(target: FATAL, error = message, "failed to verify flags");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn print(mut output: impl Write, text: &str) {
    // A reader that has gone away, as `head` does, has read enough.
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

fn log_to_stderr() {
    if let Err(cause) = logging::start(&LogSettings::default()) {
        print(std::io::stderr(), &format!("{cause}\n"));
    }
}
