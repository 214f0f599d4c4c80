//! Reaching a cluster: which servers, how long to wait, and what it means when they do not answer.

use crate::exit::{Exit, Failure, Outcome};
use clap::Args;
use concur::{Rules, TlsOptions};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::auth_client::AuthClient;
use concur_proto::etcdserverpb::cluster_client::ClusterClient;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use concur_tls::Dialer;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

/// Where a server listens unless something else is said.
const ENDPOINT: &str = "127.0.0.1:2379";

/// How long a server may take to say how it is, after it has not answered.
const DIAGNOSIS: Duration = Duration::from_secs(1);

/// The largest answer that is taken.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 30;

/// The flags of every command that speaks to a cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// Servers, tried in turn [default: those of the running demo, or 127.0.0.1:2379]
    #[arg(long, env = "CONCUR_ENDPOINTS", value_delimiter = ',', value_parser = server, value_name = "HOST:PORT,…")]
    pub(crate) endpoints: Vec<String>,
    /// How long to wait, with its unit (500ms, 5s)
    #[arg(long, env = "CONCUR_TIMEOUT", value_parser = duration, default_value = "5s", value_name = "DURATION")]
    pub(crate) timeout: Duration,
    /// The user to be, where the cluster asks who it is
    #[arg(long, env = "CONCUR_USER", hide_env_values = true, value_name = "NAME:PASSWORD")]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    tls: ClientTls,
}

/// How servers are reached by TLS; an endpoint that has no scheme is, if one of these is given
#[derive(Debug, Clone, Default, Args)]
struct ClientTls {
    /// The authorities that servers' certificates must be signed by [default: the operating system's]
    #[arg(long, env = "CONCUR_CACERT", value_name = "FILE", hide_short_help = true)]
    cacert: Option<PathBuf>,
    /// The certificate that is shown to servers
    #[arg(long, env = "CONCUR_CERT", value_name = "FILE", hide_short_help = true)]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(id = "tls-key", long = "key", env = "CONCUR_KEY", value_name = "FILE", hide_short_help = true)]
    key: Option<PathBuf>,
    /// Take servers' certificates without verifying them
    #[arg(long, env = "CONCUR_INSECURE_SKIP_TLS_VERIFY", hide_short_help = true)]
    insecure_skip_tls_verify: bool,
}

impl ClientTls {
    fn is_given(&self) -> bool {
        self.cacert.is_some() || self.cert.is_some() || self.key.is_some() || self.insecure_skip_tls_verify
    }

    fn dialer(&self) -> Outcome<Dialer> {
        if !self.is_given() {
            return Ok(Dialer::default());
        }
        let file = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
        let options = TlsOptions {
            cert_file: file(&self.cert),
            key_file: file(&self.key),
            trusted_ca_file: file(&self.cacert),
            ..TlsOptions::default()
        };
        let dialer = Dialer::new(options, Rules::default(), self.insecure_skip_tls_verify);
        dialer.map_err(|error| Failure::new(Exit::Invalid, error.to_string()))
    }
}

/// The address of an endpoint: `host:port`, with `https://` before it where that is how it is reached.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    server(text).map(|text| concur_tls::address(&text))
}

/// An endpoint as it was given: the flags of TLS concern those without a scheme.
fn server(text: &str) -> Result<String, String> {
    let Some((host, port)) = concur_tls::host_port(text).rsplit_once(':') else { return Err("an endpoint is host:port".into()) };
    if host.is_empty() || host.contains("//") || port.parse::<u16>().is_err() {
        return Err("an endpoint is host:port".into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(24 * 3600);
    let duration = concur::parse_duration(text).filter(|duration| !duration.is_zero() && *duration <= longest);
    duration.ok_or_else(|| "a duration is a number with its unit, up to a day: 500ms, 5s, 2min".into())
}

impl Reach {
    /// The servers to try.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        if !self.endpoints.is_empty() {
            return self.endpoints.iter().map(|endpoint| self.address(endpoint)).collect();
        }
        crate::demo::endpoints().unwrap_or_else(|| vec![ENDPOINT.to_owned()])
    }

    /// How servers are connected to.
    pub(crate) fn dialer(&self) -> Outcome<Dialer> {
        self.tls.dialer()
    }

    /// The address of an endpoint: with flags of TLS, one that says no scheme is reached by it.
    fn address(&self, endpoint: &str) -> String {
        if self.tls.is_given() && !endpoint.contains("://") { format!("https://{endpoint}") } else { concur_tls::address(endpoint) }
    }

    /// A connection to the first server that takes one. One that refuses the user ends the search: the others would too.
    pub(crate) async fn connect(&self) -> Outcome<Link> {
        let (endpoints, mut last) = (self.endpoints(), String::new());
        for endpoint in &endpoints {
            match self.connect_to(endpoint).await {
                Ok(link) => return Ok(link),
                Err(failure) if failure.is(Exit::Unreachable) => last = failure.into_message(),
                Err(refused) => return Err(refused),
            }
        }
        Err(Failure::new(Exit::Unreachable, format!("nobody can be reached at {}: {last}", endpoints.join(", "))))
    }

    /// A connection to this server.
    pub(crate) async fn connect_to(&self, endpoint: &str) -> Outcome<Link> {
        let to = Endpoint::from_shared(concur_tls::url(endpoint)).map_err(|error| unreached(error.to_string()))?;
        let to = to.connect_timeout(self.timeout);
        let dialer = self.dialer()?;
        let channel =
            tokio::time::timeout(self.timeout, to.connect_with_connector(dialer.connector())).await.map_err(|_| unreached(SLOW))?;
        let channel = channel.map_err(|error| unreached(innermost(&error)))?;
        let shown = Shown(self.token(channel.clone()).await?);
        let channel = InterceptedService::new(channel, shown.clone());
        Ok(Link { channel, shown, endpoint: endpoint.to_owned(), timeout: self.timeout })
    }

    /// What a client of the native API shows to be the user; empty where there is none to be.
    pub(crate) async fn shown(&self) -> Outcome<String> {
        if self.user.is_none() {
            return Ok(String::new());
        }
        let Shown(token) = self.connect().await?.shown;
        Ok(token.and_then(|token| token.to_str().ok().map(str::to_owned)).unwrap_or_default())
    }

    /// The token of the user to be; none where nobody is asked who it is.
    async fn token(&self, channel: Channel) -> Outcome<Option<MetadataValue<Ascii>>> {
        let Some((name, password)) = self.user.as_deref().map(|user| user.split_once(':').unwrap_or((user, ""))) else { return Ok(None) };
        let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
        let mut client = AuthClient::new(channel);
        match tokio::time::timeout(self.timeout, client.authenticate(request)).await {
            Ok(Ok(entered)) => Ok(entered.into_inner().token.parse().ok()),
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => Ok(None),
            Ok(Err(status)) => Err(Failure::new(meaning(status.code()), status.message())),
            Err(_) => Err(unreached(SLOW)),
        }
    }
}

const SLOW: &str = "it takes too long";

fn unreached(why: impl Into<String>) -> Failure {
    Failure::new(Exit::Unreachable, why)
}

/// How a command ends that got this answer, if it is one.
fn meaning(code: Code) -> Exit {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Exit::Invalid,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => Exit::Unreachable,
        _ => Exit::Failure,
    }
}

/// What an error really says.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Runs what a command has to wait for.
pub(crate) fn wait(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Failure, format!("cannot start: {error}")))?.block_on(work)
}

/// What happens if there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing.
    Read,
    /// It may have been done, or be done yet.
    Write,
}

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

/// A connection to one server.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) channel: InterceptedService<Channel, Shown>,
    shown: Shown,
    pub(crate) endpoint: String,
    pub(crate) timeout: Duration,
}

/// A generated client over a link, which takes large answers.
macro_rules! client {
    ($client:ident, $link:expr) => {
        $client::new($link.channel.clone()).max_decoding_message_size($crate::reach::ANSWER_BYTES_MAX)
    };
}
pub(crate) use client;

impl Link {
    /// Waits for an answer, and makes of its absence what it means.
    pub(crate) async fn answer<T>(&self, asked: Asked, call: impl Future<Output = Result<Response<T>, Status>>) -> Outcome<T> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(asked, &status).await),
            Err(_) => Err(self.failure(asked, &Status::deadline_exceeded("no answer in time")).await),
        }
    }

    /// Why there is no answer, and what that means.
    pub(crate) async fn failure(&self, asked: Asked, status: &Status) -> Failure {
        match meaning(status.code()) {
            Exit::Unreachable => self.silence(asked, status).await,
            exit => Failure::new(exit, status.message()),
        }
    }

    async fn silence(&self, asked: Asked, status: &Status) -> Failure {
        let said = if status.source().is_some() { innermost(status) } else { status.message().to_owned() };
        let at = &self.endpoint;
        let done = match asked {
            Asked::Read => "",
            Asked::Write => "; whether it was done, or will be, is not known",
        };
        if self.is_leaderless().await {
            return Failure::new(Exit::NoQuorum, format!("{at} knows no quorum that could decide: {said}{done}"));
        }
        Failure::new(Exit::Unreachable, format!("no answer from {at}: {said}{done}"))
    }

    /// Whether the server says that nobody leads, or stands for who would.
    async fn is_leaderless(&self) -> bool {
        let mut client = client!(MaintenanceClient, self);
        let status = tokio::time::timeout(DIAGNOSIS, client.status(pb::StatusRequest {})).await;
        matches!(status, Ok(Ok(status)) if status.get_ref().leader == 0)
    }

    /// The members, as this server knows them.
    pub(crate) async fn members(&self) -> Outcome<Vec<pb::Member>> {
        let mut client = client!(ClusterClient, self);
        let list = pb::MemberListRequest { linearizable: false };
        Ok(self.answer(Asked::Read, client.member_list(list)).await?.members)
    }

    /// A member's name; its id where it has none.
    pub(crate) async fn member_name(&self, id: u64) -> String {
        let members = self.members().await.unwrap_or_default();
        members.into_iter().find(|member| member.id == id && !member.name.is_empty()).map_or(format!("{id:x}"), |member| member.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_or_urls_of_them() {
        for (text, address) in [("127.0.0.1:2379", "127.0.0.1:2379"), ("http://a:1/", "a:1"), ("https://a:1/", "https://a:1")] {
            assert_eq!(endpoint(text).as_deref(), Ok(address), "{text}");
        }
        assert_eq!(endpoint("[::1]:2379").as_deref(), Ok("[::1]:2379"));
        for text in ["ftp://a:1", "a", ":1", "a:b", "a:70000", ""] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }
}
