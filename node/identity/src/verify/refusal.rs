//! The words of refusal: each has a stable code, and a sentence with the facts.

use std::borrow::Cow;

use crate::bundle::RootId;
use crate::subject::Scope;
#[cfg(doc)]
use crate::verify::SKEW;

macro_rules! refusals {
    ($($(#[$meta:meta])* $Name:ident $({ $($(#[$field_doc:meta])* $field:ident: $Type:ty,)* })? = $code:literal;)*) => {
        /// Why a node is not believed. `Display` is one sentence with the facts; the code is
        /// stable, and the error table explains it (`macula-node explain CODE`).
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Refusal {
            $($(#[$meta])* $Name $({ $($(#[$field_doc])* $field: $Type,)* })?,)*
        }

        impl Refusal {
            /// Every code, in the order of the variants.
            pub const ALL_CODES: &[&str] = &[$($code,)*];

            /// The stable name, as in the error table.
            #[must_use]
            pub const fn code(&self) -> &'static str {
                match self { $(Self::$Name { .. } => $code,)* }
            }
        }
    };
}

refusals! {
    /// No root of the bundle signed it.
    #[error(
        "the certificate is signed by {issuer:?}, which is none of the {roots} root(s) of the bundle{}",
        if *same_name { ": one has the same name and another key" } else { "" }
    )]
    UntrustedCertificate {
        /// The issuer's name, as the certificate has it.
        issuer: String,
        /// Whether a root has the same name.
        same_name: bool,
        /// How many roots were tried.
        roots: usize,
    } = "untrusted_certificate";

    /// Its time is over.
    #[error("the certificate expired {past} s ago, at {not_after} s since 1970")]
    CertificateExpired {
        /// The end of its validity, in seconds since 1970.
        not_after: u64,
        /// How many seconds ago that was.
        past: u64,
    } = "certificate_expired";

    /// Its time has not come, by more than [`SKEW`].
    #[error("the certificate is valid in {ahead} s, from {not_before} s since 1970")]
    CertificateNotYetValid {
        /// The first second of its validity, in seconds since 1970.
        not_before: u64,
        /// In how many seconds that will be.
        ahead: u64,
    } = "certificate_not_yet_valid";

    /// It breaks the profile in a way that has no name of its own.
    #[error("the certificate breaks the profile: {why}")]
    BadCertificate {
        /// What is wrong with it.
        why: Cow<'static, str>,
    } = "bad_certificate";

    /// It names nobody, or nobody that could be of a mesh.
    #[error("the certificate names no node: {why}")]
    NoSan {
        /// What is wrong with it.
        why: String,
    } = "no_san";

    /// It names more than one.
    #[error("the certificate has {count} subject alternative names, and one is the most")]
    SeveralSans {
        /// How many.
        count: usize,
    } = "several_sans";

    /// It is not for both sides of a connection.
    #[error("the certificate lacks the extended key usage {missing}")]
    MissingEku {
        /// The usage or usages.
        missing: &'static str,
    } = "missing_eku";

    /// Node id and grants cannot be read, though the authority signed them.
    #[error("the certificate's extension with node id and grants cannot be read: {why}")]
    BadExtension {
        /// What is wrong with it.
        why: &'static str,
    } = "bad_extension";

    /// Another node signed it.
    #[error("the certificate is signed by the node {signer:?}, and only a root may sign")]
    SignedByLeaf {
        /// The name of that node, as its own certificate has it.
        signer: String,
    } = "signed_by_leaf";

    /// Its key is not Ed25519.
    #[error("the certificate's key is {found}, and only Ed25519 is accepted")]
    UnknownKeyType {
        /// What it is.
        found: String,
    } = "unknown_key_type";

    /// It is for another mesh.
    #[error("the certificate is for {found}, and this is {expected}")]
    MeshMismatch {
        /// The mesh that the certificate names.
        found: Scope,
        /// The mesh that it should name.
        expected: Scope,
    } = "mesh_mismatch";

    /// The handshake brought no certificate that was judged in it.
    #[error("the session was resumed, so that no certificate was judged")]
    SessionResumed = "session_resumed";

    /// It was believed once, and its root has left the bundle since.
    #[error("root {issuer}, which signed the certificate, is no longer in the bundle")]
    TrustWithdrawn {
        /// The root that signed.
        issuer: RootId,
    } = "trust_withdrawn";
}

impl Refusal {
    pub(crate) fn bad_certificate(why: impl Into<Cow<'static, str>>) -> Self {
        Self::BadCertificate { why: why.into() }
    }
}
