//! The file: three tables of redb.
//!
//! Every write is one transaction, on disk when [`File::write`] returns: a process that is killed at
//! any instant, or a machine that loses power, finds all of the last one or nothing of it. When the
//! file is opened every checksum in it is verified. A file that does not hold is set aside under a
//! name that says why, never deleted and never repaired by guessing.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use macula_proto::dht::keep::{MAX_CONTACTS, Slot};
use macula_proto::identity::NodeId;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError,
    TableDefinition, TableError,
};

/// The file's name in the node's folder.
pub(super) const NAME: &str = "dht.redb";

type Table<K, V> = TableDefinition<'static, K, V>;

/// Whose file it is, and of which format.
const META: Table<&str, &[u8]> = TableDefinition::new("meta");
/// By key and publisher; the values are [`macula_proto::dht::keep::Record`]s.
const RECORDS: Table<Slot, &[u8]> = TableDefinition::new("records");
/// By node: when it was last in the table, in milliseconds since 1970, and how it is reached.
const CONTACTS: Table<[u8; NodeId::LENGTH], (u64, &[u8])> = TableDefinition::new("contacts");

const FORMAT_KEY: &str = "format";
/// Rises when an older version of this program could not read the tables.
const FORMAT: &[u8] = b"1";
const OWNER_KEY: &str = "owner";

/// What redb keeps in memory of the file. It is read once, at the start; a write touches a few of
/// its pages.
const CACHE: usize = 1 << 20;
/// A file of less is not worth compacting.
const COMPACT_ABOVE: u64 = 32 << 20;
/// A contact that was in no table for so long is forgotten: a day, as long as certificates last.
const FORGET_CONTACTS: Duration = Duration::from_secs(24 * 3600);
/// How many files that were set aside are kept: the newest.
const SET_ASIDE: usize = 2;

/// An open file. Nobody else can open it meanwhile.
#[derive(Debug)]
pub(super) struct File {
    db: Database,
    path: PathBuf,
}

/// A file that had to make way for a new one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SetAside {
    pub(super) path: PathBuf,
    pub(super) because: String,
}

/// Why the file cannot be used. What was tried is the caller's to say.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Another process has it open.
    #[error("another process has it open")]
    Locked,
    /// The disk, or the right to it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what was written, or not for this node. Such a file is set aside.
    #[error("{1}")]
    Unfit(Unfit, String),
    /// redb, in its words.
    #[error("{0}")]
    Other(String),
}

/// In which way a file is of no use; the word stands in the name under which it is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    Damaged,
    OtherFormat,
    Foreign,
}

impl Unfit {
    const ALL: [Self; 3] = [Self::Damaged, Self::OtherFormat, Self::Foreign];

    const fn word(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::OtherFormat => "other-format",
            Self::Foreign => "foreign",
        }
    }
}

/// What is to be written in one transaction.
#[derive(Debug, Default)]
pub(super) struct Write {
    /// Every record goes first.
    pub(super) afresh: bool,
    pub(super) records: Vec<(Slot, Option<Vec<u8>>)>,
    /// The contacts of now; those of before stay for a while.
    pub(super) contacts: Vec<(NodeId, Vec<u8>)>,
    pub(super) now_ms: u64,
}

impl File {
    /// Opens the owner's file, or makes it. One that is unfit is set aside first.
    pub(super) fn open(
        folder: &Path,
        owner: &str,
        now_ms: u64,
    ) -> Result<(Self, Option<SetAside>), Error> {
        fs::create_dir_all(folder)?;
        let path = folder.join(NAME);
        match Self::open_existing(&path, owner) {
            Ok(Some(file)) => Ok((file, None)),
            Ok(None) => Ok((Self::create(folder, owner)?, None)),
            Err(Error::Unfit(unfit, because)) => {
                let aside = set_aside(folder, unfit, now_ms / 1000)?;
                let file = Self::create(folder, owner)?;
                Ok((file, Some(SetAside { path: aside, because })))
            }
            Err(error @ (Error::Locked | Error::Io(_) | Error::Other(_))) => Err(error),
        }
    }

    fn open_existing(path: &Path, owner: &str) -> Result<Option<Self>, Error> {
        if !path.try_exists()? {
            return Ok(None);
        }
        // A file that somebody altered may meet an assertion of redb, although it verifies first.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mut db = builder().open(path).map_err(of_database)?;
            check_owner(&db, owner)?;
            compact(&mut db, path)?;
            Ok(Self { db, path: path.to_owned() })
        }));
        let damaged = || Error::Unfit(Unfit::Damaged, "reading it met an assertion".to_owned());
        opened.unwrap_or_else(|_| Err(damaged())).map(Some)
    }

    /// Made beside, then renamed: there is never half a file under the name.
    fn create(folder: &Path, owner: &str) -> Result<Self, Error> {
        let new = folder.join(format!("{NAME}.new"));
        let db = match make(&new) {
            Err(Error::Unfit(..)) => {
                // Left behind by a process that was killed at this very place.
                fs::remove_file(&new)?;
                make(&new)?
            }
            made => made?,
        };
        let write = db.begin_write().map_err(other)?;
        {
            let mut meta = write.open_table(META).map_err(of_table)?;
            meta.insert(FORMAT_KEY, FORMAT).map_err(of_storage)?;
            meta.insert(OWNER_KEY, owner.as_bytes()).map_err(of_storage)?;
            write.open_table(RECORDS).map_err(of_table)?;
            write.open_table(CONTACTS).map_err(of_table)?;
        }
        write.commit().map_err(other)?;
        let path = folder.join(NAME);
        fs::rename(&new, &path)?;
        fs::File::open(folder)?.sync_all()?;
        Ok(Self { db, path })
    }

    /// All of it or nothing; on disk when this returns. After an error the file has to be opened
    /// anew.
    pub(super) fn write(&self, write: &Write) -> Result<(), Error> {
        let Write { afresh, records, contacts, now_ms } = write;
        let transaction = self.db.begin_write().map_err(other)?;
        if *afresh {
            transaction.delete_table(RECORDS).map_err(of_table)?;
        }
        {
            let mut table = transaction.open_table(RECORDS).map_err(of_table)?;
            for (slot, bytes) in records {
                match bytes {
                    Some(bytes) => drop(table.insert(slot, &bytes[..]).map_err(of_storage)?),
                    None => drop(table.remove(slot).map_err(of_storage)?),
                }
            }
            if !contacts.is_empty() {
                let mut table = transaction.open_table(CONTACTS).map_err(of_table)?;
                put_contacts(&mut table, contacts, *now_ms).map_err(of_storage)?;
            }
        }
        transaction.commit().map_err(other)
    }

    /// Shows every record, so many at a time, until `take` says that it wants no more.
    pub(super) fn records(
        &self,
        at_once: usize,
        mut take: impl FnMut(Vec<(Slot, Vec<u8>)>) -> bool,
    ) -> Result<(), Error> {
        let read = self.db.begin_read().map_err(other)?;
        let table = read.open_table(RECORDS).map_err(of_table)?;
        let mut chunk = Vec::with_capacity(at_once);
        for entry in table.iter().map_err(of_storage)? {
            let (slot, bytes) = entry.map_err(of_storage)?;
            chunk.push((slot.value(), bytes.value().to_vec()));
            if chunk.len() == at_once && !take(std::mem::take(&mut chunk)) {
                return Ok(());
            }
        }
        if !chunk.is_empty() {
            take(chunk);
        }
        Ok(())
    }

    /// The contacts, those seen last first.
    pub(super) fn contacts(&self) -> Result<Vec<Vec<u8>>, Error> {
        let read = self.db.begin_read().map_err(other)?;
        let table = read.open_table(CONTACTS).map_err(of_table)?;
        let mut contacts = Vec::new();
        for entry in table.iter().map_err(of_storage)?.take(2 * MAX_CONTACTS) {
            let (_, value) = entry.map_err(of_storage)?;
            let (seen_ms, bytes) = value.value();
            contacts.push((std::cmp::Reverse(seen_ms), bytes.to_vec()));
        }
        contacts.sort();
        Ok(contacts.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// How large the file is.
    pub(super) fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |about| about.len())
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

/// A new file, which nobody else may read: it names every realm.
fn make(path: &Path) -> Result<Database, Error> {
    let mut options = fs::OpenOptions::new();
    drop(options.create(true).append(true).mode(0o600).open(path)?);
    builder().create(path).map_err(of_database)
}

fn check_owner(db: &Database, owner: &str) -> Result<(), Error> {
    let unfit = |unfit, because: &str| Err(Error::Unfit(unfit, because.to_owned()));
    let read = db.begin_read().map_err(other)?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => {
            return unfit(Unfit::OtherFormat, "it says of no format");
        }
        Err(error) => return Err(of_table(error)),
    };
    let format = meta.get(FORMAT_KEY).map_err(of_storage)?;
    if format.is_none_or(|format| format.value() != FORMAT) {
        return unfit(Unfit::OtherFormat, "it is of another format than this version writes");
    }
    let whose = meta.get(OWNER_KEY).map_err(of_storage)?;
    if whose.is_none_or(|whose| whose.value() != owner.as_bytes()) {
        return unfit(Unfit::Foreign, "it is of another node, or of another mesh");
    }
    read.open_table(RECORDS).map_err(of_table)?;
    read.open_table(CONTACTS).map_err(of_table)?;
    Ok(())
}

/// Gives back what a file that was once much larger holds empty.
fn compact(db: &mut Database, path: &Path) -> Result<(), Error> {
    let bytes = fs::metadata(path)?.len();
    if bytes <= COMPACT_ABOVE {
        return Ok(());
    }
    let write = db.begin_write().map_err(other)?;
    let stored = write.stats().map_err(of_storage)?.stored_bytes();
    write.abort().map_err(of_storage)?;
    if bytes / 4 > stored {
        db.compact().map_err(other)?;
    }
    Ok(())
}

fn put_contacts(
    table: &mut redb::Table<'_, [u8; NodeId::LENGTH], (u64, &'static [u8])>,
    contacts: &[(NodeId, Vec<u8>)],
    now_ms: u64,
) -> Result<(), StorageError> {
    for (id, bytes) in contacts {
        table.insert(id.as_bytes(), (now_ms, &bytes[..]))?;
    }
    let forget = u64::try_from(FORGET_CONTACTS.as_millis()).expect("a day");
    table.retain(|_, (seen_ms, _)| seen_ms.saturating_add(forget) > now_ms)?;
    let most = u64::try_from(MAX_CONTACTS).expect("a thousand");
    let excess = table.len()?.saturating_sub(most);
    if excess > 0 {
        let mut seen = Vec::new();
        for entry in table.iter()? {
            let (id, value) = entry?;
            seen.push((value.value().0, id.value()));
        }
        seen.sort_unstable();
        for (_, id) in seen.iter().take(usize::try_from(excess).unwrap_or(usize::MAX)) {
            table.remove(id)?;
        }
    }
    Ok(())
}

/// Gives the name under which the file lies now.
fn set_aside(folder: &Path, unfit: Unfit, now_s: u64) -> io::Result<PathBuf> {
    let aside = folder.join(format!("{NAME}.{}-{now_s}", unfit.word()));
    fs::rename(folder.join(NAME), &aside)?;
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        all.extend(set_aside_at(&path).map(|at| (at, path)));
    }
    all.sort();
    for (_, path) in all.iter().rev().skip(SET_ASIDE) {
        fs::remove_file(path)?;
    }
    Ok(aside)
}

/// When a file was set aside, if it was.
fn set_aside_at(path: &Path) -> Option<u64> {
    let rest = path.file_name()?.to_str()?.strip_prefix(NAME)?.strip_prefix('.')?;
    let digits = |unfit: Unfit| rest.strip_prefix(unfit.word())?.strip_prefix('-');
    Unfit::ALL.into_iter().find_map(digits)?.parse().ok()
}

fn of_database(error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Error::Locked,
        DatabaseError::UpgradeRequired(_) => Error::Unfit(Unfit::OtherFormat, error.to_string()),
        DatabaseError::RepairAborted => Error::Unfit(Unfit::Damaged, error.to_string()),
        DatabaseError::Storage(error) => of_storage(error),
        error => other(error),
    }
}

fn of_table(error: TableError) -> Error {
    match error {
        TableError::Storage(error) => of_storage(error),
        // Our own tables, of the format that the file says: they have been altered.
        error => Error::Unfit(Unfit::Damaged, error.to_string()),
    }
}

fn of_storage(error: StorageError) -> Error {
    match error {
        StorageError::Corrupted(because) => Error::Unfit(Unfit::Damaged, because),
        StorageError::Io(error) => match error.kind() {
            // redb's words for what is none of its files, and for one that is cut off.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Error::Unfit(Unfit::Damaged, error.to_string())
            }
            _ => Error::Io(error),
        },
        error => other(error),
    }
}

fn other(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Corrupted(because) => Error::Unfit(Unfit::Damaged, because),
        redb::Error::Io(error) => Error::Io(error),
        error => Error::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
