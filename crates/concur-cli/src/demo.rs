//! `concur demo`: a cluster of real processes on this machine, and what happens when one of them is killed.
//!
//! Every line of the tour is a claim that was just measured or checked; a line that does not hold is printed as such, and with
//! `--once` decides the exit code. The nodes are children running `concur serve` with data in a temporary directory. They hold the
//! other end of their standard input, so that they end with this process however it ends; the directory of one that was killed
//! is removed by the next demo.

mod client;
mod control;
mod nodes;
mod tour;

use crate::exit::{Exit, Failure, Outcome};
use clap::Args;
use nodes::Nodes;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use control::{Kill, Start, endpoints};

/// Run a cluster of real processes, kill one, and see what is lost
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How the replicas vote, as `concur strategies` names it
    #[arg(long, env = "CONCUR_STRATEGY", value_name = "NAME")]
    strategy: Option<String>,
    /// How many nodes
    #[arg(long, env = "CONCUR_NODES", default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9), value_name = "COUNT")]
    nodes: u8,
    /// End after the tour, with success only if every line held
    #[arg(long, env = "CONCUR_ONCE")]
    once: bool,
}

impl Demo {
    pub(crate) fn run(self) -> Outcome {
        let strategy = match &self.strategy {
            None => concur::registry()[0],
            Some(name) => concur::find(name).ok_or_else(|| {
                let names: Vec<&str> = concur::registry().iter().map(|strategy| strategy.traits.name).collect();
                Failure::new(Exit::Invalid, format!("error[C005]: no strategy is called `{name}`; there are {}", names.join(", ")))
            })?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Exit::Failure, format!("cannot start: {error}")))?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            nodes::sweep();
            let nodes = Rc::new(RefCell::new(Nodes::start(strategy, usize::from(self.nodes))?));
            let outcome = tokio::select! {
                outcome = self.show(&nodes, strategy) => outcome,
                name = asked_to_stop() => {
                    if self.once { Err(Failure::new(Exit::Failure, format!("ended by {name}"))) } else { Ok(()) }
                }
            };
            nodes::stop(&nodes).await;
            outcome
        })
    }

    async fn show(&self, nodes: &Rc<RefCell<Nodes>>, strategy: concur::Strategy) -> Outcome {
        let serving = tokio::task::spawn_local(control::serve(nodes.clone())?);
        let held = tour::run(nodes, strategy).await?;
        if self.once {
            serving.abort();
            return if held { Ok(()) } else { Err(Failure::new(Exit::Failure, "not every line held")) };
        }
        tour::invite(&nodes.borrow());
        std::future::pending().await
    }
}

/// Ends with the first signal that asks to stop.
async fn asked_to_stop() -> &'static str {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = interrupt.recv() => "an interrupt",
        _ = terminate.recv() => "a signal to terminate",
        _ = hangup.recv() => "the end of its terminal",
    }
}
