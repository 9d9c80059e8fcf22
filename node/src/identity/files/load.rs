//! Reads the three files once, and says which of them is wrong and how.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use macula_config::Files;
use macula_identity::{Bundle, Chain, NodeKey, Refusal, Subject, bundle, certificate, key};
use rustls::pki_types::UnixTime;

use crate::identity::{Credentials, Unfit};

/// Why files are not credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read the {what} {}: {source}", .path.display())]
    Read {
        /// Which of the three.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The key's file holds no key of ours.
    #[error("the key {}: {source}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: key::Error,
    },
    /// The certificate's file holds no single certificate.
    #[error("the certificate {}: {source}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: certificate::Error,
    },
    /// The bundle's file holds no roots.
    #[error("the bundle {}: {source}", .path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: bundle::Error,
    },
    /// Key and certificate are not a pair.
    #[error("the key {} is not that of the certificate {}", .key.display(), .certificate.display())]
    OtherKey {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// No node that trusts this bundle would believe the certificate.
    #[error(
        "the certificate {} is refused by the bundle {} ({}): {source}",
        .certificate.display(), .bundle.display(), .source.code()
    )]
    Refused {
        /// The certificate's file.
        certificate: PathBuf,
        /// The bundle's file.
        bundle: PathBuf,
        /// Why.
        source: Refusal,
    },
    /// The certificate is good, and about somebody else than the configuration says.
    #[error("the certificate {} is for {found}, and the configuration says {expected}", .path.display())]
    OtherSubject {
        /// The certificate's file.
        path: PathBuf,
        /// Whom it is about.
        found: Box<Subject>,
        /// Whom it should be about.
        expected: Box<Subject>,
    },
}

/// Reads credentials for `expected`: its mesh, role, realm and name.
///
/// # Errors
/// The first thing that is wrong, by the file that it is in.
pub fn load(files: &Files, expected: &Subject, now: UnixTime) -> Result<Credentials, Error> {
    Contents::read(files)?.judge(files, expected, now)
}

/// What was in the files. The key is a secret: `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    key: String,
    certificate: String,
    bundle: String,
}

impl Contents {
    pub(super) fn read(files: &Files) -> Result<Self, Error> {
        let Files { key, certificate, bundle } = files;
        Ok(Self {
            key: read("key", key)?,
            certificate: read("certificate", certificate)?,
            bundle: read("bundle", bundle)?,
        })
    }

    pub(super) fn judge(
        &self,
        files: &Files,
        expected: &Subject,
        now: UnixTime,
    ) -> Result<Credentials, Error> {
        let key = NodeKey::from_pem(&self.key)
            .map_err(|source| Error::Key { path: files.key.clone(), source })?;
        let path = &files.certificate;
        let chain = Chain::from_pem(&self.certificate)
            .map_err(|source| Error::Certificate { path: path.clone(), source })?;
        let bundle = Arc::new(self.bundle(files)?);
        let credentials = Credentials::new(Arc::new(key), chain, bundle, expected.scope(), now)
            .map_err(|unfit| match unfit {
                Unfit::OtherKey => {
                    Error::OtherKey { key: files.key.clone(), certificate: path.clone() }
                }
                Unfit::Refused(source) => Error::Refused {
                    certificate: path.clone(),
                    bundle: files.bundle.clone(),
                    source,
                },
            })?;
        let found = &credentials.identity.subject;
        if found != expected {
            let (found, expected) = (Box::new(found.clone()), Box::new(expected.clone()));
            return Err(Error::OtherSubject { path: path.clone(), found, expected });
        }
        Ok(credentials)
    }

    pub(super) fn bundle(&self, files: &Files) -> Result<Bundle, Error> {
        Bundle::from_pem(&self.bundle)
            .map_err(|source| Error::Bundle { path: files.bundle.clone(), source })
    }
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Contents")
    }
}

/// The most bytes that are read of a file: what `Bundle` takes.
const LONGEST: u64 = 256 * 1024;

fn read(what: &'static str, path: &Path) -> Result<String, Error> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
        if text.len() as u64 > LONGEST {
            return Err(io::Error::other(format!("it has more than {LONGEST} bytes")));
        }
        Ok(text)
    };
    read().map_err(|source| Error::Read { what, path: path.to_owned(), source })
}
