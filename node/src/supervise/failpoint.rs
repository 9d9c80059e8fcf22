//! Lets a test make a task panic: a hook in each kind's loop, absent from the product.

use super::Kind;

/// Panics when a test has armed this kind. Call it once in each turn of a task's loop. Without the
/// feature `failpoints` it does nothing and costs nothing.
#[inline]
pub fn failpoint(kind: Kind) {
    #[cfg(any(test, feature = "failpoints"))]
    armed::check(kind);
    #[cfg(not(any(test, feature = "failpoints")))]
    let _ = kind;
}

#[cfg(any(test, feature = "failpoints"))]
pub use self::armed::{FAILPOINTS, arm, arm_from_environment};

#[cfg(any(test, feature = "failpoints"))]
mod armed {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Kind;

    /// The variable that [`arm_from_environment`] reads: `mesh=1,discovery=100`.
    pub const FAILPOINTS: &str = "MACULA_FAILPOINTS";

    /// How many panics each kind still owes. One for the whole process.
    static OWED: [AtomicU64; Kind::ALL.len()] = [const { AtomicU64::new(0) }; Kind::ALL.len()];

    /// Makes this kind panic at its next `times` failpoints.
    pub fn arm(kind: Kind, times: u64) {
        OWED[kind as usize].store(times, Ordering::SeqCst);
    }

    /// Arms what [`FAILPOINTS`] says; for tests of a whole process.
    ///
    /// # Errors
    /// When it says something else than `kind=times,…`.
    pub fn arm_from_environment() -> Result<(), String> {
        let Ok(text) = std::env::var(FAILPOINTS) else { return Ok(()) };
        for (kind, times) in parse(&text)? {
            arm(kind, times);
        }
        Ok(())
    }

    pub(super) fn parse(text: &str) -> Result<Vec<(Kind, u64)>, String> {
        let one = |part: &str| {
            let (name, times) = part.split_once('=')?;
            let kind = Kind::ALL.iter().find(|kind| kind.name() == name)?;
            Some((*kind, times.parse().ok()?))
        };
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(|part| {
                one(part).ok_or_else(|| format!("{FAILPOINTS}: {part:?} is not kind=times"))
            })
            .collect()
    }

    pub(super) fn check(kind: Kind) {
        let owed = OWED[kind as usize]
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |owed| owed.checked_sub(1));
        if owed.is_ok() {
            panic!("failpoint {kind}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kinds_and_times_and_refuses_the_rest() {
        assert_eq!(
            armed::parse("mesh=1,discovery=100"),
            Ok(vec![(Kind::Mesh, 1), (Kind::Discovery, 100)])
        );
        assert_eq!(armed::parse(""), Ok(vec![]));
        for wrong in ["mesh", "mash=1", "mesh=x", "mesh=-1"] {
            let refusal = format!("MACULA_FAILPOINTS: {wrong:?} is not kind=times");
            assert_eq!(armed::parse(wrong), Err(refusal));
        }
    }
}
