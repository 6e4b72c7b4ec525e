//! When to call a caller's check for interrupts.

use std::time::{Duration, Instant};

use crate::error::Error;

/// What long loops call every millisecond or so. An error ends them.
pub type Poll<'a> = dyn FnMut() -> Result<(), Error> + 'a;

/// What is called for interrupts now and then, on the thread of the caller. An error ends the work.
pub type InterruptCheck<'a> = &'a mut (dyn FnMut() -> Result<(), Error> + Send);

/// Time between two calls of the check. It waits for the interpreter, so it must be rare.
const INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of text between two looks at the clock: a millisecond of work or less.
pub(super) const POLL_BYTES: usize = 1 << 17;

/// Calls a check for interrupts about every 50 milliseconds.
pub struct Interrupts<'a> {
    check: &'a mut Poll<'a>,
    /// None before the first look at the clock.
    due: Option<Instant>,
    /// Bytes since the last look at the clock.
    bytes: usize,
}

impl<'a> Interrupts<'a> {
    /// The first call of `check` is due 50 milliseconds after the first poll.
    pub fn new(check: &'a mut Poll<'a>) -> Self {
        Self { check, due: None, bytes: 0 }
    }

    /// Call the check if it is due.
    pub fn poll(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if now < *self.due.get_or_insert(now + INTERVAL) {
            return Ok(());
        }
        self.due = Some(now + INTERVAL);
        (self.check)()
    }

    /// Poll, if many bytes of text were worked on since the last time.
    #[inline]
    pub fn after(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes += bytes;
        if self.bytes < POLL_BYTES {
            return Ok(());
        }
        self.bytes = 0;
        self.poll()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_is_called_when_it_is_due() {
        let mut calls = 0;
        let mut check = || {
            calls += 1;
            Ok(())
        };
        let mut interrupts = Interrupts::new(&mut check);
        interrupts.poll().expect("no interrupt");
        interrupts.due = Some(Instant::now());
        interrupts.after(POLL_BYTES - 1).expect("no interrupt");
        interrupts.after(1).expect("no interrupt");
        interrupts.poll().expect("no interrupt");
        assert_eq!(calls, 1);
    }
}
