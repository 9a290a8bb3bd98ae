//! etcd's own `benchmark` tool, where it is at hand: what others measure with.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;

/// What the tool said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said {
    /// Requests per second.
    pub rate: f64,
    /// Requests answered.
    pub count: u64,
    /// Latencies: of half of the requests, of 99 in a hundred, of 999 in a thousand.
    pub quantiles: [Duration; 3],
    /// Requests that failed.
    pub errors: u64,
}

/// Runs it against these endpoints.
pub async fn run(
    tool: &Path,
    endpoints: &[String],
    connections: usize,
    clients: usize,
    work: &[String],
) -> anyhow::Result<Said> {
    let output = Command::new(tool)
        .args(["--endpoints", &endpoints.join(",")])
        .args([
            "--conns",
            &connections.to_string(),
            "--clients",
            &clients.to_string(),
        ])
        .args(work)
        .output()
        .await
        .with_context(|| tool.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success(),
        "{} failed: {}{text}",
        tool.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    said(&text).with_context(|| format!("{} said:\n{text}", tool.display()))
}

fn said(text: &str) -> anyhow::Result<Said> {
    let value = |label: &str| -> anyhow::Result<f64> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
        let line = line.with_context(|| format!("no line {label:?}"))?;
        let word = line.split_whitespace().next().context("no value")?;
        Ok(word.parse()?)
    };
    let seconds = |label| value(label).map(Duration::from_secs_f64);
    // "  [123]  <error>" below "Error distribution:".
    let errors = text
        .lines()
        .skip_while(|line| !line.starts_with("Error distribution"))
        .filter_map(|line| {
            line.trim()
                .strip_prefix('[')?
                .split_once(']')?
                .0
                .parse::<u64>()
                .ok()
        })
        .sum();
    let rate = value("Requests/sec:")?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count, told as a rate and a time"
    )]
    let count = (rate * value("Total:")?).round() as u64;
    Ok(Said {
        rate,
        count,
        quantiles: [seconds("50% in")?, seconds("99% in")?, seconds("99.9% in")?],
        errors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_a_run_is_read() {
        let text = "\nSummary:\n  Total:\t2.0000 secs.\n  Slowest:\t0.1 secs.\n  Requests/sec:\t1500.5\n\n\
                    Latency distribution:\n  10% in 0.0010 secs.\n  50% in 0.0020 secs.\n  99% in 0.0300 secs.\n  \
                    99.9% in 0.0400 secs.\n\nError distribution:\n  [3]\trpc error\n  [4]\tanother\n";
        let expected = Said {
            rate: 1500.5,
            count: 3001,
            quantiles: [2, 30, 40].map(Duration::from_millis),
            errors: 7,
        };
        assert_eq!(said(text).unwrap(), expected);
        assert!(said("Requests/sec: many").is_err());
    }
}
