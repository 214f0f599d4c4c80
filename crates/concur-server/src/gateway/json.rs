//! Messages as JSON, and back, by their descriptors.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::Status;

/// A message from the JSON of one object; nothing at all is an empty message.
pub(super) fn read(kind: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Status> {
    if json.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    let message = seed(kind, &mut reader)?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(message.encode_to_vec())
}

/// The first message of JSON that comes in pieces, taken out of it; nothing if it is not whole yet.
pub(super) fn first(kind: &MessageDescriptor, waiting: &mut BytesMut) -> Result<Option<Vec<u8>>, Status> {
    let mut values = serde_json::Deserializer::from_slice(waiting).into_iter::<serde_json::Value>();
    let used = match values.next() {
        None => return Ok(None),
        Some(Err(error)) if error.is_eof() => return Ok(None),
        Some(Err(error)) => return Err(malformed(&error)),
        Some(Ok(_)) => values.byte_offset(),
    };
    read(kind, &waiting.split_to(used)).map(Some)
}

fn seed(kind: &MessageDescriptor, reader: &mut serde_json::Deserializer<serde_json::de::SliceRead<'_>>) -> Result<DynamicMessage, Status> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(kind.clone(), reader, &options).map_err(|error| malformed(&error))
}

fn malformed(error: &serde_json::Error) -> Status {
    Status::invalid_argument(format!("the request is not the JSON of this call: {error}"))
}

/// The JSON of a message.
pub(super) fn write(kind: &MessageDescriptor, message: Bytes) -> Result<String, Status> {
    let unreadable = |error: &dyn std::fmt::Display| Status::internal(format!("the call's answer cannot be read: {error}"));
    let message = DynamicMessage::decode(kind.clone(), message).map_err(|error| unreadable(&error))?;
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(true).skip_default_fields(true);
    let mut out = Vec::new();
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options).map_err(|error| unreadable(&error))?;
    String::from_utf8(out).map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use concur_proto::etcdserverpb as pb;
    use prost_reflect::DescriptorPool;

    fn kind(name: &str) -> MessageDescriptor {
        DescriptorPool::decode(concur_proto::DESCRIPTORS).unwrap().get_message_by_name(&format!("etcdserverpb.{name}")).unwrap()
    }

    fn range(json: &str) -> pb::RangeRequest {
        pb::RangeRequest::decode(&read(&kind("RangeRequest"), json.as_bytes()).unwrap()[..]).unwrap()
    }

    #[test]
    fn requests_are_read_in_every_form_that_clients_write() {
        let wanted = pb::RangeRequest { key: "foo".into(), range_end: "fop".into(), revision: 7, sort_order: 2, ..Default::default() };
        for json in [
            r#"{"key":"Zm9v","range_end":"Zm9w","revision":"7","sort_order":"DESCEND"}"#,
            r#"{"key":"Zm9v","rangeEnd":"Zm9w","revision":7,"sortOrder":2,"unknown":[1]}"#,
        ] {
            assert_eq!(range(json), wanted, "{json}");
        }
        assert_eq!(range(""), pb::RangeRequest::default());
        for wrong in ["{", "[]", r#"{"key":"*"}"#, r#"{"revision":"x"}"#, "{} {}", r#"{"revision":"99999999999999999999"}"#] {
            let refused = read(&kind("RangeRequest"), wrong.as_bytes()).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{wrong}");
        }
        let deep = format!("{}1{}", r#"{"success":[{"request_txn":"#.repeat(1000), "}]}".repeat(1000));
        assert!(read(&kind("TxnRequest"), deep.as_bytes()).is_err());
    }

    #[test]
    fn transactions_say_which_kind_of_comparison_and_operation() {
        let json = r#"{"compare":[{"target":"VALUE","key":"Zm9v","value":"YmFy"},{"result":"EQUAL","target":"MOD","mod_revision":"0"}],
            "success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}},{"request_range":{"key":"Zm9v"}}]}"#;
        let txn = pb::TxnRequest::decode(&read(&kind("TxnRequest"), json.as_bytes()).unwrap()[..]).unwrap();
        assert_eq!((txn.compare.len(), txn.success.len()), (2, 2));
        assert_eq!(txn.compare[0].target_union, Some(pb::compare::TargetUnion::Value("bar".into())));
        assert_eq!(txn.compare[1].target_union, Some(pb::compare::TargetUnion::ModRevision(0)));
        assert!(matches!(txn.success[0].request, Some(pb::request_op::Request::RequestPut(_))));
    }

    #[test]
    fn answers_are_written_as_etcd_writes_them() {
        let header = Some(pb::ResponseHeader { cluster_id: u64::MAX, member_id: 2, revision: 3, raft_term: 4 });
        let kv = concur_proto::mvccpb::KeyValue {
            key: "foo".into(),
            value: "bar".into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0,
        };
        let response = pb::RangeResponse { header, kvs: vec![kv], more: false, count: 1 };
        let json = write(&kind("RangeResponse"), response.encode_to_vec().into()).unwrap();
        assert_eq!(
            json,
            r#"{"header":{"cluster_id":"18446744073709551615","member_id":"2","revision":"3","raft_term":"4"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"YmFy"}],"count":"1"}"#
        );
        let granted = pb::LeaseGrantResponse { header: None, id: 5, ttl: 60, error: String::new() };
        assert_eq!(write(&kind("LeaseGrantResponse"), granted.encode_to_vec().into()).unwrap(), r#"{"ID":"5","TTL":"60"}"#);
        let alarm = pb::AlarmResponse { header: None, alarms: vec![pb::AlarmMember { member_id: 1, alarm: 1 }] };
        assert_eq!(
            write(&kind("AlarmResponse"), alarm.encode_to_vec().into()).unwrap(),
            r#"{"alarms":[{"memberID":"1","alarm":"NOSPACE"}]}"#
        );
    }

    #[test]
    fn objects_of_a_stream_come_one_after_the_other() {
        let (kind, mut waiting, mut got) = (kind("LeaseKeepAliveRequest"), BytesMut::new(), Vec::new());
        for byte in br#"{"ID":"1"}  {"ID":2}"# {
            waiting.extend_from_slice(&[*byte]);
            got.extend(first(&kind, &mut waiting).unwrap());
        }
        let ids = got.iter().map(|message| pb::LeaseKeepAliveRequest::decode(&message[..]).unwrap().id);
        assert_eq!(ids.collect::<Vec<_>>(), [1, 2]);
        assert!(first(&kind, &mut BytesMut::from("]")).is_err());
    }
}
