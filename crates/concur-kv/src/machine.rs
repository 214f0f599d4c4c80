//! The store as the state machine of a group: bytes in, bytes out.

use crate::command::{Command, Query};
use crate::footprint::footprint;
use crate::reply::{Answer, Reply};
use crate::{Kv, KvError};
use bytes::Bytes;
use concur_core::{At, Change, Corrupt, Footprint, StateMachine, Wire};

impl StateMachine for Kv {
    fn footprint(&self, command: &[u8]) -> Footprint {
        match Command::from_bytes(&Bytes::copy_from_slice(command)) {
            Ok(command) => footprint(&command, self.config.ordering),
            Err(_) => Footprint::Everything,
        }
    }

    fn apply(&mut self, command: &Bytes, at: &At) -> Bytes {
        match Command::from_bytes(command) {
            Ok(command) => self.execute(&command, at.time_ms).to_bytes(),
            Err(_) => {
                self.store.begin();
                Reply::Refused(KvError::Malformed).to_bytes()
            }
        }
    }

    /// The answer is a [`Reply::Read`], as if the query had been decided.
    fn query(&self, query: &[u8]) -> Bytes {
        let answer = match Query::from_bytes(&Bytes::copy_from_slice(query)) {
            Ok(query) => {
                let (asker, query) = query.apart();
                self.answer_as(asker, query)
            }
            Err(_) => Answer::Refused(KvError::Malformed),
        };
        Reply::Read(answer).to_bytes()
    }

    fn query_footprint(&self, query: &[u8]) -> Footprint {
        match Query::from_bytes(&Bytes::copy_from_slice(query)) {
            Ok(Query::As { query, .. }) => footprint(&Command::Read(*query), self.config.ordering),
            Ok(query) => footprint(&Command::Read(query), self.config.ordering),
            Err(_) => Footprint::Everything,
        }
    }

    fn changes(&mut self) -> Vec<Change> {
        Kv::changes(self)
    }

    fn image(&self) -> Box<dyn Iterator<Item = (Bytes, Bytes)> + '_> {
        Box::new(Kv::image(self))
    }

    fn load(&mut self, entries: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<(), Corrupt> {
        let mut loaded = Self::from_image(self.config, entries)?;
        loaded.auth.follow(&self.auth);
        *self = loaded;
        Ok(())
    }

    fn digest(&self) -> u64 {
        Kv::digest(self)
    }
}
