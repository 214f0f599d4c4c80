//! `concur kill` and `concur start`: a running demo is told over a socket in its directory.

use super::nodes::{Nodes, demos, is_alive};
use crate::exit::{Exit, Failure, Outcome};
use clap::Args;
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

const SOCKET: &str = "control";
/// The longest order.
const ORDER_BYTES_MAX: u64 = 256;

/// `kill -9` a node of the running demo
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Which
    node: String,
}

/// Start a node of the running demo that was killed
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Which
    node: String,
}

impl Kill {
    pub(crate) fn run(self) -> Outcome {
        order("kill", &self.node)
    }
}

impl Start {
    pub(crate) fn run(self) -> Outcome {
        order("start", &self.node)
    }
}

/// Where the nodes of the running demo listen for clients, if there is one.
pub(crate) fn endpoints() -> Option<Vec<String>> {
    let answer = ask(&running()?, ENDPOINTS).ok()?;
    Some(answer.strip_prefix("ok ")?.trim_end().split(',').map(str::to_owned).collect())
}

const ENDPOINTS: &str = "endpoints of all";

/// The directory of the demo of this user that began last, if one runs.
fn running() -> Option<PathBuf> {
    let me = rustix::process::geteuid().as_raw();
    let is_mine = |directory: &PathBuf| std::fs::metadata(directory).is_ok_and(|directory| directory.uid() == me);
    let running = demos().filter(|directory| is_mine(directory) && is_alive(directory));
    running.max_by_key(|directory| std::fs::metadata(directory).and_then(|m| m.modified()).ok())
}

/// Tells the running demo.
fn order(verb: &str, node: &str) -> Outcome {
    let Some(directory) = running() else {
        return Err(Failure::new(Exit::Unreachable, "no demo is running; `concur demo` begins one"));
    };
    let failed = |error: std::io::Error| Failure::new(Exit::Unreachable, format!("the demo does not answer: {error}"));
    let answer = ask(&directory, &format!("{verb} {node}")).map_err(failed)?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", text)) => crate::output::write(format!("{text}\n")),
        Some((_, text)) => Err(Failure::new(Exit::Invalid, text)),
        None => Err(Failure::new(Exit::Unreachable, "the demo ended")),
    }
}

/// Gives an order, and waits for the answer.
fn ask(directory: &Path, order: &str) -> std::io::Result<String> {
    let mut socket = UnixStream::connect(directory.join(SOCKET))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(format!("{order}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer)?;
    Ok(answer)
}

/// Listens for orders, one a connection.
pub(super) fn serve(nodes: Rc<RefCell<Nodes>>) -> Outcome<impl Future<Output = ()>> {
    let path = nodes.borrow().directory.join(SOCKET);
    let listener =
        UnixListener::bind(&path).map_err(|error| Failure::new(Exit::Failure, format!("cannot use {}: {error}", path.display())))?;
    Ok(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (reader, mut writer) = socket.into_split();
            let mut line = String::new();
            let mut reader = tokio::io::BufReader::new(reader.take(ORDER_BYTES_MAX));
            if !tokio::time::timeout(Duration::from_secs(5), reader.read_line(&mut line)).await.is_ok_and(|read| read.is_ok()) {
                continue;
            }
            let answer = match obey(&mut nodes.borrow_mut(), line.trim_end()) {
                Ok(text) => format!("ok {text}\n"),
                Err(text) => format!("no {text}\n"),
            };
            // Whoever asked may be gone.
            drop(writer.write_all(answer.as_bytes()).await);
        }
    })
}

fn obey(nodes: &mut Nodes, order: &str) -> Result<String, String> {
    if order == ENDPOINTS {
        return Ok(nodes.nodes.iter().map(|node| format!("127.0.0.1:{}", node.client_port)).collect::<Vec<_>>().join(","));
    }
    let (verb, name) = order.split_once(' ').ok_or("an order is a verb and a node")?;
    let names = || nodes.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
    let i = nodes.find(name).ok_or_else(|| format!("no node is called `{name}`; there are {}", names()))?;
    match (verb, nodes.is_running(i)) {
        ("kill", true) => {
            let pid = nodes.kill(i).ok_or("it could not be killed")?;
            Ok(format!("killed {name} (pid {pid})"))
        }
        ("kill", false) => Err(format!("{name} is not running; `concur start {name}` starts it")),
        ("start", true) => Err(format!("{name} is running")),
        ("start", false) => match nodes.spawn(i) {
            Ok(()) => Ok(format!("started {name}")),
            Err(_) => Err(format!("{name} could not be started")),
        },
        _ => Err(format!("`{verb}` is not an order")),
    }
}
