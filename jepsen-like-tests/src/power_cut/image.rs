//! [`Image`]: a file system in a file, mounted over a loop device, that can lose its power.
//!
//! Mounts are made in a mount namespace of this process ([`own_mounts`]): whatever way it ends, the kernel takes them
//! down with its last process, and the loop devices with them.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// `_IOR('X', 125, __u32)` of `linux/ext4.h`.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Stop without writing the journal: what was not synced is lost.
const SHUTDOWN_WITHOUT_LOG_FLUSH: u32 = 2;
/// `f_type` of a file system in memory, which no power cut can be tried on.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// Bytes of an image; sparse, so only what is written takes space.
const IMAGE_BYTES: u64 = 2 << 30;
/// e2fsck: sound, or sound after what a mount would have done.
const FSCK_SOUND: [i32; 2] = [0, 1];

/// Gives this process mounts of its own. To be called before any thread is started.
///
/// # Errors
/// Not root, or the kernel has no mount namespaces.
pub fn own_mounts() -> anyhow::Result<()> {
    let root = CString::new("/").expect("has no NUL");
    // SAFETY: unshare takes no pointer.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    // SAFETY: the path is a NUL-terminated string that outlives the call; the other pointers may be null for a change of
    // propagation.
    let made_private = unshared == 0
        && unsafe {
            libc::mount(
                std::ptr::null(),
                root.as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
        };
    if made_private {
        return Ok(());
    }
    Err(io::Error::last_os_error()).context("cannot have mounts of our own; power cuts need root")
}

/// See the module. Dropping it unmounts.
#[derive(Debug)]
pub(super) struct Image {
    file: PathBuf,
    mount_point: PathBuf,
    /// The root of the mounted file system; open, so that the cut itself need not look anything up.
    root: Option<File>,
}

impl Image {
    /// Makes an empty file system in `file` and mounts it.
    pub(super) fn create(file: &Path, mount_point: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(mount_point)?;
        refuse_memory(mount_point)?;
        File::create(file)?.set_len(IMAGE_BYTES)?;
        tool(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(file))?;
        let mut image = Self {
            file: file.to_owned(),
            mount_point: mount_point.to_owned(),
            root: None,
        };
        image.mount()?;
        Ok(image)
    }

    /// Where it is mounted.
    pub(super) fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Cuts the power: from now on nothing is written to the image any more.
    pub(super) fn cut(&self) -> anyhow::Result<()> {
        let root = self.root.as_ref().context("the image is not mounted")?;
        let how = SHUTDOWN_WITHOUT_LOG_FLUSH;
        // SAFETY: the descriptor is open, and the kernel reads one u32 behind the pointer.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const how) };
        ensure!(
            result == 0,
            "EXT4_IOC_SHUTDOWN: {}; the kernel must have ext4 with this ioctl",
            io::Error::last_os_error()
        );
        Ok(())
    }

    /// What a boot does: check, replay the journal, mount. Nobody may have a file in it open.
    pub(super) fn mount_again(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        let checked = Command::new("fsck.ext4").arg("-p").arg(&self.file).output()?;
        let code = checked.status.code().unwrap_or(-1);
        ensure!(
            FSCK_SOUND.contains(&code),
            "fsck of {}: {code}: {}",
            self.file.display(),
            String::from_utf8_lossy(&checked.stdout)
        );
        self.mount()
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        tool(
            Command::new("mount")
                .args(["-t", "ext4", "-o", "loop,commit=300"])
                .arg(&self.file)
                .arg(&self.mount_point),
        )?;
        self.root = Some(File::open(&self.mount_point)?);
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        self.root = None;
        tool(Command::new("umount").arg(&self.mount_point))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.root.is_some()
            && let Err(error) = self.unmount()
        {
            // The namespace of this process takes it down anyway.
            eprintln!("{error:#}");
        }
    }
}

fn tool(command: &mut Command) -> anyhow::Result<()> {
    let what = format!("{command:?}");
    let output = command.output().with_context(|| what.clone())?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Refuses a directory in memory: an image there would make every sync free.
fn refuse_memory(directory: &Path) -> anyhow::Result<()> {
    let path = CString::new(directory.to_string_lossy().into_owned())?;
    // SAFETY: `statfs` is plain numbers, for which zeros are a value.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right types.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut facts) };
    ensure!(
        result == 0,
        "statfs {}: {}",
        directory.display(),
        io::Error::last_os_error()
    );
    ensure!(
        facts.f_type != TMPFS_MAGIC,
        "{} is in memory; name a directory on a real disk",
        directory.display()
    );
    Ok(())
}
