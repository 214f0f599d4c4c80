//! What is sent and persisted: written, read, cut, flipped, late, and from strangers.

use super::Examination;
use super::cores::{Cores, ELECTION, Heard, Setup};
use bytes::Bytes;
use concur_core::{AnyBoot, AnyEffect, AnyInput, BootCount, Config, Epoch, Mark, Protocol, ReplicaId, Rng, Start, Strategy, Time, Wire};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How many ways of flipping bits are tried, an encoding.
const FLIPS: usize = 24;
/// How many different encodings are looked at.
const LOOKED_AT: usize = 600;

impl<P: Protocol> Examination<P> {
    /// Every message and record of a run is read as what was written; cut or flipped, it is refused or read, and nothing panics; and
    /// a core that is given what came long ago, what cannot be read, or what strangers say, goes on as before.
    pub fn wire(&self) {
        for (replicas, seed) in [(3, 11), (5, 12)] {
            let what = format!("{replicas} cores, seed {seed}");
            self.in_world("what_is_written_is_read_and_rubbish_is_dropped", &what, || {
                let (mut world, mut rng) = (busy::<P>(replicas, seed), Rng::new(seed));
                let heard = world.heard.clone();
                encodings::<P::Message>("message", &heard.messages, &mut rng);
                encodings::<P::Record>("record", &heard.records, &mut rng);
                unreadable::<P>(&heard, world.config(0), &mut rng);
                self.stale(&mut world, &heard, &mut rng);
            });
        }
    }

    /// Everything that was said is said again, some of it by a stranger; the group goes on as if nothing were.
    fn stale(&self, world: &mut Cores<P>, heard: &Heard, rng: &mut Rng) {
        let sent = world.sent.clone();
        for (from, to, message) in sent {
            world.deliver(from, to, message);
        }
        let stranger = ReplicaId(63);
        for bytes in heard.messages.iter().take(LOOKED_AT) {
            for _ in 0..4 {
                let flipped = flip(bytes, rng);
                if let Ok(message) = P::Message::from_bytes(&flipped) {
                    world.deliver(stranger, 0, message);
                }
            }
        }
        world.write(0, 0);
        let went_on = world.run_until(ELECTION * self.liveness, |world| world.is_answered() && world.agree());
        assert!(
            went_on,
            "after messages of long ago and of strangers a write is not executed everywhere in {} election timeouts",
            self.liveness
        );
    }
}

/// A group that was through a good deal, and is quiet again.
pub(super) fn busy<P: Protocol>(replicas: usize, seed: u64) -> Cores<P> {
    let mut world = Cores::<P>::new(Setup { replicas, seed, loss: 20_000, repeats: 20_000, retained_bytes_max: 300 });
    let mut rng = Rng::new(seed);
    for _ in 0..1_500 {
        let node = rng.below(replicas as u64) as usize;
        match rng.below(200) {
            0..16 => drop(world.write(node, (seed + world.decided.len() as u64) as u8 % 3)),
            16..20 => world.read(node, 1),
            20 => world.keep_checkpoint(node),
            21 => world.crash(node),
            22..30 => world.start_all(),
            _ => {}
        }
        world.next();
    }
    world.start_all();
    let quiet = world.run_until(ELECTION * 200, |world| world.is_answered() && world.agree());
    assert!(quiet, "the group does not come to rest within 200 election timeouts, at a loss of 2 %");
    world
}

fn encodings<T: Wire + std::fmt::Debug>(what: &str, all: &BTreeSet<Bytes>, rng: &mut Rng) {
    assert!(!all.is_empty(), "no {what} occurred");
    let step = all.len().div_ceil(LOOKED_AT);
    for bytes in all.iter().step_by(step) {
        let read = T::from_bytes(bytes).unwrap_or_else(|error| panic!("a {what} is not read back: {error}: {bytes:02x?}"));
        assert_eq!(read.to_bytes(), bytes, "a {what} is read as another: {read:?}");
        for cut in 0..bytes.len() {
            let _ = T::from_bytes(&bytes.slice(..cut));
        }
        for _ in 0..FLIPS {
            if let Ok(other) = T::from_bytes(&flip(bytes, rng)) {
                let _ = other.to_bytes();
            }
        }
    }
}

/// Bytes that are no message change nothing: nothing is persisted, said, or decided.
fn unreadable<P: Protocol>(heard: &Heard, config: Config, rng: &mut Rng) {
    let strategy = Strategy::of::<P>();
    let boot = AnyBoot { records: Vec::new(), mark: Mark::start(Epoch(1)), first: None, fresh: false, boot: BootCount(1) };
    let start = Start { now: Time(1), rng: Rng::new(1), config: Arc::new(config) };
    let mut out = Vec::new();
    let mut core = (strategy.recover)(boot, start, &mut out).expect("a new core starts");
    for bytes in heard.messages.iter().take(LOOKED_AT) {
        for bytes in [flip(bytes, rng), bytes.slice(..bytes.len() / 2), Bytes::from([&bytes[..], &[0]].concat())] {
            if P::Message::from_bytes(&bytes).is_ok() {
                continue;
            }
            out.clear();
            let before = core.inspect();
            core.step(Time(2), AnyInput::Receive { from: ReplicaId(1), message: bytes.clone() }, &mut out);
            let dropped = out.iter().all(|effect| matches!(effect, AnyEffect::Dropped { .. }));
            assert!(dropped && core.inspect() == before, "bytes that are no message changed something: {bytes:02x?}");
        }
    }
}

fn flip(bytes: &Bytes, rng: &mut Rng) -> Bytes {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.between(1, 3) {
        let (at, bit) = (rng.below(bytes.len() as u64) as usize, rng.below(8));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }
    bytes.into()
}
