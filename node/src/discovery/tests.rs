//! Discovery against a DNS server whose answers change. Nothing sleeps: each test awaits what
//! discovery shows, for at most [`PATIENCE`].

use std::future::Future;

use tokio::task::JoinHandle;

use super::server::{Reply, Server};
use super::*;

#[tokio::test]
async fn finds_every_address_of_both_families_once() {
    let server = Server::start().await;
    server.set("seeds.mesh.", ["10.0.0.2", "10.0.0.1", "2001:db8::1"]);
    server.set("other.mesh.", ["10.0.0.1", "10.0.0.9"]);
    let search = Search::of(&server, &["10.0.0.9:7", "seeds.mesh:7", "other.mesh:7"], QUICK);
    let found = search.until(|found| found.seeds.len() == 4).await;
    assert_eq!(found.waiting, []);
    assert_eq!(
        text(&found.seeds)[..3],
        ["10.0.0.9:7", "10.0.0.1:7", "10.0.0.2:7"],
        "the configuration's order, then the addresses'"
    );
    assert!(text(&found.seeds).contains(&"[2001:db8::1]:7".to_owned()));
}

#[tokio::test]
async fn addresses_need_no_dns() {
    let server = Server::start().await;
    let search = Search::of(&server, &["10.0.0.7", "[2001:db8::7]:1"], QUICK);
    assert_eq!(text(&search.handle.found().borrow().seeds), ["10.0.0.7:9443", "[2001:db8::7]:1"]);
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test]
async fn waits_for_a_name_that_does_not_exist_yet_and_says_so() {
    let server = Server::start().await;
    let search = Search::of(&server, &["seeds.mesh", "10.0.0.7:1"], QUICK);
    let found = search.until(|found| !found.waiting.is_empty()).await;
    let [waiting] = &found.waiting[..] else { panic!("one waits: {found:?}") };
    assert_eq!(waiting.name, "seeds.mesh");
    assert_eq!(waiting.because, "DNS knows no address for it");
    assert_eq!(waiting.kept, 0);
    assert!(waiting.since <= waiting.next_try);
    assert_eq!(text(&found.seeds), ["10.0.0.7:1"], "the others are found meanwhile");
    let again = search.until(|found| found.waiting != [waiting.clone()]).await;
    assert_eq!(again.waiting[0].since, waiting.since, "one wait, however many tries");

    server.set("seeds.mesh.", ["10.0.0.1"]);
    let found = search.until(|found| found.waiting.is_empty()).await;
    assert_eq!(text(&found.seeds), ["10.0.0.1:9443", "10.0.0.7:1"]);
}

#[tokio::test]
async fn follows_addresses_that_change_although_their_ttl_is_an_hour() {
    let server = Server::start().await;
    server.set("seeds.mesh.", ["10.0.0.1", "10.0.0.2"]);
    let search = Search::of(&server, &["seeds.mesh:1"], QUICK);
    search.until(|found| text(&found.seeds) == ["10.0.0.1:1", "10.0.0.2:1"]).await;
    server.set("seeds.mesh.", ["10.0.0.2", "10.0.0.3"]);
    search.until(|found| text(&found.seeds) == ["10.0.0.2:1", "10.0.0.3:1"]).await;
}

#[tokio::test]
async fn keeps_the_last_good_addresses_while_lookups_fail() {
    for (failure, because) in [
        (Reply::Failure, "the DNS server answered Server Failure"),
        (Reply::Silence, "the DNS server did not answer in time"),
        (Reply::Addresses(Vec::new()), "DNS knows no address for it"),
    ] {
        let server = Server::start().await;
        server.set("seeds.mesh.", ["10.0.0.1", "::1"]);
        let search = Search::of(&server, &["seeds.mesh:1"], QUICK);
        search.until(|found| found.seeds.len() == 2).await;
        server.reply("seeds.mesh.", failure);
        let found = search.until(|found| !found.waiting.is_empty()).await;
        assert_eq!(text(&found.seeds), ["10.0.0.1:1", "[::1]:1"], "{because}");
        assert_eq!((found.waiting[0].because.as_str(), found.waiting[0].kept), (because, 2));
        server.set("seeds.mesh.", ["10.0.0.2"]);
        let found = search.until(|found| found.waiting.is_empty()).await;
        assert_eq!(text(&found.seeds), ["10.0.0.2:1"]);
    }
}

#[tokio::test]
async fn one_family_that_fails_does_not_hide_the_other() {
    let server = Server::start().await;
    server.set("seeds.mesh.", ["10.0.0.1", "::1"]);
    let search = Search::of(&server, &["seeds.mesh:1"], QUICK);
    search.until(|found| found.seeds.len() == 2).await;
    let only_v4 = vec!["10.0.0.2".parse().unwrap()];
    server.reply("seeds.mesh.", Reply::OnlyV6Fails(only_v4));
    let found = search.until(|found| text(&found.seeds).contains(&"10.0.0.2:1".to_owned())).await;
    assert_eq!(text(&found.seeds), ["10.0.0.2:1", "[::1]:1"]);
    assert_eq!(found.waiting, []);
}

#[tokio::test]
async fn a_silent_name_does_not_hold_up_another() {
    let server = Server::start().await;
    server.reply("silent.mesh.", Reply::Silence);
    server.set("seeds.mesh.", ["10.0.0.1"]);
    let patient = Schedule { patience: Duration::from_secs(3600), ..QUICK };
    let search = Search::of(&server, &["silent.mesh", "seeds.mesh:1"], patient);
    search.until(|found| text(&found.seeds) == ["10.0.0.1:1"]).await;
}

#[tokio::test]
async fn a_lost_seed_is_looked_up_at_once_and_not_twice() {
    let server = Server::start().await;
    server.set("seeds.mesh.", ["10.0.0.1"]);
    server.set("other.mesh.", ["10.0.0.5"]);
    let rare = Schedule { every: Duration::from_secs(3600), ..QUICK };
    let search = Search::of(&server, &["seeds.mesh:1", "other.mesh:1"], rare);
    let found = search.until(|found| found.seeds.len() == 2).await;
    server.set("seeds.mesh.", ["10.0.0.2"]);
    for _ in 0..1_000 {
        search.handle.seed_lost(found.seeds[0]);
    }
    search.until(|found| text(&found.seeds) == ["10.0.0.2:1", "10.0.0.5:1"]).await;
    let asked = server.asked();
    let times = |name: &str| asked.iter().filter(|asked| asked.starts_with(name)).count();
    assert!(
        times("seeds.mesh.") <= 6,
        "A and AAAA, once before and once or twice after: {asked:?}"
    );
    assert_eq!(times("other.mesh."), 2, "whoever lost nothing is not asked about");
}

#[tokio::test]
async fn completes_names_by_the_search_path_in_its_order() {
    let server = Server::start().await;
    server.set("seeds.ns.svc.cluster.local.", ["10.0.0.1"]);
    // A wildcard of the company's domain must not add its address.
    server.set("seeds.ns.svc.example.com.", ["192.0.2.66", "2001:db8::66"]);
    let path = ["other.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"];
    let resolver = Resolver::with_search(server.address, &path).unwrap();
    let search = Search::with(resolver, &["seeds.ns.svc:1"], QUICK);
    let found = search.until(|found| !found.seeds.is_empty()).await;
    assert_eq!(text(&found.seeds), ["10.0.0.1:1"]);
    let asked: Vec<_> =
        server.asked().into_iter().filter(|asked| asked.ends_with(" A")).take(3).collect();
    assert_eq!(
        asked,
        [
            "seeds.ns.svc.other.svc.cluster.local. A",
            "seeds.ns.svc.svc.cluster.local. A",
            "seeds.ns.svc.cluster.local. A"
        ]
    );
}

#[tokio::test]
async fn a_name_that_ends_with_a_dot_is_not_completed() {
    let server = Server::start().await;
    server.set("seeds.mesh.example.com.", ["192.0.2.66"]);
    let resolver = Resolver::with_search(server.address, &["example.com"]).unwrap();
    let search = Search::with(resolver, &["seeds.mesh."], QUICK);
    search.until(|found| !found.waiting.is_empty()).await;
    server.asked_times(4).await;
    assert!(server.asked().iter().all(|asked| asked.starts_with("seeds.mesh. ")));
}

#[tokio::test]
async fn goes_on_from_where_it_was_when_it_is_run_again() {
    let server = Server::start().await;
    server.set("seeds.mesh.", ["10.0.0.1"]);
    let search = Search::of(&server, &["seeds.mesh:1"], QUICK);
    search.until(|found| !found.seeds.is_empty()).await;
    server.reply("seeds.mesh.", Reply::Silence);
    server.asked_times(server.asked().len() + 1).await;
    search.task.abort(); // in the middle of a lookup
    server.set("seeds.mesh.", ["10.0.0.2"]);
    let discovery = search.discovery.clone();
    let again = tokio::spawn(async move { discovery.run().await });
    let found = search.until(|found| text(&found.seeds) != ["10.0.0.1:1"]).await;
    assert_eq!(text(&found.seeds), ["10.0.0.2:1"], "the old address stayed until the new one came");
    again.abort();
}

/// A schedule for tests that wait for it.
const QUICK: Schedule = Schedule {
    every: Duration::from_millis(20),
    at_least: Duration::from_millis(5),
    patience: Duration::from_millis(300),
    backoff: Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(20) },
};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A discovery that runs until it is dropped.
struct Search {
    discovery: Arc<Discovery>,
    handle: Handle,
    task: JoinHandle<()>,
}

impl Search {
    fn of(server: &Server, seeds: &[&str], schedule: Schedule) -> Self {
        Self::with(Resolver::at(server.address).unwrap(), seeds, schedule)
    }

    fn with(resolver: Resolver, seeds: &[&str], schedule: Schedule) -> Self {
        let seeds: Vec<_> = seeds.iter().map(|seed| seed.parse().unwrap()).collect();
        let (discovery, handle) = Discovery::new(&seeds, resolver, schedule);
        let running = discovery.clone();
        let task = tokio::spawn(async move { running.run().await });
        Self { discovery, handle, task }
    }

    async fn until(&self, condition: impl Fn(&Found) -> bool) -> Found {
        let mut found = self.handle.found();
        let last = self.handle.found();
        in_time(async { found.wait_for(|found| condition(found)).await.unwrap().clone() })
            .await
            .unwrap_or_else(|| panic!("in vain: {:?}", last.borrow()))
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, future).await.ok()
}

fn text(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}
