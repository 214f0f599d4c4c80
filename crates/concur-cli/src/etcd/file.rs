//! etcd's file: YAML, its keys named as the flags, and two tables for TLS.

use serde_json::Value;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The flags that a file stands for.
pub(super) fn read(path: &str) -> Result<Vec<(String, String)>, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot read the configuration file {path}: {error}");
    let length = std::fs::metadata(path).map_err(|error| cannot(&error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(cannot(&"it is too large"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
    flags(&text).map_err(|why| cannot(&why))
}

fn flags(text: &str) -> Result<Vec<(String, String)>, String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let table = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Object(table) => table,
        _ => return Err("it is to be a table of keys and values".into()),
    };
    let mut flags = Vec::new();
    for (key, value) in table {
        let (prefix, names) = match key.as_str() {
            "client-transport-security" => ("", CLIENT),
            "peer-transport-security" => ("peer-", PEER),
            _ => {
                flags.push((key, shown(value)?));
                continue;
            }
        };
        let Value::Object(inner) = value else { return Err(format!("`{key}` is to be a table")) };
        for (inner_key, value) in inner {
            let named = names.iter().find(|(name, _)| *name == inner_key).map(|(_, flag)| (*flag).to_owned());
            flags.push((named.unwrap_or_else(|| format!("{prefix}{inner_key}")), shown(value)?));
        }
    }
    Ok(flags)
}

/// Keys of the tables that are not named as their flags.
const CLIENT: &[(&str, &str)] =
    &[("allowed-hostname", "client-cert-allowed-hostname"), ("allowed-hostnames", "client-cert-allowed-hostname")];
const PEER: &[(&str, &str)] = &[
    ("allowed-cn", "peer-cert-allowed-cn"),
    ("allowed-hostname", "peer-cert-allowed-hostname"),
    ("allowed-hostnames", "peer-cert-allowed-hostname"),
];

/// A value as a flag has it.
fn shown(value: Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Bool(flag) => Ok(flag.to_string()),
        // Durations are numbers of nanoseconds in this file.
        Value::Number(number) => Ok(number.to_string()),
        Value::Array(list) => Ok(list.into_iter().map(shown).collect::<Result<Vec<_>, _>>()?.join(",")),
        Value::Object(_) => Err("a table stands where a value should".into()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_flags_and_tables_are_their_prefixes() {
        let text = "
# As etcd's example.
name: 'n1'
data-dir: /var/lib/etcd
heartbeat-interval: 100
initial-cluster: n1=http://10.0.0.1:2380
client-transport-security:
  cert-file: /c.pem
  client-cert-auth: true
peer-transport-security:
  cert-file: /p.pem
  allowed-cn: peer
log-outputs: [stderr, /var/log/etcd.log]
wal-dir:
";
        let mut flags = super::flags(text).unwrap();
        flags.sort();
        let expected = [
            ("cert-file", "/c.pem"),
            ("client-cert-auth", "true"),
            ("data-dir", "/var/lib/etcd"),
            ("heartbeat-interval", "100"),
            ("initial-cluster", "n1=http://10.0.0.1:2380"),
            ("log-outputs", "stderr,/var/log/etcd.log"),
            ("name", "n1"),
            ("peer-cert-allowed-cn", "peer"),
            ("peer-cert-file", "/p.pem"),
            ("wal-dir", ""),
        ];
        assert_eq!(flags, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(super::flags("- a").is_err() && super::flags("a: {b: c}").is_err());
    }
}
