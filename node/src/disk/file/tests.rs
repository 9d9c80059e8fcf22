//! Files that are cut, altered, foreign, shared or written by a process that is killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::*;

const OWNER: &str = "demo.main boot-0";
const NOW_MS: u64 = 1_781_000_000_000;

type Records = BTreeMap<Slot, Vec<u8>>;

fn open(folder: &Path) -> (File, Option<SetAside>) {
    File::open(folder, OWNER, NOW_MS).unwrap()
}

fn read(file: &File) -> Records {
    let mut all = Records::new();
    file.records(7, |records| {
        assert!(records.len() <= 7);
        all.extend(records);
        true
    })
    .unwrap();
    all
}

fn slot(n: u32) -> Slot {
    let mut slot = [0; 40];
    slot[..4].copy_from_slice(&n.to_be_bytes());
    slot
}

fn write(records: impl IntoIterator<Item = (Slot, Option<Vec<u8>>)>) -> Write {
    Write { records: records.into_iter().collect(), now_ms: NOW_MS, ..Write::default() }
}

/// A file with three hundred records, closed.
fn filled() -> (TempDir, Records) {
    let folder = tempfile::tempdir().unwrap();
    let (file, aside) = open(folder.path());
    assert_eq!(aside, None);
    let records: Records = (0..300).map(|n| (slot(n), vec![1; 700])).collect();
    file.write(&write(records.iter().map(|(slot, bytes)| (*slot, Some(bytes.clone()))))).unwrap();
    (folder, records)
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn what_was_written_is_read_after_the_file_was_closed() {
    let (folder, mut records) = filled();
    let (file, aside) = open(folder.path());
    assert_eq!((aside, read(&file)), (None, records.clone()));
    let changed = [(slot(1), None), (slot(2), Some(vec![2])), (slot(999), None)];
    file.write(&write(changed)).unwrap();
    records.remove(&slot(1));
    records.insert(slot(2), vec![2]);
    assert_eq!(read(&file), records);
    file.write(&Write { afresh: true, ..write([(slot(3), Some(vec![3]))]) }).unwrap();
    drop(file);
    assert_eq!(read(&open(folder.path()).0), [(slot(3), vec![3])].into());
    let mode = fs::metadata(folder.path().join(NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(names(folder.path()), [NAME]);
}

#[test]
fn a_reader_that_wants_no_more_gets_no_more() {
    let (folder, _) = filled();
    let mut taken = 0;
    let take = |records: Vec<_>| {
        taken += records.len();
        false
    };
    open(folder.path()).0.records(10, take).unwrap();
    assert_eq!(taken, 10);
}

#[test]
fn contacts_are_kept_for_a_day_and_the_latest_thousand() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path()).0;
    let contacts = |from: u32, to: u32| {
        let id = |n: u32| NodeId::try_from(&slot(n)[..20]).unwrap();
        (from..to).map(|n| (id(n), n.to_be_bytes().to_vec())).collect::<Vec<_>>()
    };
    let put = |now_ms, contacts| {
        file.write(&Write { contacts, now_ms, ..Write::default() }).unwrap();
        file.contacts().unwrap()
    };
    let day = 24 * 3600 * 1000;
    assert_eq!(put(NOW_MS, contacts(0, 3)).len(), 3);
    let seen = put(NOW_MS + 1, contacts(2, 4));
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[..2], [2_u32, 3].map(|n| n.to_be_bytes().to_vec()), "those seen last first");
    assert_eq!(put(NOW_MS + day, contacts(3, 4)).len(), 2, "two were not seen for a day");
    let many = put(NOW_MS + day, contacts(100, 2000));
    assert_eq!(many.len(), MAX_CONTACTS);
}

#[test]
fn a_file_that_is_cut_or_zeroed_or_none_of_ours_is_set_aside_and_the_node_starts_empty() {
    let cut = |bytes: &[u8], length: usize| bytes[..length].to_vec();
    type Damage = fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 5] = [
        ("zeroes", |bytes| vec![0; bytes.len()]),
        ("text", |_| b"no database".to_vec()),
        ("zeroed but for its head", |bytes| {
            let mut bytes = bytes.to_vec();
            bytes[4096..].fill(0);
            bytes
        }),
        ("another head", |bytes| {
            let mut bytes = bytes.to_vec();
            bytes[..512].fill(0xa5);
            bytes
        }),
        ("one byte", |bytes| bytes[..1].to_vec()),
    ];
    let (intact, _) = filled();
    let bytes = fs::read(intact.path().join(NAME)).unwrap();
    let cuts = [100, 4096, bytes.len() / 2, bytes.len() - 4096]
        .map(|length| (format!("cut to {length}"), cut(&bytes, length)));
    let damaged = damages.iter().map(|(what, damage)| ((*what).to_owned(), damage(&bytes)));
    for (what, damaged) in damaged.chain(cuts) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        fs::write(&path, &damaged).unwrap();
        let (file, aside) = open(folder.path());
        let aside = aside.unwrap_or_else(|| panic!("{what}: believed"));
        assert_eq!(aside.path, folder.path().join("dht.redb.damaged-1781000000"), "{what}");
        assert!(!aside.because.is_empty());
        assert_eq!(fs::read(&aside.path).unwrap().len(), damaged.len(), "{what}: left as it was");
        assert_eq!(read(&file), Records::new());
        file.write(&write([(slot(1), Some(vec![1]))])).unwrap();
        drop(file);
        assert_eq!(open(folder.path()).1, None);
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_matters() {
    let (intact, records) = filled();
    let bytes = fs::read(intact.path().join(NAME)).unwrap();
    let mut set_aside = 0;
    let mut rng = StdRng::seed_from_u64(7);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NAME);
    for _ in 0..100 {
        let mut flipped = bytes.clone();
        let at = rng.random_range(0..bytes.len());
        flipped[at] ^= 1 << rng.random_range(0..8);
        fs::write(&path, &flipped).unwrap();
        let (file, aside) = open(folder.path());
        set_aside += usize::from(aside.is_some());
        // It was in a page that nothing uses; or all is gone; or the transaction before stands.
        let read = read(&file);
        assert!(read.is_empty() || read == records, "bit at {at}");
        assert!(aside.is_none() || read.is_empty());
        drop(file);
        assert!(names(folder.path()).len() <= 1 + SET_ASIDE);
    }
    assert!(set_aside > 20, "{set_aside} of 100");
}

#[test]
fn a_file_of_another_node_or_another_format_is_set_aside_by_that_name() {
    let (folder, records) = filled();
    let (file, aside) = File::open(folder.path(), "demo.main boot-1", NOW_MS).unwrap();
    let aside = aside.unwrap();
    assert_eq!(aside.path, folder.path().join("dht.redb.foreign-1781000000"));
    assert_eq!(
        (aside.because.as_str(), read(&file).len()),
        ("it is of another node, or of another mesh", 0)
    );
    let write = file.db.begin_write().unwrap();
    write.open_table(META).unwrap().insert(FORMAT_KEY, &b"2"[..]).unwrap();
    write.commit().unwrap();
    drop(file);
    let (file, aside) = File::open(folder.path(), "demo.main boot-1", NOW_MS + 1000).unwrap();
    assert_eq!(aside.unwrap().path, folder.path().join("dht.redb.other-format-1781000001"));
    drop(file);
    // It can be put back.
    fs::rename(folder.path().join("dht.redb.foreign-1781000000"), folder.path().join(NAME))
        .unwrap();
    assert_eq!(read(&open(folder.path()).0), records);
}

#[test]
fn only_the_newest_two_that_were_set_aside_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    for second in 0..4 {
        fs::write(folder.path().join(NAME), "no database").unwrap();
        File::open(folder.path(), OWNER, NOW_MS + 1000 * second).unwrap();
    }
    let kept = ["dht.redb", "dht.redb.damaged-1781000002", "dht.redb.damaged-1781000003"];
    assert_eq!(names(folder.path()), kept);
}

#[test]
fn a_second_process_is_told_that_the_file_is_in_use() {
    let (folder, records) = filled();
    let (first, _) = open(folder.path());
    // flock counts open files, not processes.
    let second = File::open(folder.path(), OWNER, NOW_MS).unwrap_err();
    assert!(matches!(second, Error::Locked));
    assert_eq!(second.to_string(), "another process has it open");
    drop(first);
    assert_eq!(read(&open(folder.path()).0), records);
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error_and_nothing_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(File::open(&file.join("data"), OWNER, NOW_MS), Err(Error::Io(_))));
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn half_a_file_that_was_being_made_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("dht.redb.new"), [0; 5000]).unwrap();
    assert_eq!(open(folder.path()).1, None);
    assert_eq!(names(folder.path()), [NAME]);
}

#[test]
fn a_file_takes_four_times_what_is_in_it_at_most_and_gives_back_what_it_holds_empty() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = open(folder.path());
    // As large as records get, and replaced over and over, in another order than the table's.
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..30 {
        let any = (0..1000).map(|_| (slot(rng.random_range(0..5000)), Some(vec![7; 4000])));
        file.write(&write(any)).unwrap();
    }
    assert!(file.bytes() < 4 * 5000 * 4000, "{}", file.bytes());
    file.write(&Write { afresh: true, ..write([(slot(1), Some(vec![1]))]) }).unwrap();
    let large = file.bytes();
    assert!(large > COMPACT_ABOVE, "{large}");
    drop(file);
    let (file, _) = open(folder.path());
    assert!(file.bytes() < large / 4, "{} of {large}", file.bytes());
    assert_eq!(read(&file).len(), 1);
}

/// Where the process that is killed writes.
const WRITER: &str = "MACULA_DISK_WRITER";
/// Records of one batch, which say which batch they are of.
const GROUP: u32 = 24;

/// Not a test of its own: what [`a_process_that_is_killed_while_it_writes_loses_nothing`] starts.
#[test]
fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(WRITER) else { return };
    let (file, aside) = open(Path::new(&folder));
    assert_eq!(aside, None);
    let mut batch = last_batch(&file);
    loop {
        batch += 1;
        file.write(&batch_of(batch)).unwrap();
        println!("wrote {batch}");
        io::stdout().flush().unwrap();
    }
}

/// Each batch replaces the records of one before, of another size, and says its number in all.
fn batch_of(batch: u32) -> Write {
    let length = 100 + batch.wrapping_mul(2_654_435_761) as usize % 3000;
    let bytes = [&batch.to_be_bytes()[..], &vec![0x5a; length]].concat();
    let group = batch % 16;
    write((0..GROUP).map(|n| (slot(group * GROUP + n), Some(bytes.clone()))))
}

/// The last batch in the file, of which each is there as a whole.
fn last_batch(file: &File) -> u32 {
    let mut groups = BTreeMap::<u32, Vec<Vec<u8>>>::new();
    for (slot, bytes) in read(file) {
        let group = u32::from_be_bytes(slot[..4].try_into().unwrap()) / GROUP;
        groups.entry(group).or_default().push(bytes);
    }
    let mut batches: Vec<u32> = Vec::new();
    for (group, all) in groups {
        assert_eq!(all.len(), GROUP as usize, "half a batch");
        let batch = u32::from_be_bytes(all[0][..4].try_into().unwrap());
        assert_eq!(batch % 16, group);
        let Write { records, .. } = batch_of(batch);
        assert!(all.iter().zip(records).all(|(have, (_, wrote))| Some(have) == wrote.as_ref()));
        batches.push(batch);
    }
    batches.sort_unstable();
    assert!(batches.is_sorted_by(|a, b| a + 1 == *b), "a batch is missing: {batches:?}");
    batches.last().copied().unwrap_or(0)
}

#[test]
fn a_process_that_is_killed_while_it_writes_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = rand::rng();
    let since = Instant::now();
    let (mut kills, mut last) = (0, 0);
    // At least so often; before the first write and after many.
    while kills < 25 {
        let mut writer = Writer::start(folder.path());
        let mut told = last;
        for _ in 0..rng.random_range(0..8) {
            told = writer.next();
        }
        // Somewhere within a write, which takes a few milliseconds.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..8000)));
        told = writer.kill().unwrap_or(told);
        kills += 1;
        let (file, aside) = open(folder.path());
        assert_eq!(aside, None, "kill {kills}");
        last = last_batch(&file);
        assert!(last == told || last == told + 1, "told of {told}, found {last}, kill {kills}");
    }
    assert!(last > 0);
    println!("{kills} kills, {last} batches, {:?}", since.elapsed());
}

struct Writer {
    child: Child,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Writer {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "disk::file::tests::the_process_that_is_killed"])
            .env(WRITER, folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> u32 {
        self.next_line().expect("it writes until it is killed")
    }

    fn next_line(&mut self) -> Option<u32> {
        // The harness has its words too, in front of the first of ours.
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.rsplit_once("wrote ").and_then(|(_, number)| number.parse().ok()))
    }

    /// SIGKILL. Gives the last batch that it told of and nobody has read.
    fn kill(mut self) -> Option<u32> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.next_line()).last()
    }
}
