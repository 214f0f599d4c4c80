//! A command line as Go's flag package reads it.

use super::flags::{self, Kind};

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// To be told how it is used.
    Help,
    /// The version.
    Version,
    /// A node, with these flags; of one that is given twice the last counts.
    Flags(Vec<(String, String)>),
}

/// Reads a command line; the error is what etcd says.
pub(super) fn parse(arguments: &[String]) -> Result<Parsed, String> {
    if let Some(other @ ("gateway" | "grpc-proxy")) = arguments.first().map(String::as_str) {
        return Err(format!("`etcd {other}` is not built in: clients reach any member, and members reach one another"));
    }
    let (mut given, mut version) = (Vec::new(), false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let bare = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
        let Some(bare) = bare.filter(|bare| !bare.is_empty()) else {
            return stray(if argument == "--" { rest.next() } else { Some(argument) }).map_or(Ok(()), Err).map(|()| Parsed::Flags(given));
        };
        if bare.starts_with(['-', '=']) {
            return Err(format!("bad flag syntax: {argument}"));
        }
        let (name, value) = bare.split_once('=').map_or((bare, None), |(name, value)| (name, Some(value.to_owned())));
        if matches!(name, "h" | "help") {
            return Ok(Parsed::Help);
        }
        let flag = flags::find(name).ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
        let value = match (flag.kind, value) {
            (Kind::Bool, value) => boolean(name, &value.unwrap_or_else(|| "true".into()))?,
            (_, Some(value)) => value,
            (_, None) => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        version |= name == "version" && value == "true";
        given.push((name.to_owned(), value));
    }
    Ok(if version { Parsed::Version } else { Parsed::Flags(given) })
}

fn stray(argument: Option<&String>) -> Option<String> {
    argument.map(|argument| format!("'{argument}' is not a valid flag"))
}

/// `true` or `false`, of the words that Go takes.
pub(super) fn boolean(name: &str, value: &str) -> Result<String, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".into()),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".into()),
        _ => Err(format!("invalid boolean value \"{value}\" for -{name}: parse error")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Parsed, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn flags(pairs: &[(&str, &str)]) -> Result<Parsed, String> {
        Ok(Parsed::Flags(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()))
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let both = flags(&[("name", "a"), ("data-dir", "/d"), ("pre-vote", "true"), ("name", "b")]);
        assert_eq!(parsed("-name a --data-dir=/d --pre-vote -name=b"), both);
        assert_eq!(parsed("--client-cert-auth=false --initial-cluster a=http://x:1,b=http://y:2"), {
            flags(&[("client-cert-auth", "false"), ("initial-cluster", "a=http://x:1,b=http://y:2")])
        });
        assert_eq!(parsed("-h"), Ok(Parsed::Help));
        assert_eq!(parsed("--version"), Ok(Parsed::Version));
        for (line, said) in [
            ("--nmae x", "flag provided but not defined: -nmae"),
            ("--name", "flag needs an argument: -name"),
            ("name", "'name' is not a valid flag"),
            ("-pre-vote false", "'false' is not a valid flag"),
            ("--pre-vote=maybe", "invalid boolean value \"maybe\" for -pre-vote: parse error"),
            ("---name x", "bad flag syntax: ---name"),
        ] {
            assert_eq!(parsed(line), Err(said.to_owned()), "{line}");
        }
    }
}
