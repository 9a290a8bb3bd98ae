//! Damage to the files of a member that does not run, and disks that have no room.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::network::run;

/// What a member logs once it has heard a leader: from then on it may have made promises.
pub const IN_TOUCH: &str = "leader changed";

/// Size of a disk that is to be filled: room for two log segments and a database.
const DISK_BYTES: u64 = 384 * 1024 * 1024;

/// Smallest piece of damage that is looked for: a disk's sector.
const SECTOR: u64 = 512;

/// Attempts to find a place with something in it.
const ATTEMPTS: usize = 64;

/// Most bytes cut off a log's end.
const CUT_BYTES_MAX: u64 = 2_000;

/// What becomes of the files. The number says where.
#[derive(Clone, Copy, Debug)]
pub enum Damage {
    /// One bit of one file is flipped.
    Flip(u64),
    /// The newest log segment loses its end.
    Truncate(u64),
}

impl Damage {
    /// Damages the files below `data`. Returns what was done.
    ///
    /// # Errors
    ///
    /// If there is nothing to damage.
    pub fn inflict(self, data: &Path) -> Result<String> {
        match self {
            Damage::Flip(chance) => flip(data, &mut StdRng::seed_from_u64(chance)),
            Damage::Truncate(chance) => truncate(data, &mut StdRng::seed_from_u64(chance)),
        }
    }
}

/// Flips a bit somewhere among bytes that are not all zero: what was never written is nobody's.
fn flip(data: &Path, rng: &mut StdRng) -> Result<String> {
    let files: Vec<(PathBuf, u64)> = files_below(data)?
        .into_iter()
        .map(|path| {
            let length = path.metadata().map_or(0, |metadata| metadata.len());
            (path, length)
        })
        .filter(|(_, length)| *length > 0)
        .collect();
    ensure!(!files.is_empty(), "no files below {}", data.display());
    for _ in 0..ATTEMPTS {
        let (path, length) = &files[rng.random_range(0..files.len())];
        let at = rng.random_range(0..*length);
        let file = File::options().read(true).write(true).open(path)?;
        let mut sector = vec![0; usize::try_from(SECTOR.min(length - at / SECTOR * SECTOR))?];
        file.read_exact_at(&mut sector, at / SECTOR * SECTOR)?;
        if sector.iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        let bit = rng.random_range(0..8);
        file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
        file.sync_all()?;
        return Ok(format!("bit {bit} of byte {at} of {}", path.display()));
    }
    anyhow::bail!("nothing but zeros below {}", data.display())
}

fn truncate(data: &Path, rng: &mut StdRng) -> Result<String> {
    let mut segments: Vec<PathBuf> = files_below(data)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    segments.sort();
    // Segments are made ahead: the newest with anything in it is the one.
    for segment in segments.iter().rev() {
        let mut bytes = Vec::new();
        let mut file = File::options().read(true).write(true).open(segment)?;
        file.read_to_end(&mut bytes)?;
        let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else {
            continue;
        };
        let end = u64::try_from(last)? + 1;
        let cut = rng.random_range(1..=CUT_BYTES_MAX.min(end));
        file.seek(SeekFrom::Start(0))?;
        file.set_len(end - cut)?;
        file.sync_all()?;
        return Ok(format!("the last {cut} of {end} bytes of {}", segment.display()));
    }
    anyhow::bail!("no log segment below {}", data.display())
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => directories.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => (),
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Copies a data directory, holes and all.
///
/// # Errors
///
/// If `cp` fails.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    run(std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(from)
        .arg(to))
}

/// Puts a copy back in place of what it was made of.
///
/// # Errors
///
/// If the disk does not take it.
pub fn restore(copy: &Path, data: &Path) -> Result<()> {
    fs::remove_dir_all(data)?;
    fs::rename(copy, data).context("cannot put the copy back")
}

/// What a file holds from this byte on.
#[must_use]
pub fn text_from(path: &Path, from: u64) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

/// Mounts a small disk of its own at `data`. It goes with the driver's mount namespace.
///
/// # Errors
///
/// If the image cannot be made or mounted.
pub fn mount_small_disk(data: &Path) -> Result<()> {
    let image = data.with_extension("image");
    File::create(&image)?.set_len(DISK_BYTES)?;
    run(std::process::Command::new("mkfs.ext4").arg("-q").arg(&image))?;
    fs::create_dir_all(data)?;
    run(std::process::Command::new("mount")
        .args(["-o", "loop"])
        .arg(&image)
        .arg(data))?;
    // etcd and Kelson want their directory to themselves.
    fs::remove_dir(data.join("lost+found")).or_else(|_| fs::remove_dir_all(data.join("lost+found")))?;
    fs::set_permissions(data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// Unmounts what [`mount_small_disk`] mounted.
///
/// # Errors
///
/// If it is in use.
pub fn unmount(data: &Path) -> Result<()> {
    run(std::process::Command::new("umount").arg(data))
}

/// Fills the disk that `filler` is on to the last block. Returns the bytes it took.
///
/// # Errors
///
/// If the file cannot be made.
pub fn fill(filler: &Path) -> Result<u64> {
    let file = File::create(filler)?;
    let mut piece = DISK_BYTES;
    let mut taken = 0;
    // Big pieces, then ever smaller ones, until nothing fits.
    while piece > 0 {
        // SAFETY: a plain system call on a file that is open.
        match unsafe { libc::fallocate(file.as_raw_fd(), 0, offset(taken)?, offset(piece)?) } {
            0 => taken += piece,
            _ => piece /= 2,
        }
    }
    Ok(taken)
}

fn offset(bytes: u64) -> Result<libc::off_t> {
    Ok(libc::off_t::try_from(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(name: &str, bytes: &[u8]) -> tempfile::TempDir {
        let directory = tempfile::TempDir::new().expect("scratch space is writable");
        fs::write(directory.path().join(name), bytes).expect("scratch space is writable");
        directory
    }

    #[test]
    fn one_bit_is_flipped_and_the_same_one_again() {
        let before = vec![7; 4_000];
        let changed = |chance| {
            let directory = directory_with("a.wal", &before);
            Damage::Flip(chance)
                .inflict(directory.path())
                .expect("there is a file");
            let after = fs::read(directory.path().join("a.wal")).expect("it is there");
            let differences = before.iter().zip(&after).enumerate();
            let differences: Vec<(usize, u32)> = differences
                .filter(|(_, (before, after))| before != after)
                .map(|(at, (before, after))| (at, (before ^ after).count_ones()))
                .collect();
            assert_eq!(differences.len(), 1);
            assert_eq!(differences[0].1, 1);
            after
        };
        assert_eq!(changed(5), changed(5));
        assert_ne!(changed(5), changed(6));
    }

    #[test]
    fn a_cut_takes_bytes_that_were_written() {
        let mut bytes = vec![7; 3_000];
        bytes.resize(10_000, 0);
        let directory = directory_with("a.wal", &bytes);
        Damage::Truncate(1)
            .inflict(directory.path())
            .expect("there is a file");
        let left = fs::read(directory.path().join("a.wal"))
            .expect("it is there")
            .len();
        assert!((1_000..3_000).contains(&left), "{left}");
    }
}
