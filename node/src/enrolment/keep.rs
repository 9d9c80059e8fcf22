//! Key and certificate on a volume, so that a restarted node is the same one, also while nobody
//! issues certificates. What is damaged is set aside under a name that says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use macula_identity::{Chain, NodeKey};
use tracing::{info, warn};

const KEY: &str = "node.key";
const CERTIFICATE: &str = "node.crt";

/// The folder.
#[derive(Debug)]
pub(super) struct Keep(PathBuf);

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("dataDir: {}: {source}", .path.display())]
pub(super) struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Keep {
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(|source| Error { path: folder.to_owned(), source })?;
        Ok(Self(folder.to_owned()))
    }

    /// The kept key, or a new one that is kept from now on.
    pub(super) fn key(&self) -> Result<NodeKey, Error> {
        let path = self.0.join(KEY);
        let failed = |source| Error { path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(text) => match NodeKey::from_pem(&text) {
                Ok(key) => return Ok(key),
                Err(error) => self.set_aside(KEY, &error).map_err(failed)?,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.set_aside(KEY, &error).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let key = NodeKey::generate();
        self.put(KEY, &key.to_pem()).map_err(failed)?;
        info!(path = %path.display(), "a new key");
        Ok(key)
    }

    /// The kept certificate, not judged.
    pub(super) fn certificate(&self) -> Option<Chain> {
        let text = fs::read_to_string(self.0.join(CERTIFICATE)).ok()?;
        match Chain::from_pem(&text) {
            Ok(chain) => Some(chain),
            Err(error) => {
                // Another one will be written over it, so that failing to move it does no harm.
                let _ = self.set_aside(CERTIFICATE, &error);
                None
            }
        }
    }

    pub(super) fn put_certificate(&self, chain: &Chain) -> io::Result<()> {
        self.put(CERTIFICATE, &chain.to_pem())
    }

    /// Whole or not at all: written beside, then renamed.
    fn put(&self, name: &str, text: &str) -> io::Result<()> {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.0)?.sync_all()
    }

    fn set_aside(&self, name: &str, why: &dyn std::error::Error) -> io::Result<()> {
        let damaged = self.0.join(format!("{name}.damaged"));
        warn!(%why, path = %damaged.display(), "a kept file is damaged, and was set aside");
        fs::rename(self.0.join(name), damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_and_a_damaged_one_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let keep = Keep::open(&folder.path().join("data")).unwrap();
        let first = keep.key().unwrap();
        assert_eq!(keep.key().unwrap().public_key(), first.public_key());
        for damage in [&b"not a key"[..], &[0xff, 0xfe]] {
            fs::write(keep.0.join(KEY), damage).unwrap();
            assert_ne!(keep.key().unwrap().public_key(), first.public_key());
            assert_eq!(fs::read(keep.0.join("node.key.damaged")).unwrap(), damage);
        }
        fs::write(keep.0.join(CERTIFICATE), "nor a certificate").unwrap();
        assert!(keep.certificate().is_none() && keep.0.join("node.crt.damaged").exists());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Keep::open(&file.join("data")).unwrap_err().to_string();
        assert!(error.starts_with("dataDir: "), "{error}");
    }
}
