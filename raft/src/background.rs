//! What a thread can do so that others need not wait for it.

use std::io;

/// The longest turn on a core that Linux gives, in nanoseconds.
#[cfg(target_os = "linux")]
const LONGEST_SLICE: u64 = 100_000_000;

/// Lets whatever else wakes have this thread's core at once, for longer turns of its own: its share of the cores stays what
/// it is. Linux 6.12 and later; earlier ones take the call and do nothing.
///
/// A lower priority would be of more help to others, but nothing would be left for this thread where they never rest, and
/// without privileges there is no way back from it.
///
/// # Errors
/// Where the system will not have it. Nothing is changed then.
#[cfg(target_os = "linux")]
pub(crate) fn give_way() -> io::Result<()> {
    let mut attributes = get_attributes()?;
    attributes.sched_runtime = LONGEST_SLICE;
    // SAFETY: The structure is as long as its first field says, and lives until the call returns. 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    (result == 0).then_some(()).ok_or_else(io::Error::last_os_error)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn give_way() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How the calling thread is scheduled.
#[cfg(target_os = "linux")]
fn get_attributes() -> io::Result<libc::sched_attr> {
    // SAFETY: It holds numbers only, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = u32::try_from(size_of::<libc::sched_attr>()).expect("a structure of some dozens of bytes");
    // SAFETY: The system writes `size` bytes at most, which the structure has. 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    (result == 0)
        .then_some(attributes)
        .ok_or_else(io::Error::last_os_error)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A call that the system ignores would look like one that works.
    #[test]
    fn a_thread_that_gives_way_has_long_turns_and_the_priority_it_had() {
        let before = get_attributes().unwrap();
        give_way().unwrap();
        let after = get_attributes().unwrap();
        assert_eq!(
            (after.sched_policy, after.sched_nice),
            (before.sched_policy, before.sched_nice)
        );
        // Linux before 6.12 says zero.
        assert!([0, LONGEST_SLICE].contains(&after.sched_runtime));
    }
}
