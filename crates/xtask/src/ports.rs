//! Free loopback ports.

use std::{
    net::{Ipv4Addr, TcpStream},
    ops::RangeInclusive,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};

/// Below the range that the kernel takes client ports from (32768 and up). A server that is stopped and started again
/// on its port must find it free; with a port from the kernel's range, a client that keeps trying to connect to the
/// stopped server would now and then be given that very port and connect to itself.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A port that nobody listens on, never given twice by this process before all others were.
///
/// # Errors
/// Every port of the range is taken.
pub fn free() -> Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side start at different places.
    let start = std::process::id().wrapping_mul(101);
    for _ in 0..COUNT {
        let step = GIVEN.fetch_add(1, Ordering::Relaxed);
        let candidate = FIRST + start.wrapping_add(step) % COUNT;
        let Ok(port) = u16::try_from(candidate) else {
            continue;
        };
        // Asked by connecting, not by binding: a child that is forked meanwhile would hold our listener, and with it
        // the port, until it runs its program.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 between {FIRST} and {}", FIRST + COUNT)
}

/// A port of this range that nobody listens on.
///
/// # Errors
/// Every port of the range is taken.
pub fn free_of(range: RangeInclusive<u16>) -> Result<u16> {
    let free = |port: &u16| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_err();
    range
        .clone()
        .find(free)
        .with_context(|| format!("no free port on 127.0.0.1 between {} and {}", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let mut given: Vec<u16> = (0..100).map(|_| free().unwrap()).collect();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 100);
    }

    #[test]
    fn ports_in_use_are_passed_over() {
        let first = free().unwrap();
        // The next ports in the row, so that every one of them would be the next one given.
        let taken: Vec<_> =
            (1..=20).filter_map(|step| TcpListener::bind((Ipv4Addr::LOCALHOST, first + step)).ok()).collect();
        assert!(!taken.is_empty());
        let next = free().unwrap();
        for listener in taken {
            assert_ne!(listener.local_addr().unwrap().port(), next);
        }
    }
}
