//! Members in network namespaces of their own, so that a peer link can go dead without anyone being told.
//!
//! Each member has two links: one to a switch that only members are on, and one to the test, for its clients. A member
//! is cut off by taking its port out of the switch: its own link stays up, its frames vanish, and only silence tells.

use std::process::{Command, Output, Stdio};

use crate::settings::MEMBERS;

/// Prefix of the names of the namespaces; the id of the process that made them follows.
const PREFIX: &str = "kelsontest";

/// Port on which members listen for clients, and for peers: every namespace has all ports to itself.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// The namespaces of one cluster. They go with it, and with whatever runs in them.
pub struct Networks {
    id: u32,
}

impl Networks {
    /// Makes them, or says why this machine does not let us.
    pub fn make() -> Result<Networks, String> {
        remove_leftovers();
        let networks = Networks {
            id: std::process::id(),
        };
        networks.build().map(|()| networks)
    }

    fn build(&self) -> Result<(), String> {
        let switch = self.switch();
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        for index in 0..MEMBERS {
            let own = self.namespace(index);
            ip(&format!("netns add {own}"))?;
            ip(&format!("-n {own} link set lo up"))?;
            ip(&format!(
                "link add p{index} netns {switch} type veth peer name peer netns {own}"
            ))?;
            ip(&format!("-n {switch} link set p{index} master br0 up"))?;
            ip(&format!("-n {own} address add {}/24 dev peer", peer_host(index)))?;
            ip(&format!("-n {own} link set peer up"))?;
            // At most 15 characters.
            let outer = format!("kt{}c{index}", self.id);
            ip(&format!(
                "link add {outer} type veth peer name client netns {own}"
            ))?;
            ip(&format!("address add {}/30 dev {outer}", self.host(index, 1)))?;
            ip(&format!("link set {outer} up"))?;
            ip(&format!(
                "-n {own} address add {}/30 dev client",
                self.host(index, 2)
            ))?;
            ip(&format!("-n {own} link set client up"))?;
        }
        Ok(())
    }

    /// Name of the namespace a member runs in.
    pub fn namespace(&self, index: usize) -> String {
        format!("{PREFIX}{}m{index}", self.id)
    }

    fn switch(&self) -> String {
        format!("{PREFIX}{}s", self.id)
    }

    /// One end of the link between a member and the test: a subnet of its own, so that two runs can be at it at once.
    fn host(&self, index: usize, end: u32) -> String {
        let (high, low) = (self.id / 64 % 250, self.id % 64 * 4);
        format!("10.{}.{high}.{}", 210 + index, low + end)
    }

    /// `host:port` for clients of a member.
    pub fn client(&self, index: usize) -> String {
        format!("{}:{CLIENT_PORT}", self.host(index, 2))
    }

    /// `host:port` for peers of a member.
    pub fn peer(&self, index: usize) -> String {
        format!("{}:{PEER_PORT}", peer_host(index))
    }

    /// The member's peers hear nothing of it, and it hears nothing of them.
    pub fn cut(&self, index: usize) {
        ip(&format!("-n {} link set p{index} nomaster", self.switch())).expect("the port exists");
    }

    /// The member's peer link works again.
    pub fn heal(&self, index: usize) {
        ip(&format!("-n {} link set p{index} master br0", self.switch())).expect("the port exists");
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        remove(&format!("{PREFIX}{}", self.id));
    }
}

fn peer_host(index: usize) -> String {
    format!("10.209.0.{}", index + 1)
}

/// Removes what a run left that was killed.
fn remove_leftovers() {
    for name in namespaces() {
        let id: String = name
            .trim_start_matches(PREFIX)
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        if !std::path::Path::new("/proc").join(&id).exists() {
            remove(&name);
        }
    }
}

fn remove(prefix: &str) {
    for name in namespaces() {
        if name.starts_with(prefix) {
            // Its links go with it. Another run may have been faster.
            let _gone = ip(&format!("netns delete {name}"));
        }
    }
}

fn namespaces() -> Vec<String> {
    let listed = ip("netns list").unwrap_or_default();
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with(PREFIX))
        .map(str::to_owned)
        .collect()
}

fn ip(arguments: &str) -> Result<String, String> {
    let output: Output = Command::new("ip")
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run ip: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {}", said.trim()))
}
