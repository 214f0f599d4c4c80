//! A timer fine enough to space the operations of an open loop.
//!
//! The runtime's own timer ticks once a millisecond, which would add up to that much to every latency. On Linux a
//! `timerfd` wakes the thread within microseconds; elsewhere the runtime's timer has to do.

use std::time::Instant;

use crate::BenchError;

#[cfg(target_os = "linux")]
pub(crate) struct Metronome {
    /// The descriptor of the timer. The runtime knows how to wait for a pipe; a timer becomes readable in the same way.
    timer: tokio::net::unix::pipe::Receiver,
}

#[cfg(target_os = "linux")]
impl Metronome {
    pub(crate) fn new() -> Result<Metronome, BenchError> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        use tokio::net::unix::pipe::Receiver;

        let created = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC);
        let timer = created.map_err(std::io::Error::from).and_then(Receiver::from_owned_fd_unchecked).map_err(refused)?;
        Ok(Metronome { timer })
    }

    /// Returns at that moment, or at once if it has passed.
    pub(crate) async fn wait_until(&mut self, moment: Instant) -> Result<(), BenchError> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        use tokio::io::AsyncReadExt;

        let wait = moment.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            // The clients still get their turn.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let it_value = Timespec { tv_sec: wait.as_secs().min(i32::MAX as u64) as _, tv_nsec: wait.subsec_nanos() as _ };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).map_err(|error| refused(error.into()))?;
        // A timer gives eight bytes; asking for more tells the runtime that there is nothing left to read.
        let mut expirations = [0; 16];
        self.timer.read(&mut expirations).await.map_err(refused)?;
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn refused(error: std::io::Error) -> BenchError {
    BenchError::Failed(format!("the system gives no timer: {error}"))
}

#[cfg(not(target_os = "linux"))]
pub(crate) struct Metronome;

#[cfg(not(target_os = "linux"))]
impl Metronome {
    pub(crate) fn new() -> Result<Metronome, BenchError> {
        Ok(Metronome)
    }

    /// Returns at that moment, to the millisecond, or at once if it has passed.
    pub(crate) async fn wait_until(&mut self, moment: Instant) -> Result<(), BenchError> {
        tokio::time::sleep_until(moment.into()).await;
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_never_wakes_early_and_lets_past_moments_through() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut metronome = Metronome::new().unwrap();
            let begun = Instant::now();
            metronome.wait_until(begun).await.unwrap();
            for beat in 1..=20 {
                let due = begun + Duration::from_micros(300 * beat);
                metronome.wait_until(due).await.unwrap();
                assert!(Instant::now() >= due);
            }
        });
    }
}
