//! What the process's exit code says: one small set, and which row of the error table means which.

use std::process::ExitCode;

use macula_proto::Code;

/// The exit codes of every command; a contract, as the error table's names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It worked.
    Ok,
    /// It failed, here or in somebody's handler.
    Failed,
    /// The command line, a name or a configuration file is wrong.
    Usage,
    /// Something that the command line demanded did not come true, such as `sub --count`.
    Unmet,
    /// Nobody is there: no node, no provider.
    Unreachable,
    /// Somebody is there and says no.
    Refused,
    /// The deadline passed.
    Deadline,
}

impl Exit {
    /// Every exit code, in order.
    pub const ALL: &[Self] = &[
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Unmet,
        Self::Unreachable,
        Self::Refused,
        Self::Deadline,
    ];

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unmet => 3,
            Self::Unreachable => 4,
            Self::Refused => 5,
            Self::Deadline => 6,
        }
    }

    /// What it means, in the words of `--help`.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "wrong usage or configuration",
            Self::Unmet => "what was demanded did not happen (`sub --count`)",
            Self::Unreachable => "nobody there: no node, no provider",
            Self::Refused => "refused",
            Self::Deadline => "the deadline passed",
        }
    }

    /// What a failure of this code ends the process with.
    #[must_use]
    pub const fn of(code: Code) -> Self {
        match code {
            Code::Internal
            | Code::Protocol
            | Code::VersionMismatch
            | Code::Cancelled
            | Code::Overloaded
            | Code::Starting
            | Code::HandlerError
            | Code::Interrupted
            | Code::IncompleteBody
            | Code::TooManyConnections => Self::Failed,

            Code::InvalidName | Code::InvalidRequest | Code::InvalidConfig => Self::Usage,

            Code::Goodbye
            | Code::Unreachable
            | Code::Draining
            | Code::Superseded
            | Code::NoProvider
            | Code::HandlerUnavailable
            | Code::EnrolmentUnavailable => Self::Unreachable,

            Code::TooLarge
            | Code::UnknownRequest
            | Code::Unsupported
            | Code::UntrustedCertificate
            | Code::CertificateExpired
            | Code::CertificateNotYetValid
            | Code::BadCertificate
            | Code::NoSan
            | Code::SeveralSans
            | Code::MissingEku
            | Code::BadExtension
            | Code::SignedByLeaf
            | Code::UnknownKeyType
            | Code::MeshMismatch
            | Code::RealmMismatch
            | Code::RoleMismatch
            | Code::NodeMismatch
            | Code::SessionResumed
            | Code::TrustWithdrawn
            | Code::Unauthorized
            | Code::NotAServer
            | Code::InvalidRecord
            | Code::RecordExpired
            | Code::StaleIncarnation
            | Code::StaleSequence
            | Code::QuotaExceeded
            | Code::TooManyWatches
            | Code::NotWatching
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::HeadersTooLarge
            | Code::ForbiddenHost
            | Code::ForbiddenOrigin
            | Code::TooMany
            | Code::TokenRefused
            | Code::PodGone
            | Code::NotAMember
            | Code::UnknownMesh
            | Code::UnknownRealm
            | Code::RealmNotAccepted
            | Code::NotInfrastructure
            | Code::BadCsr => Self::Refused,

            Code::Timeout | Code::SlowClient => Self::Deadline,
        }
    }

    /// What a problem whose code this version does not know ends the process with.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            408 | 504 => Self::Deadline,
            400..=499 => Self::Refused,
            503 => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_codes_has_its_exit_code() {
        for (code, number) in [
            (Code::HandlerError, 1),
            (Code::Interrupted, 1),
            (Code::Internal, 1),
            (Code::Overloaded, 1),
            (Code::InvalidName, 2),
            (Code::InvalidRequest, 2),
            (Code::InvalidConfig, 2),
            (Code::NoProvider, 4),
            (Code::Unreachable, 4),
            (Code::Draining, 4),
            (Code::RealmMismatch, 5),
            (Code::Unauthorized, 5),
            (Code::TooLarge, 5),
            (Code::Timeout, 6),
        ] {
            assert_eq!(Exit::of(code).number(), number, "{code}");
        }
    }

    #[test]
    fn no_failure_exits_with_success_and_what_is_forbidden_is_refused() {
        for &code in Code::ALL {
            assert_ne!(Exit::of(code), Exit::Ok, "{code}");
            if code.status() == 403 {
                assert_eq!(Exit::of(code), Exit::Refused, "{code}");
            }
        }
    }

    #[test]
    fn a_code_of_a_later_version_exits_by_its_status() {
        for (status, exit) in [
            (403, Exit::Refused),
            (504, Exit::Deadline),
            (503, Exit::Unreachable),
            (500, Exit::Failed),
        ] {
            assert_eq!(Exit::of_status(status), exit);
        }
    }

    #[test]
    fn the_numbers_are_their_places() {
        let numbers: Vec<_> = Exit::ALL.iter().map(|exit| exit.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
    }
}
