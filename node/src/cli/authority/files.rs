//! The two folders of `authority`: who signs, and what a node proves itself with. Secrets are
//! readable by their owner alone from the moment they exist.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use macula_identity::{Authority, Bundle, Chain, NodeKey, Scope};
use macula_proto::Code;
use serde::{Deserialize, Serialize};

use crate::cli::failure::Failure;

/// An authority's folder.
#[derive(Clone, Debug)]
pub(super) struct AuthorityDir(PathBuf);

const ROOT: &str = "ca.pem";
const ROOT_KEY: &str = "ca-key.pem";
const ID_KEY: &str = "node-id-key";
/// Written last: a folder without it is not complete.
const DESCRIPTION: &str = "authority.json";

const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;

/// `authority.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Description {
    trust_domain: String,
    mesh: String,
}

impl AuthorityDir {
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Writes an authority into a folder that has none.
    ///
    /// # Errors
    /// When one of its files is there already, or none can be written.
    pub(super) fn create(&self, authority: &Authority) -> Result<(), Failure> {
        let Self(folder) = self;
        let tried = format!("make an authority in {}", folder.display());
        for name in [ROOT, ROOT_KEY, ID_KEY, DESCRIPTION] {
            if folder.join(name).symlink_metadata().is_ok() {
                let because = format!("{} is there already", folder.join(name).display());
                return Err(Failure::new(Code::InvalidRequest, tried, because).with_next(
                    "Choose another folder. Without its keys, everything that an authority signed \
                     has to be issued again, so it is never overwritten.",
                ));
            }
        }
        let Scope { trust_domain, mesh } = authority.scope();
        let description =
            Description { trust_domain: trust_domain.to_string(), mesh: mesh.to_string() };
        let description = serde_json::to_string_pretty(&description).unwrap_or_default() + "\n";
        make_folder(folder)
            .and_then(|()| create(&folder.join(ROOT_KEY), SECRET, &authority.ca_key_pem()))
            .and_then(|()| {
                create(&folder.join(ID_KEY), SECRET, &format!("{}\n", authority.node_id_key()))
            })
            .and_then(|()| create(&folder.join(ROOT), PUBLIC, &authority.ca_cert_pem()))
            .and_then(|()| create(&folder.join(DESCRIPTION), PUBLIC, &description))
            .map_err(|why| unwritable(&tried, why))
    }

    /// Reads the authority of a folder.
    ///
    /// # Errors
    /// Naming the file that is missing or wrong.
    pub(super) fn open(&self) -> Result<Authority, Failure> {
        let Self(folder) = self;
        let tried = format!("open the authority in {}", folder.display());
        let refuse = |why: String| {
            Failure::new(Code::InvalidConfig, &tried, why)
                .with_next("Name its folder with --dir, or make one: `macula-node authority init`.")
        };
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path)
                .map_err(|error| refuse(format!("{}: {error}", path.display())))
        };
        let wrong = |why: &dyn std::fmt::Display| {
            refuse(format!("{}: {why}", folder.join(DESCRIPTION).display()))
        };
        let Description { trust_domain, mesh } =
            serde_json::from_str(&read(DESCRIPTION)?).map_err(|error| wrong(&error))?;
        let scope = Scope {
            trust_domain: trust_domain.parse().map_err(|error| wrong(&error))?,
            mesh: mesh.parse().map_err(|error| wrong(&error))?,
        };
        Authority::from_parts(scope, &read(ROOT)?, &read(ROOT_KEY)?, &read(ID_KEY)?)
            .map_err(|error| refuse(format!("{}: {error}", folder.display())))
    }
}

/// A node's folder.
#[derive(Clone, Debug)]
pub(super) struct IdentityDir(PathBuf);

impl IdentityDir {
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Key, certificate and bundle.
    pub(super) fn paths(&self) -> [PathBuf; 3] {
        ["key.pem", "certificate.pem", "bundle.pem"].map(|name| self.0.join(name))
    }

    /// The key that is there, and `true`; or a new one, not written yet.
    ///
    /// # Errors
    /// For a key that is there and cannot be read.
    pub(super) fn key(&self) -> Result<(NodeKey, bool), Failure> {
        let [path, _, _] = self.paths();
        let refuse = |why: String| {
            let because = format!("{}: {why}", path.display());
            Failure::new(Code::InvalidConfig, "read the node's key", because)
                .with_next("Move that file away to make a new key.")
        };
        match fs::read_to_string(&path) {
            Ok(text) => NodeKey::from_pem(&text)
                .map(|key| (key, true))
                .map_err(|error| refuse(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok((NodeKey::generate(), false))
            }
            Err(error) => Err(refuse(error.to_string())),
        }
    }

    /// Writes the key unless it is there, and replaces bundle and certificate in that order, each
    /// at once: a node that watches them never reads half a file.
    ///
    /// # Errors
    /// When one cannot be written.
    pub(super) fn write(
        &self,
        key: &NodeKey,
        chain: &Chain,
        bundle: &Bundle,
    ) -> Result<(), Failure> {
        let [key_path, certificate, roots] = self.paths();
        let tried = format!("write to {}", self.0.display());
        make_folder(&self.0)
            .and_then(|()| match create(&key_path, SECRET, &key.to_pem()) {
                Err((_, error)) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                done => done,
            })
            .and_then(|()| replace(&roots, &bundle.to_pem()))
            .and_then(|()| replace(&certificate, &chain.to_pem()))
            .map_err(|why| unwritable(&tried, why))
    }
}

/// What could not be written, and why.
type Unwritten = (PathBuf, io::Error);

fn unwritable(tried: &str, (path, error): Unwritten) -> Failure {
    Failure::new(Code::InvalidRequest, tried, format!("{}: {error}", path.display()))
        .with_next("Choose a folder that you may write to.")
}

fn make_folder(path: &Path) -> Result<(), Unwritten> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| (path.to_owned(), error))
}

/// Writes a file that is not there yet.
fn create(path: &Path, mode: u32, text: &str) -> Result<(), Unwritten> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|file| fill(file, mode, text))
        .map_err(|error| (path.to_owned(), error))
}

/// Puts a public file in the place of another.
fn replace(path: &Path, text: &str) -> Result<(), Unwritten> {
    let new = path.with_extension(format!("pem.{}", std::process::id()));
    let result = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&new)
        .and_then(|file| fill(file, PUBLIC, text))
        .and_then(|()| fs::rename(&new, path));
    result.map_err(|error| {
        // The half of it that may be there is nobody's.
        let _ = fs::remove_file(&new);
        (path.to_owned(), error)
    })
}

/// Writes all of it, to the disk; the mode is what we say whatever the umask is.
fn fill(mut file: File, mode: u32, text: &str) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
