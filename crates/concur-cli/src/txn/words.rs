//! Conditions and operations of a transaction, as people write them.

use crate::store::lease_id;
use bytes::Bytes;
use concur_proto::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;

/// Cuts a text into words; those with spaces stand in double quotes, in which `\` takes the next letter as it is.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(&first) = letters.peek() else { return Ok(words) };
        let mut word = String::new();
        if first == '"' {
            letters.next();
            loop {
                match letters.next() {
                    Some('"') => break,
                    Some('\\') => word.extend(letters.next()),
                    Some(letter) => word.push(letter),
                    None => return Err("a double quote is open at the end".into()),
                }
            }
        } else {
            while let Some(letter) = letters.next_if(|c| !c.is_whitespace()) {
                word.push(letter);
            }
        }
        words.push(word);
    }
}

/// Reads an operation.
pub(super) fn operation(text: &str) -> Result<pb::RequestOp, String> {
    let words = words(text)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let request = match words[..] {
        ["put", key, value] => Request::RequestPut(pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }),
        ["get", key] => Request::RequestRange(pb::RangeRequest { key: bytes(key), ..Default::default() }),
        ["get", key, end] => Request::RequestRange(pb::RangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }),
        ["del", key] => Request::RequestDeleteRange(pb::DeleteRangeRequest { key: bytes(key), ..Default::default() }),
        ["del", key, end] => {
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() })
        }
        _ => return Err("an operation is `put KEY VALUE`, `get KEY [END]` or `del KEY [END]`".into()),
    };
    Ok(pb::RequestOp { request: Some(request) })
}

/// Reads a condition.
pub(super) fn compare(text: &str) -> Result<pb::Compare, String> {
    let words = words(text)?;
    let [target, key, relation, given] = &words[..] else {
        return Err("a condition is a target, a key, a relation and a value: `version KEY = 0`".into());
    };
    let result = match relation.as_str() {
        "=" | "==" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(format!("`{relation}` is no relation; choose =, !=, > or <")),
    };
    let number = || given.parse::<i64>().map_err(|_| format!("`{given}` is not a number"));
    let (target, union) = match target.as_str() {
        "value" => (CompareTarget::Value, TargetUnion::Value(bytes(given))),
        "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(if given == "0" { 0 } else { lease_id(given)? })),
        _ => return Err(format!("`{target}` is no target; choose value, version, create, mod or lease")),
    };
    let (result, target) = (result as i32, target as i32);
    Ok(pb::Compare { result, target, key: bytes(key), target_union: Some(union), ..Default::default() })
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_at_spaces_outside_quotes() {
        let cut = |text| words(text).unwrap();
        assert_eq!(cut(r#" put  k "a \"b\" c" "#), ["put", "k", r#"a "b" c"#]);
        assert_eq!(cut(r#"put k """#), ["put", "k", ""]);
        assert_eq!(cut(""), [""; 0]);
        assert!(words("put k \"a").is_err());
    }

    #[test]
    fn conditions_and_operations_say_what_is_wrong_with_them() {
        let version = compare("version lock = 0").unwrap();
        assert_eq!(version.target_union, Some(TargetUnion::Version(0)));
        for (text, part) in
            [("version lock", "a condition is"), ("size k = 1", "no target"), ("mod k ~ 1", "no relation"), ("mod k = x", "not a number")]
        {
            assert!(compare(text).unwrap_err().contains(part), "{text}");
        }
        assert!(operation("put k v").is_ok());
        for text in ["", "put k", "get", "del", "move a b"] {
            assert!(operation(text).is_err(), "{text}");
        }
    }
}
