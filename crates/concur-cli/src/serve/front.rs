//! The flags of the front doors, named as etcd's.

use clap::Args;
use concur::{HttpRules, ServeLimits, Serving};
use std::time::Duration;

/// Front doors
#[derive(Debug, Args)]
#[command(next_help_heading = "Front doors")]
pub(crate) struct FrontFlags {
    /// Where it listens for those who ask for metrics and health, and for nothing else
    #[arg(long, env = "CONCUR_LISTEN_METRICS_URLS", value_name = "URL,…", value_delimiter = ',')]
    pub(super) listen_metrics_urls: Vec<String>,
    /// Origins whose pages may read answers; `*`: all
    #[arg(long, env = "CONCUR_CORS", value_name = "ORIGIN,…", value_delimiter = ',', default_value = "*")]
    cors: Vec<String>,
    /// Hosts that a request over plain HTTP may name; `*`: all
    #[arg(long, env = "CONCUR_HOST_WHITELIST", value_name = "HOST,…", value_delimiter = ',', default_value = "*")]
    host_whitelist: Vec<String>,
    /// Serve etcd's API as JSON under /v3/
    #[arg(long, env = "CONCUR_ENABLE_GRPC_GATEWAY", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    enable_grpc_gateway: bool,
    /// Requests and streams that one connection may have under way
    #[arg(long, env = "CONCUR_MAX_CONCURRENT_STREAMS", value_name = "COUNT", default_value_t = 4096)]
    max_concurrent_streams: u32,
    /// Connections that are open; more are refused with a reason
    #[arg(long, env = "CONCUR_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 8192)]
    max_connections: usize,
    /// How often a silent connection is asked whether it lives; 0s: never
    #[arg(long, env = "CONCUR_GRPC_KEEPALIVE_INTERVAL", value_parser = time, value_name = "TIME", default_value = "2h")]
    grpc_keepalive_interval: Duration,
    /// How long it may take to say so
    #[arg(long, env = "CONCUR_GRPC_KEEPALIVE_TIMEOUT", value_parser = time, value_name = "TIME", default_value = "20s")]
    grpc_keepalive_timeout: Duration,
    /// How far apart a client's pings must be; one that pings more often is cut; 0s: as it likes
    #[arg(long, env = "CONCUR_GRPC_KEEPALIVE_MIN_TIME", value_parser = time, value_name = "TIME", default_value = "5s")]
    grpc_keepalive_min_time: Duration,
    /// How often a watcher that asked for it is told the revision when nothing happens
    #[arg(long, env = "CONCUR_WATCH_PROGRESS_NOTIFY_INTERVAL", value_parser = time, value_name = "TIME", default_value = "10min")]
    watch_progress_notify_interval: Duration,
}

fn time(text: &str) -> Result<Duration, String> {
    concur::parse_duration(text).ok_or_else(|| "write a number with its unit, such as 20s".into())
}

impl FrontFlags {
    /// Puts what the flags say into how a node is served.
    pub(super) fn put(&self, serving: &mut Serving) {
        serving.http = HttpRules { cors: self.cors.clone(), hosts: self.host_whitelist.clone(), gateway: self.enable_grpc_gateway };
        serving.serve = ServeLimits {
            connections_max: self.max_connections,
            streams_max: self.max_concurrent_streams,
            ping_interval: self.grpc_keepalive_interval,
            ping_time_max: self.grpc_keepalive_timeout,
            ping_apart_min: self.grpc_keepalive_min_time,
            ..ServeLimits::default()
        };
        serving.notify_interval = Some(self.watch_progress_notify_interval);
    }
}
