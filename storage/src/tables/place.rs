//! Putting a whole database file in place: written under a temporary name, synced, renamed, directory synced.
//!
//! So a file under the real name is always complete, and a crash leaves at most a leftover that the next start removes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::Disk;
use crate::error::Fault;

/// How every temporary name ends.
const TEMPORARY_SUFFIX: &str = ".unfinished";

/// A name beside `target` that no file of this directory has and no other call returns.
pub fn temporary_beside(disk: &dyn Disk, target: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{number}{TEMPORARY_SUFFIX}"));
        let temporary = PathBuf::from(name);
        if !disk.exists(&temporary) {
            return temporary;
        }
    }
}

/// Makes `temporary` durable and gives it the name `target`, replacing what had it. Both are in the same directory.
///
/// # Errors
/// Any failed system call. `target` is then the old file or the new one, each whole.
pub fn install(disk: &dyn Disk, temporary: &Path, target: &Path) -> Result<(), Fault> {
    disk.open(temporary, false)
        .and_then(|file| file.sync())
        .map_err(|error| Fault::io("sync", temporary, error))?;
    disk.rename(temporary, target)
        .map_err(|error| Fault::io("rename", temporary, error))?;
    let directory = directory_of(target);
    disk.sync_directory(directory)
        .map_err(|error| Fault::io("sync directory", directory, error))
}

/// Removes what an interrupted creation or transfer has left in `directory`. To be called at start, before anything
/// is written there.
pub fn remove_leftovers(disk: &dyn Disk, directory: &Path) -> Result<(), Fault> {
    let names = disk
        .list(directory)
        .map_err(|error| Fault::io("list", directory, error))?;
    for name in names.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
        let path = directory.join(name);
        crate::reached!("snapshot_leftover_removed");
        disk.remove(&path)
            .map_err(|error| Fault::io("remove", &path, error))?;
    }
    Ok(())
}

/// The directory `path` lies in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
