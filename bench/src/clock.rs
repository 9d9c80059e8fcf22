//! Processor time. What one thread computes is measured by it and not by the wall, so that others who
//! are busy on the machine do not show.

use std::time::Duration;

/// What this thread has used so far.
pub(crate) fn thread() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// What all threads of this process have used so far.
pub(crate) fn process() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The processor time of this thread that this takes.
pub(crate) fn time<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let since = thread();
    let result = run();
    (result, thread() - since)
}

/// The middle one of five. Each makes what it needs, and gives how long the measured part took.
pub(crate) fn median(mut run: impl FnMut() -> Duration) -> Duration {
    let mut took: Vec<_> = (0..5).map(|_| run()).collect();
    took.sort_unstable();
    took[took.len() / 2]
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of this function's own.
    #[allow(unsafe_code)]
    let outcome = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(outcome, 0, "every Unix with threads has this clock");
    let (seconds, nanoseconds) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}
