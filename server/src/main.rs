//! The `kelson` binary: flags in, exit code out.

use std::process::ExitCode;

use kelson_server::config::{self, Ending, Loaded, LogSettings, usage};
use kelson_server::logging::{self, FATAL};
use kelson_server::server;

/// Exit code of a command line that cannot be read. Source: Go's `flag` package.
const EXIT_SYNTAX: u8 = 2;

fn main() -> ExitCode {
    let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
    let arguments: Vec<String> = std::env::args_os().skip(1).map(text).collect();
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
    logging::log_panics();
    for note in &notes {
        note.log();
    }
    tracing::info!(args = ?arguments, "Running: ");
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

/// Ends without a server.
fn end(ending: Ending) -> ExitCode {
    match ending {
        Ending::Version => print!("{}", usage::version()),
        Ending::Help => print!("{}", usage::usage()),
        Ending::Syntax(message) => {
            eprint!("{message}\n{}", usage::usage());
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

fn log_to_stderr() {
    if let Err(cause) = logging::start(&LogSettings::default()) {
        eprintln!("{cause}");
    }
}
