//! Streams to and from the other nodes.
//!
//! Each node dials every other and sends on the stream it dialled; what it receives comes on streams that the others dialled. A
//! stream begins with a hello on both sides: cluster, node, incarnation and boot count. A foreign cluster, a node that is meant
//! for somebody else, another incarnation of a member, and a boot count lower than one seen before are refused, since a member
//! whose disk was replaced or restored has forgotten what it promised.
//!
//! Links may lose, and these do rather than buffer: what is sent while there is no connection is dropped, and of bulk the oldest
//! goes when its queue is full. Urgent messages (elections, heartbeats) have a queue of their own that leaves first. Whatever waits
//! when the socket has room leaves as one message.
//!
//! A connection that is reset or refused is told at once as a hint that the peer's process is gone.
//!
//! Members of one program may be joined without sockets ([`Local`]); they see the same events.

mod accept;
mod dial;
mod outbox;

use crate::peers::outbox::Outbox;
use bytes::Bytes;
use concur_core::{Health, ReplicaId, ReplicaSet};
use concur_proto::concur::peer::v1::Hello;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

pub(crate) use accept::Acceptor;

/// Version of the frames' encoding.
const FRAMES_VERSION: u32 = 1;
/// The largest message of a stream: the largest batch, and room for what goes with it.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Messages from peers that may wait for the driver; more wait in the sockets.
const INBOX_MAX: usize = 256;

/// Who this node is to its peers.
#[derive(Debug, Clone)]
pub struct Me {
    /// The cluster.
    pub cluster: u64,
    /// Its number in the member list.
    pub replica: ReplicaId,
    /// Its id.
    pub node: u64,
    /// Which life of its disk this is.
    pub incarnation: u64,
    /// How often it was started on it.
    pub boot: u64,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// A peer, as the member list has it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its number in the member list.
    pub replica: ReplicaId,
    /// Its id.
    pub node: u64,
    /// Its name.
    pub name: String,
    /// Where it listens for peers, `host:port`.
    pub address: String,
}

/// What comes from peers.
#[derive(Debug)]
pub enum FromPeer {
    /// Envelopes, in the order they were sent.
    Frames(ReplicaId, Vec<Bytes>),
    /// A hint about a connection.
    Health(ReplicaId, Health),
    /// A peer was met under this incarnation and boot count, and says where clients reach it.
    Met(ReplicaId, Life, Vec<String>),
}

/// Which life and run of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Life {
    /// Which disk.
    pub incarnation: u64,
    /// Which start on it.
    pub boot: u64,
}

/// Members of one program, joined without sockets.
#[derive(Debug, Clone, Default)]
pub struct Local {
    inboxes: Arc<Mutex<BTreeMap<ReplicaId, mpsc::Sender<FromPeer>>>>,
}

impl Local {
    fn enter(&self, me: ReplicaId, inbox: mpsc::Sender<FromPeer>) {
        let mut inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        for (&other, to) in inboxes.iter() {
            let _ = to.try_send(FromPeer::Health(me, Health::Up));
            let _ = inbox.try_send(FromPeer::Health(other, Health::Up));
        }
        inboxes.insert(me, inbox);
    }

    fn leave(&self, me: ReplicaId) {
        let mut inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        inboxes.remove(&me);
        for to in inboxes.values() {
            let _ = to.try_send(FromPeer::Health(me, Health::Down));
        }
    }

    fn send(&self, me: ReplicaId, to: ReplicaId, frames: Vec<Bytes>) {
        let inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inbox) = inboxes.get(&to) {
            // A link may lose what its receiver has no room for.
            let _ = inbox.try_send(FromPeer::Frames(me, frames));
        }
    }
}

/// The sending side of all links, and the one queue of what comes.
#[derive(Debug)]
pub(crate) struct Peers {
    me: ReplicaId,
    links: BTreeMap<ReplicaId, Link>,
    local: Option<Local>,
    inbox: mpsc::Receiver<FromPeer>,
    connected: ReplicaSet,
}

#[derive(Debug)]
enum Link {
    Stream(Arc<Outbox>),
    Local(Vec<Bytes>),
}

impl Peers {
    /// Joins the members of this program.
    pub(crate) fn local(me: ReplicaId, peers: &[Peer], local: Local) -> Self {
        let (sender, inbox) = mpsc::channel(INBOX_MAX * 16);
        local.enter(me, sender);
        let links = peers.iter().map(|peer| (peer.replica, Link::Local(Vec::new()))).collect();
        Self { me, links, local: Some(local), inbox, connected: ReplicaSet::EMPTY }
    }

    /// Dials every peer, and hands out what accepts their streams. Must be called on a runtime.
    pub(crate) fn dial(me: Me, peers: &[Peer], known: BTreeMap<ReplicaId, Life>) -> (Self, Acceptor) {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let mut links = BTreeMap::new();
        for peer in peers {
            let outbox = Arc::new(Outbox::default());
            links.insert(peer.replica, Link::Stream(outbox.clone()));
            tokio::spawn(dial::run(me.clone(), peer.clone(), outbox, sender.clone()));
        }
        let replica = me.replica;
        let acceptor = Acceptor::new(me, peers.to_vec(), known, sender);
        (Self { me: replica, links, local: None, inbox, connected: ReplicaSet::EMPTY }, acceptor)
    }

    /// Queues an envelope for a peer.
    pub(crate) fn send(&mut self, to: ReplicaId, urgent: bool, bytes: Bytes) {
        match self.links.get_mut(&to) {
            Some(Link::Stream(outbox)) => outbox.push(urgent, bytes),
            Some(Link::Local(frames)) => frames.push(bytes),
            None => {}
        }
    }

    /// Lets go of what was queued; answers whether there was anything that a socket must take.
    pub(crate) fn flush(&mut self) -> bool {
        let mut woken = false;
        for (&to, link) in &mut self.links {
            match link {
                Link::Stream(outbox) => woken |= outbox.wake(),
                Link::Local(frames) if !frames.is_empty() => {
                    if let Some(local) = &self.local {
                        local.send(self.me, to, std::mem::take(frames));
                    }
                }
                Link::Local(_) => {}
            }
        }
        woken
    }

    /// What came, without waiting longer than until something did.
    pub(crate) fn poll(&mut self, cx: &mut std::task::Context<'_>, into: &mut Vec<FromPeer>) -> bool {
        let before = into.len();
        let _ = self.inbox.poll_recv_many(cx, into, INBOX_MAX);
        for event in &into[before..] {
            match event {
                FromPeer::Health(id, Health::Up) => self.connected.insert(*id),
                FromPeer::Health(id, Health::Down) => {
                    self.connected.remove(*id);
                    true
                }
                _ => true,
            };
        }
        into.len() > before
    }

    /// Who can be reached.
    pub(crate) fn connected(&self) -> ReplicaSet {
        self.connected
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let Some(local) = &self.local {
            local.leave(self.me);
        }
        for link in self.links.values() {
            if let Link::Stream(outbox) = link {
                outbox.close();
            }
        }
    }
}

impl Me {
    fn hello(&self, to: u64) -> Hello {
        Hello {
            cluster: self.cluster,
            node: self.node,
            incarnation: self.incarnation,
            boot: self.boot,
            version: FRAMES_VERSION,
            version_min: FRAMES_VERSION,
            to,
            client_urls: self.client_urls.clone(),
        }
    }
}

/// URLs that a member list can show: few, short, and without anything that a terminal would act on.
fn sound_urls(urls: &[String]) -> Vec<String> {
    let sound = |url: &&String| url.len() <= 256 && url.bytes().all(|byte| byte.is_ascii_graphic());
    urls.iter().take(16).filter(sound).cloned().collect()
}

/// Why a hello is refused, in words that say what to do.
fn check_hello(me: &Me, hello: &Hello, peer: Option<&Peer>, known: Life) -> Result<(), String> {
    if hello.cluster != me.cluster {
        return Err(format!(
            "this is cluster {:016x}, and the caller is of cluster {:016x}: the two have other member lists or tokens; correct the list",
            me.cluster, hello.cluster
        ));
    }
    let Some(peer) = peer else {
        return Err(format!("{:016x} is no other member of this cluster: correct the member list of one of the two", hello.node));
    };
    if hello.to != me.node {
        return Err(format!("the caller looks for node {:016x} and reached {:016x}: correct the addresses", hello.to, me.node));
    }
    if hello.version < FRAMES_VERSION || hello.version_min > FRAMES_VERSION {
        return Err(format!("the caller speaks version {} and this node version {FRAMES_VERSION}: upgrade one of them", hello.version));
    }
    if known.incarnation != 0 && hello.incarnation != known.incarnation {
        return Err(format!(
            "{} comes with another disk than it voted with before, so what it promised is forgotten: bring the old data directory back",
            peer.name
        ));
    }
    if hello.boot < known.boot {
        return Err(format!(
            "{} was started {} times on its disk and {} times before: an old copy was restored, which has forgotten promises; \
             bring the newest data directory back",
            peer.name, hello.boot, known.boot
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_and_members_that_forgot_are_refused() {
        let me = Me { cluster: 7, replica: ReplicaId(0), node: 10, incarnation: 1, boot: 1, client_urls: Vec::new() };
        let peer = Peer { replica: ReplicaId(1), node: 11, name: "n2".into(), address: String::new() };
        let known = Life { incarnation: 5, boot: 3 };
        let hello = Me { node: 11, incarnation: 5, boot: 4, ..me.clone() }.hello(10);
        let answer = |hello: &Hello, peer| check_hello(&me, hello, peer, known);
        assert_eq!(answer(&hello, Some(&peer)), Ok(()));
        assert!(answer(&Hello { boot: 3, ..hello.clone() }, Some(&peer)).is_ok(), "the same run may call again");
        let refused = [
            (Hello { cluster: 8, ..hello.clone() }, Some(&peer), "cluster"),
            (Hello { node: 12, ..hello.clone() }, None, "no other member"),
            (Hello { to: 12, ..hello.clone() }, Some(&peer), "addresses"),
            (Hello { version: 0, ..hello.clone() }, Some(&peer), "version"),
            (Hello { incarnation: 6, ..hello.clone() }, Some(&peer), "another disk"),
            (Hello { boot: 2, ..hello.clone() }, Some(&peer), "an old copy"),
        ];
        for (hello, peer, why) in refused {
            let said = answer(&hello, peer).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
        assert_eq!(sound_urls(&["http://a:1".into(), "\u{1b}[31m".into(), "x".repeat(300)]), ["http://a:1"]);
    }
}
