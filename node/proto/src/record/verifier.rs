//! Judges signed records, and remembers the certificates that it has judged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use macula_identity::verify::SKEW;
use macula_identity::{Bundle, CertificateDer, Identity, Place, verify, verify_signature};
use ring::digest;

use super::{Record, check_size, invalid, signed_bytes};
use crate::error::{Code, Fault};
use crate::time::Now;
use crate::wire::message;

/// Certificates that are remembered as verified. One is a few hundred bytes.
pub(crate) const CACHE: usize = 4096;

/// Whom to believe: the roots, and the mesh that a certificate must name.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The roots.
    pub bundle: Arc<Bundle>,
    /// The trust domain and the mesh.
    pub mesh: macula_identity::Scope,
}

/// A record whose publisher, signature, name and expiry have been verified. Only a [`Verifier`]
/// makes one.
#[derive(Clone, Debug)]
pub struct VerifiedRecord {
    /// What it says.
    pub record: Record,
    /// Who says it: the subject of the certificate that signed.
    pub publisher: Arc<Identity>,
    /// As it was signed, to be shown to others.
    pub signed: message::SignedRecord,
}

/// Judges records by one [`Trust`].
pub struct Verifier {
    trust: Trust,
    /// By SHA-256 of the certificate.
    certificates: BTreeMap<[u8; 32], Certificate>,
    uses: u64,
}

#[derive(Debug)]
struct Certificate {
    identity: Arc<Identity>,
    used: u64,
}

impl Verifier {
    /// A verifier that has seen nothing.
    #[must_use]
    pub const fn new(trust: Trust) -> Self {
        Self { trust, certificates: BTreeMap::new(), uses: 0 }
    }

    /// The bundle changed: every certificate is judged anew.
    pub fn set_trust(&mut self, trust: Trust) {
        self.trust = trust;
        self.certificates.clear();
    }

    /// Judges a record.
    ///
    /// # Errors
    /// `too_large`, `invalid_record`, `record_expired`, `realm_mismatch`, or the code of what is
    /// wrong with its publisher's certificate.
    pub fn verify(
        &mut self,
        now: Now,
        signed: &message::SignedRecord,
    ) -> Result<VerifiedRecord, Fault> {
        check_size(signed)?;
        let record = Record::decode(&signed.body)?;
        if record.expiry_ms <= now.unix_ms {
            let ago = now.unix_ms.saturating_sub(record.expiry_ms);
            return Err(Fault::new(Code::RecordExpired, format!("it expired {ago} ms ago")));
        }
        // A later start of the same publisher, with its clock right, could never take this one's place.
        let ahead = record.incarnation.saturating_sub(now.unix_ms);
        if u128::from(ahead) > SKEW.as_millis() {
            return Err(invalid(format!(
                "its publisher started {ahead} ms from now, by this clock"
            )));
        }
        let publisher = self.identify(now, &signed.certificate)?;
        match &publisher.subject.place {
            Place::Realm(realm) if *realm == record.realm => {}
            Place::Realm(_) => {
                let because = "the record's realm is not its publisher's";
                return Err(Fault::new(Code::RealmMismatch, because));
            }
            Place::Bootstrap | Place::Gateway => {
                return Err(invalid("infrastructure publishes no records"));
            }
        }
        if record.expiry_ms > publisher.not_after.saturating_mul(1000) {
            return Err(invalid("it would outlive its publisher's certificate"));
        }
        let bytes = signed_bytes(&signed.body);
        if !verify_signature(&publisher.public_key, &bytes, &signed.signature) {
            return Err(invalid("its publisher's key did not sign it"));
        }
        Ok(VerifiedRecord { record, publisher, signed: signed.clone() })
    }

    /// The identity behind a certificate. Its chain is verified once, its dates each time.
    fn identify(&mut self, now: Now, der: &[u8]) -> Result<Arc<Identity>, Fault> {
        self.uses += 1;
        let digest = digest::digest(&digest::SHA256, der);
        let digest: [u8; 32] = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        if let Some(certificate) = self.certificates.get_mut(&digest) {
            certificate.used = self.uses;
            check_dates(now, &certificate.identity)?;
            return Ok(certificate.identity.clone());
        }
        let Trust { bundle, mesh } = &self.trust;
        let leaf = CertificateDer::from(der);
        let identity = verify(&leaf, &[], bundle, mesh, now.unix_time())
            .map_err(|refusal| Fault::new(Code::of_refusal(&refusal), refusal.to_string()))?;
        let identity = Arc::new(identity);
        if self.certificates.len() >= CACHE {
            let oldest = self.certificates.iter().min_by_key(|(_, certificate)| certificate.used);
            let oldest = *oldest.expect("the cache is full, so it is not empty").0;
            self.certificates.remove(&oldest);
        }
        let certificate = Certificate { identity: identity.clone(), used: self.uses };
        self.certificates.insert(digest, certificate);
        Ok(identity)
    }
}

fn check_dates(now: Now, identity: &Identity) -> Result<(), Fault> {
    if now.unix_s() >= identity.not_after {
        return Err(Fault::new(Code::CertificateExpired, "its publisher's certificate expired"));
    }
    if now.unix_s().saturating_add(SKEW.as_secs()) < identity.not_before {
        let because = "its publisher's certificate is not valid yet";
        return Err(Fault::new(Code::CertificateNotYetValid, because));
    }
    Ok(())
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("certificates", &self.certificates.len()).finish()
    }
}
