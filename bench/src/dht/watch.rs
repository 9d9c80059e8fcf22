//! One change under a key, told to all who watch it.
//!
//! From the request that brings the record, to the frames of every push as they would be written, to
//! each watcher's word that it has noted it. Not the connections that carry them.

use bytes::{Bytes, BytesMut};
use macula_proto::dht::{Dht, Me, Output};
use macula_proto::key::{Key, Kind};
use macula_proto::wire::Frame;
use macula_proto::wire::message::{self, FindValue, request, response};

use super::world::{World, address, drain, store};
use crate::{clock, heap, report};

const NAME: &str = "watched.name";

/// The first of these publishes, the others watch.
pub(super) fn run(world: &World, peers: &[Me]) -> anyhow::Result<()> {
    let (publisher, watchers) = peers.split_first().expect("there are many");
    let mut dht = world.dht(&world.gateway("me")?);
    let key = Key::of(&world.realm, Kind::Provider, NAME);
    let first = store(&world.provider(publisher, NAME, 1)?);
    dht.handle_request(world.now, &publisher.identity, address(0), first)?;
    let ask = || {
        let key = Bytes::copy_from_slice(key.as_bytes());
        FindValue { key, realm: String::new(), lease_ms: 90_000, has: None }
    };
    let (asked, bytes) = heap::grown(|| -> anyhow::Result<()> {
        for (at, watcher) in watchers.iter().enumerate() {
            let ask = request::Body::FindValue(ask());
            dht.handle_request(world.now, &watcher.identity, address(1 + at), ask)?;
        }
        drain(&mut dht);
        Ok(())
    });
    asked?;
    anyhow::ensure!(dht.leases() == watchers.len(), "every watcher has a lease");

    let mut changes = Vec::new();
    for sequence in 2..7 {
        changes.push(store(&world.provider(publisher, NAME, sequence)?));
    }
    let mut changes = changes.into_iter();
    let mut told = Told::default();
    let took = clock::median(|| {
        let change = changes.next().expect("there is one for each time");
        let (outcome, took) = clock::time(|| change_once(world, &mut dht, publisher, change));
        told = outcome;
        took
    });
    anyhow::ensure!(told.pushes == watchers.len(), "every watcher is told of every change");

    report::head(&format!("one change told to {} watchers", watchers.len()));
    report::row("ms for all", took.as_secs_f64() * 1e3, None, "no such thing");
    report::row("watchers told, per second", report::rate(watchers.len(), took), None, "");
    report::row(
        "bytes of a push as it is written",
        told.bytes as f64 / told.pushes as f64,
        None,
        "",
    );
    report::row("bytes that a watcher costs", bytes as f64 / watchers.len() as f64, None, "");
    Ok(())
}

#[derive(Default)]
struct Told {
    pushes: usize,
    bytes: usize,
}

fn change_once(world: &World, dht: &mut Dht, publisher: &Me, change: request::Body) -> Told {
    let answer = dht.handle_request(world.now, &publisher.identity, address(0), change);
    answer.expect("it is a later record");
    let (mut told, mut pushes) = (Told::default(), Vec::new());
    let mut frame = BytesMut::new();
    while let Some(output) = dht.poll_output() {
        if let Output::Request { id, body, .. } = output {
            let request = message::Request { body: Some(body) };
            Frame::Request(request).encode(&mut frame).expect("it is short");
            told.bytes += frame.split().len();
            told.pushes += 1;
            pushes.push(id);
        }
    }
    for id in pushes {
        let noted = response::Body::Noted(message::Noted {});
        dht.handle_response(world.now, id, Ok(noted));
    }
    drain(dht);
    told
}
