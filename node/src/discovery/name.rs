//! One seed's name: its addresses, and when it is looked up next.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::resolver::{Answer, Family};
use super::{Schedule, Waiting};

/// The state of one name. Told the time, so that it can be tested without waiting.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) host: String,
    port: u16,
    /// From the last lookup that found them, in order.
    pub(super) addresses: Vec<SocketAddr>,
    /// Since when and why, while lookups fail.
    pub(super) failing: Option<Failing>,
    lookup: Lookup,
    last_began: Option<Instant>,
    /// A seed was lost while a lookup was under way, whose answer may be from before.
    again: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Failing {
    since: Instant,
    because: String,
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
enum Lookup {
    At(Instant),
    UnderWay,
}

impl Name {
    pub(super) fn new(host: String, port: u16, now: Instant) -> Self {
        let (addresses, lookup) = (Vec::new(), Lookup::At(now));
        Self { host, port, addresses, failing: None, lookup, last_began: None, again: None }
    }

    /// When to look it up; never while a lookup is under way.
    pub(super) fn due_at(&self) -> Option<Instant> {
        match self.lookup {
            Lookup::At(at) => Some(at),
            Lookup::UnderWay => None,
        }
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.lookup = Lookup::UnderWay;
        self.last_began = Some(now);
    }

    /// Forgets the lookup that is under way.
    pub(super) fn abandon(&mut self) {
        if let Lookup::UnderWay = self.lookup {
            self.lookup = Lookup::At(Instant::now());
        }
    }

    /// Takes over what was found. A family that could not be looked up keeps its last addresses.
    pub(super) fn succeed(&mut self, answer: Answer, now: Instant, schedule: &Schedule) {
        let Answer { v4, v6 } = answer;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for (family, is_of) in
            [(v4, SocketAddr::is_ipv4 as fn(&SocketAddr) -> bool), (v6, SocketAddr::is_ipv6)]
        {
            match family {
                Family::Addresses(ips) => addresses.extend(ips.into_iter().map(|ip| self.at(ip))),
                Family::Unknown => {
                    addresses.extend(self.addresses.iter().filter(|address| is_of(address)));
                }
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        self.addresses = addresses;
        self.failing = None;
        let spread = rand::rng().random_range(0.9..=1.1);
        self.schedule_next(now, schedule.every.mul_f64(spread));
    }

    /// Keeps what there is, and says after how long it tries again.
    pub(super) fn fail(&mut self, because: String, now: Instant, schedule: &Schedule) -> Duration {
        let failing =
            self.failing.get_or_insert(Failing { since: now, because: String::new(), failures: 0 });
        failing.because = because;
        failing.failures = failing.failures.saturating_add(1);
        let wait = schedule.backoff.after(failing.failures);
        self.schedule_next(now, wait);
        wait
    }

    /// Whether this address is one of its own.
    pub(super) fn gave(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Looks it up as soon as `at_least` has passed since the last lookup began.
    pub(super) fn hurry(&mut self, at_least: Duration) {
        match self.lookup {
            Lookup::UnderWay => self.again = Some(at_least),
            Lookup::At(planned) => {
                let soonest = self.last_began.map_or(planned, |began| began + at_least);
                self.lookup = Lookup::At(planned.min(soonest));
            }
        }
    }

    pub(super) fn waiting(&self) -> Option<Waiting> {
        let Failing { since, because, failures: _ } = self.failing.as_ref()?;
        let next_try = match self.lookup {
            Lookup::At(at) => at,
            Lookup::UnderWay => self.last_began.unwrap_or(*since),
        };
        Some(Waiting {
            name: self.host.clone(),
            because: because.clone(),
            since: *since,
            next_try,
            kept: self.addresses.len(),
        })
    }

    fn schedule_next(&mut self, now: Instant, wait: Duration) {
        self.lookup = Lookup::At(now + wait);
        if let Some(at_least) = self.again.take() {
            self.hurry(at_least);
        }
    }

    fn at(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lost_seeds_bring_the_lookup_forward_once_and_not_below_the_least() {
        let (schedule, start) = (Schedule::default(), Instant::now());
        let mut name = Name::new("a".to_owned(), 1, start);
        name.begin(start);
        name.succeed(answer(["10.0.0.1"]), start, &schedule);
        assert!(name.due_at() > Some(start + schedule.every / 2));
        name.hurry(schedule.at_least);
        name.hurry(schedule.at_least);
        assert_eq!(name.due_at(), Some(start + schedule.at_least));
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_lost_during_a_lookup_is_not_forgotten() {
        let (schedule, start) = (Schedule::default(), Instant::now());
        let mut name = Name::new("a".to_owned(), 1, start);
        name.begin(start);
        name.hurry(schedule.at_least);
        assert_eq!(name.due_at(), None, "one lookup at a time");
        name.succeed(answer(["10.0.0.1"]), start, &schedule);
        assert_eq!(name.due_at(), Some(start + schedule.at_least));
    }

    #[tokio::test(start_paused = true)]
    async fn a_family_that_failed_keeps_its_addresses_and_one_that_is_gone_does_not() {
        let (schedule, start) = (Schedule::default(), Instant::now());
        let mut name = Name::new("a".to_owned(), 1, start);
        let v6 = Family::Addresses(vec!["::1".parse().unwrap()]);
        name.succeed(Answer { v6, ..answer(["10.0.0.1"]) }, start, &schedule);
        name.succeed(Answer { v6: Family::Unknown, ..answer(["10.0.0.2"]) }, start, &schedule);
        let known =
            |name: &Name| name.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(known(&name), ["10.0.0.2:1", "[::1]:1"]);
        name.succeed(answer(["10.0.0.2"]), start, &schedule);
        assert_eq!(known(&name), ["10.0.0.2:1"]);
    }

    fn answer<const N: usize>(v4: [&str; N]) -> Answer {
        let v4 = v4.map(|ip| ip.parse().unwrap()).to_vec();
        Answer { v4: Family::Addresses(v4), v6: Family::Addresses(Vec::new()) }
    }
}
