//! A system from TOML, with the place of every value kept.
//!
//! The file is walked by hand rather than deserialised, because the first error must not hide the others: whatever cannot be read
//! is noted and replaced by its default, and the walk goes on. What was noted once is not found again by the checks that follow.

use crate::check::{self, nearest};
use crate::units::{parse_duration, parse_size};
use crate::{Execution, Security, TlsOptions, Transport, Version, Volume};
use crate::{Finding, Invalid, Level, Link, Member, Namespace, Network, Order, PeerManagement, Place, Prediction, Quorums, Region, System};
use concur_decision::DecisionMaking;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file that describes a system, read as far as it can be, with everything that is wrong with it.
#[derive(Debug, Clone)]
pub struct Document {
    system: System,
    findings: Vec<Finding>,
    places: BTreeMap<String, Place>,
}

impl Document {
    /// Reads and checks.
    pub fn read(text: &str) -> Self {
        Self::read_under(text, |_| {})
    }

    /// Reads a file over which something else was said, and checks what comes of both.
    pub fn read_under(text: &str, said: impl FnOnce(&mut System)) -> Self {
        let mut reading = Reading { text, findings: Vec::new(), spans: BTreeMap::new() };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            reading.syntax(&error);
        }
        let mut system = reading.system(table.get_ref());
        said(&mut system);
        let Reading { mut findings, spans, .. } = reading;
        let read: Vec<String> = findings.iter().map(|f| f.field.clone()).collect();
        findings.extend(check::check(&system).into_iter().filter(|f| !read.contains(&f.field)));
        let places = spans.into_iter().map(|(field, span)| (field, place(text, span.start))).collect();
        let mut document = Self { system, findings, places };
        document.locate();
        document
    }

    /// Everything that is wrong, in the order of the file.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Where the value of a field stands, if the file gives it.
    pub fn place(&self, field: &str) -> Option<Place> {
        self.places.get(field).copied()
    }

    /// Every field that the file gives, with its place.
    pub fn places(&self) -> impl Iterator<Item = (&str, Place)> {
        self.places.iter().map(|(field, place)| (field.as_str(), *place))
    }

    /// What to expect of the system, unless the file has errors.
    pub fn prediction(&self) -> Option<Prediction> {
        (!self.is_invalid()).then(|| self.system.predict())
    }

    /// Whether there are errors; warnings do not count.
    pub fn is_invalid(&self) -> bool {
        self.findings.iter().any(Finding::is_error)
    }

    /// The system, if the file has no errors.
    pub fn into_system(self) -> Result<System, Invalid> {
        if self.is_invalid() { Err(Invalid { findings: self.findings }) } else { Ok(self.system) }
    }

    /// Gives each finding the place of its field, or of what the field is part of.
    fn locate(&mut self) {
        for finding in &mut self.findings {
            let mut field = finding.field.as_str();
            while finding.place.is_none() && !field.is_empty() {
                finding.place = self.places.get(field).copied();
                field = &field[..field.rfind(['.', '[']).unwrap_or(0)];
            }
        }
        self.findings.sort_by_key(|f| (f.place.map_or((usize::MAX, 0), |p| (p.line, p.column)), f.severity));
    }
}

fn place(text: &str, at: usize) -> Place {
    let before = &text[..at.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

struct Reading<'t> {
    text: &'t str,
    findings: Vec<Finding>,
    spans: BTreeMap<String, Range<usize>>,
}

/// One table of the file, and which of its keys were asked for.
struct Section<'t> {
    path: String,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    fn new(path: impl Into<String>, table: &'t DeTable<'t>) -> Self {
        Self { path: path.into(), table, known: Vec::new() }
    }

    fn field(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, value)| value)
    }
}

impl<'t> Reading<'t> {
    fn syntax(&mut self, error: &toml::de::Error) {
        let at = error.span().map_or(0, |span| span.start);
        let why = "nothing behind a place that cannot be read is sure to mean what it seems to";
        let mut finding = Finding::error("C001", "file", format!("this is not TOML: {}", error.message()), why, "correct the line");
        finding.place = Some(place(self.text, at));
        self.findings.push(finding);
    }

    fn system(&mut self, table: &'t DeTable<'t>) -> System {
        let mut system = System::default();
        let mut top = Section::new("", table);
        let members = self.tables(&mut top, "members").into_iter().map(|s| self.member(s)).collect::<Vec<_>>();
        system.quorum_size = if members.is_empty() { system.quorum_size } else { members.len() };
        system.members = members;
        if let Some(section) = self.table(&mut top, "system") {
            self.system_section(section, &mut system);
        }
        if let Some(section) = self.table(&mut top, "network") {
            self.network(section, &mut system);
        }
        if let Some(section) = self.table(&mut top, "quorums") {
            self.quorums(section, &mut system);
        }
        if let Some(section) = self.table(&mut top, "timeouts") {
            self.timeouts(section, &mut system);
        }
        if let Some(section) = self.table(&mut top, "limits") {
            self.limits(section, &mut system);
        }
        if let Some(section) = self.table(&mut top, "goals") {
            self.goals(section, &mut system);
        }
        if let Some(mut section) = self.table(&mut top, "etcd") {
            self.text(&mut section, "namespace", &mut system.etcd_namespace);
            self.finish(section);
        }
        if let Some(mut section) = self.table(&mut top, "security") {
            self.flag(&mut section, "insecure", &mut system.insecure);
            self.security(section, &mut system.security);
        }
        if let Some(section) = self.table(&mut top, "regions") {
            system.regions = self.regions(section);
        }
        system.links = self.tables(&mut top, "link").into_iter().map(|s| self.link(s)).collect();
        system.namespaces = self.tables(&mut top, "namespace").into_iter().map(|s| self.namespace(s)).collect();
        self.finish(top);
        system
    }

    fn system_section(&mut self, mut section: Section<'t>, system: &mut System) {
        self.count(&mut section, "quorum_size", &mut system.quorum_size);
        if let Some(strategy) = self.strategy(&mut section) {
            system.decision_making = strategy;
        }
        self.word(&mut section, "execution", &[("on-commit", Execution::OnCommit)], &mut system.execution);
        self.word(
            &mut section,
            "peer_management",
            &[("static", PeerManagement::Static), ("dynamic", PeerManagement::Dynamic)],
            &mut system.peer_management,
        );
        self.word(&mut section, "order", ORDERS, &mut system.order);
        let mut data_dir = system.data_dir.display().to_string();
        self.text(&mut section, "data_dir", &mut data_dir);
        system.data_dir = data_dir.into();
        self.text(&mut section, "cluster_token", &mut system.cluster_token);
        self.finish(section);
    }

    fn network(&mut self, mut section: Section<'t>, system: &mut System) {
        let mut volume = Volume::Broadcast;
        self.word(&mut section, "volume", &[("broadcast", Volume::Broadcast), ("thrifty", Volume::Thrifty)], &mut volume);
        let grpc = Network::Stream { protocol: Transport::Grpc, volume };
        system.network = grpc;
        self.word(&mut section, "protocol", &[("grpc", grpc), ("in-process", Network::InProcess)], &mut system.network);
        self.finish(section);
    }

    fn quorums(&mut self, mut section: Section<'t>, system: &mut System) {
        let own = system.quorum_system();
        let size = |phase| own.size(phase);
        use concur_core::Phase;
        let (mut prepare, mut accept, mut fast) = (size(Phase::Prepare), size(Phase::Accept), size(Phase::Fast));
        self.count(&mut section, "prepare", &mut prepare);
        self.count(&mut section, "accept", &mut accept);
        self.count(&mut section, "fast", &mut fast);
        if !section.table.is_empty() {
            system.quorums = Quorums::Counts { prepare, accept, fast };
        }
        self.finish(section);
    }

    fn timeouts(&mut self, mut section: Section<'t>, system: &mut System) {
        let timeouts = &mut system.timeouts;
        self.duration(&mut section, "heartbeat", &mut timeouts.heartbeat);
        self.duration(&mut section, "election", &mut timeouts.election);
        self.duration(&mut section, "request", &mut timeouts.request);
        self.duration(&mut section, "stop", &mut timeouts.stop);
        self.finish(section);
    }

    fn limits(&mut self, mut section: Section<'t>, system: &mut System) {
        let limits = &mut system.limits;
        self.size(&mut section, "request_bytes_max", &mut limits.request_bytes_max);
        self.size(&mut section, "batch_bytes_max", &mut limits.batch_bytes_max);
        self.count(&mut section, "batches_in_flight_max", &mut limits.batches_in_flight_max);
        self.count(&mut section, "pending_commands_max", &mut limits.pending_commands_max);
        self.size(&mut section, "retained_bytes_max", &mut limits.retained_bytes_max);
        self.size(&mut section, "quota_bytes", &mut limits.quota_bytes);
        self.size(&mut section, "checkpoint_bytes", &mut limits.checkpoint_bytes);
        self.finish(section);
    }

    fn goals(&mut self, mut section: Section<'t>, system: &mut System) {
        let mut latency = Duration::ZERO;
        if self.duration(&mut section, "write_latency", &mut latency) {
            system.goals.write_latency = Some(latency);
        }
        self.count(&mut section, "regions_lost", &mut system.goals.regions_lost);
        self.finish(section);
    }

    fn security(&mut self, mut section: Section<'t>, security: &mut Security) {
        const VERSIONS: &[(&str, Version)] = &[("TLS1.2", Version::V12), ("TLS1.3", Version::V13)];
        self.texts(&mut section, "cipher_suites", &mut security.rules.cipher_suites);
        self.word(&mut section, "tls_version_min", VERSIONS, &mut security.rules.version_min);
        self.word(&mut section, "tls_version_max", VERSIONS, &mut security.rules.version_max);
        self.count(&mut section, "self_signed_years", &mut security.self_signed_years);
        if let Some(inner) = self.table(&mut section, "client") {
            self.tls(inner, &mut security.client);
        }
        if let Some(inner) = self.table(&mut section, "peer") {
            self.tls(inner, &mut security.peer);
        }
        self.finish(section);
    }

    fn tls(&mut self, mut section: Section<'t>, tls: &mut TlsOptions) {
        self.path(&mut section, "cert_file", &mut tls.cert_file);
        self.path(&mut section, "key_file", &mut tls.key_file);
        self.path(&mut section, "client_cert_file", &mut tls.client_cert_file);
        self.path(&mut section, "client_key_file", &mut tls.client_key_file);
        self.path(&mut section, "trusted_ca_file", &mut tls.trusted_ca_file);
        self.path(&mut section, "crl_file", &mut tls.crl_file);
        self.flag(&mut section, "client_cert_auth", &mut tls.client_cert_auth);
        self.flag(&mut section, "auto", &mut tls.auto);
        self.texts(&mut section, "allowed_names", &mut tls.allowed_names);
        self.texts(&mut section, "allowed_hosts", &mut tls.allowed_hosts);
        self.finish(section);
    }

    fn regions(&mut self, section: Section<'t>) -> BTreeMap<String, Region> {
        let mut regions = BTreeMap::new();
        for (name, value) in section.table {
            let field = section.field(name.get_ref());
            let mut region = Region::default();
            if let Some(mut inner) = self.as_table(field, value) {
                self.text(&mut inner, "jurisdiction", &mut region.jurisdiction);
                self.finish(inner);
            }
            regions.insert(name.get_ref().to_string(), region);
        }
        regions
    }

    fn member(&mut self, mut section: Section<'t>) -> Member {
        let mut member = Member::new("", "", "");
        self.needed_text(&mut section, "name", &mut member.name);
        self.text(&mut section, "region", &mut member.region);
        self.needed_text(&mut section, "peer", &mut member.peer);
        self.text(&mut section, "client", &mut member.client);
        self.count(&mut section, "weight", &mut member.weight);
        self.finish(section);
        member
    }

    fn link(&mut self, mut section: Section<'t>) -> Link {
        let mut link = Link { between: Default::default(), round_trip: Duration::ZERO };
        let mut between = Vec::new();
        self.texts(&mut section, "between", &mut between);
        match <[String; 2]>::try_from(between) {
            Ok([a, b]) => link.between = (a, b),
            Err(_) => self.mistyped(section.field("between"), "two names of regions"),
        }
        if !self.duration(&mut section, "round_trip", &mut link.round_trip) && link.round_trip.is_zero() {
            self.missing(&section, "round_trip");
        }
        self.finish(section);
        link
    }

    fn namespace(&mut self, mut section: Section<'t>) -> Namespace {
        let mut namespace = Namespace::new("");
        self.needed_text(&mut section, "name", &mut namespace.name);
        namespace.decision_making = self.strategy(&mut section);
        self.word(&mut section, "order", ORDERS, &mut namespace.order);
        self.texts(&mut section, "members", &mut namespace.members);
        self.word(&mut section, "reads", &[("strong", Level::Strong), ("eventual", Level::Eventual)], &mut namespace.reads);
        self.text(&mut section, "jurisdiction", &mut namespace.jurisdiction);
        self.finish(section);
        namespace
    }

    fn strategy(&mut self, section: &mut Section<'t>) -> Option<DecisionMaking> {
        let mut name = String::new();
        if !self.text(section, "decision_making", &mut name) {
            return None;
        }
        let found = concur_decision::find(&name).map(DecisionMaking::from);
        if found.is_none() {
            let names: Vec<&str> = concur_decision::registry().iter().map(|s| s.traits.name).collect();
            let guess = nearest(&name, names.iter().copied()).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            let what = format!("no strategy is called `{name}`{guess}");
            let fix = format!("choose one of {}; `concur strategies` describes them", list(names));
            let why = "the strategy decides how replicas vote, so there is no default for a misspelt one";
            self.findings.push(Finding::error("C005", section.field("decision_making"), what, why, fix));
        }
        found
    }
}

const ORDERS: &[(&str, Order)] = &[("total", Order::Total), ("per-key", Order::PerKey)];

/// The kinds of values.
impl<'t> Reading<'t> {
    fn value(&mut self, section: &mut Section<'t>, key: &'static str) -> Option<(String, &'t DeValue<'t>)> {
        let value = section.get(key)?;
        let field = section.field(key);
        self.spans.insert(field.clone(), value.span());
        Some((field, value.get_ref()))
    }

    fn as_table(&mut self, field: String, value: &'t Spanned<DeValue<'t>>) -> Option<Section<'t>> {
        self.spans.insert(field.clone(), value.span());
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(field, table)),
            None => {
                self.mistyped(field, "a table");
                None
            }
        }
    }

    fn table(&mut self, section: &mut Section<'t>, key: &'static str) -> Option<Section<'t>> {
        let value = section.get(key)?;
        self.as_table(section.field(key), value)
    }

    fn tables(&mut self, section: &mut Section<'t>, key: &'static str) -> Vec<Section<'t>> {
        let Some((field, value)) = self.value(section, key) else { return Vec::new() };
        let Some(array) = value.as_array() else {
            self.mistyped(field, "a list of tables, each under `[[ ]]`");
            return Vec::new();
        };
        array.iter().enumerate().filter_map(|(i, value)| self.as_table(format!("{field}[{i}]"), value)).collect()
    }

    fn text(&mut self, section: &mut Section<'t>, key: &'static str, into: &mut String) -> bool {
        let Some((field, value)) = self.value(section, key) else { return false };
        match value.as_str() {
            Some(text) => *into = text.to_string(),
            None => self.mistyped(field, "a text in quotes"),
        }
        value.is_str()
    }

    fn needed_text(&mut self, section: &mut Section<'t>, key: &'static str, into: &mut String) {
        if !self.text(section, key, into) && !section.table.keys().any(|k| k.get_ref() == key) {
            self.missing(section, key);
        }
    }

    fn path(&mut self, section: &mut Section<'t>, key: &'static str, into: &mut PathBuf) {
        let mut text = String::new();
        if self.text(section, key, &mut text) {
            *into = text.into();
        }
    }

    fn texts(&mut self, section: &mut Section<'t>, key: &'static str, into: &mut Vec<String>) {
        let Some((field, value)) = self.value(section, key) else { return };
        let Some(array) = value.as_array() else { return self.mistyped(field, "a list of texts") };
        for (i, value) in array.iter().enumerate() {
            let field = format!("{field}[{i}]");
            self.spans.insert(field.clone(), value.span());
            match value.get_ref().as_str() {
                Some(text) => into.push(text.to_string()),
                None => self.mistyped(field, "a text in quotes"),
            }
        }
    }

    fn flag(&mut self, section: &mut Section<'t>, key: &'static str, into: &mut bool) {
        let Some((field, value)) = self.value(section, key) else { return };
        match value.as_bool() {
            Some(flag) => *into = flag,
            None => self.mistyped(field, "`true` or `false`"),
        }
    }

    fn count<N: TryFrom<u64>>(&mut self, section: &mut Section<'t>, key: &'static str, into: &mut N) {
        let Some((field, value)) = self.value(section, key) else { return };
        let number = value.as_integer().and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok());
        match number.and_then(|n| N::try_from(n).ok()) {
            Some(number) => *into = number,
            None => self.mistyped(field, "a whole number, 0 or more"),
        }
    }

    fn size<N: TryFrom<u64>>(&mut self, section: &mut Section<'t>, key: &'static str, into: &mut N) {
        let Some((field, value)) = self.value(section, key) else { return };
        let text = value.as_str().or_else(|| value.as_integer().filter(|i| i.radix() == 10).map(|i| i.as_str()));
        match text.and_then(parse_size).and_then(|n| N::try_from(n).ok()) {
            Some(bytes) => *into = bytes,
            None => self.mistyped(field, "a size such as \"16 MiB\", or a number of bytes"),
        }
    }

    fn duration(&mut self, section: &mut Section<'t>, key: &'static str, into: &mut Duration) -> bool {
        let Some((field, value)) = self.value(section, key) else { return false };
        if let Some(duration) = value.as_str().and_then(parse_duration) {
            *into = duration;
            return true;
        }
        let given = match value {
            DeValue::Integer(i) => i.as_str().to_string(),
            DeValue::Float(f) => f.as_str().to_string(),
            DeValue::String(text) => format!("\"{text}\""),
            other => format!("a {}", other.type_str()),
        };
        let number = given.trim_matches('"');
        let fix = match number.parse::<f64>() {
            Ok(_) => format!("write \"{number} ms\" or \"{number} s\", whichever is meant"),
            Err(_) => "write a number and its unit, such as \"100 ms\" or \"2 s\"".into(),
        };
        let why = "a bare number is read as seconds by one person and as milliseconds by the next";
        self.findings.push(Finding::error("C003", field, format!("{given} is not a duration with a unit"), why, fix));
        false
    }

    fn word<T: Copy>(&mut self, section: &mut Section<'t>, key: &'static str, words: &[(&str, T)], into: &mut T) {
        let Some((field, value)) = self.value(section, key) else { return };
        let Some(text) = value.as_str() else { return self.mistyped(field, "a text in quotes") };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => *into = *value,
            None => {
                let guess = nearest(text, words.iter().map(|w| w.0)).map(|w| format!("; did you mean `{w}`?")).unwrap_or_default();
                let what = format!("`{text}` is not a choice here{guess}");
                let fix = format!("choose {}", list(words.iter().map(|w| w.0).collect()));
                self.findings.push(Finding::error("C004", field, what, "only what is built can be chosen", fix));
            }
        }
    }

    fn mistyped(&mut self, field: String, wanted: &str) {
        let why = "a value of another kind would be read as something that was not meant";
        self.findings.push(Finding::error("C004", field, format!("this should be {wanted}"), why, format!("write {wanted}")));
    }

    fn missing(&mut self, section: &Section<'t>, key: &str) {
        let what = format!("`{key}` is missing");
        let why = "it has no default that would be right";
        self.findings.push(Finding::error("C006", section.field(key), what, why, format!("add `{key} = …`")));
    }

    fn finish(&mut self, section: Section<'t>) {
        for (key, _) in section.table {
            let name: &str = key.get_ref();
            if section.known.contains(&name) {
                continue;
            }
            let field = section.field(name);
            self.spans.insert(field.clone(), key.span());
            let guess = nearest(name, section.known.iter().copied()).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            let what = format!("`{name}` means nothing here{guess}");
            let fix = format!("remove it, or use one of {}", list(section.known.clone()));
            self.findings.push(Finding::error("C002", field, what, "a key that is ignored would hide a mistake", fix));
        }
    }
}

fn list(mut words: Vec<&str>) -> String {
    words.dedup();
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}
