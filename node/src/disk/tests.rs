//! The task: what it writes, what it says when it cannot, and what it goes on with.

use std::path::Path;

use macula_proto::dht::keep::Batch as Records;
use tempfile::TempDir;

use super::*;
use crate::supervise::{Ended, Settings};

struct Disk {
    handle: Handle,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tree: tokio::task::JoinHandle<std::result::Result<(), Ended>>,
}

impl Disk {
    fn start(folder: &Path) -> Self {
        let (metrics, stop) = (Arc::<Metrics>::default(), CancellationToken::new());
        let mut tree = Tree::new(Settings::default(), stop.clone());
        let (id, here) = (NodeId::from_bytes([7; 20]), Runtime::current());
        let folder = folder.to_owned();
        let handle = Handle::start(folder, id, "demo.main", metrics.clone(), &mut tree, &here);
        Self { handle, metrics, stop, tree: tokio::spawn(tree.run()) }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tree.await.unwrap().unwrap();
    }

    /// All that is on disk, contacts and records.
    async fn read(&self) -> (usize, Vec<Slot>) {
        let mut reading = self.handle.read();
        let (mut contacts, mut slots) = (0, Vec::new());
        while let Some(found) = reading.recv().await {
            match found {
                Found::Contacts(all) => contacts += all.len(),
                Found::Records(records) => slots.extend(records.iter().map(|(slot, _)| *slot)),
            }
        }
        (contacts, slots)
    }

    async fn write(&self, first: u8, count: u8) {
        self.handle.hand_over_last(batch(first, count)).await;
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn in_trouble(&self) -> String {
        let mut trouble = self.handle.0.trouble.subscribe();
        let trouble = trouble.wait_for(Option::is_some).await.unwrap();
        trouble.clone().unwrap()
    }
}

fn batch(first: u8, count: u8) -> Batch {
    let record = keep::Record { until_ms: 1, signed: Default::default(), addresses: Vec::new() };
    let changes = (first..first + count).map(|n| ([n; 40], Some(record.clone())));
    let contact =
        Contact { id: NodeId::from_bytes([1; 20]), addresses: vec!["10.0.0.1:1".parse().unwrap()] };
    let records = Records { afresh: false, changes: changes.collect() };
    Batch { records, contacts: vec![contact] }
}

#[tokio::test]
async fn what_was_handed_over_before_the_stop_is_there_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::start(folder.path());
    assert_eq!(disk.read().await, (0, vec![]));
    disk.write(0, 200).await;
    disk.write(200, 50).await;
    disk.stop().await;
    let disk = Disk::start(folder.path());
    let all: Vec<_> = (0..250).map(|n| [n; 40]).collect();
    assert_eq!(disk.read().await, (1, all));
    assert_eq!((disk.handle.trouble(), disk.handle.fell_behind()), (None, false));
    disk.stop().await;
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_counted_and_told_by_nothing_worse() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(file::NAME), vec![0; 10_000]).unwrap();
    let disk = Disk::start(folder.path());
    assert_eq!(disk.read().await, (0, vec![]));
    assert_eq!(disk.metrics.disk_files_set_aside.get(), 1);
    assert_eq!(disk.handle.trouble(), None);
    disk.write(0, 1).await;
    disk.until(|disk| disk.metrics.disk_writes.get() == 1).await;
    disk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_another_process_has_is_waited_for_while_the_node_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let first = Disk::start(folder.path());
    first.write(0, 3).await;
    first.until(|disk| disk.metrics.disk_writes.get() == 1).await;
    let second = Disk::start(folder.path());
    let mut reading = second.handle.read();
    let trouble = second.in_trouble().await;
    assert!(trouble.ends_with("dht.redb: another process has it open"), "{trouble}");
    assert!(second.handle.has_room());
    second.handle.hand_over(batch(10, 1));
    assert!(!second.handle.has_room(), "one waits, and the rest stays in memory");
    second.handle.hand_over(batch(11, 1));
    assert!(second.handle.fell_behind() && !second.handle.fell_behind());
    first.stop().await;
    assert!(matches!(reading.recv().await, Some(Found::Contacts(all)) if all.len() == 1));
    assert!(matches!(reading.recv().await, Some(Found::Records(all)) if all.len() == 3));
    second.until(|disk| disk.metrics.disk_writes.get() == 1).await;
    assert_eq!(second.handle.trouble(), None);
    assert!(second.metrics.disk_failures.get() > 0);
    second.stop().await;
}

/// Where a folder should be there is a file.
fn blocked() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::write(&path, "").unwrap();
    (folder, path)
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_used_is_named_and_used_as_soon_as_it_can() {
    let (_folder, path) = blocked();
    let disk = Disk::start(&path);
    let trouble = disk.in_trouble().await;
    assert!(trouble.contains("/data: dht.redb: "), "{trouble}");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(disk.read().await, (0, vec![]));
    assert_eq!(disk.handle.trouble(), None);
    disk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_for_good_stops_nothing() {
    let (_folder, path) = blocked();
    let disk = Disk::start(&path);
    disk.until(|disk| disk.metrics.disk_failures.get() > 20).await;
    assert!(!disk.tree.is_finished());
    disk.stop().await;
}
