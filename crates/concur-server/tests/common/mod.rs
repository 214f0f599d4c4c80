//! A node without replication: a store applied directly behind a real front door on a real socket.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use concur_core::{Epoch, Wire};
use concur_kv::{Command, Config, Kv, Reply};
use concur_server::auth::{AuthOptions, Authority};
use concur_server::door::{Door, DoorLimits, Job, Jobs, Level, Member, Pulse, Stamp, Status};
use concur_server::etcd::{Etcd, EtcdLimits, Identity};
use concur_server::front::Front;
use concur_server::metrics::{Labels, Metrics};
use concur_server::serve::{ServeLimits, Socket, serve};
use concur_server::watch::{Hub, HubLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

pub const IDENTITY: Identity = Identity { cluster: 0xc1, member: 0x11 };

pub struct Node {
    pub address: SocketAddr,
    pub pulse: Arc<Pulse>,
    pub stop: watch::Sender<bool>,
    pub serving: JoinHandle<std::io::Result<usize>>,
    pub etcd: Etcd,
}

#[derive(Default)]
pub struct Setup {
    pub store: Config,
    pub hub: HubLimits,
    pub etcd: EtcdLimits,
    pub serve: ServeLimits,
    pub door: DoorLimits,
    pub auth: AuthOptions,
    /// What was executed before anybody could ask.
    pub seed: Vec<Command>,
}

impl Node {
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0", Setup::default()).await
    }

    pub async fn start_with(setup: Setup) -> Self {
        Self::start_on("127.0.0.1:0", setup).await
    }

    pub async fn start_on(listen: &str, setup: Setup) -> Self {
        let listener = TcpListener::bind(listen).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (door, pulse, jobs) = Door::new(setup.door);
        pulse.set_leader(IDENTITY.member, 1);
        let metrics = Arc::new(Metrics::new(IDENTITY, Labels::default()));
        let mut kv = Kv::new(setup.store);
        for command in setup.seed {
            kv.execute(&command, now_ms());
        }
        pulse.auth().observe(kv.auth());
        let hub = Hub::new(setup.hub, IDENTITY, pulse.clone(), metrics.clone(), kv.revision());
        tokio::spawn(Driver { kv, hub, pulse: pulse.clone(), address, executed: 0 }.run(jobs));
        let traffic = metrics.traffic.clone();
        let authority = Arc::new(Authority::new(&setup.auth).expect("options of tokens"));
        let etcd = Etcd::new(door, IDENTITY, setup.etcd, metrics).guarded_by(authority);
        let front = Front::new(etcd.clone());
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(Socket { listener, tls: None, traffic }, front, setup.serve, stopped));
        Self { address, pulse, stop, serving, etcd }
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).expect("a URL").connect().await.expect("a connection")
    }
}

/// A page over plain HTTP: its status and body.
pub async fn get(node: &Node, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(node.address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

struct Driver {
    kv: Kv,
    hub: Hub,
    pulse: Arc<Pulse>,
    address: SocketAddr,
    executed: u64,
}

impl Driver {
    async fn run(mut self, mut jobs: Jobs) {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                job = jobs.recv() => match job {
                    Some(job) => self.job(job),
                    None => return,
                },
                _ = ticks.tick() => self.tick(),
            }
            while let Ok(job) = jobs.try_recv() {
                self.job(job);
            }
            self.hub.advance(&self.kv);
            while self.hub.is_unfinished() {
                tokio::task::yield_now().await;
                self.hub.advance(&self.kv);
            }
        }
    }

    fn tick(&mut self) {
        let leases = self.kv.expired(now_ms(), 100);
        if !leases.is_empty() {
            self.execute(&Command::LeaseExpire { leases }.by_node());
        }
        self.hub.tick(&self.kv, Instant::now());
    }

    fn execute(&mut self, command: &Command) -> Reply {
        self.executed += 1;
        let reply = self.kv.execute(command, now_ms());
        self.pulse.auth().observe(self.kv.auth());
        self.hub.advance(&self.kv);
        reply
    }

    fn stamp(&self, level: Level) -> Stamp {
        Stamp { level, epoch: Epoch(0), term: self.pulse.term() }
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Execute(execute) => {
                let command = Command::from_bytes(&execute.command).expect("a command");
                let reply = self.execute(&command).to_bytes();
                let _ = execute.reply.send(Ok((reply, self.stamp(Level::Strong))));
            }
            Job::Read(read) => (read.run)(Ok((&self.kv, self.stamp(read.level)))),
            Job::Watch(request) => self.hub.handle(request, &self.kv),
            Job::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Job::Change(asked) => drop(asked.reply.send(Err(concur_server::door::Refusal::Unsupported("members do not change here")))),
            Job::Kept { .. } => {}
            Job::Upkeep(_, reply) => {
                let _ = reply.send(Ok(()));
            }
        }
    }

    fn status(&self) -> Status {
        let url = format!("http://{}", self.address);
        let member =
            Member { id: IDENTITY.member, name: "n1".into(), peer_urls: vec![url.clone()], client_urls: vec![url], ..Member::default() };
        let used = self.kv.status().used_bytes;
        Status {
            strategy: "none".into(),
            leader: self.pulse.leader(),
            term: self.pulse.term(),
            decided: self.executed,
            executed: self.executed,
            members: vec![member],
            storage_bytes: used,
            storage_used_bytes: used,
            ..Status::default()
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// Users with the password `secret`, and what they may do on the key `k` alone; auth is on if `enabled`.
pub fn users(enabled: bool) -> Vec<Command> {
    use concur_kv::{Access, AuthCommand, Permission};
    let hash = bytes::Bytes::from(bcrypt::hash("secret", 4).expect("a hash"));
    let mut commands = Vec::new();
    let mut user = |name: &str, role: Option<(&str, Access)>| {
        commands.push(AuthCommand::UserAdd { name: name.into(), password: hash.clone(), no_password: false });
        if let Some((role, access)) = role {
            let permission = Permission { access, key: "k".into(), range_end: "".into() };
            commands.push(AuthCommand::RoleAdd { name: role.into() });
            commands.push(AuthCommand::RoleGrantPermission { name: role.into(), permission: Some(permission) });
            commands.push(AuthCommand::UserGrantRole { name: name.into(), role: role.into() });
        }
    };
    user("guest", None);
    user("reader", Some(("reads", Access::Read)));
    user("writer", Some(("writes", Access::Write)));
    user("root", Some(("root", Access::Read)));
    if enabled {
        commands.push(AuthCommand::Enable);
    }
    commands.into_iter().map(|command| Command::Auth(command).by_node()).collect()
}
