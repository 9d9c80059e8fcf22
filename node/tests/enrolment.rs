//! Nodes that start with nothing but a token: real processes, and an operator in this one.
#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "enrolment/operator.rs"]
mod operator;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use macula_config::counts::{self, Counts};
use macula_identity::operator::counts_client_config;
use macula_identity::{OperatorAuthority, Pair, Role, UnixTime, Verdict};
use macula_node::Code;
use operator::{DAY, Operator, Rule, scope};
use rustls::{ClientConnection, StreamOwned};
use serde_json::json;
use support::{Answer, Node, PATIENCE, Place, eventually, paced};

const SHOP: &str = "com.example.shop";
const BANK: &str = "com.example.bank";
const REFUSED: Rule = Rule::Refuse(Code::NotAMember, "no entry of `members` selects shop.one");
const REFUSALS: &str = r#"macula_enrolment_failures_total{code="not_a_member"}"#;

/// What the node waits for, in one text.
fn waits(node: &Node) -> String {
    Answer::try_get(node.place.api, "/v1/status").map_or_else(String::new, |answer| {
        let waiting = answer.json()["waiting"].clone();
        waiting.as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect()
    })
}

#[track_caller]
fn until_it_waits_for(node: &Node, words: &str) {
    eventually(&format!("{} waits for {words:?}", node.place.name), || {
        waits(node).contains(words).then_some(())
    });
}

#[test]
fn a_refused_node_says_why_everywhere_and_joins_when_it_is_admitted() {
    let operator = Operator::start(Rule::Issue(DAY));
    let mut bootstrap = operator.bootstrap("boot-0");
    bootstrap.ready();
    operator.rule(REFUSED);
    let mut node = operator.peer("shop.one", SHOP);
    let because = "no certificate yet: not_a_member: no entry of `members` selects shop.one";
    until_it_waits_for(&node, because);

    let Place { api, admin, .. } = node.place;
    let status = node.status();
    assert_eq!(status["ready"], false);
    let known = json!({"role": "peer", "realm": SHOP, "mesh": "demo.main", "name": "", "id": ""});
    for (key, value) in known.as_object().unwrap() {
        assert_eq!(status["node"][key], *value, "{key} of {status}");
    }
    for at in [api, admin] {
        assert_eq!(Answer::get(at, "/healthz/live").status, 200);
        assert_eq!(Answer::get(at, "/healthz/ready").refuses(503, "starting")["detail"], because);
    }
    let refused = Answer::post(api, "/v1/publish/a.b", b"x").unwrap().refuses(503, "starting");
    assert_eq!(refused["detail"], because);
    let table = node.run(&["status"]).exits(0).stdout;
    for line in ["peer without a name yet, not ready", "none yet", because] {
        assert!(table.contains(line), "no {line:?} in\n{table}");
    }
    node.run(&["ping", "127.0.0.1:9"]).exits(1).says(&["starting", "not_a_member"]);
    eventually("several tries", || (node.metric(REFUSALS) >= 3).then_some(()));
    let told = |node: &Node| node.process.stderr().matches("no certificate; trying again").count();
    assert_eq!(told(&node), 1, "once for as long as it lasts");

    // Not one connection is refused while the node goes from one state to the next.
    let done = Arc::new(AtomicBool::new(false));
    let visitor = {
        let done = done.clone();
        thread::spawn(move || {
            paced(&done, || assert_eq!(Answer::get(admin, "/healthz/live").status, 200));
        })
    };
    operator.rule(Rule::Issue(DAY));
    node.ready();
    done.store(true, Ordering::Relaxed);
    visitor.join().unwrap();
    assert_eq!(node.status()["node"]["name"], "shop.one");
    assert_eq!(waits(&node), "");

    // Ready stays ready, whoever else is gone.
    bootstrap.process.kill();
    eventually("the bootstrap is missed", || {
        (node.status()["connections"] == json!([])).then_some(())
    });
    assert_eq!(Answer::get(admin, "/healthz/ready").status, 200);
}

#[test]
fn a_node_says_which_file_is_missing_and_goes_on_when_it_is_there() {
    let operator = Operator::start(Rule::Issue(DAY));
    let mut bootstrap = operator.bootstrap("boot-0");
    bootstrap.ready();
    operator.hide_trust();
    let mut node = operator.peer("shop.one", SHOP);
    until_it_waits_for(&node, "bundle.pem: No such file");
    assert_eq!(operator.asked().len(), 1, "the bootstrap alone");
    operator.publish_trust();
    node.ready();

    // A node of another realm, asked to ping it.
    let mut stranger = operator.peer("bank.one", BANK);
    stranger.ready();
    let target = node.place.udp.to_string();
    stranger.run(&["ping", &target]).exits(5).says(&["realm_mismatch"]);
    let own = operator.peer("shop.two", SHOP);
    eventually("the API answers", || Answer::try_get(own.place.api, "/healthz/live"));
    let pong = eventually("it may ping", || {
        let outcome = own.run(&["ping", &target, "--count", "2"]);
        (outcome.code == Some(0)).then_some(outcome.stdout)
    });
    assert_eq!(pong.matches("/shop.one at ").count(), 2, "{pong}");
}

#[test]
fn a_node_that_waits_for_its_certificate_stops_when_it_is_asked_to() {
    let mut operator = Operator::start(REFUSED);
    operator.go_away();
    let node = operator.peer("shop.one", SHOP);
    until_it_waits_for(&node, "enrolment_unavailable: https://localhost:");
    node.process.terminate();
    node.process.outcome(PATIENCE).exits(0);
}

#[test]
fn a_short_certificate_is_renewed_at_half_of_its_life_and_a_refusal_of_that_is_told() {
    const LIFE: Duration = Duration::from_secs(8);
    let operator = Operator::start(Rule::Issue(DAY));
    let mut bootstrap = operator.bootstrap("boot-0");
    bootstrap.ready();
    let before = operator.asked().len();
    operator.rule(Rule::Issue(LIFE));
    let mut node = operator.peer("shop.one", SHOP);
    let asked = eventually("two renewals", || {
        let asked = operator.asked().split_off(before);
        (asked.len() >= 3).then_some(asked)
    });
    for pair in asked.windows(2) {
        let passed = pair[1].duration_since(pair[0]);
        // Certificates count whole seconds.
        let half = LIFE / 2 - Duration::from_secs(1)..LIFE / 2 + Duration::from_secs(2);
        assert!(half.contains(&passed), "{passed:?}");
    }
    operator.rule(REFUSED);
    until_it_waits_for(&node, "the certificate is not renewed: not_a_member");
    operator.rule(Rule::Issue(DAY));
    eventually("it is renewed", || waits(&node).is_empty().then_some(()));
    assert!(node.status()["certificate"]["seconds_left"].as_u64().unwrap() > LIFE.as_secs());
    node.process.until_it_says("enrolment works again");
}

#[test]
fn a_bootstrap_comes_back_as_itself_while_the_operator_is_away() {
    let mut operator = Operator::start(Rule::Issue(DAY));
    let id = |operator: &Operator| {
        let verdict = ask(operator, &client(&operator.authority)).unwrap().0;
        verdict.outcome().unwrap().id.to_string()
    };
    let mut first = operator.bootstrap("boot-0");
    first.ready();
    let identity = id(&operator);
    let key = operator.path("data/node.key");
    for name in ["node.key", "node.crt"] {
        let mode = fs::metadata(operator.path("data").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let kept = fs::read_to_string(&key).unwrap();
    operator.go_away();
    first.process.kill();
    let mut again = operator.bootstrap("boot-0");
    again.ready();
    assert_eq!((id(&operator), fs::read_to_string(&key).unwrap()), (identity.clone(), kept));

    again.process.kill();
    fs::write(&key, "torn").unwrap();
    operator.come_back();
    let mut healed = operator.bootstrap("boot-0");
    healed.ready();
    assert_eq!(id(&operator), identity, "the name decides");
    assert_eq!(fs::read_to_string(operator.path("data/node.key.damaged")).unwrap(), "torn");
}

/// The certificate of an operator.
fn client(authority: &OperatorAuthority) -> Pair {
    authority.client(&scope().trust_domain, DAY, UnixTime::now()).unwrap()
}

/// Asks the bootstrap for its counts; gives who answered, and what.
fn ask(operator: &Operator, with: &Pair) -> Result<(Verdict, String), std::io::Error> {
    let verdict = Verdict::new();
    let bundle = Arc::new(operator.mesh().bundle());
    let config = counts_client_config(with, bundle, scope(), verdict.clone()).unwrap();
    let tls = ClientConnection::new(Arc::new(config), "ignored".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(tls, TcpStream::connect(operator.counts())?);
    let request = format!("GET {} HTTP/1.1\r\nhost: counts\r\n\r\n", counts::PATH);
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok((verdict, answer))
}

#[test]
fn the_counts_are_for_the_operator_alone_and_are_those_of_open_connections() {
    let operator = Operator::start(Rule::Issue(DAY));
    let mut bootstrap = operator.bootstrap("boot-0");
    let mut gateway = operator.gateway("gate-0");
    let mut peer = operator.peer("shop.one", SHOP);
    for node in [&mut bootstrap, &mut gateway, &mut peer] {
        node.ready();
    }
    let with = client(&operator.authority);
    let links = || {
        let (verdict, answer) = ask(&operator, &with).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let Counts { node, links } = serde_json::from_str(body).unwrap();
        let answering = verdict.outcome().unwrap();
        assert_eq!((node.id, node.role), (answering.id.to_string(), Role::Bootstrap));
        let mut links: Vec<_> =
            links.into_iter().map(|it| (it.role.to_string(), it.realm)).collect();
        links.sort();
        links
    };
    let of = |role: &str, realm: Option<&str>| (role.to_owned(), realm.map(str::to_owned));
    let all = [of("gateway", None), of("peer", Some(SHOP))];
    eventually("both are counted", || (links() == all).then_some(()));
    gateway.process.kill();
    let since = Instant::now();
    eventually("the dead one is no more", || (links() == all[1..]).then_some(()));
    eprintln!("a killed gateway was counted for {:?}", since.elapsed());

    // Another operator, one of another trust domain, and somebody who speaks no TLS.
    let elsewhere = "example.org".parse().unwrap();
    let elsewhere = operator.authority.client(&elsewhere, DAY, UnixTime::now()).unwrap();
    for stranger in [client(&OperatorAuthority::new(UnixTime::now())), elsewhere] {
        ask(&operator, &stranger).unwrap_err();
    }
    assert!(Answer::try_get(operator.counts(), counts::PATH).is_none());
    eventually("they are counted", || {
        (bootstrap.metric("macula_counts_refused_total") == 3).then_some(())
    });
}
