use super::*;

const ALICE: NodeId = NodeId::from_bytes([1; 20]);
const BOB: NodeId = NodeId::from_bytes([2; 20]);

fn now() -> Now {
    Now { instant: Instant::now(), unix_ms: 1_000_000 }
}

fn looked(changes: &[(NodeId, Option<u32>)], held: bool) -> News<u32> {
    News { changes: changes.to_vec(), looked: true, held }
}

fn follow(name: &str) -> Option<Ask> {
    Some(Ask::Follow(name.to_owned()))
}

fn standing(directory: &Directory<u32>) -> Vec<(NodeId, u32)> {
    directory.get("a").map(|(node, what)| (node, *what)).collect()
}

#[test]
fn an_unknown_name_is_looked_up_once_for_all_who_ask_before_it_began() {
    let (mut directory, now) = (Directory::new(), now());
    let first = directory.ask(now, "a");
    assert_eq!(directory.poll_ask(), follow("a"));
    let second = directory.ask(now, "a");
    let third = directory.ask(now, "a");
    assert_eq!(directory.poll_ask(), None, "one look at a time");
    assert!(!directory.is_known(now, "a"));
    directory.on_news("a", looked(&[(ALICE, Some(7))], false));
    assert!(directory.is_known(now, "a"));
    assert!(directory.has_completed("a", first) && !directory.has_completed("a", second));
    assert_eq!(directory.poll_ask(), follow("a"), "the later askers' own");
    directory.on_news("a", looked(&[], false));
    assert!(directory.has_completed("a", second) && directory.has_completed("a", third));
    assert_eq!(directory.poll_ask(), None);
    assert_eq!(standing(&directory), [(ALICE, 7)]);
}

#[test]
fn a_name_that_is_told_of_is_not_asked_for_and_one_that_is_no_longer_is() {
    let (mut directory, now) = (Directory::new(), now());
    let ticket = directory.ask(now, "a");
    directory.poll_ask();
    // A lease alone is not enough: what stood before it must have been seen.
    directory.on_news("a", News { changes: Vec::new(), looked: false, held: true });
    assert!(!directory.has_completed("a", ticket));
    directory.on_news("a", looked(&[], true));
    assert_eq!(directory.ask(now, "a"), Ticket::NONE);
    assert!(directory.has_completed("a", Ticket::NONE));
    assert_eq!(directory.poll_ask(), None);
    directory.on_news("a", News { changes: Vec::new(), looked: false, held: false });
    assert_ne!(directory.ask(now, "a"), Ticket::NONE);
    assert_eq!(directory.poll_ask(), follow("a"));
}

#[test]
fn news_replace_what_one_publisher_said_and_nothing_else() {
    let (mut directory, now) = (Directory::new(), now());
    directory.ask(now, "a");
    assert!(directory.on_news("a", looked(&[(ALICE, Some(7)), (BOB, Some(8))], true)));
    assert!(!directory.on_news("a", looked(&[], true)));
    assert_eq!(standing(&directory), [(ALICE, 7), (BOB, 8)]);
    assert!(directory.on_news("a", looked(&[(ALICE, None), (BOB, Some(9))], true)));
    assert_eq!(standing(&directory), [(BOB, 9)]);
    assert!(!directory.on_news("b", looked(&[(ALICE, Some(1))], true)), "nobody uses it");
}

#[test]
fn who_denied_a_name_is_forgotten_under_that_name_alone() {
    let (mut directory, now) = (Directory::new(), now());
    for name in ["a", "b"] {
        directory.ask(now, name);
        directory.on_news(name, looked(&[(ALICE, Some(7))], true));
    }
    directory.forget(ALICE, "a");
    assert_eq!(standing(&directory), []);
    assert_eq!(directory.all().collect::<Vec<_>>(), [(ALICE, &7)]);
}

#[test]
fn a_name_in_use_stays_and_one_out_of_use_is_followed_no_longer() {
    let (mut directory, now) = (Directory::<u32>::new(), now());
    for name in ["a", "b", "c"] {
        directory.ask(now, name);
        directory.poll_ask();
    }
    directory.on_news("a", looked(&[], true));
    directory.on_news("b", looked(&[], true));
    assert!(directory.is_known(now + IDLE / 2, "b"));
    let just_before = now + (IDLE - Duration::from_millis(1));
    assert!(!directory.handle_timeout(just_before));
    assert!(directory.handle_timeout(now + IDLE));
    assert_eq!(directory.poll_ask(), Some(Ask::Unfollow("a".to_owned())));
    assert_eq!(directory.poll_ask(), None, "c is still waited for");
    assert!(directory.handle_timeout(now + IDLE * 3 / 2));
    assert_eq!(directory.poll_ask(), Some(Ask::Unfollow("b".to_owned())));
    directory.on_news("c", looked(&[], false));
    assert!(directory.handle_timeout(now + IDLE * 2));
    assert!(directory.is_empty() && directory.poll_timeout().is_none());
}

#[test]
fn the_number_of_names_is_bounded_and_the_longest_unused_makes_room() {
    let (mut directory, now) = (Directory::<u32>::new(), now());
    for i in 0..CAPACITY + 10 {
        let at = now + Duration::from_millis(i as u64);
        let name = i.to_string();
        directory.ask(at, &name);
        directory.on_news(&name, looked(&[], true));
    }
    assert_eq!(directory.len(), CAPACITY);
    let unfollowed = std::iter::from_fn(|| directory.poll_ask());
    let unfollowed = unfollowed.filter(|ask| matches!(ask, Ask::Unfollow(_)));
    let expected = (0..10).map(|i| Ask::Unfollow(i.to_string()));
    assert!(unfollowed.eq(expected));
}
