//! Reply: reads whose barrier is executed are answered, and whoever waited too long is told.

use crate::admit::Waiting;
use crate::api::{Output, Refused};
use crate::item::Item;
use crate::replica::Replica;
use concur_core::{StateMachine, Time};

impl<M: StateMachine> Replica<M> {
    /// Answers what can be answered.
    pub(crate) fn reply(&mut self, out: &mut Output) {
        self.serve(out);
    }

    /// What is done at intervals of a heartbeat: requests whose time is up, idle sessions, progress.
    pub(crate) fn housekeep(&mut self, out: &mut Output) {
        self.retry_fetch(out);
        self.follow_on(out);
        if self.now < self.housekeeping_at {
            return;
        }
        self.housekeeping_at = self.now + self.settings.config.heartbeat;
        let now = self.now;
        let replies = &mut out.replies;
        self.flights.expire(now, |token| replies.push((token, Err(Refused::Unknown))));
        self.reads.expire(now, |token| replies.push((token, Err(Refused::Expired))));
        self.pending.expire(now, |token| replies.push((token, Err(Refused::Expired))));
        self.forget_views();
        self.raise_floor();
        self.expire_sessions(out);
        self.keep_promises(out);
        self.tell_progress(out);
    }

    /// Proposes the end of sessions that have been idle for longer than they may. Whoever proposes it, it is decided by logged
    /// time, and proposing it twice is nothing.
    fn expire_sessions(&mut self, out: &mut Output) {
        if self.now < self.sessions_at || self.stopping || self.protocol.is_none() {
            return;
        }
        self.sessions_at = self.now + self.settings.session_ttl / 4;
        let idle_ms = u64::try_from(self.settings.session_ttl.as_millis()).unwrap_or(u64::MAX);
        if self.executed.any_idle_since(self.wall_ms.saturating_sub(idle_ms)) {
            self.queue(Waiting::new(None, Item::Expire { idle_ms }, Time(u64::MAX)), out);
        }
    }
}
