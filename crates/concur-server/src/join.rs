//! Joining: a node without data asks the members that it was told of which cluster this is, and who is in.
//!
//! What it is told is kept in its data directory before it counts, with the note that this life of the disk began by joining: such a
//! disk never votes where no configuration names it. A restart asks nobody.

use crate::node::{NodeError, io};
use crate::peers::connect;
use bytes::Bytes;
use concur_core::{GroupId, Wire, wire_struct};
use concur_peers::Configuration;
use concur_proto::concur::peer::v1::peer_client::PeerClient;
use concur_proto::concur::peer::v1::{ClusterReply, ClusterRequest};
use concur_store::dir::{read_checked, write_checked};
use concur_tls::Dialer;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// For how long members are asked in turn, and how long one of them may take.
const ASKED_FOR: Duration = Duration::from_secs(30);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(300);

/// What a node that joins is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The cluster.
    pub(crate) cluster: u64,
    /// The name with which it asked.
    pub(crate) asked: String,
    /// Its name in it; another where it was added by its address alone.
    pub(crate) name: String,
    /// The groups in which it is a member.
    pub(crate) groups: Vec<JoinedGroup>,
}

/// One of the groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinedGroup {
    pub(crate) id: GroupId,
    pub(crate) namespace: String,
    pub(crate) per_key: bool,
    pub(crate) configuration: Configuration,
}

wire_struct!(Joined { cluster, asked, name, groups });
wire_struct!(JoinedGroup { id, namespace, per_key, configuration });

/// Who asks, and whom.
pub(crate) struct Asking<'a> {
    pub(crate) name: &'a str,
    pub(crate) token: &'a str,
    /// Where peers reach this node.
    pub(crate) own: &'a str,
    /// Where the members are reached.
    pub(crate) members: Vec<&'a str>,
    /// How they are connected to.
    pub(crate) dialer: &'a Dialer,
}

impl Joined {
    /// What was kept in a data directory.
    pub(crate) fn read(data_dir: &Path) -> Result<Option<Self>, NodeError> {
        let path = data_dir.join("joined");
        let cannot = io(format!("cannot read {}", path.display()));
        let read = read_checked(&path).and_then(|kept| {
            let read = |bytes| Self::from_bytes(&Bytes::from(bytes)).map_err(|_| std::io::ErrorKind::InvalidData.into());
            kept.map(read).transpose()
        });
        read.map_err(cannot)
    }

    /// Keeps it.
    pub(crate) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        write_checked(&data_dir.join("joined"), &self.to_bytes())
    }

    /// Asks the members in turn until one takes this node in; who runs `concur member add` meanwhile is not too late. Must be called
    /// where no runtime runs.
    pub(crate) fn ask(asking: &Asking<'_>) -> Result<Self, NodeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("cannot start a runtime"))?;
        runtime.block_on(asking.ask())
    }

    /// What a member told, if it can be joined with.
    fn told(asking: &Asking<'_>, reply: ClusterReply) -> Result<Self, Refusal> {
        let malformed = || Refusal::Final("a member's answer could not be read: upgrade one of the two".into());
        let mut groups = Vec::new();
        for group in reply.groups {
            let configuration = Configuration::from_bytes(&group.configuration).map_err(|_| malformed())?;
            groups.push(JoinedGroup { id: GroupId(group.id), namespace: group.namespace, per_key: group.per_key, configuration });
        }
        let listed = |group: &JoinedGroup| {
            let named = group.configuration.named(asking.name);
            named.or_else(|| group.configuration.members.iter().find(|member| member.peer == asking.own)).map(|member| member.name.clone())
        };
        let name = groups.iter().find_map(listed).ok_or_else(malformed)?;
        let voter = |group: &JoinedGroup| group.configuration.named(&name).is_some_and(|member| member.role.votes());
        if groups.iter().any(voter) {
            return Err(Refusal::Later(format!(
                "{name} votes in this cluster, and this data directory is empty: what it promised would be forgotten. Bring its data directory \
                 back, or run `concur member replace {name}`, so that it is rebuilt from its peers"
            )));
        }
        Ok(Self { cluster: reply.cluster, asked: asking.name.to_owned(), name, groups })
    }
}

impl Asking<'_> {
    async fn ask(&self) -> Result<Joined, NodeError> {
        let until = tokio::time::Instant::now() + ASKED_FOR;
        let mut why = "no other member is named: list them (--initial-cluster)".to_owned();
        let mut told = BTreeSet::new();
        loop {
            for address in self.members.iter().filter(|address| **address != self.own && !address.is_empty()) {
                let said = match tokio::time::timeout(ANSWER_TIME_MAX, self.ask_one(address)).await {
                    Ok(Ok(joined)) => return Ok(joined),
                    Ok(Err(Refusal::Final(why))) => return Err(NodeError::Join { why }),
                    Ok(Err(Refusal::Later(error))) => error,
                    Err(_) => format!("{address} did not answer"),
                };
                if told.insert(said.clone()) {
                    tracing::warn!(member = address, "not joined yet: {said}");
                }
                why = said;
            }
            if tokio::time::Instant::now() >= until {
                return Err(NodeError::Join { why });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask_one(&self, address: &str) -> Result<Joined, Refusal> {
        Joined::told(self, ask(self.dialer, address, self.name, self.token, vec![self.own.into()]).await?)
    }
}

/// Asks one node, of whose cluster the caller is a member.
pub(crate) async fn ask_one(dialer: &Dialer, address: &str, name: &str, token: &str) -> Result<ClusterReply, String> {
    match tokio::time::timeout(ANSWER_TIME_MAX, ask(dialer, address, name, token, Vec::new())).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(Refusal::Final(why) | Refusal::Later(why))) => Err(why),
        Err(_) => Err("no answer".into()),
    }
}

async fn ask(dialer: &Dialer, address: &str, name: &str, token: &str, peers: Vec<String>) -> Result<ClusterReply, Refusal> {
    let channel = connect(dialer, address).await.map_err(|error| Refusal::Later(format!("{address}: {error}")))?;
    let request = ClusterRequest { name: name.into(), token: token.into(), peers };
    match PeerClient::new(channel).cluster(request).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) if status.code() == tonic::Code::FailedPrecondition => Err(Refusal::Final(status.message().into())),
        Err(status) => Err(Refusal::Later(status.message().into())),
    }
}

enum Refusal {
    Final(String),
    Later(String),
}
