//! The members' hosts: a network namespace each, joined by a bridge on which the clients sit. A way from one member to another is
//! cut by a route that leads nowhere, so that a cut has a direction and clients still reach whoever is cut off.

use std::collections::BTreeSet;
use std::process::Command;

pub(crate) struct Net {
    /// Names must differ between runs at once, and an interface's has at most 15 bytes.
    run: u32,
    hosts: usize,
    cut: BTreeSet<(usize, usize)>,
}

impl Net {
    pub(crate) fn new(hosts: usize) -> Self {
        let net = Self { run: std::process::id(), hosts, cut: BTreeSet::new() };
        let bridge = net.bridge();
        net.ip(&["link", "add", &bridge, "type", "bridge"]);
        net.ip(&["addr", "add", &format!("{}/24", net.address(253)), "dev", &bridge]);
        net.ip(&["link", "set", &bridge, "up"]);
        for host in 0..hosts {
            let (space, outer) = (net.space(host), net.outer(host));
            net.ip(&["netns", "add", &space]);
            net.ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space]);
            net.ip(&["link", "set", &outer, "master", &bridge, "up"]);
            net.ip(&["-n", &space, "addr", "add", &format!("{}/24", net.address(host)), "dev", "eth0"]);
            net.ip(&["-n", &space, "link", "set", "eth0", "up"]);
            net.ip(&["-n", &space, "link", "set", "lo", "up"]);
        }
        net
    }

    /// Of the range that is kept for tests of networks (RFC 2544).
    pub(crate) fn address(&self, host: usize) -> String {
        format!("198.18.{}.{}", self.run % 256, host + 1)
    }

    /// A program, to be run on a host; its process is the program's own.
    pub(crate) fn on(&self, host: usize, program: &Command) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(host)]).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Whatever `from` sends to `to` is lost.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        if self.cut.insert((from, to)) {
            self.ip(&["-n", &self.space(from), "route", "add", "blackhole", &self.address(to)]);
        }
    }

    pub(crate) fn heal(&mut self) {
        for (from, to) in std::mem::take(&mut self.cut) {
            self.ip(&["-n", &self.space(from), "route", "del", "blackhole", &self.address(to)]);
        }
    }

    fn bridge(&self) -> String {
        format!("cb{}", self.run)
    }

    /// The bridge's end of a host's line.
    fn outer(&self, host: usize) -> String {
        format!("cv{}-{host}", self.run)
    }

    fn space(&self, host: usize) -> String {
        format!("concur-{}-{host}", self.run)
    }

    fn ip(&self, arguments: &[&str]) {
        let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
        assert!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            // A namespace lasts as long as its last process; its line goes at once.
            let _ = Command::new("ip").args(["link", "del", &self.outer(host)]).output();
            let _ = Command::new("ip").args(["netns", "del", &self.space(host)]).output();
        }
        let _ = Command::new("ip").args(["link", "del", &self.bridge()]).output();
    }
}
