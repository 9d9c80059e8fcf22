//! What infrastructure keeps over a restart: the DHT's records, and whom it knew. One file, one task
//! that writes it, and a node that goes on in memory whenever the disk does not.
//!
//! The store is redb: one file, copy-on-write B-trees under checksums, pure Rust with no dependency
//! but libc. A commit switches from one root to the next, so that a process that is killed at any
//! instant leaves the commit before or the commit after; there is no log to replay, and no thread
//! that compacts. Log-structured stores (fjall) write faster than a bootstrap ever has to, and pay
//! for it with several files, background threads, and memory that a node of eleven mebibytes feels.
//!
//! **What is promised.** What stood in the store a second ago is on disk, or the node says that it
//! is not: `macula_disk_failures`, the status, and one line in the log. Owners publish every few
//! minutes anew, so that a lost second heals by itself.
//!
//! | file | holds |
//! | --- | --- |
//! | `file` | the file: opened, verified, written, set aside; the only place that names redb |

mod file;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use macula_proto::dht::keep::{self, Slot, encode_contact};
use macula_proto::identity::NodeId;
use macula_proto::wire::Contact;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock;
use crate::metrics::Metrics;
use crate::supervise::{self, Kind, Tree, failpoint};
use file::{File, SetAside, Write};

/// Batches that wait while one is written. Then changes wait in the store, which notes each place
/// once.
const BATCHES: usize = 1;
/// Records that are handed over at once after a start: some ten milliseconds of verifying.
const AT_ONCE: usize = 64;
/// How long a disk that failed is left alone.
const RETRY: Duration = Duration::from_secs(10);

/// What is written at once.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) records: keep::Batch,
    /// The contacts of now, or none when they are as they were.
    pub(crate) contacts: Vec<Contact>,
}

/// What was found on disk.
#[derive(Debug)]
pub(crate) enum Found {
    /// Who was known, those seen last first.
    Contacts(Vec<Vec<u8>>),
    /// Some of the records.
    Records(Vec<(Slot, Vec<u8>)>),
}

/// The disk, as the mesh sees it. Nothing of it ever waits.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    owner: String,
    metrics: Arc<Metrics>,
    batches: mpsc::Sender<Batch>,
    inbox: tokio::sync::Mutex<mpsc::Receiver<Batch>>,
    /// Who wants to be told what is on disk: the latest incarnation of the mesh.
    reader: Mutex<Option<mpsc::Sender<Found>>>,
    reads: Notify,
    /// A batch was lost: what is on disk is older than what was handed over.
    behind: AtomicBool,
    trouble: watch::Sender<Option<String>>,
}

impl Handle {
    /// Starts the task, as a child of the tree. Add it before whatever writes: it ends after it.
    pub(crate) fn start(
        folder: PathBuf,
        id: NodeId,
        mesh: &str,
        metrics: Arc<Metrics>,
        tree: &mut Tree,
        runtime: &Runtime,
    ) -> Self {
        let (batches, inbox) = mpsc::channel(BATCHES);
        let shared = Arc::new(Shared {
            folder,
            owner: format!("{mesh} {id}"),
            metrics,
            batches,
            inbox: inbox.into(),
            reader: Mutex::default(),
            reads: Notify::new(),
            behind: AtomicBool::new(false),
            trouble: watch::Sender::new(None),
        });
        let disk = shared.clone();
        tree.child(Kind::Disk, "disk", runtime, move |stop| {
            let disk = disk.clone();
            async move {
                disk.run(stop).await;
                Ok::<(), supervise::Error>(())
            }
        });
        Self(shared)
    }

    /// Asks for all that is on disk: contacts, then records, as fast as they are taken. It ends
    /// when the receiver does. While the disk cannot be read nothing comes, and later it does.
    pub(crate) fn read(&self) -> mpsc::Receiver<Found> {
        let (sender, receiver) = mpsc::channel(1);
        *self.0.reader() = Some(sender);
        self.0.reads.notify_one();
        receiver
    }

    /// Whether a batch would be taken now; a disk that is slow or broken takes none.
    pub(crate) fn has_room(&self) -> bool {
        self.0.batches.capacity() > 0
    }

    /// Hands over a batch. One that finds no room is lost, and the disk has fallen behind.
    pub(crate) fn hand_over(&self, batch: Batch) {
        if self.0.batches.try_send(batch).is_err() {
            self.0.behind.store(true, Ordering::Relaxed);
        }
    }

    /// Hands over a batch, and waits for room: for a node that stops, with a deadline. May be
    /// dropped.
    pub(crate) async fn hand_over_last(&self, batch: Batch) {
        // The receiver lives as long as this handle.
        let _ = self.0.batches.send(batch).await;
    }

    /// Whether a batch was lost since the last time that this was asked.
    pub(crate) fn fell_behind(&self) -> bool {
        self.0.behind.swap(false, Ordering::Relaxed)
    }

    /// What keeps the disk from being written now.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.0.trouble.borrow().clone()
    }
}

/// Why something did not work: the file, or a panic in reading it.
type Result<T> = std::result::Result<T, String>;

impl Shared {
    /// Opens the file, and serves until it is told to stop; then what waits is still written.
    async fn run(&self, stop: CancellationToken) {
        // Held for this life: a restarted task takes it over.
        let mut inbox = self.inbox.lock().await;
        let mut file = None;
        // Whether all that is wrong is that the file could not be opened.
        let mut shut = false;
        loop {
            failpoint(Kind::Disk);
            let open = match file.take() {
                Some(open) => open,
                None => match self.open().await {
                    Ok(open) => {
                        if std::mem::take(&mut shut) {
                            self.on_success();
                        }
                        open
                    }
                    Err(because) => {
                        shut |= self.on_trouble(because);
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(RETRY) => continue,
                        }
                    }
                },
            };
            let done = tokio::select! {
                biased;
                () = self.reads.notified() => self.read(open).await,
                Some(batch) = inbox.recv() => self.write(open, batch).await,
                () = stop.cancelled() => {
                    // Closing marks the file as whole.
                    let _ = spawn_blocking(move || drop(open)).await;
                    return;
                }
            };
            match done {
                Ok(open) => file = Some(open),
                Err(because) => {
                    self.behind.store(true, Ordering::Relaxed);
                    shut = false;
                    self.on_trouble(because);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    async fn open(&self) -> Result<File> {
        let (folder, owner) = (self.folder.clone(), self.owner.clone());
        let now_ms = clock::now().unix_ms;
        let opened = blocking(move || File::open(&folder, &owner, now_ms)).await?;
        let (file, aside) = opened;
        if let Some(SetAside { path, because }) = aside {
            self.metrics.disk_files_set_aside.inc();
            warn!(path = %path.display(), because, "the kept file was set aside; this node starts without it");
        }
        self.metrics.disk_bytes.set(file.bytes());
        Ok(file)
    }

    /// Gives the file back.
    async fn read(&self, file: File) -> Result<File> {
        let Some(reader) = self.reader().take() else { return Ok(file) };
        blocking(move || {
            // Without a receiver that incarnation of the mesh is gone.
            if reader.blocking_send(Found::Contacts(file.contacts()?)).is_ok() {
                file.records(AT_ONCE, |records| {
                    reader.blocking_send(Found::Records(records)).is_ok()
                })?;
            }
            Ok(file)
        })
        .await
    }

    /// Gives the file back.
    async fn write(&self, file: File, batch: Batch) -> Result<File> {
        let now_ms = clock::now().unix_ms;
        let written = blocking(move || {
            let Batch { records: keep::Batch { afresh, changes }, contacts } = batch;
            let encode = |(slot, record): (Slot, Option<keep::Record>)| {
                (slot, record.map(|record| record.encode()))
            };
            let contacts = contacts.iter().map(|contact| (contact.id, encode_contact(contact)));
            file.write(&Write {
                afresh,
                records: changes.into_iter().map(encode).collect(),
                contacts: contacts.collect(),
                now_ms,
            })?;
            Ok(file)
        });
        let file = written.await?;
        self.metrics.disk_writes.inc();
        self.metrics.disk_bytes.set(file.bytes());
        self.on_success();
        Ok(file)
    }

    fn on_success(&self) {
        if self.trouble.send_replace(None).is_some() {
            info!("the disk works again");
        }
    }

    /// Says so once: it is tried again until it works. Gives whether it is news.
    fn on_trouble(&self, because: String) -> bool {
        self.metrics.disk_failures.inc();
        let because = format!("{}: {because}", self.folder.display());
        let news = self.trouble.borrow().is_none();
        if news {
            warn!(because, "records are kept in memory alone; trying again");
        }
        self.trouble.send_replace(Some(because));
        news
    }

    fn reader(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Found>>> {
        self.reader.lock().expect("nothing panics while it holds the reader")
    }
}

/// Runs this where it may block. A panic in it is a reason like any other: nothing in a file may
/// end a node.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::result::Result<T, file::Error> + Send + 'static,
) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| format!("{}: {error}", file::NAME)),
        Err(panicked) => Err(format!("{}: {panicked}", file::NAME)),
    }
}

#[cfg(test)]
mod tests;
