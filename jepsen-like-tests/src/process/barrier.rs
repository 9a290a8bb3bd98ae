//! What happens to packets in a member's namespace: dropped, lost at random, answered by a reset, slowed down.
//!
//! Each barrier is a table of its own in nftables, so that barriers may overlap, and each counts what it did: a fault
//! whose counter stayed at zero did not happen.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::network::{Network, output, run};

/// Which way a packet goes, seen from the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the member.
    In,
    /// From the member.
    Out,
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It vanishes.
    Drop,
    /// It vanishes with this probability, in percent.
    Lose(u32),
    /// It is answered by a TCP reset.
    Reset,
}

/// Packets between a member and one address, or all addresses.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Which way.
    pub direction: Direction,
    /// The other side; none: everybody.
    pub other: Option<Ipv4Addr>,
    /// What happens.
    pub fate: Fate,
}

/// Rules in force in the namespace of one member.
#[derive(Debug)]
pub struct Barrier {
    network: Arc<Network>,
    member: usize,
    table: String,
}

impl Barrier {
    /// Puts `rules` in force for `member`. `id` tells this barrier from others of the same member.
    ///
    /// # Errors
    ///
    /// If `nft` is missing or refuses.
    pub fn raise(network: &Arc<Network>, member: usize, id: u64, rules: &[Rule]) -> Result<Barrier> {
        let table = format!("kj{id}");
        let script = script(&table, rules);
        let mut nft = network
            .of(member)
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run nft")?;
        nft.stdin
            .take()
            .expect("standard input is a pipe")
            .write_all(script.as_bytes())?;
        ensure!(nft.wait()?.success(), "nft refused:\n{script}");
        Ok(Barrier {
            network: Arc::clone(network),
            member,
            table,
        })
    }

    /// Packets that the rules have matched so far.
    ///
    /// # Errors
    ///
    /// If `nft` fails.
    pub fn matched(&self) -> Result<u64> {
        let mut nft = self.network.of(self.member).command("nft");
        let listing = output(nft.args(["list", "table", "inet", &self.table]))?;
        Ok(sum_after(&listing, "packets"))
    }

    /// Takes the rules away. Returns how many packets they matched.
    ///
    /// # Errors
    ///
    /// If `nft` fails; the rules may still be in force then.
    pub fn lower(self) -> Result<u64> {
        let matched = self.matched()?;
        let mut nft = self.network.of(self.member).command("nft");
        run(nft.args(["delete", "table", "inet", &self.table]))?;
        Ok(matched)
    }
}

fn script(table: &str, rules: &[Rule]) -> String {
    let mut script = format!("table inet {table} {{\n");
    for (direction, hook, device, side) in [
        (Direction::In, "input", "iifname", "saddr"),
        (Direction::Out, "output", "oifname", "daddr"),
    ] {
        let _ = writeln!(script, "chain {hook} {{ type filter hook {hook} priority 0;");
        for rule in rules.iter().filter(|rule| rule.direction == direction) {
            let other = rule
                .other
                .map_or(String::new(), |address| format!("ip {side} {address} "));
            let fate = match rule.fate {
                Fate::Drop => "counter drop".to_owned(),
                Fate::Lose(percent) => format!("numgen random mod 100 < {percent} counter drop"),
                Fate::Reset => "meta l4proto tcp counter reject with tcp reset".to_owned(),
            };
            let _ = writeln!(script, "{device} \"eth0\" {other}{fate}");
        }
        script.push_str("}\n");
    }
    script.push_str("}\n");
    script
}

/// A limit on what a member can send.
#[derive(Debug)]
pub struct Throttle {
    network: Arc<Network>,
    member: usize,
}

impl Throttle {
    /// Lets `member` send `kilobytes` per second at most. A member has one such limit at a time.
    ///
    /// # Errors
    ///
    /// If `tc` is missing or refuses.
    pub fn tighten(network: &Arc<Network>, member: usize, kilobytes: u32) -> Result<Throttle> {
        let rate = format!("{}kbit", kilobytes * 8);
        run(network.of(member).command("tc").args([
            "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "4kb", "latency", "500ms",
        ]))?;
        Ok(Throttle {
            network: Arc::clone(network),
            member,
        })
    }

    /// Takes the limit away. Returns how often it held something back.
    ///
    /// # Errors
    ///
    /// If `tc` fails.
    pub fn loosen(self) -> Result<u64> {
        let mut tc = self.network.of(self.member).command("tc");
        let listing = output(tc.args(["-s", "qdisc", "show", "dev", "eth0", "root"]))?;
        run(self
            .network
            .of(self.member)
            .command("tc")
            .args(["qdisc", "del", "dev", "eth0", "root"]))?;
        Ok(sum_after(&listing, "overlimits"))
    }
}

/// The sum of the numbers that follow `word`.
fn sum_after(text: &str, word: &str) -> u64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    let numbers = words
        .windows(2)
        .filter(|pair| pair[0].trim_start_matches('(') == word);
    numbers.filter_map(|pair| pair[1].parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_rules_are_added() {
        let listing = "iifname \"eth0\" counter packets 12 bytes 720 drop\noifname \"eth0\" counter packets 30 bytes 1 drop";
        assert_eq!(sum_after(listing, "packets"), 42);
        assert_eq!(
            sum_after(
                "Sent 9 bytes 1 pkt (dropped 0, overlimits 7 requeues 0)",
                "overlimits"
            ),
            7
        );
    }

    #[test]
    fn a_rule_names_its_direction_and_its_other_side() {
        let rule = Rule {
            direction: Direction::Out,
            other: Some(Ipv4Addr::new(10, 77, 0, 12)),
            fate: Fate::Lose(20),
        };
        let script = script("kj7", &[rule]);
        assert!(
            script.contains("oifname \"eth0\" ip daddr 10.77.0.12 numgen random mod 100 < 20 counter drop"),
            "{script}"
        );
    }
}
