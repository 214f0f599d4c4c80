//! The members that a client knows, and which of them it speaks to.

use crate::ClientError;
use concur_proto::concur::v1::concur_client::ConcurClient;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A member as it is spoken to.
pub(crate) type Speaks = ConcurClient<InterceptedService<Channel, Shown>>;

/// Shows a token with each request, if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Shown(Option<MetadataValue<Ascii>>);

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// A member by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(usize);

/// The members, each connected to when it is first spoken to and again when the connection is lost.
#[derive(Debug)]
pub(crate) struct Members {
    channels: Vec<(String, Channel)>,
    current: AtomicUsize,
    shown: Shown,
}

/// How often a silent connection is asked whether it lives, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIME_MAX: Duration = Duration::from_secs(3);

impl Members {
    pub(crate) fn new(
        endpoints: &[String],
        token: &str,
        connect_time_max: Duration,
        dialer: &concur_tls::Dialer,
    ) -> Result<Self, ClientError> {
        if endpoints.is_empty() {
            return Err(ClientError::Options("a client needs at least one endpoint".into()));
        }
        let channel = |endpoint: &String| {
            let address = concur_tls::address(endpoint);
            let wrong = |error: &dyn std::fmt::Display| ClientError::Options(format!("`{endpoint}` is no endpoint: {error}"));
            if concur_tls::host_port(&address).contains("://") {
                return Err(wrong(&"it is host:port, or https://host:port"));
            }
            let to = Endpoint::from_shared(concur_tls::url(&address)).map_err(|error| wrong(&error))?;
            let to = to.connect_timeout(connect_time_max).http2_keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIME_MAX);
            Ok((address, to.connect_with_connector_lazy(dialer.connector())))
        };
        let channels = endpoints.iter().map(channel).collect::<Result<_, _>>()?;
        let token = Some(token).filter(|token| !token.is_empty()).map(str::parse).transpose();
        let shown = Shown(token.map_err(|_| ClientError::Options("the token is none".into()))?);
        Ok(Self { channels, current: AtomicUsize::new(0), shown })
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    /// The member to speak to.
    pub(crate) fn current(&self, bytes_max: usize) -> (Place, Speaks) {
        let at = self.current.load(Ordering::Relaxed) % self.channels.len();
        (Place(at), self.client(&self.channels[at].1, bytes_max))
    }

    fn client(&self, channel: &Channel, bytes_max: usize) -> Speaks {
        ConcurClient::with_interceptor(channel.clone(), self.shown.clone()).max_decoding_message_size(bytes_max)
    }

    /// Its address.
    pub(crate) fn address(&self, place: Place) -> &str {
        &self.channels[place.0].0
    }

    /// Every member.
    pub(crate) fn all(&self, bytes_max: usize) -> impl Iterator<Item = (&str, Speaks)> {
        self.channels.iter().map(move |(address, channel)| (address.as_str(), self.client(channel, bytes_max)))
    }

    /// Speaks to the next member from now on, unless somebody moved on from this one already.
    pub(crate) fn leave(&self, place: Place) {
        let next = (place.0 + 1) % self.channels.len();
        let _ = self.current.compare_exchange(place.0, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}
