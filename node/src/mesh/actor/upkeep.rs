//! What is looked after every quarter of a second, and what the node says of itself.

use std::time::Instant;

use macula_proto::key::Scope;
use macula_proto::{Code, Fault};

use crate::clock;
use crate::disk;
use crate::status;
use crate::transport::Direction;

use super::{Actor, UNUSED, UPKEEP};

impl Actor {
    pub(super) fn look_after(&mut self) {
        let now = Instant::now();
        self.dial_seeds();
        self.renew_links();
        self.nodes.prune(now);
        let clock = clock::now();
        for link in self.nodes.links() {
            // A node that failed a request and is heard again is a contact again.
            if link.silent_for() < UPKEEP {
                self.engine.handle_connected(clock, link.identity(), vec![link.address()]);
            }
            if link.unused_for() > UNUSED && !self.seeds.holds(link.identity().id) {
                link.close(Code::Goodbye, "unused");
            }
        }
        let late = self.announcing.extract_if(.., |waiting| waiting.until <= now);
        for waiting in late {
            // It is announced in the background as soon as somebody stores it.
            let _ = waiting.reply.send(Ok(waiting.token));
        }
        self.keep();
        self.measure();
    }

    pub(super) fn measure(&self) {
        let metrics = &self.shared.metrics;
        let dht = self.engine.dht();
        let counters = dht.counters();
        metrics.lookups_started.set_to(counters.lookups_started);
        metrics.lookups_completed.set_to(counters.lookups_finished);
        metrics.lookup_requests.set_to(counters.requests_sent);
        metrics.requests_over_budget.set_to(counters.requests_over_budget);
        metrics.records_refused.set_to(counters.records_refused);
        metrics.records_evicted.set_to(counters.records_evicted);
        metrics.records_replicated.set_to(counters.records_replicated);
        metrics.dht_contacts.set(dht.table_sizes().iter().map(|(_, size)| *size as u64).sum());
        metrics.dht_records.set(dht.records() as u64);
        metrics.dht_leases.set(dht.leases() as u64);
        metrics.dht_followed.set(dht.followed() as u64);
        metrics.connections.set(self.nodes.links().count() as u64);
        metrics.subscriptions.set(self.queues.len() as u64);
        let counters = self.engine.pubsub().counters();
        metrics.messages_published.set_to(counters.published);
        metrics.messages_duplicate.set_to(counters.duplicates);
        metrics.messages_unmatched.set_to(counters.unmatched);
        let left = self.credentials.identity.remaining(clock::now().unix_time());
        metrics.certificate_seconds_left.set(left.as_secs());
        let found = self.shared.config.seeds.found();
        metrics.seeds_resolved.set(found.borrow().seeds.len() as u64);
    }

    pub(super) fn status(&self) -> status::Status {
        let identity = &self.credentials.identity;
        let found = self.shared.config.seeds.found().borrow().clone();
        let mut waiting: Vec<String> = found
            .waiting
            .iter()
            .map(|name| format!("the seed {} does not resolve: {}", name.name, name.because))
            .collect();
        if !*self.shared.ready.borrow() {
            waiting.extend(self.seeds.failed().map(|(address, Fault { code, because, .. })| {
                format!("the seed {address} cannot be joined: {code}: {because}")
            }));
            if waiting.is_empty() {
                waiting.push("no seed has answered yet".to_owned());
            }
        }
        let trouble = self.shared.config.trouble.as_ref().and_then(|it| it.borrow().clone());
        if let Some(Fault { code, because, .. }) = trouble {
            waiting.push(format!("the certificate is not renewed: {code}: {because}"));
        }
        let disk = self.shared.config.disk.as_ref().and_then(disk::Handle::trouble);
        waiting.extend(disk.map(|because| format!("records are kept in memory alone: {because}")));
        let dht = self.engine.dht();
        let sizes = dht.table_sizes();
        let is_infrastructure = |scope: &Scope| matches!(scope, Scope::Infrastructure);
        let connections = self.nodes.links().map(|link| status::Connection {
            id: link.identity().id.to_string(),
            subject: link.identity().subject.to_string(),
            address: link.address().to_string(),
            direction: match link.direction() {
                Direction::Dialled => "dialled".to_owned(),
                Direction::Accepted => "accepted".to_owned(),
            },
            rtt_us: u64::try_from(link.rtt().as_micros()).unwrap_or(u64::MAX),
        });
        status::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: status::Node {
                id: identity.id.to_string(),
                name: identity.subject.name.to_string(),
                role: identity.subject.role().to_string(),
                realm: identity.subject.realm().map(ToString::to_string),
                mesh: identity.subject.mesh.to_string(),
                incarnation: self.engine.me().incarnation,
            },
            ready: *self.shared.ready.borrow(),
            waiting,
            certificate: status::Certificate {
                subject: identity.subject.to_string(),
                not_after: identity.not_after,
                seconds_left: identity.remaining(clock::now().unix_time()).as_secs(),
            },
            listen: self.endpoint.local_address().to_string(),
            seeds: found.seeds.iter().map(ToString::to_string).collect(),
            connections: connections.collect(),
            dht: status::Dht {
                infrastructure: sizes
                    .iter()
                    .filter(|(scope, _)| is_infrastructure(scope))
                    .map(|(_, n)| n)
                    .sum(),
                realm_servers: sizes
                    .iter()
                    .filter(|(scope, _)| !is_infrastructure(scope))
                    .map(|(_, n)| n)
                    .sum(),
                records: dht.records(),
            },
            subscriptions: self
                .engine
                .pubsub()
                .subscriptions()
                .map(|(_, pattern)| pattern.to_string())
                .collect(),
            advertisements: self.engine.rpc().advertised().map(ToString::to_string).collect(),
        }
    }
}
