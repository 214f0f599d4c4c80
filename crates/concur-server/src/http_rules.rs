//! Whom plain HTTP is answered: the origins of pages in browsers, and the hosts that requests may name.
//!
//! Both are etcd's: `--cors` says which pages may read answers, `--host-whitelist` which `Host` a request without TLS may have, against
//! pages that point a name of theirs at this machine (CVE-2018-5702). gRPC is not concerned: no browser speaks it.

use http::header::{ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use tonic::body::Body;

use crate::serve::{Encrypted, text};

const ANY: &str = "*";

/// Whom plain HTTP is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRules {
    /// Origins whose pages may read answers; `*`: all.
    pub cors: Vec<String>,
    /// Hosts that a request without TLS may name; `*`: all.
    pub hosts: Vec<String>,
    /// Whether etcd's API is served as JSON.
    pub gateway: bool,
}

impl Default for HttpRules {
    fn default() -> Self {
        Self { cors: vec![ANY.into()], hosts: vec![ANY.into()], gateway: true }
    }
}

impl HttpRules {
    /// The answer to what is not let in, and to a browser that asks first.
    pub(crate) fn at_once<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let encrypted = request.extensions().get::<Encrypted>().is_some();
        let any = self.hosts.is_empty() || self.hosts.iter().any(|host| host == ANY);
        if !any && !encrypted {
            let host = host(request);
            if !self.hosts.iter().any(|known| known == host) {
                let why = format!("the host {host} is not known here: name it with --host-whitelist, or use TLS\n");
                return Some(text(StatusCode::MISDIRECTED_REQUEST, "text/plain; charset=utf-8", why));
            }
        }
        if !self.gateway && crate::gateway::serves(request.uri().path()) {
            return Some(text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n"));
        }
        if request.method() != Method::OPTIONS {
            return None;
        }
        let answer = text(StatusCode::OK, "text/plain; charset=utf-8", "");
        Some(match self.allowed(request) {
            Some(origin) => Self::allow(answer, origin),
            None => answer,
        })
    }

    /// The origin that may read the answer, if one may.
    pub(crate) fn allowed<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        if self.cors.iter().any(|origin| origin == ANY) {
            return Some(HeaderValue::from_static(ANY));
        }
        let origin = request.headers().get(ORIGIN)?;
        self.cors.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    /// Lets pages of an origin read an answer.
    pub(crate) fn allow(mut answer: Response<Body>, origin: HeaderValue) -> Response<Body> {
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
        answer
    }
}

/// The host that a request names, without its port.
fn host<B>(request: &Request<B>) -> &str {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let named = named.or_else(|| request.uri().host()).unwrap_or_default();
    match named.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host.trim_matches(['[', ']']),
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, origin: &str) -> Request<()> {
        Request::builder().uri("/v3/kv/range").header(HOST, host).header(ORIGIN, origin).body(()).unwrap()
    }

    #[test]
    fn hosts_and_origins_are_those_that_are_named() {
        let rules = HttpRules { cors: vec!["http://a".into()], hosts: vec!["a".into(), "::1".into()], gateway: true };
        for (host, refused) in [("a", false), ("a:2379", false), ("[::1]:2379", false), ("b:2379", true), ("", true)] {
            let answer = rules.at_once(&request(host, "http://a"));
            assert_eq!(answer.map(|answer| answer.status()), refused.then_some(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
        assert_eq!(rules.allowed(&request("a", "http://a")).unwrap(), "http://a");
        assert_eq!(rules.allowed(&request("a", "http://b")), None);
        assert_eq!(HttpRules::default().allowed(&request("a", "http://b")).unwrap(), "*");
        let mut encrypted = request("b", "");
        encrypted.extensions_mut().insert(Encrypted);
        assert!(rules.at_once(&encrypted).is_none(), "a page cannot have a certificate for another's name");
        let closed = HttpRules { gateway: false, ..HttpRules::default() };
        assert_eq!(closed.at_once(&request("a", "")).unwrap().status(), StatusCode::NOT_FOUND);
    }
}
