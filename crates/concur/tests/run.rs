//! Whole systems in this program.

#[path = "../../concur-cli/tests/common/ports.rs"]
mod ports;

use bytes::Bytes;
use concur::{
    At, Change, Corrupt, Footprint, Level, Limits, Member, Namespace, Network, Order, StateMachine, StoreError, System, Transport, Volume,
};
use std::time::{Duration, Instant};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Tries until it works; a cluster that has just begun, or lost a leader, refuses for a while.
async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(mut attempt: impl FnMut() -> F) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
    }
}

#[test]
fn every_strategy_serves_what_one_member_wrote_from_every_other() {
    runtime().block_on(async {
        for strategy in concur::registry() {
            let system = System { decision_making: (*strategy).into(), network: Network::InProcess, ..System::default() };
            let cluster = system.concur().await.unwrap();
            for (i, member) in cluster.members().iter().enumerate() {
                let store = member.store("default").unwrap();
                let (key, value) = (format!("k{i}"), format!("v{i}"));
                eventually(|| store.put(&key, &value)).await;
                for other in cluster.members() {
                    let store = other.store("default").unwrap();
                    let read = eventually(|| store.get(&key)).await;
                    assert_eq!(read.as_deref(), Some(value.as_bytes()), "{} at {}", strategy.traits.name, other.name());
                }
            }
            cluster.stop().await.unwrap();
        }
    });
}

#[test]
fn what_was_written_over_streams_is_there_after_all_members_restart() {
    runtime().block_on(async {
        let network = Network::Stream { protocol: Transport::Grpc, volume: Volume::Broadcast };
        let directory = std::env::temp_dir().join(format!("concur-test-streams-{}", std::process::id()));
        let per_key = Namespace { order: Order::PerKey, ..Namespace::new("orders") };
        let system = System { network, data_dir: directory.clone(), namespaces: vec![per_key], ..System::default() };
        let cluster = system.concur().await.unwrap();
        let first = cluster.members()[0].store("default").unwrap();
        eventually(|| first.put("a", "1")).await;
        let orders = cluster.members()[1].store("orders").unwrap();
        eventually(|| orders.put("b", "2")).await;
        cluster.stop().await.unwrap();

        let cluster = system.concur().await.unwrap();
        let store = cluster.members()[2].store("default").unwrap();
        assert_eq!(eventually(|| store.get("a")).await.as_deref(), Some(&b"1"[..]));
        let orders = cluster.members()[0].store("orders").unwrap();
        assert_eq!(eventually(|| orders.get("b")).await.as_deref(), Some(&b"2"[..]));
        cluster.stop().await.unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    });
}

/// Adds numbers.
#[derive(Debug, Default)]
struct Sum(u64);

impl StateMachine for Sum {
    fn footprint(&self, _: &[u8]) -> Footprint {
        Footprint::Everything
    }
    fn apply(&mut self, command: &Bytes, _: &At) -> Bytes {
        self.0 += command.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }
    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }
    fn changes(&mut self) -> Vec<Change> {
        vec![Change { key: Bytes::from_static(b"sum"), value: Some(self.query(b"")) }]
    }
    fn image(&self) -> Box<dyn Iterator<Item = (Bytes, Bytes)> + '_> {
        Box::new(std::iter::once((Bytes::from_static(b"sum"), self.query(b""))))
    }
    fn load(&mut self, entries: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<(), Corrupt> {
        for (_, value) in entries {
            let bytes = value[..].try_into().map_err(|_| Corrupt::new("a sum has eight bytes"))?;
            self.0 = u64::from_le_bytes(bytes);
        }
        Ok(())
    }
    fn digest(&self) -> u64 {
        self.0
    }
}

#[test]
fn a_state_machine_of_ones_own_is_replicated() {
    runtime().block_on(async {
        let system = System { network: Network::InProcess, ..System::default() };
        let cluster = system.concur_with(|_| Sum::default()).await.unwrap();
        let timeout = Duration::from_secs(30);
        for (i, member) in cluster.members().iter().enumerate() {
            let handle = member.handle("default").unwrap();
            let reply = handle.execute(None, Bytes::from(vec![1, 2]), timeout).await.unwrap();
            assert_eq!(reply.body[..], (3 * (i as u64 + 1)).to_le_bytes());
        }
        let look = cluster.members()[0].handle("default").unwrap();
        let everything = Footprint::Everything;
        let (sum, _) = look.look(concur::ReadLevel::Strong, everything, timeout, |sum: &Sum| sum.0).await.unwrap();
        assert_eq!(sum, 9);
        assert_eq!(Level::Strong, Namespace::new("x").reads);
        cluster.stop().await.unwrap();
    });
}

/// Three members with addresses of their own, so that each can be stopped and started alone.
fn apart(directory: &std::path::Path, strategy: concur::Strategy) -> System {
    let members = (1..=3).map(|i| Member::new(format!("n{i}"), ports::free(), ports::free())).collect();
    let limits = Limits { checkpoint_bytes: 64 << 10, retained_bytes_max: 32 << 10, ..Limits::default() };
    System { members, limits, decision_making: strategy.into(), data_dir: directory.into(), ..System::default() }
}

#[test]
fn a_member_that_missed_more_than_is_kept_gets_the_state_and_checkpoints_recover() {
    runtime().block_on(async {
        for strategy in concur::registry() {
            let name = strategy.traits.name;
            let directory = std::env::temp_dir().join(format!("concur-test-apart-{name}-{}", std::process::id()));
            let system = apart(&directory, *strategy);
            let (first, second) = (system.node("n1").await.unwrap(), system.node("n2").await.unwrap());
            let third = system.node("n3").await.unwrap();
            let value = "v".repeat(1000);
            eventually(|| async { first.store("default").unwrap().put("k0", &value).await }).await;
            third.stop().await.unwrap();
            let (one, two) = (first.store("default").unwrap(), second.store("default").unwrap());
            for i in 1..600 {
                let (store, key) = (if i % 2 == 0 { &one } else { &two }, format!("k{i}"));
                eventually(|| store.put(&key, &value)).await;
            }
            // Both restart from a checkpoint; the third lacks what they no longer keep.
            first.stop().await.unwrap();
            second.stop().await.unwrap();
            let mut again = Vec::new();
            for member in ["n1", "n2", "n3"] {
                again.push(system.node(member).await.unwrap());
            }
            let third = again[2].store("default").unwrap();
            eventually(|| async { third.get("k599").await?.ok_or(StoreError::Refused(concur::Refused::Unknown)) }).await;
            for i in 0..600 {
                let key = format!("k{i}");
                let held = third.get_eventual(&key).await.unwrap();
                assert_eq!(held.as_deref(), Some(value.as_bytes()), "{name}: {key}");
            }
            for member in again {
                member.stop().await.unwrap();
            }
            std::fs::remove_dir_all(directory).unwrap();
        }
    });
}
