//! The client against a cluster in this program, over real sockets.

use concur::{Cluster, Leadership, Namespace, Optimistic, Order, System, Timeouts};
use concur_client::kv::{Compare, DeleteRange, Kv, KvError, Op, Put, RangeQuery, Relation, Revision, Target, Txn};
use concur_client::{ClientError, Level, Options, Store, Watch};
use concur_core::Wire;
use concur_proto::concur::v1::concur_client::ConcurClient;
use concur_proto::concur::v1::{ExecuteRequest, OpenSessionRequest};
use std::time::Duration;

async fn cluster() -> Cluster<Kv> {
    let heartbeat = Duration::from_millis(50);
    let orders = Namespace { order: Order::PerKey, decision_making: Some(Optimistic::EPaxos.into()), ..Namespace::new("orders") };
    let system = System {
        quorum_size: 3,
        decision_making: Leadership::Raft.into(),
        namespaces: vec![orders],
        timeouts: Timeouts { heartbeat, election: 8 * heartbeat, ..Timeouts::default() },
        ..System::default()
    };
    system.concur().await.unwrap()
}

fn endpoints(cluster: &Cluster<Kv>) -> Vec<String> {
    cluster.members().iter().map(|member| member.client_addresses()[0].to_string()).collect()
}

fn options(endpoints: Vec<String>) -> Options {
    Options { timeout: Duration::from_secs(20), attempt_time_max: Duration::from_secs(1), ..Options::new(endpoints) }
}

#[tokio::test]
async fn what_is_written_is_read_and_says_who_answered() {
    let cluster = cluster().await;
    let store = Store::open(options(endpoints(&cluster))).unwrap();
    let put = store.put("a", "1").await.unwrap();
    assert_eq!((put.value.revision, put.stamp.level, put.stamp.namespace.as_str()), (Revision(2), Level::Strong, "default"));
    assert!(["n1", "n2", "n3"].contains(&put.stamp.name.as_str()));
    store.put("b", "2").await.unwrap();
    let got = store.get("a", Level::Strong).await.unwrap().value.unwrap();
    assert_eq!((&got.value[..], got.version), (&b"1"[..], 1));
    let all = RangeQuery { key: "a".into(), range_end: "z".into(), ..RangeQuery::default() };
    assert_eq!(store.range(Level::Strong, all.clone()).await.unwrap().value.count, 2);
    let compare = Compare { key: "a".into(), range_end: Default::default(), relation: Relation::Equal, target: Target::Version(1) };
    let put = Op::Put(Put { key: "c".into(), value: "3".into(), ..Put::default() });
    let txn = Txn { compare: vec![compare], success: vec![put], failure: Vec::new() };
    assert!(store.txn(txn).await.unwrap().value.succeeded);
    let deleted = store.delete_range(DeleteRange { key: "a".into(), range_end: "z".into(), prev_kv: true }).await.unwrap();
    assert_eq!(deleted.value.prev_kvs.len(), 3);
    let eventual = store.range(Level::Eventual, all).await.unwrap();
    assert_eq!((eventual.stamp.level, eventual.value.kvs.len() <= 3), (Level::Eventual, true));
    assert_eq!(store.put("", "x").await.unwrap_err(), ClientError::Store(KvError::EmptyKey));
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_namespace_ordered_per_key_is_served_at_every_member() {
    let cluster = cluster().await;
    let at = |i: usize| Options { namespace: "orders".into(), ..options(vec![endpoints(&cluster)[i].clone()]) };
    for i in 0..3 {
        let store = Store::open(at(i)).unwrap();
        store.put(format!("key{i}"), "v").await.unwrap();
        store.put("shared", format!("{i}")).await.unwrap();
    }
    let store = Store::open(at(0)).unwrap();
    assert_eq!(&store.get("shared", Level::Strong).await.unwrap().value.unwrap().value[..], b"2");
    let all = RangeQuery { key: "key".into(), range_end: "kez".into(), ..RangeQuery::default() };
    assert_eq!(store.range(Level::Strong, all).await.unwrap().value.count, 3);
    let refused = store.watch(Watch { key: "shared".into(), ..Watch::default() }).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(why) if why.contains("ordered per key")), "{refused}");
    let nowhere = Store::open(Options { namespace: "nowhere".into(), ..at(0) }).unwrap();
    let refused = nowhere.put("k", "v").await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(why) if why.contains("nowhere")), "{refused}");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_command_that_is_sent_twice_is_executed_once() {
    let cluster = cluster().await;
    let mut members = Vec::new();
    for endpoint in endpoints(&cluster) {
        members.push(ConcurClient::connect(format!("http://{endpoint}")).await.unwrap());
    }
    let store = Store::open(options(endpoints(&cluster))).unwrap();
    store.put("ready", "").await.unwrap();
    let session = 77;
    members[0].open_session(OpenSessionRequest { session, ..Default::default() }).await.unwrap();
    let command = concur_client::kv::Command::Put(Put { key: "k".into(), ..Put::default() }).to_bytes();
    let mut replies = Vec::new();
    for member in &mut members {
        let request = ExecuteRequest { session, number: 5, command: command.clone(), ..Default::default() };
        replies.push(member.execute(request).await.unwrap().into_inner().reply);
    }
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
    assert_eq!(store.get("k", Level::Strong).await.unwrap().value.unwrap().version, 1);
    let unknown = ExecuteRequest { session: 78, number: 1, command, ..Default::default() };
    assert_eq!(members[0].execute(unknown).await.unwrap_err().code(), tonic::Code::Aborted);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn clients_and_watches_go_on_when_the_member_they_speak_to_stops() {
    let cluster = cluster().await;
    let store = Store::open(options(endpoints(&cluster))).unwrap();
    store.put("k", "0").await.unwrap();
    let mut watching = store.watch(Watch { key: "k".into(), revision: 1, previous: true, ..Watch::default() }).await.unwrap();
    let (mut seen, mut writes) = (watching.next().await.unwrap(), 1);
    cluster.node("n1").unwrap().leave();
    while writes < 30 {
        store.put("k", writes.to_string()).await.unwrap();
        writes += 1;
    }
    while seen.len() < writes {
        seen.extend(watching.next().await.unwrap());
    }
    let values: Vec<String> = seen.iter().map(|change| String::from_utf8(change.value.clone().unwrap().to_vec()).unwrap()).collect();
    assert_eq!(values, (0..writes).map(|i| i.to_string()).collect::<Vec<_>>());
    assert_eq!(&seen[3].previous[..], b"2");
    assert_eq!(store.get("k", Level::Strong).await.unwrap().value.unwrap().version, 30);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn where_nobody_listens_nothing_is_done() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let store = Store::open(Options { timeout: Duration::from_millis(300), ..Options::new([address.clone()]) }).unwrap();
    let error = store.put("k", "v").await.unwrap_err();
    assert!(matches!(&error, ClientError::NotDone(last) if last.contains(&address)), "{error}");
    assert!(matches!(Store::open(Options::new(["ftp://a:1"])), Err(ClientError::Options(_))));
    assert!(matches!(Store::open(Options::new(Vec::<String>::new())), Err(ClientError::Options(_))));
}
