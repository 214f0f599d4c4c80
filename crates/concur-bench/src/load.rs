//! A run: clients that ask, a window in which their answers count.
//!
//! Each thread drives its share of the clients on a runtime of its own. In a **closed loop** a client asks, waits, and asks
//! again: throughput at saturation. In an **open loop** operations are due at even intervals whatever the servers do, and a
//! latency runs from the moment an operation was *due*, so that a stall shows in every operation that had to wait for it,
//! not only in those that were under way. The warm-up runs under the same load and counts for nothing; the servers' CPU
//! time is read at the window's two ends, with the load still on.
//!
//! What is not here: ramps, schedules of several phases, clients on several machines.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use concur_proto::etcdserverpb::{PutRequest, PutResponse, RangeRequest, RangeResponse};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::BenchError;
use crate::measure::{LoadReport, Recorder};
use crate::metronome::Metronome;
use crate::usage::{self, Sample};
use crate::wire::{Call, Caller, Endpoint, Failure, Link};
use crate::workload::{Action, Operation, Operations, Shape, Workload};

/// Clients that write the key space before a run that reads.
const FILLERS: u64 = 64;
/// What a client waits after a failure, so that a server that refuses is not asked in a tight loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(5);
/// How often the progress line is drawn.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After this many operations, answered or failed.
    Operations(u64),
}

/// Everything that a run is told.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) clients: usize,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) workload: Workload,
    pub(crate) read_ratio: f64,
    pub(crate) value_bytes: usize,
    pub(crate) keys: u64,
    pub(crate) key_prefix: String,
    pub(crate) seed: u64,
    pub(crate) until: Until,
    pub(crate) warm_up: Duration,
    /// Operations due a second in an open loop; none in a closed one.
    pub(crate) rate: Option<f64>,
    pub(crate) timeout: Duration,
    pub(crate) server_pids: Vec<u32>,
    /// Whether to write the key space first.
    pub(crate) fill: bool,
    /// Whether to draw a progress line on a terminal.
    pub(crate) progress: bool,
}

/// Runs the load and measures it.
pub(crate) fn run(plan: &Plan) -> Result<LoadReport, BenchError> {
    let shape = shape(plan);
    if plan.fill {
        fill(plan)?;
    }
    let counted = Arc::new(AtomicU64::new(0));
    let (ready, readiness) = mpsc::channel();
    let crews: Vec<_> = (0..plan.threads)
        .map(|thread| {
            let (begin, beginning) = mpsc::channel();
            let (plan, shape, ready, counted) = (plan.clone(), shape.clone(), ready.clone(), counted.clone());
            (begin, thread::spawn(move || crew(&plan, &shape, thread, &ready, &beginning, counted)))
        })
        .collect();
    drop(ready);
    for _ in 0..plan.threads {
        readiness.recv().map_err(|_| BenchError::Failed("a thread of the generator ended early".into()))??;
    }
    let start = Instant::now();
    let window = Window { start, opens: start + plan.warm_up, until: plan.until };
    let (begins, threads): (Vec<_>, Vec<_>) = crews.into_iter().unzip();
    for begin in begins {
        // A thread that is gone is found when it is joined.
        _ = begin.send(window);
    }
    let observed = observe(plan, window, &readiness, &counted);
    let mut recorder = Recorder::new();
    for thread in threads {
        recorder.merge(thread.join().map_err(|_| BenchError::Failed("a thread of the generator panicked".into()))?);
    }
    Ok(report(plan, observed?, &recorder))
}

/// The time within which answers count.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Instant,
    opens: Instant,
    until: Until,
}

impl Window {
    /// When it closes, if time closes it.
    fn closes(&self) -> Option<Instant> {
        match self.until {
            Until::Elapsed(duration) => Some(self.opens + duration),
            Until::Operations(_) => None,
        }
    }

    fn contains(&self, moment: Instant, counted: u64) -> bool {
        moment >= self.opens && !self.is_over(moment, counted)
    }

    fn is_over(&self, moment: Instant, counted: u64) -> bool {
        match self.until {
            Until::Elapsed(duration) => moment >= self.opens + duration,
            Until::Operations(limit) => counted >= limit,
        }
    }
}

/// What the main thread saw at the window's two ends.
struct Observed {
    seconds: f64,
    wall: (f64, f64),
    /// None when a server's process ended before the window did.
    servers: Option<(Sample, Sample)>,
    generator_cpu_seconds: Option<f64>,
}

/// Waits for the window to open and to close, and reads the CPU counters at both moments.
fn observe(
    plan: &Plan,
    window: Window,
    ended: &mpsc::Receiver<Result<(), BenchError>>,
    counted: &AtomicU64,
) -> Result<Observed, BenchError> {
    let own = [std::process::id()];
    thread::sleep(window.opens.saturating_duration_since(Instant::now()));
    let (opened, opened_wall) = (Instant::now(), wall_clock());
    let earlier = Sample::of(&plan.server_pids)?;
    let generator_earlier = Sample::of(&own).ok();
    let mut progress = Progress { enabled: plan.progress && std::io::stderr().is_terminal(), opened, until: plan.until };
    loop {
        let now = Instant::now();
        let wait = window.closes().map_or(PROGRESS_EVERY, |closes| closes.saturating_duration_since(now).min(PROGRESS_EVERY));
        // Threads say no more unless they fail; when all have finished the channel closes.
        match ended.recv_timeout(wait) {
            Ok(said) => said?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if window.closes().is_some_and(|closes| Instant::now() >= closes) => break,
            Err(RecvTimeoutError::Timeout) => progress.draw(counted.load(Ordering::Relaxed)),
        }
    }
    let (closed, closed_wall) = (Instant::now(), wall_clock());
    let later = Sample::of(&plan.server_pids).ok();
    let generator_later = Sample::of(&own).ok();
    progress.clear();
    Ok(Observed {
        seconds: (closed - opened).as_secs_f64(),
        wall: (opened_wall, closed_wall),
        servers: later.map(|later| (earlier, later)),
        generator_cpu_seconds: generator_earlier.zip(generator_later).map(|(earlier, later)| later.seconds_since(&earlier)),
    })
}

fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn report(plan: &Plan, observed: Observed, recorder: &Recorder) -> LoadReport {
    let operations = recorder.completed;
    let per_op = |seconds: f64| seconds * 1e6 / operations.max(1) as f64;
    let measured = observed.servers.filter(|_| !plan.server_pids.is_empty());
    let servers = measured.and_then(|(earlier, later)| usage::between(&plan.server_pids, &earlier, &later, operations).ok());
    LoadReport {
        workload: plan.workload,
        endpoints: plan.endpoints.clone(),
        clients: plan.clients,
        connections: plan.connections,
        value_bytes: plan.value_bytes,
        keys: plan.keys,
        seed: plan.seed,
        rate: plan.rate,
        seconds: observed.seconds,
        operations,
        throughput: operations as f64 / observed.seconds,
        latency: recorder.overall(),
        by_action: recorder.by_action(),
        errors: recorder.errors(),
        missing: recorder.missing,
        unsent: recorder.unsent,
        servers,
        generator_cpu_us_per_op: observed.generator_cpu_seconds.map(per_op),
        window: observed.wall,
    }
}

/// One thread: connects its clients, waits for the start, runs them to the end.
fn crew(
    plan: &Plan,
    shape: &Shape,
    thread: usize,
    ready: &mpsc::Sender<Result<(), BenchError>>,
    beginning: &mpsc::Receiver<Window>,
    counted: Arc<AtomicU64>,
) -> Recorder {
    let recorder = Arc::new(Mutex::new(Recorder::new()));
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            // The receiver is gone only when the run has been given up.
            drop(ready.send(Err(error)));
            return Recorder::new();
        }
    };
    let outcome = runtime.block_on(async {
        let clients = connect(plan, (thread..plan.clients).step_by(plan.threads)).await?;
        drop(ready.send(Ok(())));
        let Ok(window) = beginning.recv() else { return Ok(()) };
        let post = Post { window, counted, recorder: recorder.clone() };
        match plan.rate {
            None => closed_loop(plan, shape, clients, &post).await,
            Some(rate) => open_loop(plan, shape, clients, &post, thread, rate).await?,
        }
        Ok(())
    });
    if let Err(error) = outcome {
        drop(ready.send(Err(error)));
    }
    runtime.shutdown_background();
    let mut recorder = lock(&recorder);
    std::mem::replace(&mut *recorder, Recorder::new())
}

/// A runtime of one thread, the calling one.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, BenchError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| BenchError::Failed(format!("the generator's runtime cannot start: {error}")))
}

fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().expect("recording does not panic")
}

/// Connects the clients of those numbers: connection `i` goes to endpoint `i`, in turn, and client `c` to connection `c`.
async fn connect(plan: &Plan, numbers: impl Iterator<Item = usize>) -> Result<Vec<(usize, Caller)>, BenchError> {
    let links: Vec<Arc<Link>> =
        (0..plan.connections).map(|at| Link::new(plan.endpoints[at % plan.endpoints.len()].clone(), plan.timeout)).collect();
    let mut clients = Vec::new();
    for number in numbers {
        let at = number % links.len();
        let mut caller = Caller::new(links[at].clone(), plan.timeout);
        let endpoint = || plan.endpoints[at % plan.endpoints.len()].clone();
        caller.connect().await.map_err(|_| BenchError::Unreachable(endpoint()))?;
        clients.push((number, caller));
    }
    Ok(clients)
}

/// Where clients learn whether to go on, and leave what they saw.
#[derive(Clone)]
struct Post {
    window: Window,
    counted: Arc<AtomicU64>,
    recorder: Arc<Mutex<Recorder>>,
}

impl Post {
    fn is_over(&self, moment: Instant) -> bool {
        self.window.is_over(moment, self.counted.load(Ordering::Relaxed))
    }

    /// Records an outcome. It is counted if it came within the window, its latency if `measured_at` lies in it.
    fn record(&self, action: Action, outcome: Result<Found, Failure>, begun: Instant, ended: Instant, measured_at: Instant) {
        let counted = self.counted.load(Ordering::Relaxed);
        let (ended_within, measured) = (self.window.contains(ended, counted), self.window.contains(measured_at, counted));
        if !ended_within && !measured {
            return;
        }
        self.counted.fetch_add(u64::from(ended_within), Ordering::Relaxed);
        let mut recorder = lock(&self.recorder);
        match outcome {
            Ok(found) => {
                recorder.completed += u64::from(ended_within);
                if measured {
                    recorder.latency(action, ended.saturating_duration_since(begun));
                    recorder.missing += u64::from(found == Found::Nothing);
                }
            }
            Err(failure) if measured => recorder.error(failure),
            Err(_) => {}
        }
    }
}

/// Returns when the window has closed: what is still under way then counts for nothing.
async fn closed_loop(plan: &Plan, shape: &Shape, clients: Vec<(usize, Caller)>, post: &Post) {
    let mut tasks = JoinSet::new();
    for (number, mut caller) in clients {
        let mut operations = Operations::new(shape, plan.seed, number as u64);
        let post = post.clone();
        tasks.spawn(async move {
            loop {
                let begun = Instant::now();
                if post.is_over(begun) {
                    return;
                }
                let operation = operations.next();
                let outcome = perform(&mut caller, &operation).await;
                let ended = Instant::now();
                post.record(operation.action, outcome, begun, ended, ended);
                if outcome.is_err() {
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        });
    }
    match post.window.closes() {
        Some(closes) => tokio::time::sleep_until(closes.into()).await,
        None => drop(tasks.join_next().await),
    }
}

async fn open_loop(
    plan: &Plan,
    shape: &Shape,
    clients: Vec<(usize, Caller)>,
    post: &Post,
    thread: usize,
    rate: f64,
) -> Result<(), BenchError> {
    let interval = Duration::from_secs_f64(plan.threads as f64 / rate);
    let start = post.window.start + interval.mul_f64(thread as f64 / plan.threads as f64);
    let due = Arc::new(Semaphore::new(0));
    let taken = Arc::new(AtomicU64::new(0));
    let closed = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for (number, mut caller) in clients {
        let mut operations = Operations::new(shape, plan.seed, number as u64);
        let (post, due, taken, closed) = (post.clone(), due.clone(), taken.clone(), closed.clone());
        tasks.spawn(async move {
            while let Ok(permit) = due.acquire().await {
                permit.forget();
                if closed.load(Ordering::Relaxed) {
                    return;
                }
                let meant = start + interval.mul_f64(taken.fetch_add(1, Ordering::Relaxed) as f64);
                let operation = operations.next();
                let outcome = perform(&mut caller, &operation).await;
                post.record(operation.action, outcome, meant, Instant::now(), meant);
            }
        });
    }
    let mut metronome = Metronome::new()?;
    let mut released = 0;
    loop {
        let now = Instant::now();
        if post.is_over(now) {
            break;
        }
        let due_in_all = (now.saturating_duration_since(start).as_secs_f64() / interval.as_secs_f64()) as u64 + u64::from(now >= start);
        due.add_permits((due_in_all - released) as usize);
        released = due_in_all;
        let next = start + interval.mul_f64(released as f64);
        metronome.wait_until(post.window.closes().map_or(next, |closes| closes.min(next))).await?;
    }
    closed.store(true, Ordering::Relaxed);
    due.close();
    count_unsent(post, shape, taken.load(Ordering::Relaxed)..released, |ticket| start + interval.mul_f64(ticket as f64));
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Operations that were due but that no client was free to send had waited at least until the window closed.
fn count_unsent(post: &Post, shape: &Shape, tickets: std::ops::Range<u64>, meant: impl Fn(u64) -> Instant) {
    let action = if shape.workload.reads() { Action::Get } else { Action::Put };
    let now = Instant::now();
    let mut recorder = lock(&post.recorder);
    for ticket in tickets.filter(|ticket| meant(*ticket) >= post.window.opens) {
        recorder.unsent += 1;
        recorder.latency(action, now.saturating_duration_since(meant(ticket)));
    }
}

/// Whether a get found its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Something,
    Nothing,
}

async fn perform(caller: &mut Caller, operation: &Operation) -> Result<Found, Failure> {
    let (key, value) = (operation.key.clone(), operation.value.clone());
    if operation.action == Action::Put {
        let answer: PutResponse = caller.call(Call::Put, &PutRequest { key, value, ..PutRequest::default() }).await?;
        return answer.header.map(|_| Found::Something).ok_or(Failure::Malformed);
    }
    let request = RangeRequest { key, serializable: operation.action == Action::GetSerializable, ..RangeRequest::default() };
    let answer: RangeResponse = caller.call(Call::Range, &request).await?;
    Ok(if answer.kvs.is_empty() { Found::Nothing } else { Found::Something })
}

fn shape(plan: &Plan) -> Shape {
    Shape::new(plan.workload, plan.read_ratio, &plan.key_prefix, plan.keys, plan.value_bytes, plan.seed)
}

/// Writes every key once.
pub(crate) fn fill(plan: &Plan) -> Result<(), BenchError> {
    let (runtime, shape) = (runtime()?, shape(plan));
    let shape = &shape;
    let outcome = runtime.block_on(async {
        let fillers = FILLERS.min(plan.keys);
        let plan = Plan { clients: fillers as usize, connections: plan.endpoints.len(), threads: 1, ..plan.clone() };
        let mut tasks = JoinSet::new();
        for (number, mut caller) in connect(&plan, 0..plan.clients).await? {
            let mut operations = Operations::new(shape, plan.seed, u64::MAX - 1 - number as u64);
            let keys = (number as u64..plan.keys).step_by(plan.clients);
            tasks.spawn(async move {
                for key in keys {
                    perform(&mut caller, &operations.filling(key)).await?;
                }
                Ok::<(), Failure>(())
            });
        }
        while let Some(joined) = tasks.join_next().await {
            let written = joined.map_err(|_| BenchError::Failed("a client panicked while the keys were written".into()))?;
            written.map_err(|failure| BenchError::Failed(format!("the keys to be read could not be written: {failure}")))?;
        }
        Ok(())
    });
    runtime.shutdown_background();
    outcome
}

/// Writes one key through one endpoint: a server that answers this is ready.
pub(crate) async fn probe(endpoint: &Endpoint, timeout: Duration) -> Result<(), Failure> {
    let mut caller = Caller::new(Link::new(endpoint.clone(), timeout), timeout);
    let operation = Operation { action: Action::Put, key: Bytes::from_static(b"bench-ready"), value: Bytes::new() };
    perform(&mut caller, &operation).await.map(|_| ())
}

/// One line that says how far the run is, drawn over itself.
struct Progress {
    enabled: bool,
    opened: Instant,
    until: Until,
}

impl Progress {
    fn draw(&mut self, counted: u64) {
        if !self.enabled {
            return;
        }
        let elapsed = self.opened.elapsed().as_secs_f64();
        let rate = counted as f64 / elapsed.max(1e-9);
        let remaining = match self.until {
            Until::Elapsed(duration) => duration.as_secs_f64() - elapsed,
            Until::Operations(limit) => limit.saturating_sub(counted) as f64 / rate.max(1e-9),
        };
        // A progress line that cannot be drawn is no reason to stop measuring.
        drop(write!(std::io::stderr(), "\r\x1b[2K{counted} operations, {rate:.0}/s, {remaining:.0} s to go"));
    }

    fn clear(&mut self) {
        if self.enabled {
            drop(write!(std::io::stderr(), "\r\x1b[2K"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(until: Until) -> Window {
        let start = Instant::now();
        Window { start, opens: start + Duration::from_secs(1), until }
    }

    #[test]
    fn a_timed_window_holds_its_opening_and_not_its_end() {
        let timed = window(Until::Elapsed(Duration::from_secs(2)));
        let at = |ms| timed.start + Duration::from_millis(ms);
        assert!(!timed.contains(at(999), 0));
        assert!(timed.contains(at(1_000), 0));
        assert!(timed.contains(at(2_999), u64::MAX));
        assert!(!timed.contains(at(3_000), 0));
        assert_eq!(timed.closes(), Some(at(3_000)));
    }

    #[test]
    fn a_counted_window_closes_with_its_last_answer() {
        let counted = window(Until::Operations(10));
        let late = counted.start + Duration::from_secs(1_000);
        assert!(counted.contains(late, 9));
        assert!(!counted.contains(late, 10));
        assert!(!counted.contains(counted.start, 0), "the warm-up counts for nothing");
        assert_eq!(counted.closes(), None);
    }

    #[test]
    fn an_open_loop_measures_from_the_intended_time_and_counts_by_the_answer() {
        let window = window(Until::Elapsed(Duration::from_secs(1)));
        let post = Post { window, counted: Arc::default(), recorder: Arc::new(Mutex::new(Recorder::new())) };
        let at = |ms| window.start + Duration::from_millis(ms);
        post.record(Action::Put, Ok(Found::Something), at(900), at(1_100), at(900));
        post.record(Action::Put, Ok(Found::Something), at(1_500), at(1_900), at(1_500));
        post.record(Action::Put, Ok(Found::Something), at(1_900), at(2_300), at(1_900));
        post.record(Action::Put, Err(Failure::Timeout), at(1_900), at(2_300), at(1_900));
        post.record(Action::Put, Err(Failure::Timeout), at(100), at(200), at(100));
        let recorder = lock(&post.recorder);
        assert_eq!(recorder.completed, 2, "two answers came within the window");
        assert_eq!(recorder.overall().count, 2, "two operations were due within it");
        assert!((recorder.overall().p50_us - 400e3).abs() < 1e3);
        assert_eq!(recorder.errors().into_values().sum::<u64>(), 1);
    }
}
