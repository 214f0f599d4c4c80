//! Puts at an even pace, whatever the servers do.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use concur_proto::etcdserverpb::PutRequest;
use concur_proto::etcdserverpb::kv_client::KvClient;
use hdrhistogram::Histogram;
use tokio::task::LocalSet;
use tonic::transport::Channel;

use super::Seen;
use crate::ScaleArgs;
use crate::measure::{LATENCY_NS_MAX, Latency, histogram};

/// Keys that paced puts go round.
const KEYS: u64 = 1000;

/// How paced puts went.
pub(super) struct Paced {
    taken: Histogram<u64>,
    errors: u64,
}

impl Paced {
    /// Puts until `end` is there, and waits for the last answers.
    pub(super) async fn run(channels: &[Channel], args: &ScaleArgs, end: impl Future<Output = ()>) -> Seen {
        let value = Bytes::from(vec![b'v'; args.value_bytes]);
        let key = |number: u64| Bytes::from(format!("scale/paced/{:04}", number % KEYS));
        let began = Instant::now();
        let paced = Self::each(channels, args.rate, end, |number| (key(number), value.clone()), |_, _| {}).await;
        Seen { took: began.elapsed(), latency: Latency::of(&paced.taken), errors: paced.errors }
    }

    /// Puts what `what` says, and tells `sent` of each as it leaves.
    pub(super) async fn each(
        channels: &[Channel],
        rate: f64,
        end: impl Future<Output = ()>,
        what: impl Fn(u64) -> (Bytes, Bytes),
        mut sent: impl FnMut(u64, Instant),
    ) -> Self {
        let seen = Rc::new(RefCell::new(Self { taken: histogram(), errors: 0 }));
        let (local, interval, start) = (LocalSet::new(), Duration::from_secs_f64(1.0 / rate), Instant::now());
        let send = async {
            for number in 0u64.. {
                let due = start + interval.mul_f64(number as f64);
                tokio::time::sleep_until(due.into()).await;
                let (key, value) = what(number);
                let mut client = KvClient::new(channels[number as usize % channels.len()].clone());
                let seen = seen.clone();
                sent(number, Instant::now());
                local.spawn_local(async move {
                    let answer = client.put(PutRequest { key, value, ..PutRequest::default() }).await;
                    let mut seen = seen.borrow_mut();
                    seen.errors += u64::from(answer.is_err());
                    record(&mut seen.taken, due.elapsed());
                });
            }
        };
        local
            .run_until(async {
                tokio::select! { () = end => {} () = send => {} }
            })
            .await;
        local.await;
        Rc::into_inner(seen).expect("no put is under way").into_inner()
    }
}

impl Paced {
    pub(super) fn answered(&self) -> u64 {
        self.taken.len() - self.errors
    }

    pub(super) fn errors(&self) -> u64 {
        self.errors
    }
}

pub(super) fn record(taken: &mut Histogram<u64>, latency: Duration) {
    taken.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX).max(1));
}
