//! Responses in their encoding on the wire, of which the events are shared.
//!
//! A watch response is a header of its own and a list of events that other watchers get too. Protocol Buffers allow the
//! concatenation of the two encodings, so an event is encoded once, and a response is a list of slices.

use bytes::{BufMut, Bytes, BytesMut};
use concur_kv::{KeyValue, Record};
use concur_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use concur_proto::mvccpb;
use concur_proto::mvccpb::event::EventType;
use prost::Message;

use crate::etcd::key_value;

/// An encoded response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    head: Bytes,
    events: Vec<Bytes>,
    len: usize,
}

impl Encoded {
    /// A response: what is its own, and events from [`event`].
    pub(super) fn new(head: &WatchResponse, events: Vec<Bytes>) -> Self {
        debug_assert!(head.events.is_empty());
        let head = Bytes::from(head.encode_to_vec());
        let len = head.len() + events.iter().map(Bytes::len).sum::<usize>();
        Self { head, events, len }
    }

    /// Its bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes it.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_slice(&self.head);
        for event in &self.events {
            out.put_slice(event);
        }
    }
}

/// An event as a field of a response.
pub(super) fn event(record: &Record, previous: Option<KeyValue>) -> Bytes {
    let kind = if record.is_delete() { EventType::Delete } else { EventType::Put };
    let event = mvccpb::Event { r#type: kind as i32, kv: Some(key_value(record.key_value())), prev_kv: previous.map(key_value) };
    let mut out = BytesMut::with_capacity(event.encoded_len() + 8);
    const FIELD: u32 = 11;
    prost::encoding::message::encode(FIELD, &event, &mut out);
    out.freeze()
}

/// A response of which only the id and the header are set.
pub(super) fn response(header: ResponseHeader, watch_id: i64) -> WatchResponse {
    WatchResponse { header: Some(header), watch_id, ..WatchResponse::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_in_parts_reads_as_a_response() {
        let kv = mvccpb::KeyValue { key: Bytes::from_static(b"k"), mod_revision: 7, ..Default::default() };
        let event = mvccpb::Event { r#type: 1, kv: Some(kv), prev_kv: None };
        let mut field = BytesMut::new();
        prost::encoding::message::encode(11, &event, &mut field);
        let head = response(ResponseHeader { revision: 9, ..Default::default() }, 3);
        let encoded = Encoded::new(&head, vec![field.clone().freeze(), field.freeze()]);
        let mut out = Vec::new();
        encoded.put(&mut out);
        assert_eq!(out.len(), encoded.len());
        let read = WatchResponse::decode(&out[..]).expect("a response");
        assert_eq!(read, WatchResponse { events: vec![event.clone(), event], ..head });
    }
}
