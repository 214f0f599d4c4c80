//! How often a client may ping: gRPC's rule for keepalive, which its clients know.
//!
//! Frames are followed by their heads as they pass, in both directions. A ping that comes sooner than allowed behind the last one is a
//! strike; whatever the server sends of an answer clears them, since clients also ping to measure what they receive. A connection with
//! more than [`STRIKES_MAX`] strikes ends. What is not HTTP/2 is not looked at.

use std::time::{Duration, Instant};

/// Pings that may come too soon.
const STRIKES_MAX: u32 = 2;

/// How much too soon a ping is still in time: clients' clocks and the network are not exact.
const SLACK: Duration = Duration::from_millis(100);

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;

/// The pings of one connection.
#[derive(Debug)]
pub(super) struct Pings {
    apart_min: Duration,
    /// Bytes of the preface that came.
    preface: usize,
    is_http2: bool,
    incoming: Frames,
    outgoing: Frames,
    last: Option<Instant>,
    strikes: u32,
}

/// Where in a sequence of frames one is.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 9],
    /// Bytes of the head that are there.
    filled: usize,
    /// Bytes of the frame that are to come.
    payload: usize,
}

impl Frames {
    /// Goes on by these bytes; says the kind and the flags of each frame that begins.
    fn pass(&mut self, mut bytes: &[u8], mut begins: impl FnMut(u8, u8)) {
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let taken = (9 - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == 9 {
                let [a, b, c, kind, flags, ..] = self.head;
                self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                self.filled = 0;
                begins(kind, flags);
            }
        }
    }
}

impl Pings {
    /// Allows pings so far apart; zero: all.
    pub(super) fn new(apart_min: Duration) -> Self {
        let (incoming, outgoing) = (Frames::default(), Frames::default());
        let is_http2 = !apart_min.is_zero();
        Self { apart_min: apart_min.saturating_sub(SLACK), preface: 0, is_http2, incoming, outgoing, last: None, strikes: 0 }
    }

    /// These bytes came. Whether the connection may go on.
    pub(super) fn came(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        let taken = (PREFACE.len() - self.preface).min(bytes.len());
        self.is_http2 &= bytes[..taken] == PREFACE[self.preface..self.preface + taken];
        self.preface += taken;
        bytes = &bytes[taken..];
        if !self.is_http2 {
            return true;
        }
        let mut pings = 0;
        self.incoming.pass(bytes, |kind, flags| pings += u32::from(kind == PING && flags & ACK == 0));
        for _ in 0..pings {
            let now = now();
            let soon = self.last.is_some_and(|last| now.duration_since(last) < self.apart_min);
            self.strikes += u32::from(soon);
            self.last = Some(now);
        }
        self.strikes <= STRIKES_MAX
    }

    /// These bytes left.
    pub(super) fn left(&mut self, bytes: &[u8]) {
        if !self.is_http2 {
            return;
        }
        let (last, strikes) = (&mut self.last, &mut self.strikes);
        self.outgoing.pass(bytes, |kind, _| {
            if matches!(kind, DATA | HEADERS) {
                (*last, *strikes) = (None, 0);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, payload as u8, kind, flags, 0, 0, 0, 0];
        frame.resize(9 + payload, 7);
        frame
    }

    fn beginning(apart_min_s: u64) -> (Pings, Instant) {
        let (mut pings, now) = (Pings::new(Duration::from_secs(apart_min_s)), Instant::now());
        assert!(pings.came(&[PREFACE, &frame(4, 0, 18)].concat(), || now));
        (pings, now)
    }

    #[test]
    fn who_pings_too_often_is_cut_however_the_bytes_are_split() {
        let (mut pings, now) = beginning(5);
        let ping = frame(PING, 0, 8);
        let went_on = (0..4).map(|_| ping.iter().all(|byte| pings.came(&[*byte], || now))).collect::<Vec<_>>();
        assert_eq!(went_on, [true, true, true, false]);
    }

    #[test]
    fn what_is_answered_clears_the_strikes() {
        let (mut pings, now) = beginning(5);
        for _ in 0..100 {
            assert!(pings.came(&frame(PING, 0, 8), || now));
            let answer = [frame(PING, ACK, 8), frame(DATA, 0, 100)].concat();
            answer.chunks(7).for_each(|part| pings.left(part));
        }
    }

    #[test]
    fn pings_in_time_and_answers_to_pings_are_no_strikes() {
        let (mut pings, now) = beginning(5);
        for n in 0..100 {
            assert!(pings.came(&frame(PING, 0, 8), || now + n * Duration::from_millis(4950)));
            assert!(pings.came(&frame(PING, ACK, 8), || now));
        }
        let (mut all, now) = beginning(0);
        assert!((0..100).all(|_| all.came(&frame(PING, 0, 8), || now)));
        let mut plain = Pings::new(Duration::from_secs(5));
        assert!(plain.came(b"GET / HTTP/1.1\r\n\r\n", || now) && plain.came(&frame(PING, 0, 8).repeat(9), || now));
    }
}
