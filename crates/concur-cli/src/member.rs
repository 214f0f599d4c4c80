//! `concur member …` and `concur strategy switch`: who is in and how they decide, changed while clients run.
//!
//! A change is asked of whichever member is reached, which has it decided. It ends one epoch and begins the next; what is printed is
//! that epoch, and how long the member that was asked paused between the two. A newcomer that is to vote follows first and is given
//! its vote by the others once it is close behind: that takes a second epoch, which the command waits for.

use crate::exit::{Exit, Failure, Outcome, Tone, say};
use crate::output::Output;
use crate::reach::{Asked, Link, Reach, client, duration, endpoint, wait};
use clap::{Args, Subcommand};
use concur_core::Wire;
use concur_peers::{Change, ChangeError, Configuration, Newcomer, Outcome as Decided, Role};
use concur_proto::concur::v1::concur_client::ConcurClient;
use concur_proto::concur::v1::{ChangeRequest, GroupStatus, StatusRequest};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often a member is asked how far things are.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The server is to answer before the client gives up.
const SERVERS_SHARE: u32 = 9;

/// Change who is in
#[derive(Debug, Subcommand)]
pub(crate) enum Member {
    /// Let a node in; it votes as soon as it has caught up
    Add(Add),
    /// Let a member go
    Remove(Remove),
    /// Put a node in a member's place; without another name, have a member rebuilt whose disk was lost or is damaged
    Replace(Replace),
    /// Give an observer its vote
    Promote(Promote),
    /// Say how much a member's vote weighs
    Weigh(Weigh),
    /// Let a member lead
    MoveLeader(MoveLeader),
    /// Say where a member is reached from now on
    Move(Move),
}

/// Change how replicas vote
#[derive(Debug, Subcommand)]
pub(crate) enum Strategy {
    /// Decide by another strategy from now on
    Switch(Switch),
}

/// What every change needs.
#[derive(Debug, Args)]
struct Common {
    /// The namespace whose members these are [default: default]
    #[arg(long, env = "CONCUR_NAMESPACE", default_value = "", hide_default_value = true, value_name = "NAME")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// Whether to wait for a vote that was promised.
#[derive(Debug, Args)]
struct Waiting {
    /// Wait until the newcomer votes
    #[arg(long, env = "CONCUR_WAIT", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    wait: bool,
    /// How long to wait for that [default: for ever]
    #[arg(long, env = "CONCUR_WAIT_TIME", value_parser = duration, value_name = "DURATION")]
    wait_time: Option<Duration>,
}

/// Where a newcomer is.
#[derive(Debug, Args)]
struct Where {
    /// Where clients reach it
    #[arg(long, env = "CONCUR_CLIENT_URL", value_parser = endpoint, value_name = "URL")]
    client_url: Option<String>,
    /// The region that it is in
    #[arg(long, env = "CONCUR_REGION", default_value = "", hide_default_value = true, value_name = "REGION")]
    region: String,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Its name
    name: String,
    /// Where peers reach it
    #[arg(value_parser = endpoint)]
    peer_url: String,
    #[command(flatten)]
    place: Where,
    /// Let it follow, and not vote
    #[arg(long, env = "CONCUR_OBSERVER")]
    observer: bool,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Who leaves
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// Who leaves, or is rebuilt
    name: String,
    /// Who comes
    #[arg(requires = "peer_url")]
    new_name: Option<String>,
    /// Where peers reach the newcomer
    #[arg(value_parser = endpoint)]
    peer_url: Option<String>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// Who votes from now on
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Weigh {
    /// Whose vote
    name: String,
    /// How much it weighs; 1 where nothing else was said
    weight: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct MoveLeader {
    /// Who leads from now on
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Move {
    /// Who
    name: String,
    /// Where peers reach it
    #[arg(value_parser = endpoint)]
    peer_url: String,
    /// Where clients reach it [default: as before]
    #[arg(long, env = "CONCUR_CLIENT_URL", value_parser = endpoint, value_name = "URL")]
    client_url: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Switch {
    /// As `concur strategies` names it
    name: String,
    #[command(flatten)]
    common: Common,
}

impl Member {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Add(add) => add.run(),
            Self::Remove(Remove { name, common }) => {
                common.change(|now| Ok(Change::Remove { id: now.find(&name)?.id }), format!("{name} left"), None)
            }
            Self::Replace(replace) => replace.run(),
            Self::Promote(Promote { name, common }) => {
                let change = |now: &Now| Ok(Change::Promote { id: now.find(&name)?.id, incarnation: 0 });
                common.change(change, format!("{name} votes"), None)
            }
            Self::Weigh(Weigh { name, weight, common }) => {
                let change = |now: &Now| Ok(Change::Weigh { id: now.find(&name)?.id, weight });
                common.change(change, format!("the vote of {name} weighs {weight}"), None)
            }
            Self::MoveLeader(MoveLeader { name, common }) => {
                common.change(|now| Ok(Change::Lead { id: now.find(&name)?.id }), format!("{name} leads"), None)
            }
            Self::Move(Move { name, peer_url, client_url, common }) => {
                let done = format!("{name} is reached at {peer_url}");
                let change = |now: &Now| {
                    let member = now.find(&name)?;
                    let client = client_url.unwrap_or_else(|| member.client.clone());
                    Ok(Change::Move { id: member.id, peer: peer_url, client })
                };
                common.change(change, done, None)
            }
        }
    }
}

impl Strategy {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Switch(Switch { name, common }) => {
                let done = format!("decided by {name}");
                common.change(|_| Ok(Change::Switch { strategy: name }), done, None)
            }
        }
    }
}

impl Add {
    fn run(self) -> Outcome {
        let Self { name, peer_url, place, observer, waiting, common } = self;
        let newcomer = place.newcomer(&name, peer_url);
        let awaited = (waiting.wait && !observer).then(|| Awaited { name: name.clone(), gone: None, time_max: waiting.wait_time });
        let change = |_: &Now| Ok(Change::Add { newcomer, votes: !observer });
        let done = match (observer, awaited.is_some()) {
            (true, _) => format!("{name} observes"),
            (false, true) => format!("{name} votes"),
            (false, false) => format!("{name} is in, and votes once it has caught up"),
        };
        common.change(change, done, awaited)
    }
}

impl Replace {
    fn run(self) -> Outcome {
        let Self { name, new_name, peer_url, place, waiting, common } = self;
        let newcomer = new_name.zip(peer_url).map(|(new_name, peer_url)| place.newcomer(&new_name, peer_url));
        let who = newcomer.as_ref().map_or(&name, |newcomer| &newcomer.name).clone();
        let gone = newcomer.is_some().then(|| name.clone());
        let done = match (&gone, waiting.wait) {
            (Some(_), true) => format!("{who} has taken the place of {name}"),
            (Some(_), false) => format!("{who} is in, and takes the place of {name} once it has caught up"),
            (None, true) => format!("{name} is rebuilt, and votes"),
            (None, false) => format!("{name} votes again once it is rebuilt"),
        };
        let awaited = waiting.wait.then_some(Awaited { name: who, gone, time_max: waiting.wait_time });
        let change = |now: &Now| {
            let id = now.find(&name)?.id;
            Ok(match newcomer {
                Some(newcomer) => Change::Replace { id, newcomer },
                None => Change::Rebuild { id },
            })
        };
        common.change(change, done, awaited)
    }
}

impl Where {
    fn newcomer(self, name: &str, peer: String) -> Newcomer {
        Newcomer { name: name.into(), peer, client: self.client_url.unwrap_or_default(), region: self.region }
    }
}

/// A vote that was promised.
struct Awaited {
    name: String,
    /// Who is to be gone by then.
    gone: Option<String>,
    time_max: Option<Duration>,
}

/// How a group is, as a member says.
struct Now {
    group: GroupStatus,
    configuration: Configuration,
}

impl Now {
    fn find(&self, name: &str) -> Outcome<&concur_peers::Member> {
        let by_id = || {
            let status = self.group.members.iter().find(|member| format!("{:x}", member.node) == name)?;
            self.configuration.named(&status.name)
        };
        let by_address = || self.configuration.members.iter().find(|member| member.peer == name);
        self.configuration
            .named(name)
            .or_else(by_id)
            .or_else(by_address)
            .ok_or_else(|| refused(&ChangeError::NoMember { who: name.into() }))
    }

    /// How long the member that says this paused, if it has come to this epoch.
    fn pause(&self, epoch: u64) -> Option<Duration> {
        let there = self.group.epoch >= epoch && self.group.role != "sealed";
        there.then(|| Duration::from_micros(self.group.passage_us))
    }

    /// Whether nobody means to give it a vote.
    fn gave_up(&self, name: &str) -> bool {
        self.configuration.named(name).is_none_or(|member| member.role == Role::Observer)
    }

    fn is_done(&self, awaited: &Awaited) -> bool {
        let votes = self.configuration.named(&awaited.name).is_some_and(|member| member.role == Role::Voter);
        votes && awaited.gone.as_ref().is_none_or(|gone| self.configuration.named(gone).is_none())
    }
}

impl Common {
    /// Has a change decided, and says what came of it.
    fn change(self, change: impl FnOnce(&Now) -> Outcome<Change>, done: String, awaited: Option<Awaited>) -> Outcome {
        wait(async move {
            let (link, before) = self.participant().await?;
            let mut decided = decide(&link, &self.namespace, change(&before)?).await?;
            let (mut pause, mut link) = self.settled(link, decided.epoch.0).await;
            if let Some(awaited) = &awaited {
                (decided, pause, link) = self.awaited(link, decided, awaited).await?;
            }
            let value = json!({
                "namespace": if self.namespace.is_empty() { "default" } else { &self.namespace },
                "done": done,
                "epoch": decided.epoch.0,
                "pause_ms": pause.map(|pause| pause.as_secs_f64() * 1e3),
                "asked": link.endpoint,
                "strategy": decided.strategy,
                "members": decided.members.iter().map(member_value).collect::<Vec<_>>(),
            });
            self.output.show(&value, |wide| text(&done, &decided, pause, wide))
        })
    }

    /// Waits until the member that was asked has come to the epoch; how long it paused, if it says.
    async fn settled(&self, link: Link, epoch: u64) -> (Option<Duration>, Link) {
        let until = Instant::now() + self.reach.timeout;
        while Instant::now() < until {
            if let Ok(now) = now(&link, &self.namespace).await
                && let Some(pause) = now.pause(epoch)
            {
                return (Some(pause), link);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        (None, link)
    }

    /// Waits until a newcomer votes. Whoever is asked may leave meanwhile; then another is.
    async fn awaited(&self, link: Link, decided: Configuration, awaited: &Awaited) -> Outcome<(Configuration, Option<Duration>, Link)> {
        let Awaited { name, time_max, .. } = awaited;
        say(
            Tone::Note,
            &format!(
                "epoch {}: {name} is in and does not vote yet. Start it (concur serve --name {name} --initial-cluster-state existing …) if it \
                 does not run; waiting until it has caught up. Ctrl-C ends the waiting, not the change",
                decided.epoch.0
            ),
        );
        let (began, mut link, mut told) = (Instant::now(), link, String::new());
        let mut known: Vec<String> = self.reach.endpoints();
        loop {
            match now(&link, &self.namespace).await {
                Ok(now) if now.is_done(awaited) && now.group.role != "sealed" => {
                    let pause = now.pause(now.configuration.epoch.0);
                    return Ok((now.configuration, pause, link));
                }
                Ok(now) if takes_part(&now) && now.configuration.epoch >= decided.epoch && now.gave_up(name) => {
                    let why = format!("{name} is not to vote any more: another change left it out, or made it an observer");
                    return Err(Failure::new(Exit::Failure, why));
                }
                Ok(now) => {
                    // A member that was left out says nothing new.
                    let stuck = !takes_part(&now);
                    known.extend(now.group.members.iter().map(|member| member.client.clone()).filter(|client| !client.is_empty()));
                    tell(&now, name, &mut told);
                    if stuck {
                        link = self.another(&known).await.unwrap_or(link);
                    }
                }
                Err(_) => link = self.another(&known).await.unwrap_or(link),
            }
            if time_max.is_some_and(|time_max| began.elapsed() > time_max) {
                return Err(Failure::new(Exit::Unreachable, format!("{name} does not vote yet; it will once it has caught up")));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// A connection to a member that takes part, and what it says; to whoever answers, if nobody says that.
    async fn participant(&self) -> Outcome<(Link, Now)> {
        let first = self.reach.connect().await?;
        match now(&first, &self.namespace).await {
            Ok(now) if takes_part(&now) => return Ok((first, now)),
            Err(failure) if self.reach.endpoints().len() == 1 => return Err(failure),
            _ => {}
        }
        let link = self.another(&self.reach.endpoints()).await.unwrap_or(first);
        let now = now(&link, &self.namespace).await?;
        Ok((link, now))
    }

    /// A connection to another member that takes part.
    async fn another(&self, known: &[String]) -> Option<Link> {
        for endpoint in known {
            let Ok(link) = self.reach.connect_to(endpoint).await else { continue };
            if now(&link, &self.namespace).await.is_ok_and(|now| takes_part(&now)) {
                return Some(link);
            }
        }
        None
    }
}

/// Says how far a newcomer is, when it is heard first.
fn tell(now: &Now, name: &str, told: &mut String) {
    let Some(status) = now.group.members.iter().find(|member| member.name == name && member.heard) else { return };
    let said = match status.lag {
        Some(_) => format!("{name} follows"),
        None => format!("{name} was heard"),
    };
    if *told != said {
        say(Tone::Note, &said);
        *told = said;
    }
}

/// Whether a member knows what goes on, and may have something changed: one that has no vote does not.
fn takes_part(now: &Now) -> bool {
    now.group.role == "voter" || now.group.role == "sealed"
}

/// How a namespace is, as this member says.
async fn now(link: &Link, namespace: &str) -> Outcome<Now> {
    let name = if namespace.is_empty() { "default" } else { namespace };
    let mut client = client!(ConcurClient, link);
    let reply = link.answer(Asked::Read, client.status(StatusRequest {})).await?;
    let node = reply.name;
    let group = reply.groups.into_iter().find(|group| group.namespace == name);
    let group =
        group.ok_or_else(|| Failure::new(Exit::Invalid, format!("namespace `{name}` is not on {node}; ask a member that has it")))?;
    let configuration = Configuration::from_bytes(&group.configuration);
    let configuration = configuration.map_err(|_| Failure::new(Exit::Failure, "the member says nothing of who is in: upgrade it"))?;
    Ok(Now { group, configuration })
}

async fn decide(link: &Link, namespace: &str, change: Change) -> Outcome<Configuration> {
    let deadline_ms = u32::try_from((link.timeout * SERVERS_SHARE / 10).as_millis()).unwrap_or(u32::MAX);
    let request = ChangeRequest { namespace: namespace.into(), change: change.to_bytes(), deadline_ms };
    let mut client = client!(ConcurClient, link);
    let reply = link.answer(Asked::Write, client.change(request)).await?;
    match Decided::from_bytes(&reply.outcome) {
        Ok(Decided::Done(configuration)) => Ok(configuration),
        Ok(Decided::Refused(error)) => Err(refused(&error)),
        Err(_) => Err(Failure::new(Exit::Failure, "the answer cannot be read: upgrade one of the two")),
    }
}

fn refused(error: &ChangeError) -> Failure {
    let exit = match error {
        ChangeError::NoQuorum { .. } => Exit::NoQuorum,
        ChangeError::NoMember { .. }
        | ChangeError::BadText { .. }
        | ChangeError::BadWeight { .. }
        | ChangeError::NoStrategy { .. }
        | ChangeError::Weights { .. } => Exit::Invalid,
        _ => Exit::Failure,
    };
    Failure::new(exit, error.to_string())
}

fn member_value(member: &concur_peers::Member) -> Value {
    json!({
        "name": member.name,
        "role": member.role.word(),
        "weight": member.weight,
        "peer": member.peer,
        "client": member.client,
        "region": member.region,
    })
}

fn text(done: &str, decided: &Configuration, pause: Option<Duration>, wide: bool) -> String {
    let pause = pause.map_or("the pause was not seen".into(), |pause| format!("{:.1} ms pause", pause.as_secs_f64() * 1e3));
    let mut text = format!("{done}   epoch {}   {pause}\n", decided.epoch.0);
    if wide {
        let members: Vec<String> = decided.members.iter().map(|member| format!("{} ({})", member.name, member.role.word())).collect();
        text += &format!("{}: {}\n", decided.strategy, members.join(", "));
    }
    text
}
