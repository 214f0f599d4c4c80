//! One namespace, through whichever member answers.

use crate::error::{ClientError, Verdict, judge, said};
use crate::members::{Members, Place, Speaks};
use crate::retry::{Budget, backoff};
use crate::session::{Numbered, Sessions};
use bytes::Bytes;
use concur_proto::concur::v1 as pb;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tonic::{Response, Status};

/// How a client behaves. Write a literal that ends in `..Options::default()`, or begin with [`Options::new`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Members, `host:port` each, or with `https://` before it by TLS; the first that answers is spoken to.
    pub endpoints: Vec<String>,
    /// The namespace; empty for the default one.
    pub namespace: String,
    /// The token of a user, where the namespace asks who it is; empty: none. It is had from etcd's API.
    pub token: String,
    /// How long a request may take, all attempts together.
    pub timeout: Duration,
    /// How long one attempt may take before another member is asked.
    pub attempt_time_max: Duration,
    /// How long to wait before the first retry; the wait doubles with each.
    pub backoff_min: Duration,
    /// The longest wait before a retry.
    pub backoff_max: Duration,
    /// Retries that may be made at once; one in five requests, and ten a second, earn another.
    pub retries_max: u32,
    /// Commands whose replies may be waited for; more wait for their turn.
    pub in_flight_max: usize,
    /// The largest answer that is taken.
    pub answer_bytes_max: usize,
    /// How TLS is spoken: the authorities that are trusted, and the certificate that is shown.
    pub dialer: concur_tls::Dialer,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:2379".into()],
            namespace: String::new(),
            token: String::new(),
            timeout: Duration::from_secs(5),
            attempt_time_max: Duration::from_secs(2),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            retries_max: 100,
            in_flight_max: 1024,
            answer_bytes_max: 256 << 20,
            dialer: concur_tls::Dialer::default(),
        }
    }
}

impl Options {
    /// The defaults with these members.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self { endpoints: endpoints.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Linearizable: it sees every write that was acknowledged before.
    Strong,
    /// Some committed state, at once, of the member that is asked.
    Eventual,
}

/// What an answer says of its freshness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The level served.
    pub level: Level,
    /// The namespace.
    pub namespace: String,
    /// The configuration it was served in.
    pub epoch: u64,
    /// How many decisions the state had executed.
    pub position: u64,
    /// Who answered: the id, the name and the region, which may be empty.
    pub node: u64,
    /// The member's name.
    pub name: String,
    /// Its region, or empty.
    pub region: String,
}

/// An answer, and what it says of its freshness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped<T> {
    /// The answer.
    pub value: T,
    /// Its freshness.
    pub stamp: Stamp,
}

/// A client of one namespace. Clones share the session, the connections and the budget.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) members: Members,
    sessions: Sessions,
    budget: Budget,
    turns: Semaphore,
}

/// How much longer than an attempt's time to wait for the member to say that it was up.
const GRACE: Duration = Duration::from_millis(200);

impl Client {
    /// A client; nothing is connected to until it is needed. Must be called on a tokio runtime.
    pub fn open(options: Options) -> Result<Self, ClientError> {
        if options.timeout.is_zero() || options.attempt_time_max.is_zero() || options.in_flight_max == 0 {
            return Err(ClientError::Options("a time or a limit of zero would stop every request".into()));
        }
        let shared = Shared {
            members: Members::new(&options.endpoints, &options.token, options.attempt_time_max, &options.dialer)?,
            sessions: Sessions::new(),
            budget: Budget::new(options.retries_max),
            turns: Semaphore::new(options.in_flight_max.min(Semaphore::MAX_PERMITS)),
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Executes a command of the namespace's state machine, once however often it has to be sent.
    pub async fn execute(&self, command: Bytes) -> Result<Stamped<Bytes>, ClientError> {
        let deadline = Instant::now() + self.shared.options.timeout;
        let turn = tokio::time::timeout_at(deadline.into(), self.shared.turns.acquire()).await;
        let _turn = turn.map_err(|_| ClientError::NotDone("too many commands are under way".into()))?;
        loop {
            let numbered = self.number(deadline).await?;
            match self.send(&numbered, &command, deadline).await? {
                Sent::Answered(reply) => return stamped(reply.reply, reply.stamp),
                Sent::NoSession => self.shared.sessions.lost(numbered.session),
            }
        }
    }

    /// Answers a query of the namespace's state machine.
    pub async fn read(&self, level: Level, query: Bytes) -> Result<Stamped<Bytes>, ClientError> {
        let deadline = Instant::now() + self.shared.options.timeout;
        let mut tries = Tries::new(&self.shared, deadline, false);
        loop {
            let request = pb::ReadRequest {
                namespace: self.shared.options.namespace.clone(),
                level: wire_level(level) as i32,
                query: query.clone(),
                deadline_ms: tries.attempt_ms()?,
                ..Default::default()
            };
            match tries.attempt(async |mut member| member.read(request).await).await {
                Ok(reply) => return stamped(reply.answer, reply.stamp),
                Err(status) => tries.failed(&status).await?,
            }
        }
    }

    /// What each member says of itself, by its endpoint.
    pub async fn status(&self) -> Vec<(String, Result<pb::StatusReply, ClientError>)> {
        let mut all = Vec::new();
        let time_max = self.shared.options.attempt_time_max;
        for (address, mut member) in self.shared.members.all(self.shared.options.answer_bytes_max) {
            let answer = tokio::time::timeout(time_max, member.status(pb::StatusRequest {})).await;
            let said = match answer {
                Ok(Ok(reply)) => Ok(reply.into_inner()),
                Ok(Err(status)) => Err(ClientError::NotDone(said(&status))),
                Err(_) => Err(ClientError::NotDone("no answer in time".into())),
            };
            all.push((address.to_owned(), said));
        }
        all
    }

    /// A number in an open session; opens one if there is none.
    async fn number(&self, deadline: Instant) -> Result<Numbered<'_>, ClientError> {
        let sessions = &self.shared.sessions;
        loop {
            if let Ok(numbered) = sessions.number() {
                return Ok(numbered);
            }
            let _one = sessions.opening.lock().await;
            if sessions.number().is_err() {
                self.open_session(deadline).await?;
            }
        }
    }

    async fn open_session(&self, deadline: Instant) -> Result<(), ClientError> {
        // That a session is open changes nothing for anybody: another may be opened.
        let mut tries = Tries::new(&self.shared, deadline, false);
        loop {
            // Another at each attempt: one that is not answered may be decided long after, when a session of that number has been
            // used and has ended, and would begin it again with nothing executed.
            let (namespace, session) = (self.shared.options.namespace.clone(), self.shared.sessions.drawn());
            let request = pb::OpenSessionRequest { namespace, session, deadline_ms: tries.attempt_ms()? };
            match tries.attempt(async |mut member| member.open_session(request).await).await {
                Ok(_) => {
                    self.shared.sessions.opened(session);
                    return Ok(());
                }
                Err(status) => tries.failed(&status).await?,
            }
        }
    }

    async fn send(&self, numbered: &Numbered<'_>, command: &Bytes, deadline: Instant) -> Result<Sent, ClientError> {
        let mut tries = Tries::new(&self.shared, deadline, true);
        loop {
            let request = pb::ExecuteRequest {
                namespace: self.shared.options.namespace.clone(),
                session: numbered.session,
                number: numbered.number,
                command: command.clone(),
                deadline_ms: tries.attempt_ms()?,
                received_below: numbered.received_below(),
            };
            match tries.attempt(async |mut member| member.execute(request).await).await {
                Ok(reply) => return Ok(Sent::Answered(reply)),
                Err(status) if judge(&status) == Verdict::NoSession && !tries.maybe_done => return Ok(Sent::NoSession),
                Err(status) => tries.failed(&status).await?,
            }
        }
    }
}

/// What became of a command.
enum Sent {
    Answered(pb::ExecuteReply),
    NoSession,
}

/// The attempts of one request.
pub(crate) struct Tries<'s> {
    shared: &'s Shared,
    deadline: Instant,
    /// Whether what is asked has an effect.
    effect: bool,
    /// Whether an attempt may have been executed.
    maybe_done: bool,
    attempts: u32,
    /// How many members said that others have the namespace.
    elsewhere: usize,
    place: Option<Place>,
    last: String,
}

impl<'s> Tries<'s> {
    pub(crate) fn new(shared: &'s Shared, deadline: Instant, effect: bool) -> Self {
        shared.budget.earn();
        let last = "no time was left".to_owned();
        Self { shared, deadline, effect, maybe_done: false, attempts: 0, elsewhere: 0, place: None, last }
    }

    /// How long the next attempt may take; an error if no time is left.
    fn attempt_ms(&self) -> Result<u32, ClientError> {
        let left = self.deadline.saturating_duration_since(Instant::now()).min(self.shared.options.attempt_time_max);
        match u32::try_from(left.as_millis()) {
            Ok(0) => Err(self.given_up()),
            Ok(millis) => Ok(millis),
            Err(_) => Ok(u32::MAX),
        }
    }

    /// Asks the current member.
    async fn attempt<T>(&mut self, ask: impl AsyncFnOnce(Speaks) -> Result<Response<T>, Status>) -> Result<T, Status> {
        let (place, member) = self.shared.members.current(self.shared.options.answer_bytes_max);
        self.place = Some(place);
        let time_max = self.deadline.saturating_duration_since(Instant::now()).min(self.shared.options.attempt_time_max) + GRACE;
        match tokio::time::timeout(time_max, ask(member)).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    /// Looks at what went wrong; waits until it is time to try again, or gives up.
    pub(crate) async fn failed(&mut self, status: &Status) -> Result<(), ClientError> {
        let verdict = judge(status);
        let at = self.place.map_or("", |place| self.shared.members.address(place));
        self.last = format!("{at}: {}", said(status));
        self.maybe_done |= self.effect && verdict == Verdict::Unknown;
        self.elsewhere += usize::from(verdict == Verdict::Elsewhere);
        let nowhere = self.elsewhere >= self.shared.members.len();
        if matches!(verdict, Verdict::Refused | Verdict::NoSession) || nowhere {
            // Refused now, an earlier attempt may yet be executed.
            return Err(if self.maybe_done { self.given_up() } else { ClientError::Refused(said(status)) });
        }
        if let Some(place) = self.place.filter(|_| verdict != Verdict::Busy) {
            self.shared.members.leave(place);
        }
        let wait = backoff(self.attempts, self.shared.options.backoff_min, self.shared.options.backoff_max);
        self.attempts += 1;
        if Instant::now() + wait >= self.deadline || !self.shared.budget.spend() {
            return Err(self.given_up());
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Notes whom is spoken to.
    pub(crate) fn speaks_to(&mut self, place: Place) {
        self.place = Some(place);
    }

    fn given_up(&self) -> ClientError {
        let last = self.last.clone();
        if self.maybe_done { ClientError::Unknown(last) } else { ClientError::NotDone(last) }
    }
}

fn wire_level(level: Level) -> pb::Level {
    match level {
        Level::Strong => pb::Level::Strong,
        Level::Eventual => pb::Level::Eventual,
    }
}

fn stamped(value: Bytes, stamp: Option<pb::Stamp>) -> Result<Stamped<Bytes>, ClientError> {
    let pb::Stamp { level, namespace, epoch, position, node, region, name, token: _ } =
        stamp.ok_or(ClientError::Malformed("it has no stamp"))?;
    let level = if level == pb::Level::Eventual as i32 { Level::Eventual } else { Level::Strong };
    Ok(Stamped { value, stamp: Stamp { level, namespace, epoch, position, node, name, region } })
}
