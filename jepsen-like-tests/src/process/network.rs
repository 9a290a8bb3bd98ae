//! The network of a cluster under test: one namespace per member, joined by a bridge that only the driver sees.
//!
//! Nothing here has a name outside this process. The driver moves itself to a network namespace and a mount namespace
//! of its own; bridge, members' namespaces and mounts live in those or hang on file handles, so the kernel takes all of
//! it away when the driver ends, however it ends.
//!
//! ```text
//!   driver (clients, proxies)         member 0             member 1
//!   10.77.0.1 on the bridge ---+--- 10.77.0.11 eth0 --- 10.77.0.12 eth0 ...
//! ```

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The driver's address on the bridge: where all clients come from.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The bridge, in the driver's own namespace.
const BRIDGE: &str = "kjbridge";

/// Last byte of the address of member 0.
const FIRST_MEMBER: u8 = 11;

/// The namespaces of a cluster.
#[derive(Debug)]
pub struct Network {
    namespaces: Vec<Namespace>,
}

/// One member's namespace. It lives as long as this handle, or a process in it.
#[derive(Debug)]
pub struct Namespace {
    handle: File,
    address: Ipv4Addr,
}

/// Moves this process to a network namespace and a mount namespace of its own.
///
/// # Errors
///
/// Without root, or where the kernel has no namespaces. Must be called while the process has one thread: others would
/// stay behind.
pub fn enter() -> Result<()> {
    // SAFETY: a plain system call; the process has one thread, as the caller promises.
    if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot make namespaces (this needs root)");
    }
    run(Command::new("mount").args(["--make-rprivate", "/"]))?;
    run(Command::new("ip").args(["link", "set", "lo", "up"]))
}

/// Programs that faults of the network and of disks are made with.
const TOOLS: &[&str] = &["ip", "nft", "tc", "mount", "umount", "mkfs.ext4"];

/// [`enter`]s if that is possible and the tools are there; else says which faults will not happen.
#[must_use]
pub fn enter_or_say() -> bool {
    let missing: Vec<&str> = TOOLS.iter().copied().filter(|tool| !is_on_path(tool)).collect();
    let entered = match missing.as_slice() {
        [] => enter(),
        missing => Err(anyhow::anyhow!("{} not found", missing.join(", "))),
    };
    if let Err(error) = &entered {
        println!("no namespaces: {error:#}");
        println!(
            "faults of the network and of disks do NOT run; kills, pauses, transfers, compaction, damage do"
        );
    }
    entered.is_ok()
}

fn is_on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

impl Network {
    /// Namespaces for `members` members, joined by a bridge.
    ///
    /// # Errors
    ///
    /// If `ip` is missing or the kernel lacks bridges or virtual Ethernet pairs. The process must be in a namespace of
    /// its own (see [`enter`]).
    pub fn build(members: usize) -> Result<Network> {
        ip(&format!("link add {BRIDGE} type bridge forward_delay 0"))?;
        ip(&format!("address add {CLIENTS}/24 dev {BRIDGE}"))?;
        ip(&format!("link set {BRIDGE} up"))?;
        let namespaces = (0..members).map(Namespace::join).collect::<Result<_>>()?;
        Ok(Network { namespaces })
    }

    /// The namespace of a member.
    #[must_use]
    pub fn of(&self, member: usize) -> &Namespace {
        &self.namespaces[member]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Pairs end with their namespaces; what fails here ends with the driver.
        let _ = ip(&format!("link delete {BRIDGE}"));
        for member in 0..self.namespaces.len() {
            let _ = ip(&format!("link delete kjveth{member}"));
        }
    }
}

impl Namespace {
    /// Makes the namespace of `member` and joins it to the bridge.
    fn join(member: usize) -> Result<Namespace> {
        let handle = new_namespace()?;
        let last = FIRST_MEMBER + u8::try_from(member).context("too many members")?;
        let namespace = Namespace {
            handle,
            address: Ipv4Addr::new(10, 77, 0, last),
        };
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.handle.as_raw_fd());
        ip(&format!(
            "link add kjveth{member} type veth peer name eth0 netns {path}"
        ))?;
        ip(&format!("link set kjveth{member} master {BRIDGE} up"))?;
        namespace.ip("link set lo up")?;
        namespace.ip(&format!("address add {}/24 dev eth0", namespace.address))?;
        namespace.ip("link set eth0 up")?;
        Ok(namespace)
    }

    /// The member's address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that will run in this namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = self.handle.as_raw_fd();
        // SAFETY: setns is async-signal-safe, and `handle` stays open in the child until exec.
        unsafe {
            command.pre_exec(move || match libc::setns(handle, libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        command
    }

    /// Runs `work` on a thread inside this namespace: sockets made there belong to it for good.
    ///
    /// # Errors
    ///
    /// If the thread cannot enter the namespace, or those of `work`.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let handle = self.handle.try_clone()?;
        on_own_thread(move || {
            // SAFETY: a plain system call that moves this thread alone.
            if unsafe { libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error()).context("cannot enter a namespace");
            }
            work()
        })
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        run(self.command("ip").args(arguments.split_whitespace()))
    }
}

/// A fresh namespace, with nothing in it but a loopback device that is down.
fn new_namespace() -> Result<File> {
    on_own_thread(|| {
        // SAFETY: a plain system call that moves this thread alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot make a namespace");
        }
        File::open("/proc/thread-self/ns/net").context("cannot open a namespace")
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a namespace belongs to a thread; this one ends before we return"
)]
fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    std::thread::spawn(work)
        .join()
        .unwrap_or_else(|_| bail!("the thread panicked"))
}

fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// Runs a command to its end. What it wrote to standard error becomes the error.
///
/// # Errors
///
/// If it cannot be started or does not succeed.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// Like [`run`]; returns what the command wrote.
///
/// # Errors
///
/// As [`run`].
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
