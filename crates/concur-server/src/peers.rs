//! Streams to and from the other nodes.
//!
//! Each node dials every other and sends on the stream it dialled; what it receives comes on streams that the others dialled. A
//! stream begins with a hello on both sides: cluster, node, incarnation and boot count. A foreign cluster, a node that is meant
//! for somebody else, another incarnation of a voter, and a boot count lower than one seen before are refused, since a voter
//! whose disk was replaced or restored has forgotten what it promised. Who does not vote may come with any disk.
//!
//! Nodes are known by their ids, which follow from their names; the driver tells the groups' numbers from them. Whom to dial and
//! whom to accept changes while the node runs (`Peers::keep`).
//!
//! Links may lose, and these do rather than buffer: what is sent while there is no connection is dropped, and of bulk the oldest
//! goes when its queue is full. Urgent messages (elections, heartbeats) have a queue of their own that leaves first. Whatever waits
//! when the socket has room leaves as one message.
//!
//! A peer whose address begins with `https://` is dialled by TLS; whether certificates are asked for is its listener's to say. What a
//! hello proves is the same either way.
//!
//! A connection that is reset or refused is told at once as a hint that the peer's process is gone.
//!
//! Members of one program may be joined without sockets ([`Local`]); they see the same events.

mod accept;
mod dial;
mod outbox;

use crate::peers::outbox::Outbox;
use bytes::Bytes;
use concur_core::{GroupId, Health};
use concur_peers::Configuration;
use concur_proto::concur::peer::v1::{ClusterReply, Hello};
use concur_tls::Dialer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

pub(crate) use accept::Acceptor;
use dial::Dial;
pub(crate) use dial::connect;

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
    /// What tells clusters apart that have the same members.
    pub token: String,
    /// Its name.
    pub name: String,
    /// Its id.
    pub node: u64,
    /// Which life of its disk this is.
    pub incarnation: u64,
    /// How often it was started on it.
    pub boot: u64,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Where peers reach it, as far as it was told.
    pub peer: String,
}

/// A peer, as the configurations of the groups have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub node: u64,
    /// Its name.
    pub name: String,
    /// Where it listens for peers: `host:port`, or with `https://` before it by TLS.
    pub address: String,
    /// Whether it votes in a group, so that it must come with the disk with which it voted.
    pub votes: bool,
    /// The life of that disk, if a configuration names it; else 0.
    pub incarnation: u64,
}

/// A group, as a node that joins is told of it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) id: GroupId,
    pub(crate) namespace: String,
    pub(crate) per_key: bool,
    pub(crate) configuration: Arc<Configuration>,
}

/// What comes from peers.
#[derive(Debug)]
pub enum FromPeer {
    /// Envelopes, in the order they were sent.
    Frames(u64, Vec<Bytes>),
    /// A hint about a connection.
    Health(u64, Health),
    /// Somebody of this cluster called whom no configuration known here lists, and says where it is reached: it may know a later one.
    Stranger(String),
    /// A member was asked which configurations it knows.
    Told(ClusterReply),
    /// A peer was met under this incarnation and boot count, and says where clients reach it.
    Met(u64, Life, Vec<String>),
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
    inboxes: Arc<Mutex<BTreeMap<u64, mpsc::Sender<FromPeer>>>>,
}

impl Local {
    fn enter(&self, me: u64, inbox: mpsc::Sender<FromPeer>) {
        let mut inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        for (&other, to) in inboxes.iter() {
            let _ = to.try_send(FromPeer::Health(me, Health::Up));
            let _ = inbox.try_send(FromPeer::Health(other, Health::Up));
        }
        inboxes.insert(me, inbox);
    }

    fn leave(&self, me: u64) {
        let mut inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        inboxes.remove(&me);
        for to in inboxes.values() {
            let _ = to.try_send(FromPeer::Health(me, Health::Down));
        }
    }

    fn send(&self, me: u64, to: u64, frames: Vec<Bytes>) {
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
    me: Me,
    links: BTreeMap<u64, Link>,
    wires: Reach,
    inbox: mpsc::Receiver<FromPeer>,
    connected: BTreeSet<u64>,
}

/// How peers are reached.
#[derive(Debug)]
enum Reach {
    /// By streams; what accepts theirs shares the directory.
    Streams(Arc<Mutex<Directory>>, mpsc::Sender<FromPeer>, Dialer),
    /// Within this program.
    Local(Local),
}

#[derive(Debug)]
enum Link {
    Stream(Peer, Arc<Outbox>),
    Local(Vec<Bytes>),
}

/// Whom this node accepts, and what it tells those who ask to join.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    peers: BTreeMap<u64, Peer>,
    groups: Vec<Listed>,
}

impl Peers {
    /// Joins the members of this program.
    pub(crate) fn local(me: Me, local: Local) -> Self {
        let (sender, inbox) = mpsc::channel(INBOX_MAX * 16);
        local.enter(me.node, sender);
        Self { me, links: BTreeMap::new(), wires: Reach::Local(local), inbox, connected: BTreeSet::new() }
    }

    /// Makes what dials peers, and what accepts their streams. Must be called on a runtime.
    pub(crate) fn streams(me: Me, known: BTreeMap<u64, Life>, dialer: Dialer) -> (Self, Acceptor) {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let directory = Arc::new(Mutex::new(Directory::default()));
        let acceptor = Acceptor::new(me.clone(), directory.clone(), known, sender.clone());
        let wires = Reach::Streams(directory, sender, dialer);
        (Self { me, links: BTreeMap::new(), wires, inbox, connected: BTreeSet::new() }, acceptor)
    }

    /// The cluster that this node belongs to.
    pub(crate) fn cluster(&self) -> u64 {
        self.me.cluster
    }

    /// Dials these and nobody else, accepts them, and tells those who ask of the groups. Must be called on the runtime.
    pub(crate) fn keep(&mut self, peers: Vec<Peer>, groups: Vec<Listed>) {
        let (local, mut wanted) = (matches!(self.wires, Reach::Local(_)), BTreeMap::new());
        for peer in peers.into_iter().filter(|peer| peer.node != self.me.node) {
            wanted.insert(peer.node, peer);
        }
        let stays = |node: &u64, link: &Link| match (wanted.get(node), link) {
            (Some(peer), Link::Stream(dialled, _)) => peer.address == dialled.address,
            (Some(_), Link::Local(_)) => true,
            (None, _) => false,
        };
        let Self { links, connected, .. } = self;
        links.retain(|node, link| {
            let keep = stays(node, link);
            if let Link::Stream(_, outbox) = link
                && !keep
            {
                outbox.close();
                connected.remove(node);
            }
            keep
        });
        for (&node, peer) in wanted.iter().filter(|(_, peer)| local || !peer.address.is_empty()) {
            let Reach::Streams(directory, sender, dialer) = &self.wires else {
                self.links.entry(node).or_insert_with(|| Link::Local(Vec::new()));
                continue;
            };
            self.links.entry(node).or_insert_with(|| {
                let outbox = Arc::new(Outbox::default());
                let dial = Dial { me: self.me.clone(), dialer: dialer.clone(), directory: directory.clone(), inbox: sender.clone() };
                tokio::spawn(dial.run(peer.clone(), outbox.clone()));
                Link::Stream(peer.clone(), outbox)
            });
        }
        self.connected.retain(|node| wanted.contains_key(node));
        if let Reach::Streams(directory, ..) = &self.wires {
            *directory.lock().unwrap_or_else(PoisonError::into_inner) = Directory { peers: wanted, groups };
        }
    }

    /// Asks a node of this cluster which configurations it knows; [`FromPeer::Told`] is the answer. Must be called on the runtime.
    pub(crate) fn ask(&self, address: String) {
        let Reach::Streams(_, sender, dialer) = &self.wires else { return };
        let dialer = dialer.clone();
        let (name, token, sender) = (self.me.name.clone(), self.me.token.clone(), sender.clone());
        tokio::spawn(async move {
            match crate::join::ask_one(&dialer, &address, &name, &token).await {
                Ok(reply) => drop(sender.send(FromPeer::Told(reply)).await),
                Err(why) => tracing::info!(address, "a node that is not known here could not be asked who is in: {why}"),
            }
        });
    }

    /// Queues an envelope for a peer.
    pub(crate) fn send(&mut self, to: u64, urgent: bool, bytes: Bytes) {
        match self.links.get_mut(&to) {
            Some(Link::Stream(_, outbox)) => outbox.push(urgent, bytes),
            Some(Link::Local(frames)) => frames.push(bytes),
            None => {}
        }
    }

    /// Lets go of what was queued; answers whether there was anything that a socket must take.
    pub(crate) fn flush(&mut self) -> bool {
        let mut woken = false;
        for (&to, link) in &mut self.links {
            match link {
                Link::Stream(_, outbox) => woken |= outbox.wake(),
                Link::Local(frames) if !frames.is_empty() => {
                    if let Reach::Local(local) = &self.wires {
                        local.send(self.me.node, to, std::mem::take(frames));
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
                FromPeer::Health(id, Health::Down) => self.connected.remove(id),
                _ => true,
            };
        }
        into.len() > before
    }

    /// Who can be reached.
    pub(crate) fn connected(&self) -> &BTreeSet<u64> {
        &self.connected
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let Reach::Local(local) = &self.wires {
            local.leave(self.me.node);
        }
        for link in self.links.values() {
            if let Link::Stream(_, outbox) = link {
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
            peer: self.peer.clone(),
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
        return Err(format!(
            "{:016x} is no other member of this cluster: it was removed, or the member list of one of the two is to be corrected",
            hello.node
        ));
    };
    if hello.to != me.node {
        return Err(format!("the caller looks for node {:016x} and reached {:016x}: correct the addresses", hello.to, me.node));
    }
    if hello.version < FRAMES_VERSION || hello.version_min > FRAMES_VERSION {
        return Err(format!("the caller speaks version {} and this node version {FRAMES_VERSION}: upgrade one of them", hello.version));
    }
    let bound = if peer.incarnation != 0 { peer.incarnation } else { known.incarnation };
    if peer.votes && bound != 0 && hello.incarnation != bound {
        return Err(format!(
            "{0} comes with another disk than it votes with, so what it promised is forgotten: bring the old data directory back, or let it \
             be rebuilt from its peers with `concur member replace {0}`",
            peer.name
        ));
    }
    if hello.incarnation == known.incarnation && hello.boot < known.boot {
        return Err(format!(
            "{0} was started {1} times on its disk and {2} times before: an old copy was restored, which has forgotten promises; bring the \
             newest data directory back, or empty it and let it be rebuilt with `concur member replace {0}`",
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
        let me = Me {
            cluster: 7,
            token: String::new(),
            name: "n1".into(),
            node: 10,
            incarnation: 1,
            boot: 1,
            client_urls: Vec::new(),
            peer: String::new(),
        };
        let peer = Peer { node: 11, name: "n2".into(), address: String::new(), votes: true, incarnation: 0 };
        let known = Life { incarnation: 5, boot: 3 };
        let hello = Me { node: 11, incarnation: 5, boot: 4, ..me.clone() }.hello(10);
        let answer = |hello: &Hello, peer| check_hello(&me, hello, peer, known);
        assert_eq!(answer(&hello, Some(&peer)), Ok(()));
        assert!(answer(&Hello { boot: 3, ..hello.clone() }, Some(&peer)).is_ok(), "the same run may call again");
        let observes = Peer { votes: false, ..peer.clone() };
        assert!(answer(&Hello { incarnation: 6, ..hello.clone() }, Some(&observes)).is_ok(), "who does not vote promised nothing");
        let named = Peer { incarnation: 6, ..peer.clone() };
        assert!(answer(&Hello { incarnation: 6, ..hello.clone() }, Some(&named)).is_ok(), "the configuration knows better");
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
