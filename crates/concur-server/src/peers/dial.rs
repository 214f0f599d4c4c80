//! Dialling: one task a peer, which connects, sends what waits, and connects again.

use super::outbox::Outbox;
use super::{Directory, FromPeer, Life, MESSAGE_BYTES_MAX, Me, Peer, check_hello};
use concur_core::Health;
use concur_proto::concur::peer::v1::peer_client::PeerClient;
use concur_tls::Dialer;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

/// How long to wait before the first new attempt, and the longest wait.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a connection, and the hello on it, may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// How soon a peer that vanished without a word is noticed.
const SILENCE: Duration = Duration::from_secs(5);

/// What every task that dials knows.
pub(super) struct Dial {
    pub(super) me: Me,
    pub(super) dialer: Dialer,
    pub(super) directory: Arc<Mutex<Directory>>,
    pub(super) inbox: mpsc::Sender<FromPeer>,
}

impl Dial {
    /// Keeps a stream to `peer` until the outbox is closed. With which disk it votes is for the directory to say, at each attempt: it
    /// may have been rebuilt since.
    pub(super) async fn run(self, mut peer: Peer, outbox: Arc<Outbox>) {
        let mut pause = PAUSE;
        let mut told = String::new();
        while !outbox.is_closed() && !self.inbox.is_closed() {
            if let Some(known) = self.directory.lock().unwrap_or_else(PoisonError::into_inner).peers.get(&peer.node) {
                peer.clone_from(known);
            }
            let ended = self.once(&peer, &outbox, &mut pause).await;
            outbox.disconnect();
            if outbox.is_closed() {
                return; // Another task speaks for the peer, or nobody.
            }
            if self.inbox.send(FromPeer::Health(peer.node, Health::Down)).await.is_err() {
                return;
            }
            if let Err(why) = ended
                && why != told
            {
                tracing::info!(peer = peer.name, address = peer.address, "no stream: {why}");
                told = why;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One connection, to its end.
    async fn once(&self, peer: &Peer, outbox: &Arc<Outbox>, pause: &mut Duration) -> Result<(), String> {
        let channel =
            tokio::time::timeout(CONNECT_TIME_MAX, connect(&self.dialer, &peer.address)).await.map_err(|_| "no answer".to_string())??;
        let mut client = PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let stream = outbox.stream(self.me.hello(peer.node));
        let greeting = async {
            let mut answers = client.stream(stream).await?.into_inner();
            let first = answers.message().await?;
            Ok::<_, tonic::Status>((answers, first))
        };
        let greeted = tokio::time::timeout(CONNECT_TIME_MAX, greeting).await.map_err(|_| "no hello".to_string())?;
        let (mut answers, first) = greeted.map_err(|status| status.message().to_string())?;
        let hello = first.and_then(|frames| frames.hello).ok_or("the peer did not say who it is")?;
        check_hello(&self.me, &hello, Some(peer).filter(|peer| peer.node == hello.node), Life::default())?;
        outbox.connect();
        *pause = PAUSE;
        tracing::debug!(peer = peer.name, "stream begun");
        let _ = self.inbox.send(FromPeer::Health(peer.node, Health::Up)).await;
        // Nothing more comes on this side: it ends when the peer, or the connection, does.
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Err("the peer closed the stream".into()),
                Err(status) => return Err(status.message().to_string()),
            }
        }
    }
}

pub(crate) async fn connect(dialer: &Dialer, address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(concur_tls::url(address)).map_err(|error| error.to_string())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIME_MAX)
        .initial_stream_window_size(16 << 20)
        .initial_connection_window_size(32 << 20)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true);
    endpoint.connect_with_connector(dialer.connector()).await.map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = cause.to_string();
            source = cause.source();
        }
        text
    })
}
