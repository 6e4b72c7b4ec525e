//! Threads that live as long as one call, and the check that can interrupt it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;

/// Called now and then on the calling thread; an error stops the work and is returned.
pub type InterruptCheck<'a> = &'a mut (dyn FnMut() -> Result<(), Error> + Send);

/// Calls an [`InterruptCheck`] at most once per interval, so that it costs nothing in a loop.
pub(super) struct Interrupts<'a> {
    call: InterruptCheck<'a>,
    last: Instant,
}

impl<'a> Interrupts<'a> {
    const INTERVAL: Duration = Duration::from_millis(50);

    pub(super) fn new(call: InterruptCheck<'a>) -> Self {
        Self { call, last: Instant::now() }
    }

    /// Makes the first check without waiting for the interval.
    #[cfg(test)]
    pub(super) fn overdue(call: InterruptCheck<'a>) -> Self {
        let mut interrupts = Self::new(call);
        interrupts.last -= Self::INTERVAL;
        interrupts
    }

    pub(super) fn check(&mut self) -> Result<(), Error> {
        if self.last.elapsed() < Self::INTERVAL {
            return Ok(());
        }
        let result = (self.call)();
        self.last = Instant::now();
        result
    }
}

/// Takes units of work until none is left, and calls the closure with each. It fails once the work was stopped.
pub(super) type ForEachUnit<'a> = &'a mut dyn FnMut(&mut dyn FnMut(usize) -> Result<(), Error>) -> Result<(), Error>;

/// Run `work` on `threads` threads, the calling one included. They take the numbers `0..units` in order from a shared
/// counter. The first error stops all of them; results come in no particular order.
pub(super) fn run<T: Send>(
    units: usize,
    threads: usize,
    interrupts: &mut Interrupts<'_>,
    work: impl Fn(ForEachUnit<'_>) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let take = || Some(next.fetch_add(1, Relaxed)).filter(|&unit| unit < units && !stop.load(Relaxed));
    let helper = || {
        work(&mut |each| {
            while let Some(unit) = take() {
                each(unit).inspect_err(|_| stop.store(true, Relaxed))?;
            }
            Ok(())
        })
    };
    thread::scope(|scope| {
        // If the system refuses a thread, the search goes on with fewer.
        let helpers: Vec<_> = (1..threads.min(units))
            .map_while(|_| thread::Builder::new().name("ctxembed".into()).spawn_scoped(scope, helper).ok())
            .collect();
        let own = work(&mut |each| {
            while let Some(unit) = take() {
                each(unit).and_then(|()| interrupts.check()).inspect_err(|_| stop.store(true, Relaxed))?;
            }
            Ok(())
        });
        let mut results = vec![own];
        results.extend(helpers.into_iter().map(|helper| match helper.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }));
        results.into_iter().collect()
    })
}
