//! etcd's API as JSON: what clients without gRPC see.

mod common;

use common::Node;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends a request; its status, its headers and its body, with what chunks are marked by.
async fn ask(node: &Node, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(node.address).await.expect("a connection");
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// Calls, and reads the answer.
async fn call(node: &Node, path: &str, request: Value) -> (u16, Value) {
    let (status, head, body) = ask(node, "POST", path, "", &request.to_string()).await;
    assert!(head.contains("content-type: application/json"), "{head}");
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

#[tokio::test]
async fn the_store_is_read_and_written() {
    let node = Node::start().await;
    let (status, put) = call(&node, "/v3/kv/put", json!({ "key": "Zm9v", "value": "YmFy" })).await;
    assert_eq!((status, &put["header"]["revision"], &put["header"]["cluster_id"]), (200, &json!("2"), &json!("193")));
    let (_, range) = call(&node, "/v3/kv/range", json!({ "key": "Zm9v" })).await;
    assert_eq!(range["kvs"], json!([{ "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy" }]));
    assert_eq!((&range["count"], range.get("more")), (&json!("1"), None));
    let txn = json!({
        "compare": [{ "target": "VALUE", "key": "Zm9v", "value": "YmFy" }],
        "success": [{ "requestPut": { "key": "Zm9v", "value": "YmF6" } }, { "request_range": { "key": "Zm9v" } }],
    });
    let (_, done) = call(&node, "/v3/kv/txn", txn).await;
    assert_eq!((&done["succeeded"], &done["responses"][1]["response_range"]["kvs"][0]["value"]), (&json!(true), &json!("YmF6")));
    let (_, deleted) = call(&node, "/v3/kv/deleterange", json!({ "key": "Zm9v", "prev_kv": true })).await;
    assert_eq!((&deleted["deleted"], &deleted["prev_kvs"][0]["value"]), (&json!("1"), &json!("YmF6")));
    let (_, status) = call(&node, "/v3/maintenance/status", json!({})).await;
    assert_eq!(status["version"], json!("3.7.0"));
    let (_, members) = call(&node, "/v3/cluster/member/list", json!({})).await;
    assert_eq!(members["members"][0]["name"], json!("n1"));
}

#[tokio::test]
async fn refusals_have_statuses_and_texts() {
    let node = Node::start().await;
    let empty = "etcdserver: key is not provided";
    let refused = call(&node, "/v3/kv/range", json!({})).await;
    assert_eq!(refused, (400, json!({ "error": empty, "code": 3, "message": empty })));
    let (status, future) = call(&node, "/v3/kv/range", json!({ "key": "Zm9v", "revision": "99" })).await;
    assert_eq!((status, &future["code"]), (400, &json!(11)));
    assert_eq!(call(&node, "/v3/lease/revoke", json!({ "ID": 5 })).await.0, 404);
    assert_eq!(call(&node, "/v3/kv/range", json!({ "key": "*" })).await.0, 400);
    assert_eq!(call(&node, "/v3/nothing", json!({})).await.0, 404);
    assert_eq!(call(&node, "/v3beta/lease/revoke", json!({ "ID": 5 })).await.0, 404);
    assert_eq!(ask(&node, "GET", "/v3/kv/range", "", "").await.0, 501);
    let large = format!("{{\"key\":\"{}\"}}", "A".repeat(5 << 20));
    let (status, ..) = ask(&node, "POST", "/v3/kv/range", "", &large).await;
    assert_eq!(status, 400);
}

/// Lines of a stream that is still open.
async fn lines(stream: &mut TcpStream, count: usize) -> Vec<Value> {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let found: Vec<Value> =
            text.lines().filter(|line| line.starts_with('{')).filter_map(|line| serde_json::from_str(line).ok()).collect();
        if found.len() >= count {
            return found;
        }
        let read = stream.read(&mut buffer).await.expect("more of the stream");
        assert!(read > 0, "the stream ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
}

#[tokio::test]
async fn streams_are_lines() {
    let node = Node::start().await;
    let mut watching = TcpStream::connect(node.address).await.expect("a connection");
    let body = json!({ "create_request": { "key": "dw==" } }).to_string();
    let request = format!("POST /v3/watch HTTP/1.1\r\nHost: node\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    watching.write_all(request.as_bytes()).await.expect("the request is sent");
    assert_eq!(lines(&mut watching, 1).await[0]["result"]["created"], json!(true));
    call(&node, "/v3/kv/put", json!({ "key": "dw==", "value": "MQ==" })).await;
    call(&node, "/v3/kv/deleterange", json!({ "key": "dw==" })).await;
    let events: Vec<Value> = lines(&mut watching, 2).await;
    assert_eq!(events[0]["result"]["events"][0]["kv"]["value"], json!("MQ=="));
    assert_eq!(events[1]["result"]["events"][0]["type"], json!("DELETE"));

    let (_, granted) = call(&node, "/v3/lease/grant", json!({ "TTL": 60 })).await;
    let id = granted["ID"].as_str().expect("an id").to_owned();
    let (status, _, body) = ask(&node, "POST", "/v3/lease/keepalive", "", &json!({ "ID": id }).to_string()).await;
    let kept: Value = body.lines().find(|line| line.starts_with('{')).and_then(|line| serde_json::from_str(line).ok()).expect("a line");
    assert_eq!((status, &kept["result"]["ID"], &kept["result"]["TTL"]), (200, &json!(id), &json!("60")));
    let (status, _, body) = ask(&node, "POST", "/v3/lease/keepalive", "", "]").await;
    assert!(status == 400 && body.contains("\"grpc_code\":3"), "{status} {body}");
}

#[tokio::test]
async fn services_are_listed_by_reflection() {
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let node = Node::start().await;
    let mut client = tonic::client::Grpc::new(node.channel().await);
    client.ready().await.expect("a connection");
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let codec = tonic_prost::ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    let asked = tonic::Request::new(tokio_stream::iter([ask]));
    let mut answers = client.streaming(asked, path, codec).await.expect("a stream").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    for service in ["etcdserverpb.KV", "etcdserverpb.Watch", "grpc.health.v1.Health"] {
        assert!(list.service.iter().any(|known| known.name == service), "{service} is not in {list:?}");
    }
}

#[tokio::test]
async fn open_streams_are_those_that_started_and_did_not_end() {
    let node = Node::start().await;
    let mut watching = TcpStream::connect(node.address).await.expect("a connection");
    let body = json!({ "create_request": { "key": "dw==" } }).to_string();
    let request = format!("POST /v3/watch HTTP/1.1\r\nHost: node\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    watching.write_all(request.as_bytes()).await.expect("the request is sent");
    lines(&mut watching, 1).await;
    let ended = r#"grpc_server_handled_total{grpc_type="bidi_stream",grpc_service="etcdserverpb.Watch",grpc_method="Watch",grpc_code="Canceled"} 1"#;
    let started = r#"grpc_server_started_total{grpc_type="bidi_stream",grpc_service="etcdserverpb.Watch",grpc_method="Watch"} 1"#;
    let page = common::get(&node, "/metrics").await.1;
    assert!(page.contains(started) && !page.contains(ended), "{page}");
    drop(watching);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !common::get(&node, "/metrics").await.1.contains(ended) {
        assert!(std::time::Instant::now() < until, "the stream's end is not counted");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn browsers_are_told_who_may_read() {
    let node = Node::start().await;
    let (status, head, _) = ask(&node, "OPTIONS", "/v3/kv/put", "Origin: http://page\r\n", "").await;
    assert!(status == 200 && head.contains("access-control-allow-origin: *"), "{head}");
    let (_, head, _) = ask(&node, "POST", "/v3/kv/range", "Origin: http://page\r\n", "{\"key\":\"Zm9v\"}").await;
    assert!(head.contains("access-control-allow-headers: accept, content-type, authorization"), "{head}");
}
