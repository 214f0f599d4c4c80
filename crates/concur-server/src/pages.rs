//! The pages that a client listener serves over plain HTTP: health, readiness, version, metrics.
//!
//! The pages, their checks and their queries are etcd's. `/health` is well where no alarm is armed, a leader is known and a linearizable
//! read went through. `/livez` says that the process answers from its state; `/readyz` that it can serve. Both list their checks with
//! `?verbose` and leave out those that `?exclude` names; each check has a page of its own below (`/readyz/linearizable_read`).
//!
//! Not here: the JSON gateway and the console.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Instant;

use concur_kv::{AlarmKind, Answer, Query, Status as StoreStatus};
use http::header::{ACCEPT, ALLOW, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use tonic::body::Body;
use tower_service::Service;

use crate::door::Level;
use crate::etcd::{ETCD_VERSION, Etcd, alarm_name, reads_all};
use crate::metrics;
use crate::serve::{Answering, text};

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// A listener's service that has the pages only.
#[derive(Debug, Clone)]
pub(crate) struct Pages(pub(crate) Etcd);

impl<B> Service<Request<B>> for Pages {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        answer(self.0.clone(), request)
    }
}

/// Answers a request that is no gRPC call. Its body, if any, is not read.
pub(crate) fn answer<B>(etcd: Etcd, request: Request<B>) -> Answering {
    let reads = request.method() == Method::GET;
    let (path, asked) = (request.uri().path().to_owned(), Asked::of(request.uri().query().unwrap_or("")));
    let open = request.headers().get(ACCEPT).is_some_and(|kinds| kinds.to_str().is_ok_and(|kinds| kinds.contains("openmetrics-text")));
    Box::pin(async move {
        Ok(match path.as_str() {
            "/metrics" => page(&etcd, if open { metrics::CONTENT_TYPE } else { metrics::PLAIN_TYPE }).await,
            path if is_check(path) && !reads => only_get(),
            "/health" => health(&etcd, &asked).await,
            "/livez" => checked(liveness(&etcd).await, &asked),
            "/readyz" => checked(readiness(&etcd, &asked).await, &asked),
            "/version" => version(),
            path => match (path.strip_prefix("/livez/"), path.strip_prefix("/readyz/")) {
                (Some(name), _) => only(liveness(&etcd).await, name, &asked),
                (_, Some(name)) => only(readiness(&etcd, &Asked::default()).await, name, &asked),
                _ => text(StatusCode::NOT_FOUND, PLAIN, "404 page not found\n"),
            },
        })
    })
}

/// Whether a path is of those that etcd answers to GET alone.
fn is_check(path: &str) -> bool {
    let names = |page: &str, checks: &[&str]| {
        path.strip_prefix(page).is_some_and(|rest| rest.is_empty() || rest.strip_prefix('/').is_some_and(|name| checks.contains(&name)))
    };
    names("/health", &[]) || names("/version", &[]) || names("/livez", &LIVENESS) || names("/readyz", &READINESS)
}

fn only_get() -> Response<Body> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "Method Not Allowed\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    answer
}

/// The checks of `/livez`, and of `/readyz`, by name.
const LIVENESS: [&str; 1] = ["serializable_read"];
const READINESS: [&str; 4] = ["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

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
                ("exclude", value) => asked.exclude.push(value.to_owned()),
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
    match unhealthy(etcd, asked).await {
        Some(reason) => {
            etcd.metrics.health_failures.inc();
            text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, health_json("false", &reason))
        }
        None => {
            etcd.metrics.health_successes.inc();
            text(StatusCode::OK, PLAIN, health_json("true", ""))
        }
    }
}

/// What is wrong, in etcd's words, cheapest first.
async fn unhealthy(etcd: &Etcd, asked: &Asked) -> Option<String> {
    let deadline = Instant::now() + etcd.limits.request_time_max;
    let store = match store_status(etcd, deadline).await {
        Ok(store) => store,
        Err(reason) => return Some(format!("RANGE ERROR:{reason}")),
    };
    let armed = store.alarms.iter().map(|alarm| alarm_name(alarm.kind)).find(|name| !asked.excludes(name));
    if let Some(name) = armed {
        return Some(format!("ALARM {name}"));
    }
    if asked.serializable {
        return None;
    }
    if etcd.door.pulse().leader() == 0 {
        return Some("RAFT NO LEADER".into());
    }
    let read = etcd.door.read(Level::Strong, reads_all(), deadline, |_| ()).await;
    read.err().map(|refusal| format!("RANGE ERROR:{refusal}"))
}

/// Reasons hold no character that JSON escapes but quotes and backslashes of texts from outside.
fn health_json(health: &str, reason: &str) -> String {
    let reason: String = reason.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').collect();
    format!("{{\"health\":\"{health}\",\"reason\":\"{reason}\"}}")
}

/// That this process answers from its own state.
async fn liveness(etcd: &Etcd) -> Vec<Check> {
    let deadline = Instant::now() + etcd.limits.request_time_max;
    vec![("serializable_read", store_status(etcd, deadline).await.map(drop))]
}

/// Everything that must hold for this node to serve, except what is excluded.
async fn readiness(etcd: &Etcd, asked: &Asked) -> Vec<Check> {
    let mut checks = Vec::new();
    let deadline = Instant::now() + etcd.limits.request_time_max;
    let store = store_status(etcd, deadline).await;
    let corrupt = store.as_ref().is_ok_and(|store| store.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt));
    checks.push(("data_corruption", if corrupt { Err("alarm activated: CORRUPT".into()) } else { Ok(()) }));
    checks.push(("serializable_read", store.map(drop)));
    if !asked.excludes("linearizable_read") {
        let read = match etcd.door.pulse().leader() {
            0 => Err("etcdserver: no leader".into()),
            _ => etcd.door.read(Level::Strong, reads_all(), deadline, |_| ()).await.map(drop).map_err(|refusal| refusal.to_string()),
        };
        checks.push(("linearizable_read", read));
    }
    if !asked.excludes("non_learner") {
        let learns = etcd.door.status().await.is_ok_and(|status| status.observer);
        checks.push(("non_learner", if learns { Err("not supported for learner".into()) } else { Ok(()) }));
    }
    if etcd.door.pulse().removed() {
        checks.push(("membership", Err("this node was removed from the cluster, and stops".into())));
    }
    checks.retain(|(name, _)| !asked.excludes(name));
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
    let failed = checks.iter().any(|(_, result)| result.is_err());
    let mut body = String::new();
    if asked.verbose || failed {
        for (name, result) in &checks {
            body.push_str(&match result {
                Ok(()) => format!("[+]{name} ok\n"),
                Err(reason) => format!("[-]{name} failed: {reason}\n"),
            });
        }
    }
    if failed {
        return text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, body);
    }
    body.push_str("ok\n");
    text(StatusCode::OK, PLAIN, body)
}

/// One check of a page, by its name.
fn only(checks: Vec<Check>, name: &str, asked: &Asked) -> Response<Body> {
    let found: Vec<Check> = checks.into_iter().filter(|(known, _)| *known == name).collect();
    if found.is_empty() { text(StatusCode::NOT_FOUND, PLAIN, "404 page not found\n") } else { checked(found, asked) }
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

async fn page(etcd: &Etcd, content_type: &'static str) -> Response<Body> {
    let deadline = Instant::now() + etcd.limits.request_time_max;
    let (node, store) = (etcd.door.status().await, store_status(etcd, deadline).await);
    match (node, store) {
        (Ok(node), Ok(store)) => {
            let page = etcd.metrics.page(etcd.door.pulse(), etcd.identity, &node, &store);
            text(StatusCode::OK, content_type, page)
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
