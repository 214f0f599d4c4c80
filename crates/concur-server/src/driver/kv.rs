//! What stands beside a replicated key-value store: the door's jobs, the watch hub, and what is proposed because time passes.
//!
//! Whoever leads, or stands for it, proposes the end of leases that are due, compactions that the retention asks for, and the quota that
//! it was started with. After a
//! time without a leader nobody could renew a lease, so the first thing a leader proposes is to stop the leases' clock for as long.

use super::group::{Desk, Numbers, Seat, Waiter, Wanted, door_stamp, refusal};
use crate::door::{Asked, Job, Jobs, Member, Pulse, Read, Refusal, Status, Upkeep};
use crate::watch::Hub;
use bytes::Bytes;
use concur_core::Wire;
use concur_kv::{AutoCompaction, Command, Kv, Retention};
use concur_peers::{ChangeError, Configuration, Outcome};
use concur_replica::{Level, Request};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

/// Jobs taken from the door at once.
const JOBS_MAX: usize = 4096;
/// Leases that one command ends.
const LEASES_MAX: usize = 1024;
/// How long after a proposal that leases end it is made again.
const EXPIRE_AGAIN_MS: u64 = 500;
/// How long after a proposal of the quota it is made again.
const QUOTA_AGAIN_MS: u64 = 5000;

/// What a store's desk is made with.
pub(crate) struct DeskOptions {
    pub(crate) jobs: Jobs,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) hub: Hub,
    pub(crate) region: String,
    pub(crate) retention: Retention,
    /// How large the store may become, as this node was told: what counts when it leads.
    pub(crate) quota_bytes: u64,
    /// The engine's file.
    pub(crate) state_file: PathBuf,
    /// When this node, or its data, was last seen alive: leases cannot have been renewed since.
    pub(crate) last_alive_ms: u64,
}

/// The desk.
pub(crate) struct KvDesk {
    options: DeskOptions,
    members: Vec<Member>,
    /// Where clients reach those that said so.
    client_urls: BTreeMap<u64, Vec<String>>,
    taken: Vec<Job>,
    auto_compaction: AutoCompaction,
    sample_at_ms: u64,
    quota_at_ms: u64,
    /// When a leader was last known.
    led_ms: u64,
    /// Whether this node led when it was last looked at.
    leads: bool,
    expire_at_ms: u64,
}

impl KvDesk {
    pub(crate) fn new(options: DeskOptions) -> Self {
        let auto_compaction = AutoCompaction::new(options.retention);
        let led_ms = options.last_alive_ms;
        let (members, client_urls) = (Vec::new(), BTreeMap::new());
        Self {
            options,
            members,
            client_urls,
            taken: Vec::new(),
            auto_compaction,
            sample_at_ms: 0,
            quota_at_ms: 0,
            led_ms,
            leads: false,
            expire_at_ms: 0,
        }
    }

    fn job(&mut self, job: Job, seat: &mut Seat<Kv>) {
        match job {
            Job::Execute(execute) if seat.full && takes_space(&execute.command) => {
                let _ = execute.reply.send(Err(Refusal::NoSpace));
            }
            Job::Execute(execute) => {
                let timeout = seat.left(execute.deadline);
                let request = Request::Command { session: None, body: execute.command, timeout };
                seat.request(Waiter::Door(execute.reply), request);
            }
            Job::Read(read) => self.read(read, seat),
            Job::Watch(request) => self.options.hub.handle(request, seat.replica.machine()),
            Job::Status(reply) => drop(reply.send(self.status(seat))),
            Job::Change(Asked { reply, .. }) if !seat.dynamic => {
                let (body, stamp) = (Outcome::Refused(ChangeError::Static).to_bytes(), seat.replica.stamp_now());
                let _ = reply.send(Ok((body, door_stamp(stamp, seat.facts.term))));
            }
            Job::Change(Asked { change, deadline, reply }) => {
                let timeout = seat.left(deadline);
                seat.request(Waiter::Door(reply), Request::Change { change, timeout });
            }
            Job::Upkeep(Upkeep::Defragment, reply) => seat.wanted.push(Wanted::Compacted(reply)),
            Job::Kept { deadline, reply } => seat.keep(deadline, reply),
        }
    }

    fn read(&mut self, read: Read, seat: &mut Seat<Kv>) {
        let level = match read.level {
            crate::door::Level::Strong => Level::Strong,
            crate::door::Level::Eventual => Level::Eventual,
        };
        let (term, has_leader, run) = (seat.facts.term, seat.facts.leader.is_some(), read.run);
        let look = move |state: Result<(&Kv, concur_replica::Stamp), _>| {
            run(state.map(|(kv, stamp)| (kv, door_stamp(stamp, term))).map_err(|refused| refusal(refused, has_leader)))
        };
        let timeout = seat.left(read.deadline);
        let request = Request::Read { level, footprint: read.footprint, query: None, timeout };
        seat.request(Waiter::Look(Box::new(look)), request);
    }

    fn status(&self, seat: &Seat<Kv>) -> Status {
        let facts = &seat.facts;
        let store = seat.replica.machine().status();
        Status {
            namespace: seat.name.clone(),
            strategy: seat.replica.settings().strategy.traits.name.into(),
            region: self.options.region.clone(),
            epoch: seat.replica.settings().config.epoch,
            leader: facts.leader.map_or(0, |id| seat.numbers.node(id)),
            term: facts.term,
            decided: facts.executed + facts.behind,
            executed: facts.executed,
            pending: facts.pending,
            failed: facts.failed,
            observer: !seat.voters().contains(seat.me()),
            members: self.members.clone(),
            // What is executed may not be in the file yet.
            storage_bytes: std::fs::metadata(&self.options.state_file).map_or(0, |file| file.len()).max(store.used_bytes),
            storage_used_bytes: store.used_bytes,
            quota_bytes: store.quota_bytes,
            errors: facts.errors.clone(),
        }
    }

    /// What a leader owes to leases.
    fn look_after_leases(&mut self, seat: &mut Seat<Kv>, wall_ms: u64) {
        let leads = seat.facts.leader == Some(seat.me());
        if leads && !self.leads {
            let by_ms = wall_ms.saturating_sub(self.led_ms);
            let held = seat.replica.machine().next_expiry_ms().is_some();
            if held && by_ms > 0 {
                seat.propose(Command::LeaseGrace { by_ms }.by_node().to_bytes());
            }
            // What is due now may be saved by that command: look again once it was executed.
            self.expire_at_ms = wall_ms + EXPIRE_AGAIN_MS;
        }
        self.leads = leads;
        if seat.facts.leader.is_some() {
            self.led_ms = wall_ms;
        }
        if leads && wall_ms >= self.expire_at_ms {
            let leases = seat.replica.machine().expired(wall_ms, LEASES_MAX);
            if !leases.is_empty() {
                seat.propose(Command::LeaseExpire { leases }.by_node().to_bytes());
                self.expire_at_ms = wall_ms + EXPIRE_AGAIN_MS;
            }
        }
    }

    /// The quota is part of the state, so that all refuse the same command: whoever leads has it made what it was told.
    fn look_after_the_quota(&mut self, seat: &mut Seat<Kv>, wall_ms: u64) {
        let quota_bytes = self.options.quota_bytes;
        if self.leads && wall_ms >= self.quota_at_ms && seat.replica.machine().config().quota_bytes != quota_bytes {
            self.quota_at_ms = wall_ms + QUOTA_AGAIN_MS;
            seat.propose(Command::SetQuota { quota_bytes }.to_bytes());
        }
    }

    fn compact(&mut self, seat: &mut Seat<Kv>, wall_ms: u64) {
        let Some(every_ms) = self.auto_compaction.interval_ms() else { return };
        if wall_ms < self.sample_at_ms {
            return;
        }
        self.sample_at_ms = wall_ms + every_ms;
        let target = self.auto_compaction.sample(wall_ms, seat.replica.machine().revision());
        if let Some(revision) = target.filter(|_| self.leads) {
            seat.propose(Command::Compact { revision }.by_node().to_bytes());
        }
    }
}

impl Desk<Kv> for KvDesk {
    fn poll(&mut self, cx: &mut Context<'_>, seat: &mut Seat<Kv>) -> bool {
        let mut taken = std::mem::take(&mut self.taken);
        let _ = self.options.jobs.poll_recv_many(cx, &mut taken, JOBS_MAX);
        let any = !taken.is_empty();
        for job in taken.drain(..) {
            self.job(job, seat);
        }
        self.taken = taken;
        any
    }

    fn stepped(&mut self, seat: &mut Seat<Kv>) {
        self.options.pulse.set_leader(seat.facts.leader.map_or(0, |id| seat.numbers.node(id)), seat.facts.term);
        self.options.pulse.set_removed(seat.is_removed());
        self.options.pulse.auth().observe(seat.replica.machine().auth());
        self.options.hub.advance(seat.replica.machine());
    }

    fn tick(&mut self, seat: &mut Seat<Kv>, wall_ms: u64) {
        self.options.hub.tick(seat.replica.machine(), Instant::now());
        if !seat.stopping {
            self.look_after_leases(seat, wall_ms);
            self.look_after_the_quota(seat, wall_ms);
            self.compact(seat, wall_ms);
        }
    }

    fn met(&mut self, node: u64, client_urls: &[String]) {
        self.client_urls.insert(node, client_urls.to_vec());
        if let Some(member) = self.members.iter_mut().find(|member| member.id == node) {
            member.client_urls = client_urls.to_vec();
        }
    }

    fn reconfigured(&mut self, configuration: &Configuration, numbers: &Numbers) {
        let url = |address: &String| if address.is_empty() { Vec::new() } else { vec![concur_tls::url(address)] };
        let member = |member: &concur_peers::Member| {
            let id = numbers.node(member.id);
            let client_urls = self.client_urls.get(&id).cloned().unwrap_or_else(|| url(&member.client));
            Member {
                id,
                name: member.name.clone(),
                peer_urls: url(&member.peer),
                client_urls,
                observer: !member.role.votes(),
                number: member.id,
            }
        };
        self.members = configuration.members.iter().map(member).collect();
    }

    fn is_unfinished(&self) -> bool {
        self.options.hub.is_unfinished()
    }

    fn revision(&self, machine: &Kv) -> u64 {
        u64::try_from(machine.revision().0).unwrap_or(0)
    }

    fn close(&mut self) {
        self.options.pulse.set_stopping();
        self.options.hub.close();
    }
}

/// Whether a command may make the store larger. On a full disk deleting and compacting go on, from the reserve.
fn takes_space(command: &Bytes) -> bool {
    let shrinks = |command: Command| {
        matches!(
            command.apart().1,
            Command::DeleteRange(_)
                | Command::Compact { .. }
                | Command::LeaseRevoke { .. }
                | Command::AlarmArm { .. }
                | Command::AlarmDisarm { .. }
        )
    };
    !Command::from_bytes(command).is_ok_and(shrinks)
}
