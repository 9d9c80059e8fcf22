//! A mesh of real processes over loopback: two realms, a DHT of five servers, and deaths.

#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]

mod support;

use std::fs;
use std::time::Duration;

use support::{Answer, Mesh, Node, Place, Role, eventually, run, within};

const SHOP: &str = "com.example.shop";
const BANK: &str = "com.example.bank";

/// How long a call may take, and so how long another provider may take to be found.
const DEADLINE: Duration = Duration::from_secs(5);

/// Publishes from one and hears at the other.
#[track_caller]
fn publishes(from: &Node, to: &Node, topic: &str) {
    let subscriber = to.subscribe(topic, 1);
    let words = format!("of {topic}");
    from.run(&["pub", topic, &words]).exits(0);
    let heard = subscriber.outcome(DEADLINE).exits(0);
    assert_eq!(heard.stdout, format!("{topic} {words}\n"));
}

/// Calls with the deadline and expects this answer.
#[track_caller]
fn calls(from: &Node, procedure: &str, answer: &str) {
    let outcome = from.run(&["call", procedure, "x", "--timeout", "5s"]).exits(0);
    assert_eq!(outcome.stdout.trim(), answer);
}

#[test]
fn peers_of_a_realm_publish_and_call_through_a_dht_of_five() {
    let (mesh, _servers) = Mesh::of_five();
    let (one, two) = (mesh.peer("shop.one", SHOP), mesh.peer("shop.two", SHOP));

    let subscriber = two.subscribe("sensor.**", 3);
    for value in ["21.5", "21.6", "21.7"] {
        one.run(&["pub", "sensor.temp", value]).exits(0);
    }
    let heard = subscriber.outcome(DEADLINE).exits(0);
    assert_eq!(heard.stdout, "sensor.temp 21.5\nsensor.temp 21.6\nsensor.temp 21.7\n");

    let _serving = two.serve("text.upper", "tr a-z A-Z");
    calls(&one, "text.upper", "X");

    for counter in ["macula_lookups_completed_total", "macula_connections_dialled_total"] {
        eventually(counter, || (one.metric(counter) > 0).then_some(()));
    }
    assert!(two.metric("macula_messages_received_total") >= 3);
    assert_eq!(two.metric("macula_calls_served_total"), 1);
    eventually("the peer has met all five servers", || {
        (one.status()["dht"]["infrastructure"] == 5).then_some(())
    });
}

#[test]
fn another_realm_with_the_same_names_hears_nothing_finds_nobody_and_is_refused() {
    let (mesh, _servers) = Mesh::of_five();
    let shop = [mesh.peer("shop.one", SHOP), mesh.peer("shop.two", SHOP)];
    let bank = [mesh.peer("bank.one", BANK), mesh.peer("bank.two", BANK)];

    // The bank's first message is its own: nothing of the shop came before it.
    let at_bank = bank[0].subscribe("sensor.**", 1);
    let at_shop = shop[1].subscribe("sensor.**", 2);
    for words in ["of the shop", "of the shop again"] {
        shop[0].run(&["pub", "sensor.temp", words]).exits(0);
    }
    let heard = at_shop.outcome(DEADLINE).exits(0).stdout;
    assert_eq!(heard, "sensor.temp of the shop\nsensor.temp of the shop again\n");
    bank[1].run(&["pub", "sensor.temp", "of the bank"]).exits(0);
    assert_eq!(at_bank.outcome(DEADLINE).exits(0).stdout, "sensor.temp of the bank\n");

    let _serving = shop[1].serve("math.add", "echo shop");
    calls(&shop[0], "math.add", "shop");
    let nobody = bank[0].run(&["call", "math.add", "x", "--timeout", "5s"]).exits(4);
    nobody.says(&["no_provider", "tried:", "because:", "next:", "more:"]);
    let _serving_too = bank[1].serve("math.add", "echo bank");
    calls(&bank[0], "math.add", "bank");
    calls(&shop[0], "math.add", "shop");

    // Both as the one who is told and as the one who refuses.
    let ping = |from: &Node, to: &Node| {
        let (config, target) = (from.place.config.to_str().unwrap(), to.place.udp.to_string());
        run(&["ping", &target, "--config", config])
    };
    ping(&bank[0], &shop[1]).exits(5).says(&["realm_mismatch"]);
    ping(&shop[0], &bank[1]).exits(5).says(&["realm_mismatch"]);
    let refused = r#"macula_handshakes_refused_total{code="realm_mismatch"}"#;
    assert!(shop[1].metric(refused) > 0, "{refused}");
    let own = ping(&bank[0], &bank[1]).exits(0).stdout;
    assert!(own.contains("/bank.two at "), "{own}");
}

#[test]
fn running_peers_go_on_when_one_bootstrap_dies_and_when_all_do() {
    let (mesh, mut servers) = Mesh::of_five();
    let (one, two) = (mesh.peer("shop.one", SHOP), mesh.peer("shop.two", SHOP));
    let _serving = two.serve("text.upper", "tr a-z A-Z");
    let subscriber = two.subscribe("sensor.**", 3);
    let work = |value: &str| {
        one.run(&["pub", "sensor.temp", value]).exits(0);
        calls(&one, "text.upper", "X");
    };
    work("both");
    servers[0].process.kill();
    work("one");
    servers[1].process.kill();
    work("none");
    let heard = subscriber.outcome(DEADLINE).exits(0).stdout;
    assert_eq!(heard, "sensor.temp both\nsensor.temp one\nsensor.temp none\n");
    // What is new is found too, by the servers that are left.
    publishes(&one, &two, "news.local");
    let _serving_new = two.serve("text.lower", "tr A-Z a-z");
    calls(&one, "text.lower", "x");
}

#[test]
fn a_killed_provider_is_replaced_by_the_next_within_one_calls_deadline() {
    let (mesh, _servers) = Mesh::of_five();
    let one = mesh.peer("shop.one", SHOP);
    let mut providers = [mesh.peer("shop.two", SHOP), mesh.peer("shop.three", SHOP)];
    let _serving = providers.each_ref().map(|node| {
        let script = format!("echo {}", node.place.name);
        node.serve("who.answers", &script)
    });
    let call = || {
        let outcome = one.run(&["call", "who.answers", "x", "--timeout", "5s"]).exits(0);
        outcome.stdout.trim().to_owned()
    };
    // Whoever answers now is the one that is asked first.
    let first = call();
    let (killed, left): (Vec<_>, Vec<_>) =
        providers.iter_mut().partition(|node| node.place.name == first);
    killed.into_iter().for_each(|node| node.process.kill());
    // A call that is sent before its death shows may have run there: it is not run twice, but told
    // as cut off, well before its deadline. That happens once; all others go to the one that is left.
    let arguments = ["call", "who.answers", "x", "--timeout", "5s"];
    let (mut answered, mut cut) = (0, 0);
    while answered < 6 {
        let outcome = one.run(&arguments);
        if outcome.code == Some(0) {
            assert_eq!(outcome.stdout.trim(), left[0].place.name);
            answered += 1;
        } else {
            assert!(outcome.stderr.contains("interrupted"), "{outcome:?}");
            cut += 1;
            assert_eq!(cut, 1, "{outcome:?}");
        }
    }
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_name() {
    let (mesh, servers) = Mesh::of_five();
    mesh.authority("impostor");
    let friend = mesh.place("shop.true", Role::Peer(SHOP));
    let place = mesh.place_by("impostor", "shop.fake", Role::Peer(SHOP));
    // It believes the mesh, and its own authority too; the mesh does not.
    let bundle = |place: &Place| place.config.with_extension("").join("bundle.pem");
    let both = [fs::read(bundle(&place)).unwrap(), fs::read(bundle(&friend)).unwrap()].concat();
    fs::write(bundle(&place), both).unwrap();
    let mut foreign = place.start(&[]);
    foreign.process.until_it_says("untrusted_certificate");
    let refused = eventually("the status says so", || {
        let status = Answer::try_get(foreign.place.api, "/v1/status")?.json();
        let waiting = status["waiting"].to_string();
        waiting.contains("untrusted_certificate").then_some(status)
    });
    assert_eq!(refused["ready"], false);
    assert_eq!(refused["connections"], serde_json::json!([]));
    Answer::get(foreign.place.admin, "/healthz/ready").refuses(503, "starting");

    let config = foreign.place.config.to_str().unwrap();
    for server in [&servers[0], &servers[2]] {
        let target = server.place.udp.to_string();
        run(&["ping", &target, "--config", config]).exits(5).says(&["untrusted_certificate"]);
    }
    let target = servers[0].place.udp.to_string();
    run(&["ping", &target, "--config", friend.config.to_str().unwrap()]).exits(0);
}

#[test]
fn a_peer_that_is_asked_to_stop_says_goodbye_and_exits_with_zero() {
    let (mesh, mut servers) = Mesh::of_five();
    let (one, two) = (mesh.peer("shop.one", SHOP), mesh.peer("shop.two", SHOP));
    let _serving = two.serve("text.upper", "tr a-z A-Z");
    calls(&one, "text.upper", "X");
    let knows = |node: &Node| {
        let connections = node.status()["connections"].to_string();
        connections.contains("/shop.two")
    };
    assert!(knows(&one));
    two.process.terminate();
    two.process.outcome(DEADLINE).exits(0);
    within(Duration::from_secs(1), "the other peer sees it leave", || (!knows(&one)).then_some(()));
    one.run(&["call", "text.upper", "x", "--timeout", "5s"]).exits(4).says(&["no_provider"]);

    let gateway = servers.pop().expect("five servers");
    gateway.process.terminate();
    gateway.process.outcome(DEADLINE).exits(0);
}
