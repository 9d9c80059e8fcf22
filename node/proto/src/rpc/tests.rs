//! One node's calls, with the DHT and the providers played by the test.

use super::*;
use crate::directory::IDLE;
use rand::SeedableRng;

const ME: NodeId = NodeId::from_bytes([0; 20]);
const ALICE: NodeId = NodeId::from_bytes([1; 20]);
const BOB: NodeId = NodeId::from_bytes([2; 20]);
const CAROL: NodeId = NodeId::from_bytes([3; 20]);
const DEADLINE: Duration = Duration::from_secs(3);

struct Desk {
    rpc: Rpc,
    now: Now,
    next: u64,
    attempts: Vec<(AttemptId, NodeId, message::Call)>,
}

impl Desk {
    fn new() -> Self {
        let now = Now { instant: Instant::now(), unix_ms: 0 };
        let rpc = Rpc::new(ME, StdRng::seed_from_u64(1));
        Self { rpc, now, next: 0, attempts: Vec::new() }
    }

    /// One that knows these providers of `add`.
    fn knowing(providers: &[NodeId]) -> Self {
        let mut desk = Self::new();
        let id = desk.call();
        desk.said();
        desk.found(providers);
        desk.rpc.cancel(id);
        desk.said();
        desk.attempts.clear();
        desk
    }

    fn call(&mut self) -> CallId {
        self.next += 1;
        let id = CallId(self.next);
        let payload = Payload::bytes("2 3");
        self.rpc.call(self.now, id, "add".parse().unwrap(), payload, DEADLINE);
        id
    }

    /// A look has ended, and these provide it; nobody tells of changes from now on.
    fn found(&mut self, providers: &[NodeId]) {
        self.news(providers, true, false);
    }

    /// These provide it, and nobody else.
    fn news(&mut self, providers: &[NodeId], looked: bool, held: bool) {
        let changes = [ALICE, BOB, CAROL].map(|id| {
            let is_one = providers.contains(&id);
            (id, is_one.then(|| Contact { id, addresses: vec![] }))
        });
        self.rpc.handle_news(self.now, "add", News { changes: changes.into(), looked, held });
    }

    /// The latest attempt is answered so.
    fn answer(&mut self, result: Result<&'static str, Code>) {
        let (id, ..) = self.attempts.last().unwrap();
        let answer = |body: &'static str| message::Answer {
            payload: body.into(),
            content_type: "text/plain".to_owned(),
        };
        self.rpc.handle_answer(self.now, *id, result.map(answer).map_err(Fault::of));
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.rpc.handle_timeout(self.now);
    }

    /// What the node wants done, a word each. Attempts are kept.
    fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(output) = self.rpc.poll_output() {
            said.push(match output {
                Output::Ask(Ask::Follow(name)) => format!("find {name}"),
                Output::Ask(Ask::Unfollow(name)) => format!("forget {name}"),
                Output::Announce(name) => format!("announce {name}"),
                Output::Withdraw(name) => format!("withdraw {name}"),
                Output::Attempt { id, to, call } => {
                    self.attempts.push((id, to.id, call));
                    format!("ask {}", to.id.as_bytes()[0])
                }
                Output::Cancel(_) => "cancel".to_owned(),
                Output::Returned { id, result: Ok(payload) } => {
                    format!("{}: {}", id.0, String::from_utf8_lossy(&payload.body))
                }
                Output::Returned { id, result: Err(fault) } => format!("{}: {}", id.0, fault.code),
            });
        }
        said
    }
}

#[test]
fn a_call_of_an_unknown_procedure_finds_a_provider_and_asks_it() {
    let mut desk = Desk::new();
    desk.call();
    assert_eq!(desk.said(), ["find add"]);
    desk.found(&[ALICE]);
    assert_eq!(desk.said(), ["ask 1"]);
    assert_eq!(desk.attempts[0].2.timeout_ms, 3000);
    desk.answer(Ok("5"));
    assert_eq!(desk.said(), ["1: 5"]);
    desk.call();
    assert_eq!(desk.said(), ["ask 1"], "the second call asks no DHT");
}

#[test]
fn a_call_does_not_wait_for_the_end_of_a_look_that_has_shown_a_provider() {
    let mut desk = Desk::new();
    desk.call();
    desk.said();
    desk.news(&[ALICE], false, false);
    assert_eq!(desk.said(), ["ask 1"]);
    desk.answer(Err(Code::Unreachable));
    assert_eq!(desk.said(), [""; 0], "the look goes on");
    desk.news(&[ALICE, BOB], false, false);
    assert_eq!(desk.said(), ["ask 2"]);
    desk.answer(Err(Code::NoProvider));
    desk.found(&[ALICE, BOB]);
    assert_eq!(desk.said(), ["1: no_provider"], "and has shown nobody else");
}

#[test]
fn a_provider_that_was_not_where_one_storer_says_is_asked_where_others_say() {
    let mut desk = Desk::new();
    let places = |places: &[&str]| places.iter().map(|it| it.parse().unwrap()).collect();
    let told = |desk: &mut Desk, addresses: &[&str], looked| {
        let contact = Contact { id: ALICE, addresses: places(addresses) };
        let changes = vec![(ALICE, Some(contact))];
        desk.rpc.handle_news(desk.now, "add", News { changes, looked, held: false });
        desk.said()
    };
    desk.call();
    desk.said();
    assert_eq!(told(&mut desk, &["10.9.9.9:1"], false), ["ask 1"]);
    desk.answer(Err(Code::Unreachable));
    assert_eq!(told(&mut desk, &["10.9.9.9:1"], false), [""; 0], "nobody was there");
    assert_eq!(told(&mut desk, &["10.0.0.1:1", "10.9.9.9:1"], false), ["ask 1"]);
    desk.answer(Err(Code::Unreachable));
    assert_eq!(told(&mut desk, &["10.9.9.9:1", "10.0.0.1:1"], true), ["1: no_provider"]);
}

#[test]
fn of_two_providers_the_faster_is_chosen_and_of_many_the_slowest_hardly_ever() {
    let mut desk = Desk::knowing(&[ALICE, BOB, CAROL]);
    let took = |node| match node {
        ALICE => Duration::from_micros(100),
        BOB => Duration::from_micros(200),
        _ => Duration::from_micros(900),
    };
    let mut picked = BTreeMap::new();
    for _ in 0..300 {
        desk.call();
        desk.said();
        let provider = desk.attempts.last().unwrap().1;
        *picked.entry(provider).or_insert(0) += 1;
        desk.pass(took(provider));
        desk.answer(Ok("5"));
        desk.said();
    }
    assert!(picked[&ALICE] > picked[&BOB] && picked[&BOB] > 50, "{picked:?}");
    assert_eq!(picked[&CAROL], 1, "once to measure it: of any two, the other was faster");
}

#[test]
fn a_provider_that_was_slow_once_is_tried_again_later() {
    let mut desk = Desk::knowing(&[ALICE, BOB]);
    let ask = |desk: &mut Desk, took: fn(NodeId) -> Duration| {
        desk.call();
        desk.said();
        let provider = desk.attempts.last().unwrap().1;
        desk.pass(took(provider));
        desk.answer(Ok("5"));
        desk.said();
        provider
    };
    let slow_bob =
        |node| if node == BOB { Duration::from_millis(9) } else { Duration::from_millis(1) };
    ask(&mut desk, slow_bob);
    ask(&mut desk, slow_bob);
    for _ in 0..10 {
        assert_eq!(ask(&mut desk, slow_bob), ALICE);
    }
    desk.pass(LATELY);
    let again: BTreeSet<_> = (0..2).map(|_| ask(&mut desk, slow_bob)).collect();
    assert_eq!(again, BTreeSet::from([ALICE, BOB]));
}

#[test]
fn a_provider_that_cannot_be_reached_is_skipped_for_the_next_with_the_same_id() {
    let mut desk = Desk::knowing(&[ALICE, BOB]);
    desk.call();
    desk.said();
    desk.pass(Duration::from_secs(1));
    desk.answer(Err(Code::Unreachable));
    desk.said();
    let [(_, first, one), (_, second, other)] = &desk.attempts[..] else { panic!("two attempts") };
    assert_ne!(first, second);
    assert_eq!(one.id, other.id);
    assert_eq!(other.timeout_ms, 2000, "what is left");
    let skipped = *first;
    desk.answer(Ok("5"));
    assert_eq!(desk.said(), ["2: 5"]);
    for _ in 0..20 {
        desk.call();
        desk.said();
        assert_ne!(desk.attempts.last().unwrap().1, skipped, "passed over for a while");
    }
    assert_eq!(desk.rpc.counters().failovers, 1);
}

#[test]
fn a_call_that_was_sent_and_lost_is_not_sent_again() {
    for lost in [Code::Interrupted, Code::Timeout, Code::HandlerError] {
        let mut desk = Desk::knowing(&[ALICE, BOB]);
        desk.call();
        desk.said();
        desk.answer(Err(lost));
        assert_eq!(desk.said(), [format!("2: {lost}")]);
    }
    for not_run in [Code::Unreachable, Code::Draining, Code::NoProvider] {
        let mut desk = Desk::knowing(&[ALICE, BOB]);
        desk.call();
        desk.said();
        desk.answer(Err(not_run));
        assert_eq!(desk.said().len(), 1);
        assert_eq!(desk.attempts.len(), 2, "{not_run}");
    }
}

#[test]
fn a_call_ends_at_its_deadline_and_not_before() {
    let mut desk = Desk::knowing(&[ALICE]);
    desk.call();
    desk.said();
    desk.pass(DEADLINE - Duration::from_millis(1));
    assert_eq!(desk.said(), [""; 0]);
    desk.pass(Duration::from_millis(1));
    assert_eq!(desk.said(), ["cancel", "2: timeout"]);
    desk.answer(Ok("too late"));
    assert_eq!(desk.said(), [""; 0]);
}

#[test]
fn a_call_whose_providers_are_never_found_ends_at_its_deadline() {
    let mut desk = Desk::new();
    desk.call();
    assert_eq!(desk.rpc.poll_timeout().unwrap().reason, "call deadline");
    desk.said();
    desk.pass(DEADLINE);
    assert_eq!(desk.said(), ["1: timeout"]);
    desk.found(&[ALICE]);
    assert_eq!(desk.said(), [""; 0]);
}

#[test]
fn a_call_that_is_given_up_is_cancelled_at_its_provider() {
    let mut desk = Desk::knowing(&[ALICE]);
    let id = desk.call();
    desk.said();
    desk.rpc.cancel(id);
    assert_eq!(desk.said(), ["cancel"]);
    desk.rpc.cancel(id);
    assert_eq!(desk.said(), [""; 0]);
}

#[test]
fn nobody_provides_it_only_after_a_fresh_look() {
    let mut desk = Desk::knowing(&[ALICE]);
    desk.call();
    desk.said();
    desk.answer(Err(Code::Unreachable));
    assert_eq!(desk.said(), ["find add"], "perhaps somebody has come since");
    desk.found(&[ALICE]);
    assert_eq!(desk.said(), ["2: no_provider"]);
    desk.call();
    desk.said();
    desk.answer(Err(Code::Unreachable));
    desk.said();
    desk.found(&[ALICE, BOB]);
    assert_eq!(desk.said(), ["ask 2"]);
}

#[test]
fn an_unknown_procedure_that_nobody_advertises_has_no_provider() {
    let mut desk = Desk::new();
    desk.call();
    desk.said();
    desk.found(&[]);
    assert_eq!(desk.said(), ["1: no_provider"]);
    desk.call();
    assert_eq!(desk.said(), ["find add"]);
    // Once a storer tells of changes, nobody is asked.
    desk.news(&[], true, true);
    assert_eq!(desk.said(), ["2: no_provider"]);
    desk.call();
    assert_eq!(desk.said(), ["3: no_provider"]);
    desk.news(&[BOB], false, true);
    desk.call();
    assert_eq!(desk.said(), ["ask 2"]);
}

#[test]
fn a_node_may_call_itself_without_the_dht() {
    let mut desk = Desk::new();
    desk.rpc.advertise("add".parse().unwrap()).unwrap();
    desk.call();
    let said = desk.said();
    assert!(said.contains(&"ask 0".to_owned()), "{said:?}");
    let call = desk.attempts[0].2.clone();
    let incoming = desk.rpc.handle_call(call.clone()).unwrap();
    assert_eq!((incoming.procedure.as_str(), incoming.timeout), ("add", DEADLINE));
    desk.rpc.withdraw(&"add".parse().unwrap());
    assert_eq!(desk.rpc.handle_call(call).unwrap_err().code, Code::NoProvider);
}

#[test]
fn what_is_in_use_is_followed_and_nothing_else() {
    let mut desk = Desk::knowing(&[ALICE]);
    desk.pass(IDLE - Duration::from_millis(1));
    assert_eq!(desk.said(), [""; 0]);
    desk.pass(Duration::from_millis(1));
    assert_eq!(desk.said(), ["forget add"]);
}

#[test]
fn the_last_call_and_procedure_are_taken_and_one_more_refused() {
    let mut desk = Desk::knowing(&[ALICE]);
    for _ in 0..MAX_CALLS {
        desk.call();
    }
    assert!(desk.said().iter().all(|word| word == "ask 1"));
    let one_more = desk.call();
    assert_eq!(desk.said(), [format!("{}: overloaded", one_more.0)]);
    for n in 0..MAX_ADVERTISED {
        desk.rpc.advertise(format!("p{n}").parse().unwrap()).unwrap();
    }
    let refused = desk.rpc.advertise("q".parse().unwrap());
    assert_eq!(refused.unwrap_err().code, Code::TooMany);
}

#[test]
fn an_answer_that_no_provider_may_give_is_not_handed_on() {
    for (content_type, fits) in [("x".repeat(256), true), ("x".repeat(257), false)] {
        let mut desk = Desk::knowing(&[ALICE]);
        desk.call();
        desk.said();
        let (id, ..) = desk.attempts.last().unwrap();
        let answer = message::Answer { content_type, ..message::Answer::default() };
        desk.rpc.handle_answer(desk.now, *id, Ok(answer));
        let Some(Output::Returned { result, .. }) = desk.rpc.poll_output() else { panic!() };
        assert_eq!(result.is_ok(), fits);
        assert!(fits || result.unwrap_err().code == Code::TooLarge);
    }
}
