//! What the program says: each file under `said/` shows commands, and below each what it writes and how it ends. Pages show it too.
//!
//! `$` is a command, with variables in front; `>` a line on standard output, `!` one on standard error, `=` the exit code. The word
//! `{closed}` is the address of a port where nobody listens. With `CONCUR_TEST_WRITE=1` the files are written anew, to be reviewed as
//! changed behaviour.

#[path = "common/ports.rs"]
mod ports;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Cuts a command line at spaces outside double quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn run(line: &str, folder: &Path) -> String {
    let closed = ports::free();
    let words = words(&line.replace("{closed}", &closed));
    let program = words.iter().position(|word| word == "concur").expect("every command is one of concur's");
    let mut command = Command::new(env!("CARGO_BIN_EXE_concur"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONCUR_")) {
        command.env_remove(name);
    }
    for variable in &words[..program] {
        let (name, value) = variable.split_once('=').expect("what stands before the program are variables");
        command.env(name, value);
    }
    let output = command.args(&words[program + 1..]).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    let mut said = format!("$ {line}\n");
    for (mark, text) in [('>', output.stdout), ('!', output.stderr)] {
        for line in String::from_utf8(text).unwrap().replace(&closed, "{closed}").lines() {
            writeln!(said, "{}", format!("{mark} {line}").trim_end()).unwrap();
        }
    }
    writeln!(said, "= {}", output.status.code().unwrap()).unwrap();
    said
}

#[test]
fn each_command_says_what_its_file_shows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/said");
    let write = std::env::var_os("CONCUR_TEST_WRITE").is_some();
    let (mut seen, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let wanted = std::fs::read_to_string(&path).unwrap();
        let commands: Vec<&str> = wanted.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        seen += commands.len();
        let got = commands.iter().map(|line| run(line, &folder)).collect::<Vec<_>>().join("\n");
        if write {
            std::fs::write(&path, &got).unwrap();
        } else if got != wanted {
            wrong.push(format!("== {}\n-- wanted\n{wanted}-- got\n{got}", path.display()));
        }
    }
    assert!(seen >= 20, "only {seen} commands");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A page's block that shows what a command prints: the line before it names the command.
const PRINTED: &str = "<!-- printed by: concur ";

fn printed(arguments: &str) -> String {
    let said = run(&format!("concur {arguments}"), Path::new(env!("CARGO_MANIFEST_DIR")));
    let lines: Vec<&str> =
        said.lines().filter_map(|line| line.strip_prefix('>')).map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    lines.join("\n")
}

/// The page with each such block as its command prints it now, and how many there are.
fn fresh(page: &str) -> (String, usize) {
    let (mut new, mut rest, mut blocks) = (String::new(), page, 0);
    while let Some(at) = rest.find(PRINTED) {
        let command = rest[at + PRINTED.len()..].lines().next().unwrap().trim_end_matches(" -->");
        let begin = at + rest[at..].find("```text\n").expect("a block of text follows") + "```text\n".len();
        let end = begin + rest[begin..].find("\n```").expect("it ends");
        new.push_str(&rest[..begin]);
        new.push_str(&printed(command));
        rest = &rest[end..];
        blocks += 1;
    }
    (new + rest, blocks)
}

#[test]
fn pages_show_what_commands_print() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = std::fs::read_dir(top.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let (mut blocks, mut wrong) = (0, Vec::new());
    for path in docs.chain([top.join("README.md")]) {
        let page = std::fs::read_to_string(&path).unwrap();
        let (new, found) = fresh(&page);
        blocks += found;
        if std::env::var_os("CONCUR_TEST_WRITE").is_some() {
            std::fs::write(&path, &new).unwrap();
        } else if new != page {
            wrong.push(path.display().to_string());
        }
    }
    assert!(blocks >= 2, "only {blocks} blocks");
    assert!(wrong.is_empty(), "not as the commands print it; CONCUR_TEST_WRITE=1 writes it anew: {wrong:?}");
}
