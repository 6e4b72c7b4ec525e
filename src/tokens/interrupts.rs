//! When to call a caller's check for interrupts.

use std::time::{Duration, Instant};

use crate::error::Error;

/// What long loops call every millisecond or so. An error ends them.
pub type Poll<'a> = dyn FnMut() -> Result<(), Error> + 'a;

/// Time between two calls of the check. It waits for the interpreter, so it must be rare.
const INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of text between two looks at the clock: a millisecond of work or less.
pub(super) const POLL_BYTES: usize = 1 << 17;

/// Calls a check for interrupts about every 50 milliseconds.
pub struct Interrupts<'a> {
    check: &'a mut Poll<'a>,
    due: Instant,
    /// Bytes since the last look at the clock.
    bytes: usize,
}

impl<'a> Interrupts<'a> {
    /// The first call of `check` is due in 50 milliseconds.
    pub fn new(check: &'a mut Poll<'a>) -> Self {
        Self { check, due: Instant::now() + INTERVAL, bytes: 0 }
    }

    /// Call the check if it is due.
    pub fn poll(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if now < self.due {
            return Ok(());
        }
        self.due = now + INTERVAL;
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
        interrupts.due = Instant::now();
        interrupts.after(POLL_BYTES - 1).expect("no interrupt");
        interrupts.after(1).expect("no interrupt");
        interrupts.poll().expect("no interrupt");
        assert_eq!(calls, 1);
    }
}
