//! The effort of a search as a budget of steps, so that the result does not depend on the machine.

use std::time::Duration;

/// How long [`pack`](super::pack) may search, and how to stop it.
pub struct Effort<'a> {
    /// The most seconds of search. They are converted to the budget of steps that usually ends it.
    pub seconds: f64,
    /// Called some ten times a second during the search; `true` ends it with [`Error::Interrupted`].
    ///
    /// [`Error::Interrupted`]: crate::error::Error::Interrupted
    pub interrupted: &'a dyn Fn() -> bool,
}

/// Steps in a second of effort: about two thirds of what one core of 2024 does. A step is about two nanoseconds of work.
const STEPS_PER_SECOND: f64 = 3.0e8;
/// The clock ends a search after its seconds, and not before this many. Only then, on a slow machine, does the result
/// depend on the machine.
const LEAST_SECONDS: f64 = 0.5;
/// Steps between two checks of the clock and of `interrupted`.
const STEPS_PER_CHECK: u64 = 200_000;

/// A budget of steps, with the clock as a safety net.
pub(super) struct Budget<'a> {
    left: u64,
    until_check: u64,
    deadline: Duration,
    interrupted: &'a dyn Fn() -> bool,
    is_exhausted: bool,
    is_interrupted: bool,
}

impl<'a> Budget<'a> {
    pub(super) fn new(effort: &Effort<'a>) -> Self {
        let allowed = Duration::try_from_secs_f64(effort.seconds.max(LEAST_SECONDS)).unwrap_or(Duration::MAX);
        let deadline = time_used().saturating_add(allowed);
        Self {
            left: (effort.seconds * STEPS_PER_SECOND) as u64,
            until_check: 0,
            deadline,
            interrupted: effort.interrupted,
            is_exhausted: false,
            is_interrupted: false,
        }
    }

    /// Deduct `steps`. False when the search must end.
    pub(super) fn spend(&mut self, steps: u64) -> bool {
        if self.is_exhausted || self.left < steps {
            self.is_exhausted = true;
            return false;
        }
        self.left -= steps;
        if self.until_check < steps {
            self.until_check = STEPS_PER_CHECK;
            self.is_interrupted = (self.interrupted)();
            self.is_exhausted = self.is_interrupted || time_used() >= self.deadline;
        } else {
            self.until_check -= steps;
        }
        !self.is_exhausted
    }

    /// Steps that are left.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }
}

/// The processor time of this thread, which the load of the machine does not change.
#[cfg(target_os = "linux")]
fn time_used() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// The time since the first call.
#[cfg(not(target_os = "linux"))]
fn time_used() -> Duration {
    use std::sync::OnceLock;
    use std::time::Instant;

    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
