//! Addresses for processes that bind them later.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below where systems take the ports of outgoing connections from (from 32768 on Linux, from 49152 elsewhere): no client can sit on one
/// between the moment it is picked and the moment it is bound.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// An address on the loopback interface that was free a moment ago; none twice in a process.
pub(crate) fn free() -> String {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Programs of tests that run at once start far from each other.
    let start = (std::process::id() as u16).wrapping_mul(619) % COUNT;
    for _ in 0..COUNT {
        let address = format!("127.0.0.1:{}", FIRST + (start + TAKEN.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
    panic!("no port between {FIRST} and {} is free", FIRST + COUNT - 1);
}
