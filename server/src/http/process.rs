//! Metrics about the process, under the names Prometheus' client libraries gave them. Read from `/proc`; what the
//! system does not say is left out.

use super::metrics::Text;

/// Writes them.
pub(super) fn write(text: &mut Text) {
    if let Some(stat) = Stat::read() {
        text.gauge(
            "process_resident_memory_bytes",
            "Resident memory.",
            stat.resident_bytes,
        );
        text.gauge(
            "process_virtual_memory_bytes",
            "Virtual memory.",
            stat.virtual_bytes,
        );
        text.counter(
            "process_cpu_seconds_total",
            "User and system CPU time.",
            stat.cpu_seconds,
        );
        if let Some(seconds) = stat.start_time_seconds() {
            text.gauge(
                "process_start_time_seconds",
                "Start of the process since the Unix epoch.",
                seconds,
            );
        }
    }
    if let Some(open) = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
        text.gauge("process_open_fds", "Open file descriptors.", open);
        text.gauge("os_fd_used", "Open file descriptors.", open);
    }
    if let Some(limit) = descriptor_limit() {
        text.gauge("process_max_fds", "Most open file descriptors.", limit);
        text.gauge("os_fd_limit", "Most open file descriptors.", limit);
    }
}

/// What `/proc/self/stat` says.
struct Stat {
    resident_bytes: u64,
    virtual_bytes: u64,
    cpu_seconds: f64,
    started_ticks: u64,
    ticks_per_second: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name in brackets may hold anything; after it come numbers, the third field first.
        let (_, numbers) = stat.rsplit_once(')')?;
        let field = |number: usize| numbers.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
        let ticks_per_second = system(libc::_SC_CLK_TCK)?;
        let page_bytes = system(libc::_SC_PAGESIZE)?;
        #[expect(clippy::cast_precision_loss, reason = "ticks of CPU time stay far below 2^52")]
        let cpu_seconds = (field(14)? + field(15)?) as f64 / ticks_per_second as f64;
        Some(Self {
            resident_bytes: field(24)? * page_bytes,
            virtual_bytes: field(23)?,
            cpu_seconds,
            started_ticks: field(22)?,
            ticks_per_second,
        })
    }

    /// Seconds since the Unix epoch, to the second.
    fn start_time_seconds(&self) -> Option<u64> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let booted = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        Some(booted.trim().parse::<u64>().ok()? + self.started_ticks / self.ticks_per_second)
    }
}

fn system(name: libc::c_int) -> Option<u64> {
    // SAFETY: takes a number and returns one.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|value| *value > 0)
}

fn descriptor_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let mut text = Text::default();
        write(&mut text);
        let text = text.finish();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim().parse::<f64>().expect("a number")
        };
        assert!(value("process_resident_memory_bytes ") > 1_000_000.0);
        assert!(value("os_fd_used ") >= 3.0);
        assert!(value("process_start_time_seconds ") > 1_600_000_000.0);
    }
}
