//! Of what is there over plain HTTP: health, versions, JSON.

use std::time::Duration;

use serde_json::json;

use crate::side::{PATIENCE, Side};

pub(crate) async fn says_whether_it_lives_and_serves() {
    let side = Side::start().await;
    let checks = |body: &str| {
        let mut lines: Vec<String> = body.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(side.get("/livez").await, (200, "ok\n".into()));
    assert_eq!(side.get("/readyz").await, (200, "ok\n".into()));
    assert_eq!(side.get("/livez?verbose").await, (200, "[+]serializable_read ok\nok\n".into()));
    let (status, body) = side.get("/readyz?verbose").await;
    let every = ["[+]data_corruption ok", "[+]linearizable_read ok", "[+]non_learner ok", "[+]serializable_read ok", "ok"];
    assert_eq!((status, checks(&body)), (200, every.map(str::to_owned).to_vec()));
    let (_, body) = side.get("/readyz?verbose=&exclude=linearizable_read&exclude=non_learner&exclude=nothing").await;
    assert_eq!(checks(&body), ["[+]data_corruption ok", "[+]serializable_read ok", "ok"]);
    let (_, body) = side.get("/readyz?verbose&exclude=linearizable_read,non_learner").await;
    assert_eq!(checks(&body).len(), 5, "one name each");
    assert_eq!(side.get("/readyz/non_learner?verbose").await, (200, "[+]non_learner ok\nok\n".into()));
    for path in ["/readyz/nothing", "/livez/linearizable_read", "/livez/"] {
        assert_eq!(side.get(path).await.0, 404, "{path}");
    }
}

pub(crate) async fn is_not_ready_while_corrupt() {
    use concur_proto::etcdserverpb as pb;
    use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
    let side = Side::start().await;
    let arm = pb::AlarmRequest { action: 1, member_id: 5, alarm: 2 };
    MaintenanceClient::new(side.channel().await).alarm(arm).await.expect("an alarm");
    let (status, body) = side.get("/readyz").await;
    assert!(status == 503 && body.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{status} {body}");
    assert_eq!(side.get("/readyz?exclude=data_corruption").await.0, 200);
    assert_eq!(side.get("/livez").await.0, 200);
    let (status, body) = side.get("/health").await;
    assert_eq!((status, body.trim()), (503, r#"{"health":"false","reason":"ALARM CORRUPT"}"#));
    assert_eq!(side.get("/health?exclude=CORRUPT").await.0, 200);
}

pub(crate) async fn says_health_of_itself_or_of_all() {
    let side = Side::start().await;
    for query in ["", "?serializable=true", "?serializable=false", "?exclude="] {
        let (status, body) = side.get(&format!("/health{query}")).await;
        assert_eq!((status, body.as_str()), (200, r#"{"health":"true","reason":""}"#), "{query}");
    }
    if let Some(node) = side.node() {
        node.pulse.set_leader(0, 2);
        let (status, body) = side.get("/health").await;
        assert_eq!((status, body.trim()), (503, r#"{"health":"false","reason":"RAFT NO LEADER"}"#));
        assert_eq!(side.get("/health?serializable=true").await.0, 200);
    }
}

pub(crate) async fn answers_checks_by_get_alone() {
    let side = Side::start().await;
    for path in ["/health", "/livez", "/readyz", "/livez/serializable_read", "/version"] {
        for method in ["HEAD", "POST", "PUT"] {
            let (status, head, _) = side.page(method, path, "", "").await;
            assert!(status == 405 && head.contains("allow: get"), "{method} {path}: {status} {head}");
        }
    }
    for method in ["HEAD", "POST"] {
        assert_eq!(side.page(method, "/nothing", "", "").await.0, 404, "{method}");
    }
}

pub(crate) async fn names_its_versions() {
    let side = Side::start().await;
    let (status, head, body) = side.page("GET", "/version", "", "").await;
    let versions: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert!(status == 200 && head.contains("content-type: application/json"), "{head}");
    assert_eq!((&versions["etcdcluster"], &versions["storage"]), (&json!("3.7.0"), &json!("3.7.0")));
    assert!(versions["etcdserver"].as_str().is_some_and(|version| version.starts_with("3.7.")));
}

pub(crate) async fn has_no_second_version_of_the_api() {
    let side = Side::start().await;
    for path in
        ["/v2/keys", "/v2/keys/a?recursive=true", "/v2/members", "/v2/stats/self", "/v2/auth/users", "/members", "/config/local/log"]
    {
        assert_eq!(side.get(path).await, (404, "404 page not found\n".into()), "{path}");
    }
    assert_eq!(side.page("PUT", "/v2/keys/a", "", "value=b").await.0, 404);
}

pub(crate) async fn hashes_by_two_paths() {
    let side = Side::start().await;
    side.kv().await.put(crate::side::put("a", "v")).await.expect("a put");
    let (status, hash) = side.post("/v3/maintenance/hash", "{}").await;
    assert!(status == 200 && hash["hash"].is_number() && hash.get("hash_revision").is_none(), "{hash}");
    let (status, hash) = side.post("/v3/maintenance/hashkv", r#"{"revision":"2"}"#).await;
    assert!(status == 200 && hash["hash_revision"] == json!("2"), "{hash}");
}

pub(crate) async fn refuses_in_json() {
    let side = Side::start().await;
    let (status, refused) = side.post("/v3/kv/range", "{}").await;
    let empty = "etcdserver: key is not provided";
    assert_eq!((status, &refused["code"], &refused["message"]), (400, &json!(3), &json!(empty)));
    let (status, refused) = side.post("/v3/kv/range", r#"{"key":"Zm9v","revision":99}"#).await;
    assert_eq!((status, &refused["code"]), (400, &json!(11)));
    for junk in ["[]", "{", r#"{"key":"*"}"#, r#"{"key":5}"#, r#"{"revision":"x"}"#] {
        assert_eq!(side.post("/v3/kv/range", junk).await.0, 400, "{junk}");
    }
    assert_eq!(side.post("/v3/nothing", "{}").await, (404, side.post("/v3/nothing", "{}").await.1));
    let (status, _, body) = side.page("GET", "/v3/kv/range", "", "").await;
    assert!(status == 501 && body.contains(r#""code":12"#), "{status} {body}");
}

pub(crate) async fn takes_calls_of_elections_without_a_leader() {
    let side = Side::start().await;
    for call in ["proclaim", "resign"] {
        let (status, refused) = side.post(&format!("/v3/election/{call}"), r#"{"value":""}"#).await;
        assert_eq!((status, &refused["message"]), (500, &json!("\"leader\" field must be provided")), "{call}");
    }
    assert_eq!(side.get("/livez").await.0, 200, "it goes on");
}

pub(crate) async fn watches_in_json() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let side = Side::start().await;
    for junk in ["]", "{\"create_request\":", "{\"create_request\":{\"key\":\"*\"}}", "{\"create_request\":null}"] {
        // Whether and how it is answered differs; that it does no harm does not.
        let _ = tokio::time::timeout(Duration::from_millis(300), side.page("POST", "/v3/watch", "", junk)).await;
    }
    let mut stream = tokio::net::TcpStream::connect(side.address).await.expect("a connection");
    let body = json!({ "create_request": { "key": "dw==", "start_revision": "1" } }).to_string();
    let head = format!("POST /v3/watch HTTP/1.1\r\nHost: node\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await.expect("the request is sent");
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("\"created\":true") {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("in time").expect("more");
        assert!(read > 0, "it ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    assert_eq!(side.get("/livez").await.0, 200, "it goes on");
}
