//! The pages that a client listener serves over plain HTTP: health, readiness, version, metrics.
//!
//! `/health` and its queries are etcd's. `/livez` says that the process answers; `/readyz` that it can serve: the node is a
//! member, a leader is known, no alarm is armed that stops writes, and a linearizable read went through. With `?verbose` both list their checks.
//!
//! Not here: the JSON gateway and the console.

use std::time::Instant;

use concur_kv::{AlarmKind, Answer, Query, Status as StoreStatus};
use http::{Method, Request, Response, StatusCode};
use tonic::body::Body;

use crate::door::Level;
use crate::etcd::{ETCD_VERSION, Etcd, alarm_name, reads_all};
use crate::metrics;
use crate::serve::{Answering, text};

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers a request that is no gRPC call. Its body, if any, is not read.
pub(crate) fn answer<B>(etcd: Etcd, request: Request<B>) -> Answering {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Box::pin(std::future::ready(Ok(text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET is served here\n"))));
    }
    let (path, asked) = (request.uri().path().to_owned(), Asked::of(request.uri().query().unwrap_or("")));
    Box::pin(async move {
        Ok(match path.as_str() {
            "/health" => health(&etcd, &asked).await,
            "/livez" => checked(vec![("serving", Ok(()))], &asked),
            "/readyz" => checked(readiness(&etcd, &asked).await, &asked),
            "/version" => version(),
            "/metrics" => page(&etcd).await,
            _ => text(StatusCode::NOT_FOUND, PLAIN, "404 page not found\n"),
        })
    })
}

/// What a query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    serializable: bool,
    verbose: bool,
    exclude: Vec<String>,
}

impl Asked {
    fn of(query: &str) -> Self {
        let mut asked = Self::default();
        for pair in query.split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("serializable", value) => asked.serializable = value == "true",
                ("verbose", _) => asked.verbose = true,
                ("exclude", value) => asked.exclude.extend(value.split(',').map(str::to_owned)),
                _ => {}
            }
        }
        asked
    }

    fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|excluded| excluded == name)
    }
}

type Check = (&'static str, Result<(), String>);

async fn health(etcd: &Etcd, asked: &Asked) -> Response<Body> {
    for (_, result) in readiness(etcd, asked).await {
        if let Err(reason) = result {
            let body = health_json("false", &reason);
            return text(StatusCode::SERVICE_UNAVAILABLE, JSON, body);
        }
    }
    text(StatusCode::OK, JSON, health_json("true", ""))
}

/// Reasons hold no character that JSON escapes but quotes and backslashes of texts from outside.
fn health_json(health: &str, reason: &str) -> String {
    let reason: String = reason.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').collect();
    format!("{{\"health\":\"{health}\",\"reason\":\"{reason}\"}}")
}

/// Everything that must hold for this node to serve, cheapest first; what follows a failure is not asked.
async fn readiness(etcd: &Etcd, asked: &Asked) -> Vec<Check> {
    let mut checks = Vec::new();
    let deadline = Instant::now() + etcd.limits.request_time_max;
    let alarms = match store_status(etcd, deadline).await {
        Ok(store) => store.alarms,
        Err(reason) => {
            checks.push(("data", Err(reason)));
            return checks;
        }
    };
    for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
        let armed = alarms.iter().any(|alarm| alarm.kind == kind) && !asked.excludes(alarm_name(kind));
        let name = if kind == AlarmKind::NoSpace { "space" } else { "data_corruption" };
        checks.push((name, if armed { Err(format!("ALARM {}", alarm_name(kind))) } else { Ok(()) }));
    }
    if asked.serializable {
        return checks;
    }
    if etcd.door.pulse().removed() {
        checks.push(("membership", Err("this node was removed from the cluster, and stops".into())));
        return checks;
    }
    if etcd.door.pulse().leader() == 0 {
        checks.push(("leader", Err("RAFT NO LEADER".into())));
        return checks;
    }
    checks.push(("leader", Ok(())));
    let read = etcd.door.read(Level::Strong, reads_all(), deadline, |_| ()).await;
    checks.push(("linearizable_read", read.map(drop).map_err(|refusal| format!("QGET ERROR:{refusal}"))));
    checks
}

async fn store_status(etcd: &Etcd, deadline: Instant) -> Result<StoreStatus, String> {
    let asked = etcd.door.read(Level::Eventual, reads_all(), deadline, |kv| kv.answer(&Query::Status)).await;
    match asked {
        Ok((Answer::Status(store), _)) => Ok(store),
        Ok(_) => Err("the store gave no status".into()),
        Err(refusal) => Err(refusal.to_string()),
    }
}

fn checked(checks: Vec<Check>, asked: &Asked) -> Response<Body> {
    let failed: Vec<&Check> = checks.iter().filter(|(name, result)| result.is_err() && !asked.excludes(name)).collect();
    let mut body = String::new();
    if asked.verbose || !failed.is_empty() {
        for (name, result) in &checks {
            body.push_str(&match result {
                Ok(()) => format!("[+]{name} ok\n"),
                Err(reason) => format!("[-]{name} failed: {reason}\n"),
            });
        }
    }
    body.push_str(if failed.is_empty() { "ok\n" } else { "check failed\n" });
    text(if failed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, PLAIN, body)
}

fn version() -> Response<Body> {
    let ours = env!("CARGO_PKG_VERSION");
    text(
        StatusCode::OK,
        JSON,
        format!(
            "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{ETCD_VERSION}\",\"storage\":\"{ETCD_VERSION}\",\"concur\":\"{ours}\"}}"
        ),
    )
}

async fn page(etcd: &Etcd) -> Response<Body> {
    let deadline = Instant::now() + etcd.limits.request_time_max;
    let (node, store) = (etcd.door.status().await, store_status(etcd, deadline).await);
    match (node, store) {
        (Ok(node), Ok(store)) => {
            let page = etcd.metrics.page(etcd.door.pulse(), etcd.identity, &node, &store);
            text(StatusCode::OK, metrics::CONTENT_TYPE, page)
        }
        (Err(refusal), _) => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{refusal}\n")),
        (_, Err(reason)) => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_etcd_reads_them() {
        assert_eq!(Asked::of(""), Asked::default());
        let asked = Asked::of("serializable=true&exclude=NOSPACE&verbose");
        assert!(asked.serializable && asked.verbose && asked.excludes("NOSPACE") && !asked.excludes("CORRUPT"));
    }
}
