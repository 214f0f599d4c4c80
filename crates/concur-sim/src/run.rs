//! One run, from a schedule to its outcome. A panic anywhere in it (a broken invariant of a protocol, say) is a violation too.

use crate::ledger::Violation;
use crate::schedule::Schedule;
use crate::trace::Trace;
use crate::world::{Outcome, World};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Lets a schedule happen.
pub fn run(schedule: &Schedule) -> Outcome {
    World::new(schedule, false).run().0
}

/// Lets a schedule happen, and keeps what happened last.
pub fn run_traced(schedule: &Schedule) -> (Outcome, Trace) {
    let (outcome, trace) = World::new(schedule, true).run();
    (outcome, trace.unwrap_or_default())
}

thread_local! {
    /// What the panic said, while panics are caught on this thread.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// Calls `act`; a panic becomes a violation and prints nothing.
pub(crate) fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, Violation> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CATCHING.with_borrow(|catching| *catching) {
                CAUGHT.with_borrow_mut(|caught| *caught = Some(info.to_string().replace('\n', " ")));
            } else {
                before(info);
            }
        }));
    });
    let before = CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(act));
    CATCHING.set(before);
    result.map_err(|_| {
        let message = CAUGHT.take().unwrap_or_else(|| "no message".to_owned());
        Violation::new("panic", message)
    })
}
