//! What is asked: Concur's front door over a store; or, where `CONCUR_TEST_ETCD` names a program, a real etcd, to hold the list to it.

#[path = "../../../concur-cli/tests/common/ports.rs"]
mod ports;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use concur_proto::authpb;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::auth_client::AuthClient;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_server::auth::AuthOptions;
use concur_server::watch::HubLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::common::{Node, Setup, users};

/// How long anything may take that comes at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How a server differs from one that was started without a word.
#[derive(Default)]
pub(crate) struct Wanted {
    /// Users `root`, `reader`, `writer` and `guest`, who show tokens; the two in between may read or write the key `k`.
    pub(crate) users: bool,
    /// How often quiet watches are told; zero: as ever.
    pub(crate) notify: Duration,
    /// What the store may hold; zero: as ever.
    pub(crate) quota_bytes: u64,
}

/// A server, gone when dropped.
pub(crate) struct Side {
    pub(crate) address: SocketAddr,
    node: Option<Node>,
    etcd: Option<(Child, PathBuf)>,
}

impl Side {
    pub(crate) async fn start() -> Self {
        Self::start_with(Wanted::default()).await
    }

    pub(crate) async fn guarded() -> Self {
        Self::start_with(Wanted { users: true, ..Wanted::default() }).await
    }

    pub(crate) async fn start_with(wanted: Wanted) -> Self {
        match std::env::var_os("CONCUR_TEST_ETCD") {
            Some(program) => Self::etcd(program.into(), wanted).await,
            None => Self::concur(wanted).await,
        }
    }

    async fn concur(wanted: Wanted) -> Self {
        let mut setup = Setup { auth: AuthOptions { bcrypt_cost: 4, ..AuthOptions::default() }, ..Setup::default() };
        if wanted.users {
            setup.seed = users(true);
        }
        if wanted.notify > Duration::ZERO {
            setup.hub = HubLimits { notify_interval: wanted.notify, ..HubLimits::default() };
        }
        if wanted.quota_bytes > 0 {
            setup.store = concur_kv::Config { quota_bytes: wanted.quota_bytes, ..concur_kv::Config::default() };
        }
        let node = Node::start_with(setup).await;
        Self { address: node.address, node: Some(node), etcd: None }
    }

    async fn etcd(program: PathBuf, wanted: Wanted) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("concur-changes-{}-{number}", std::process::id()));
        let [client, peer] = [(); 2].map(|()| ports::free().parse::<SocketAddr>().expect("an address"));
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(&dir).args(["--bcrypt-cost=4", "--log-outputs=/dev/null"]);
        for (flag, at) in [("listen-client", client), ("advertise-client", client), ("listen-peer", peer), ("initial-advertise-peer", peer)]
        {
            command.arg(format!("--{flag}-urls=http://{at}"));
        }
        command.arg(format!("--initial-cluster=default=http://{peer}"));
        if wanted.notify > Duration::ZERO {
            command.arg(format!("--watch-progress-notify-interval={}ms", wanted.notify.as_millis()));
        }
        if wanted.quota_bytes > 0 {
            command.arg(format!("--quota-backend-bytes={}", wanted.quota_bytes));
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("etcd starts");
        let side = Self { address: client, node: None, etcd: Some((child, dir)) };
        let began = Instant::now();
        while !side.answers().await {
            assert!(began.elapsed() < PATIENCE, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if wanted.users {
            side.make_users().await;
        }
        side
    }

    async fn answers(&self) -> bool {
        match KvClient::connect(format!("http://{}", self.address)).await {
            Ok(mut kv) => kv.range(range("a")).await.is_ok(),
            Err(_) => false,
        }
    }

    async fn make_users(&self) {
        let mut auth = AuthClient::new(self.channel().await);
        for (role, access) in [("reads", authpb::permission::Type::Read), ("writes", authpb::permission::Type::Write)] {
            auth.role_add(pb::AuthRoleAddRequest { name: role.into() }).await.expect("a role");
            let perm = Some(authpb::Permission { perm_type: access as i32, key: bytes("k"), ..Default::default() });
            auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: role.into(), perm }).await.expect("a permission");
        }
        auth.role_add(pb::AuthRoleAddRequest { name: "root".into() }).await.expect("a role");
        for (name, role) in [("guest", ""), ("reader", "reads"), ("writer", "writes"), ("root", "root")] {
            let user = pb::AuthUserAddRequest { name: name.into(), password: "secret".into(), ..Default::default() };
            auth.user_add(user).await.expect("a user");
            if !role.is_empty() {
                let grant = pb::AuthUserGrantRoleRequest { user: name.into(), role: role.into() };
                auth.user_grant_role(grant).await.expect("a role");
            }
        }
        auth.auth_enable(pb::AuthEnableRequest {}).await.expect("users are asked for");
    }

    /// Concur's, if it is Concur: what no client can bring about in a single node is brought about there.
    pub(crate) fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).expect("a URL").connect().await.expect("a connection")
    }

    pub(crate) async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
    }

    /// The token of a user.
    pub(crate) async fn enter(&self, name: &str) -> String {
        let request = pb::AuthenticateRequest { name: name.into(), password: "secret".into() };
        AuthClient::new(self.channel().await).authenticate(request).await.expect("a token").into_inner().token
    }

    /// A page over plain HTTP: its status, its headers in small letters, its body as it came.
    pub(crate) async fn page(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all((head + body).as_bytes()).await.expect("the request is sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8(answer).expect("text");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.page("GET", path, "", "").await;
        (status, body)
    }

    /// A call of the gateway.
    pub(crate) async fn post(&self, path: &str, body: &str) -> (u16, serde_json::Value) {
        let (status, _, body) = self.page("POST", path, "", body).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some((child, dir)) = &mut self.etcd {
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), ..Default::default() }
}

/// Every key.
pub(crate) fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..Default::default() }
}

pub(crate) fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub(crate) fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: bytes(key), ..Default::default() }
}

/// A transaction that does this, whatever holds.
pub(crate) fn txn(ops: Vec<pb::request_op::Request>) -> pb::TxnRequest {
    let success = ops.into_iter().map(|op| pb::RequestOp { request: Some(op) }).collect();
    pb::TxnRequest { success, ..Default::default() }
}

/// A request that shows a token.
pub(crate) fn with<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().expect("a value"));
    request
}

/// Checks that a call was refused so.
#[track_caller]
pub(crate) fn is(result: Result<impl Sized, Status>, code: Code, text: &str) {
    let status = result.err().unwrap_or_else(|| panic!("not refused: {text}"));
    assert_eq!((status.code(), status.message()), (code, text));
}
