use super::*;

const ALICE: NodeId = NodeId::from_bytes([1; 20]);
const BOB: NodeId = NodeId::from_bytes([2; 20]);
/// How long a record stands.
const TTL: Duration = Duration::from_secs(120);

fn now() -> Now {
    Now { instant: Instant::now(), unix_ms: 1_000_000 }
}

/// What a publisher says as its `number`th word at this time.
fn word(at: Now, number: u64, what: Option<u32>) -> Said<u32> {
    Said { order: (1, number), expiry_ms: (at + TTL).unix_ms, what }
}

/// A directory that has found this under `a`.
fn knowing(at: Now, found: Found<u32>) -> Directory<u32> {
    let mut directory = Directory::new();
    directory.ask(at, "a");
    directory.poll_find();
    directory.on_found(at, "a", Some(found), true);
    directory
}

fn standing(directory: &Directory<u32>) -> Vec<(NodeId, u32)> {
    directory.get("a").map(|(node, what)| (node, *what)).collect()
}

#[test]
fn an_unknown_name_is_looked_up_once_for_all_who_ask_before_it_began() {
    let (mut directory, now) = (Directory::<u32>::new(), now());
    let found = |number| Some([(ALICE, word(now, number, Some(7)))].into());
    let first = directory.ask(now, "a");
    assert_eq!(directory.poll_find().as_deref(), Some("a"));
    let second = directory.ask(now, "a");
    let third = directory.ask(now, "a");
    assert_eq!(directory.poll_find(), None, "one lookup at a time");
    assert!(!directory.is_known(now, "a"));
    directory.on_found(now, "a", found(1), true);
    assert!(directory.is_known(now, "a"));
    assert!(directory.has_completed("a", first) && !directory.has_completed("a", second));
    assert_eq!(directory.poll_find().as_deref(), Some("a"), "the later askers' own");
    directory.on_found(now, "a", found(2), true);
    assert!(directory.has_completed("a", second) && directory.has_completed("a", third));
    assert_eq!(directory.poll_find(), None);
    assert_eq!(standing(&directory), [(ALICE, 7)]);
}

#[test]
fn a_failed_refresh_keeps_what_was_known_even_past_its_end() {
    let now = now();
    let mut directory = knowing(now, [(ALICE, word(now, 1, Some(7)))].into());
    directory.handle_timeout(now + REFRESH);
    assert_eq!(directory.poll_find().as_deref(), Some("a"));
    directory.on_found(now + TTL, "a", None, false);
    assert_eq!(standing(&directory), [(ALICE, 7)]);
}

#[test]
fn what_a_lookup_does_not_show_stands_until_it_ends() {
    let now = now();
    let mut directory = knowing(now, [(ALICE, word(now, 1, Some(7)))].into());
    // Its keepers have started again, and know nobody yet; or know others.
    directory.on_found(now + REFRESH, "a", Some(Found::new()), true);
    assert_eq!(standing(&directory), [(ALICE, 7)]);
    let later = now + REFRESH;
    directory.on_found(later, "a", Some([(BOB, word(later, 1, Some(8)))].into()), true);
    assert_eq!(standing(&directory), [(ALICE, 7), (BOB, 8)]);
    // Not shown by some, it may be with others, however old it is; not shown by any, it has ended.
    directory.on_found(now + TTL, "a", Some(Found::new()), false);
    assert_eq!(standing(&directory), [(ALICE, 7), (BOB, 8)]);
    directory.on_found(now + TTL, "a", Some(Found::new()), true);
    assert_eq!(standing(&directory), [(BOB, 8)]);
}

#[test]
fn what_is_taken_back_is_gone_at_once_and_an_older_word_does_not_bring_it_back() {
    let now = now();
    let mut directory = knowing(now, [(ALICE, word(now, 1, Some(7)))].into());
    directory.on_found(now, "a", Some([(ALICE, word(now, 2, None))].into()), true);
    assert_eq!(standing(&directory), []);
    directory.on_found(now, "a", Some([(ALICE, word(now, 1, Some(7)))].into()), true);
    assert_eq!(standing(&directory), []);
    directory.on_found(now, "a", Some([(ALICE, word(now, 3, Some(9)))].into()), true);
    assert_eq!(standing(&directory), [(ALICE, 9)]);
}

#[test]
fn who_left_is_forgotten_and_who_denied_a_name_under_that_name_alone() {
    let now = now();
    let mut directory = knowing(now, [(ALICE, word(now, 1, Some(7)))].into());
    directory.ask(now, "b");
    directory.on_found(now, "b", Some([(ALICE, word(now, 1, Some(8)))].into()), true);
    assert!(directory.forget(ALICE, Some("a")) && standing(&directory).is_empty());
    assert_eq!(directory.all().collect::<Vec<_>>(), [(ALICE, &8)]);
    assert!(directory.forget(ALICE, None) && !directory.forget(ALICE, None));
    assert_eq!(directory.all().count(), 0);
}

#[test]
fn a_name_in_use_is_refreshed_and_an_unused_one_is_forgotten() {
    let now = now();
    let mut directory = knowing(now, [(ALICE, word(now, 1, Some(7)))].into());
    let just_before = now + (REFRESH - Duration::from_millis(1));
    directory.handle_timeout(just_before);
    assert_eq!(directory.poll_find(), None);
    directory.handle_timeout(now + REFRESH);
    assert_eq!(directory.poll_find().as_deref(), Some("a"));
    directory.on_found(now + REFRESH, "a", None, false);
    assert!(directory.handle_timeout(now + IDLE));
    assert!(directory.is_empty() && directory.poll_timeout().is_none());
}

#[test]
fn the_number_of_names_and_of_publishers_is_bounded() {
    let now = now();
    let crowd = |from: u64| -> Found<u32> {
        let nodes = (from..from + PUBLISHERS as u64).map(|i| {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&i.to_be_bytes());
            let later = now + Duration::from_secs(i);
            (NodeId::from_bytes(bytes), word(later, 1, Some(0)))
        });
        nodes.collect()
    };
    let mut directory = knowing(now, crowd(0));
    directory.on_found(now, "a", Some(crowd(10)), true);
    assert_eq!(standing(&directory).len(), PUBLISHERS);
    assert!(crowd(10).keys().all(|node| directory.get("a").any(|(other, _)| other == *node)));
    for i in 0..CAPACITY + 10 {
        let name = i.to_string();
        directory.ask(now, &name);
        directory.poll_find();
        directory.on_found(now, &name, None, false);
    }
    assert_eq!(directory.len(), CAPACITY);
}
