//! Of leases.

use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::side::{Side, all, is, put};

const NOT_FOUND: &str = "etcdserver: requested lease not found";

async fn grant(leases: &mut LeaseClient<Channel>, id: i64, ttl: i64) -> Result<i64, tonic::Status> {
    leases.lease_grant(pb::LeaseGrantRequest { id, ttl }).await.map(|granted| granted.into_inner().ttl)
}

pub(crate) async fn renews_nothing_that_is_gone() {
    let side = Side::start().await;
    let mut leases = LeaseClient::new(side.channel().await);
    let (ids, asked) = mpsc::channel(1);
    ids.send(pb::LeaseKeepAliveRequest { id: 77 }).await.expect("there is room");
    let mut answers = leases.lease_keep_alive(ReceiverStream::new(asked)).await.expect("a stream").into_inner();
    let unknown = answers.message().await.expect("an answer").expect("the stream goes on");
    assert_eq!((unknown.id, unknown.ttl), (77, 0));
    let mut renew = async |id| {
        ids.send(pb::LeaseKeepAliveRequest { id }).await.expect("the stream is open");
        let answer = answers.message().await.expect("an answer").expect("the stream goes on");
        (answer.id, answer.ttl)
    };
    for round in 1..20 {
        grant(&mut leases, round, 600).await.expect("a lease");
        assert_eq!(renew(round).await, (round, 600), "right behind the grant");
        leases.lease_revoke(pb::LeaseRevokeRequest { id: round }).await.expect("its end");
        assert_eq!(renew(round).await, (round, 0), "right behind the end");
    }
    assert_eq!(renew(i64::MIN).await, (i64::MIN, 0));
    let left = leases.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 3, keys: true }).await.expect("an answer").into_inner();
    assert_eq!((left.id, left.ttl, left.granted_ttl), (3, -1, 0));
    is(leases.lease_revoke(pb::LeaseRevokeRequest { id: 3 }).await, Code::NotFound, NOT_FOUND);
}

pub(crate) async fn takes_negative_ids() {
    let side = Side::start().await;
    let (mut kv, mut leases) = (side.kv().await, LeaseClient::new(side.channel().await));
    for id in [-5, i64::MIN, i64::MAX] {
        grant(&mut leases, id, 600).await.expect("a lease");
        kv.put(pb::PutRequest { lease: id, ..put("a", "v") }).await.expect("a put");
        assert_eq!(kv.range(all()).await.expect("a range").into_inner().kvs[0].lease, id);
        let kept = leases.lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys: true }).await.expect("a lease").into_inner();
        assert_eq!((kept.granted_ttl, kept.keys.len()), (600, 1));
    }
    for id in [-5, i64::MIN] {
        leases.lease_revoke(pb::LeaseRevokeRequest { id }).await.expect("its end");
    }
    assert_eq!(kv.range(all()).await.expect("a range").into_inner().kvs.len(), 1);
    leases.lease_revoke(pb::LeaseRevokeRequest { id: i64::MAX }).await.expect("its end");
    assert_eq!(kv.range(all()).await.expect("a range").into_inner().count, 0);
}

pub(crate) async fn grants_within_bounds() {
    let side = Side::start().await;
    let mut leases = LeaseClient::new(side.channel().await);
    for (id, ttl) in [(1, 0), (2, -1), (3, i64::MIN), (4, 1)] {
        assert_eq!(grant(&mut leases, id, ttl).await.expect("a lease"), 2, "the least is one and a half election timeouts");
    }
    assert_eq!(grant(&mut leases, 5, 9_000_000_000).await.expect("a lease"), 9_000_000_000);
    for ttl in [9_000_000_001, i64::MAX] {
        is(grant(&mut leases, 6, ttl).await, Code::OutOfRange, "etcdserver: too large lease TTL");
    }
    is(grant(&mut leases, 5, 60).await, Code::FailedPrecondition, "etcdserver: lease already exists");
}
