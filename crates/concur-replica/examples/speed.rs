//! What the data path costs a command, with nothing behind it: one replica alone, each batch durable at once.
//!
//! `cargo run --release -p concur-replica --example speed`

use bytes::Bytes;
use concur_core::*;
use concur_replica::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Counts, and nothing else.
struct Count(u64);

impl StateMachine for Count {
    fn footprint(&self, command: &[u8]) -> Footprint {
        Footprint::write(Bytes::copy_from_slice(&command[..8]))
    }
    fn apply(&mut self, _: &Bytes, _: &At) -> Bytes {
        self.0 += 1;
        Bytes::new()
    }
    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::new()
    }
    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
    fn image(&self) -> Box<dyn Iterator<Item = (Bytes, Bytes)> + '_> {
        Box::new(std::iter::empty())
    }
    fn load(&mut self, _: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<(), Corrupt> {
        Ok(())
    }
    fn digest(&self) -> u64 {
        self.0
    }
}

fn replica(strategy: Strategy, out: &mut Output) -> Replica<Count> {
    let config = Config {
        group: GroupId(1),
        epoch: Epoch(0),
        me: ReplicaId(0),
        quorums: (strategy.quorums)(ReplicaSet::first(1)),
        heartbeat: Duration::from_millis(100),
        election: Duration::from_secs(1),
        window_max: 64,
        message_bytes_max: 1 << 20,
        retained_bytes_max: 1 << 20,
    };
    let settings = Settings::new(Arc::new(config), strategy, BootCount(1));
    Replica::start(settings, Recovered::default(), Count(0), Time(1), 1, Rng::new(1), out).expect("a fresh start")
}

/// Offers `clients` commands at a time and answers for the disk until all are replied to.
fn run(strategy: Strategy, clients: u64, session: bool) -> f64 {
    let (mut out, mut now) = (Output::default(), Time(1));
    let mut replica = replica(strategy, &mut out);
    let place = |number| session.then_some(InSession { session: SessionId(3), number, received_below: number.saturating_sub(clients) });
    let timeout = Duration::from_secs(60);
    replica.offer(Event::Request { token: Token(0), request: Request::OpenSession { session: SessionId(3), timeout } });
    let rounds = 400_000 / clients.max(4);
    let mut started = Instant::now();
    for round in 0..=rounds {
        if round > 0 {
            for client in 0..clients {
                let number = round * clients + client;
                let mut body = vec![0; 256];
                body[..8].copy_from_slice(&number.to_le_bytes());
                let request = Request::Command { session: place(number), body: body.into(), timeout };
                replica.offer(Event::Request { token: Token(number), request });
            }
        }
        let mut replies = 0;
        while replies < if round == 0 { 1 } else { clients } {
            now = now + Duration::from_micros(if round == 0 { 100_000 } else { 10 });
            replica.step(now, now.0 / 1_000_000, &mut out);
            replies += out.replies.len() as u64;
            let stored = out.bulk.take().map(|bulk| bulk.mark.frontier);
            let through = out.through;
            let durable = !out.records.is_empty();
            out.clear();
            if durable {
                replica.offer(Event::Durable(through));
            }
            stored.into_iter().for_each(|frontier| replica.offer(Event::Stored(frontier)));
        }
        if round == 0 {
            started = Instant::now();
        }
    }
    assert_eq!(replica.machine().0, rounds * clients);
    started.elapsed().as_secs_f64() * 1e6 / (rounds * clients) as f64
}

fn main() {
    for &strategy in concur_decision::registry() {
        for session in [false, true] {
            let costs: Vec<String> = [1, 16, 256].map(|clients| format!("{:.2}", run(strategy, clients, session))).to_vec();
            let sessions = if session { "in a session" } else { "without a session" };
            println!("{:<10} {sessions}: µs a command at 1, 16 and 256 clients: {}", strategy.traits.name, costs.join(", "));
        }
    }
}
