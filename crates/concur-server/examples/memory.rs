//! etcd's API over a store in memory, without replication: for trying clients out.
//!
//! `cargo run -p concur-server --example memory -- 127.0.0.1:2379`

#[path = "../tests/common/mod.rs"]
mod common;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".into());
    let node = common::Node::start_on(&listen, common::Setup::default()).await;
    println!("ready to serve client requests on {}", node.address);
    let _ = tokio::signal::ctrl_c().await;
    let _ = node.stop.send(true);
    let cut = node.serving.await;
    println!("stopped: {cut:?}");
}
