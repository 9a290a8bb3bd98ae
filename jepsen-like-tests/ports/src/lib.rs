//! Ports for the servers that tests and benchmarks start.
//!
//! The ports that a system gives by itself will not do: it gives them to clients too. While a member is down, a connection
//! of anybody can take its port, and one of its peers that dials it can even be given that very port and then talks to
//! itself. The member that comes back finds its address in use.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below what systems give to clients: 32,768 and up on Linux, 49,152 and up elsewhere.
const FIRST: u16 = 10_000;
const LAST: u16 = 32_000;
const SPAN: u32 = (LAST - FIRST) as u32 + 1;

/// `count` ports of loopback that nobody listens on. This process gets none twice until it has had all of them, so its
/// tests keep theirs while their servers are down; other processes begin to look elsewhere.
///
/// # Errors
/// When not so many are free.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    /// Spreads neighbouring process ids: coprime to [`SPAN`], and more than a suite of tests takes.
    const STRIDE: u32 = 997;
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(STRIDE) % SPAN));
    let ports: Vec<u16> = (0..SPAN)
        .map(|_| next.fetch_add(1, Ordering::Relaxed) % SPAN)
        .map(|offset| FIRST + u16::try_from(offset).expect("less than the span"))
        .filter(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .take(count)
        .collect();
    if ports.len() < count {
        let problem = format!("fewer than {count} ports of loopback are free from {FIRST} to {LAST}");
        return Err(io::Error::new(io::ErrorKind::AddrInUse, problem));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn none_is_given_twice_and_none_is_of_the_systems_own() {
        let calls: Vec<Vec<u16>> = (0..20).map(|_| free_ports(6).unwrap()).collect();
        let different: HashSet<u16> = calls.iter().flatten().copied().collect();
        assert_eq!(different.len(), 120);
        assert!(different.iter().all(|port| (FIRST..=LAST).contains(port)));
    }

    #[test]
    fn a_port_in_use_is_passed_by() {
        let free = free_ports(1).unwrap()[0];
        let _others: Vec<TcpListener> = (free + 1..=(free + 300).min(LAST))
            .filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
            .collect();
        for port in free_ports(20).unwrap() {
            assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "{port}");
        }
    }
}
