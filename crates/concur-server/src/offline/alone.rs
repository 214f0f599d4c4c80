//! The last resort for a group that has lost its quorum for good: one node's state becomes the whole of it.
//!
//! What its log holds beyond the state that is kept is executed first. In a total order that is everything which this node ever
//! accepted, whether or not it was acknowledged, since the lost members can no longer say; in a partial order, what it knows to be
//! decided. What others had acknowledged and this node never saw is gone; should any of them come back, they would go on with a history
//! of their own.

use super::{CACHE_BYTES, FORCED_EPOCHS, OfflineError};
use crate::join::Joined;
use crate::node::{NodeError, io, last_alive_ms, note_last_alive};
use bytes::Bytes;
use concur_core::{BootCount, Config, Corrupt, Epoch, GroupId, Ordering, ReplicaId, Rng, Strategy, Time};
use concur_kv::{Kv, image_summary};
use concur_peers::{Configuration, Role};
use concur_replica::{Event, Output, Recovered, Replica, Settings, configuration_of, logged_ms_of, machine_key, stand_elsewhere};
use concur_store::dir::{DataDir, Identity};
use concur_store::engine::{Engine, EngineError, RedbEngine};
use concur_store::log::{FileDisk, Log};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long silence lasts, for a replica alone with its log, before it leads; and for how long it is left to it.
const ELECTION: Duration = Duration::from_secs(1);
const LEFT_TO_IT: Duration = Duration::from_secs(10);

type Image = Vec<(Bytes, Bytes)>;

/// What was made of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    /// The group.
    pub group: GroupId,
    /// Who was in.
    pub before: Configuration,
    /// Who is.
    pub after: Configuration,
    /// The revision at which its store goes on.
    pub revision: i64,
    /// The revision of the state that was kept, before the log was executed.
    pub kept_revision: i64,
}

/// Makes the node whose directory this is the only member of each of its groups. Nothing is decided, nothing asked of anybody.
/// `strategies` finds the protocols that its groups may go by.
pub fn go_on_alone(data_dir: &Path, strategies: fn(&str) -> Option<Strategy>) -> Result<Vec<Forced>, OfflineError> {
    let last_alive_ms = last_alive_ms(data_dir);
    let mut dir = DataDir::open_existing(data_dir)?;
    last_alive_ms.map_or(Ok(()), |wall_ms| note_last_alive(&dir, wall_ms))?;
    let joins = Joined::read(dir.root())?.is_some();
    let disk = FileDisk::open(dir.log_directory()).map_err(io(format!("cannot open {}", dir.log_directory().display())))?;
    let (log, mut recovered) = Log::open(disk, dir.log_options()).map_err(NodeError::from)?;
    dir.note_log()?;
    drop(log);
    let mut engine = RedbEngine::open(&dir.state_file(), CACHE_BYTES)?;
    let reader = engine.reader();
    let mut all = Vec::new();
    for group in reader.groups()? {
        let Some(view) = reader.view(group)? else { continue };
        let image = view.entries()?.collect::<Result<Image, _>>()?;
        let corrupt = |error| NodeError::Corrupt { group: format!("{:016x}", group.0), error };
        let before = configuration_of(&image).map_err(corrupt)?.unwrap_or_default();
        let kept_revision = revision(&image).map_err(corrupt)?;
        let records = recovered.groups.remove(&group).unwrap_or_default();
        let survivor = Survivor { identity: dir.identity(), joins, group, strategies };
        let image = survivor.execute(image, records).map_err(corrupt)?;
        let (after, changed) = stand_elsewhere(&image, |found| survivor.alone(found)).map_err(corrupt)?;
        if after.members.is_empty() {
            return Err(corrupt(Corrupt::new(format!("{} is not among its members", dir.identity().name))).into());
        }
        let revision = revision(&image).map_err(corrupt)?;
        install(&mut engine, group, image, changed)?;
        all.push(Forced { group, before, after, revision, kept_revision });
    }
    if all.is_empty() { Err(OfflineError::Nothing { path: data_dir.to_owned() }) } else { Ok(all) }
}

/// Puts a state in the place of what the engine holds; the last of the changed entries is the mark.
fn install(engine: &mut RedbEngine, group: GroupId, image: Image, changed: Image) -> Result<(), EngineError> {
    let mark = changed.last().map(|(_, mark)| mark.clone()).unwrap_or_default();
    engine.begin_install(group)?;
    engine.install(group, &image.into_iter().chain(changed).map(|(key, value)| (key, Some(value))).collect())?;
    engine.finish_install(group, &mark)
}

/// The store's revision.
fn revision(image: &[(Bytes, Bytes)]) -> Result<i64, Corrupt> {
    Ok(kind(image)?.1)
}

/// How the store orders, and its revision.
fn kind(image: &[(Bytes, Bytes)]) -> Result<(concur_kv::Ordering, i64), Corrupt> {
    for (key, value) in image {
        if let Some(key) = machine_key(key)
            && let Some((ordering, revision)) = image_summary(&key, value)?
        {
            return Ok((ordering, revision.0));
        }
    }
    Err(Corrupt::new("the state is not that of a key-value store"))
}

/// The node that is left, in one group.
struct Survivor<'a> {
    identity: &'a Identity,
    /// Whether this life of its disk began by joining.
    joins: bool,
    group: GroupId,
    strategies: fn(&str) -> Option<Strategy>,
}

impl Survivor<'_> {
    /// The state with what the log holds beyond it.
    fn execute(&self, image: Image, records: Vec<Bytes>) -> Result<Image, Corrupt> {
        let configuration = configuration_of(&image)?.ok_or_else(|| Corrupt::new("the state does not say who is in"))?;
        let strategy = (self.strategies)(&configuration.strategy)
            .ok_or_else(|| Corrupt::new(format!("it decides by `{}`, which this program does not know", configuration.strategy)))?;
        let Some(me) = configuration.named(&self.identity.name).map(|member| member.id) else { return Ok(image) };
        let total = strategy.traits.order == Ordering::Total;
        let configuration = if total { only_vote(configuration, me) } else { configuration };
        let (ordering, _) = kind(&image)?;
        let kv = Kv::new(concur_kv::Config { ordering, ..concur_kv::Config::default() });
        let wall_ms = logged_ms_of(&image)?;
        let mut out = Output::default();
        let settings = self.settings(me, &configuration, strategy, ordering);
        let recovered = Recovered { records, image };
        let mut replica = Replica::start(settings, recovered, kv, Time(0), wall_ms, Rng::new(1), &mut out)?;
        let mut now = Time(0);
        while now.since(Time(0)) < LEFT_TO_IT {
            replica.offer(Event::Durable(out.through));
            if let Some(bulk) = &out.bulk {
                replica.offer(Event::Stored(bulk.mark.frontier.clone()));
            }
            out.clear();
            now = replica.wake_at().max(now + Duration::from_millis(1));
            replica.step(now, wall_ms, &mut out);
        }
        Ok(replica.snapshot().1)
    }

    fn settings(&self, me: ReplicaId, configuration: &Configuration, strategy: Strategy, ordering: concur_kv::Ordering) -> Settings {
        let config = Config {
            group: self.group,
            epoch: configuration.epoch,
            me,
            quorums: configuration.quorums(&strategy),
            heartbeat: ELECTION / 10,
            election: ELECTION,
            window_max: 1024,
            message_bytes_max: 64 << 20,
            retained_bytes_max: 1 << 20,
        };
        let Identity { incarnation, boots, .. } = *self.identity;
        Settings {
            configuration: Arc::new(configuration.clone()),
            incarnation,
            joins: self.joins,
            strategies: self.strategies,
            order: match ordering {
                concur_kv::Ordering::Total => Ordering::Total,
                concur_kv::Ordering::PerKey => Ordering::Partial,
            },
            ..Settings::new(Arc::new(config), strategy, BootCount((incarnation << 20) | boots))
        }
    }

    /// The configuration of this member alone, which votes with the disk that it has.
    fn alone(&self, before: &Configuration) -> Configuration {
        let mut next = before.clone();
        next.epoch = Epoch(before.epoch.0 + FORCED_EPOCHS);
        next.members.retain(|member| member.name == self.identity.name);
        for member in &mut next.members {
            (member.role, member.weight, member.incarnation) = (Role::Voter, 1, self.identity.incarnation);
        }
        // A term for each epoch that is passed over: what clients are shown does not fall.
        next.term_base = before.term_base + FORCED_EPOCHS;
        (next.counts, next.first) = (None, None);
        next
    }
}

/// The same epoch, as if only one of its voters had ever had a vote that counts. The others stay voters: whose turn it is, and who owns
/// which slots, depends on how many there are.
fn only_vote(mut configuration: Configuration, me: ReplicaId) -> Configuration {
    for member in &mut configuration.members {
        member.weight = u64::from(member.id == me);
    }
    (configuration.counts, configuration.first) = (None, None);
    configuration
}
