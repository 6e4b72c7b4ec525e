//! Threads that live as long as a call, and how a long call is stopped.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;

/// Asked by the calling thread now and then; an error ends the work.
pub type Watch<'a> = &'a mut (dyn FnMut() -> Result<(), Error> + Send);

/// A watch that is asked no more often than it makes sense.
pub(super) struct Pulse<'a> {
    watch: Watch<'a>,
    asked: Instant,
}

impl<'a> Pulse<'a> {
    /// Between two questions.
    const EVERY: Duration = Duration::from_millis(50);

    pub(super) fn new(watch: Watch<'a>) -> Self {
        Self { watch, asked: Instant::now() }
    }

    /// One that asks at the first occasion.
    #[cfg(test)]
    pub(super) fn overdue(watch: Watch<'a>) -> Self {
        let mut pulse = Self::new(watch);
        pulse.asked -= Self::EVERY;
        pulse
    }

    pub(super) fn ask(&mut self) -> Result<(), Error> {
        if self.asked.elapsed() < Self::EVERY {
            return Ok(());
        }
        let answer = (self.watch)();
        self.asked = Instant::now();
        answer
    }
}

/// What a thread is given: a function that calls back for every unit the thread draws, and fails when the work was
/// stopped.
pub(super) type Draw<'a> = &'a mut dyn FnMut(&mut dyn FnMut(usize) -> Result<(), Error>) -> Result<(), Error>;

/// Run `work` on each of `threads` threads, the calling one included, which draw the numbers below `units` from one
/// counter in order. The first error ends all of them; the results come in no particular order.
pub(super) fn run<T: Send>(
    units: usize,
    threads: usize,
    pulse: &mut Pulse<'_>,
    work: impl Fn(Draw<'_>) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let draw = || Some(next.fetch_add(1, Relaxed)).filter(|&unit| unit < units && !stop.load(Relaxed));
    let helper = || {
        work(&mut |each| {
            while let Some(unit) = draw() {
                each(unit).inspect_err(|_| stop.store(true, Relaxed))?;
            }
            Ok(())
        })
    };
    thread::scope(|scope| {
        // A thread that the system refuses is a thread less, not a failed search.
        let helpers: Vec<_> = (1..threads.min(units))
            .map_while(|_| thread::Builder::new().name("ctxembed".into()).spawn_scoped(scope, helper).ok())
            .collect();
        let own = work(&mut |each| {
            while let Some(unit) = draw() {
                each(unit).and_then(|()| pulse.ask()).inspect_err(|_| stop.store(true, Relaxed))?;
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
