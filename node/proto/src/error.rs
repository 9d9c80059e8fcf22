//! The one table of everything that can be refused or can fail.
//!
//! From it come the [`Code`] enum, the QUIC close and stream-reset codes, the HTTP status and
//! problem documents, metric labels, `macula-node explain CODE` and `docs/ERRORS.md` (a test
//! rewrites that page with `UPDATE=1` and fails when it is stale). Names and numbers are stable:
//! a code may be added, never renamed or renumbered.

use std::fmt;
use std::time::Duration;

macro_rules! table {
    ($($Code:ident = $number:literal, $name:literal, $status:literal, $retry:ident,
        $title:literal, $because:literal, $next:literal;)*) => {
        /// A named failure. `Display` and [`Code::name`] give the stable name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $Code,)*
        }

        impl Code {
            /// Every code, in the table's order.
            pub const ALL: &[Self] = &[$(Self::$Code,)*];

            /// The stable name, as in problem documents, metric labels and `explain`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Code => $name,)* }
            }

            /// The number in QUIC close frames, stream resets and wire errors.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $(Self::$Code => $number,)* }
            }

            /// The HTTP status of the problem document.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$Code => $status,)* }
            }

            /// Whether the same request may succeed later without being changed.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$Code => table!(@retry $retry),)* }
            }

            /// One line: what happened.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$Code => $title,)* }
            }

            /// What commonly causes it.
            #[must_use]
            pub const fn because(self) -> &'static str {
                match self { $(Self::$Code => $because,)* }
            }

            /// What to do next.
            #[must_use]
            pub const fn next(self) -> &'static str {
                match self { $(Self::$Code => $next,)* }
            }
        }
    };
    (@retry retry) => { true };
    (@retry final) => { false };
}

table! {
    // What a node does with its connections and requests: 0x00..
    Goodbye = 0x00, "goodbye", 503, retry, "the other node closed the connection on purpose",
        "Nothing used the connection for a while.",
        "Nothing: the connection is made again when it is needed.";
    Internal = 0x01, "internal", 500, retry, "a fault of ours",
        "A task of the node failed; its log says which and why.",
        "Look at the node's log and report the line; the same request may succeed when tried again.";
    Protocol = 0x02, "protocol", 502, final, "the other node broke the protocol",
        "It sent a message out of order or one that cannot be decoded.",
        "Compare both versions with `macula-node status`; see docs/PROTOCOL.md.";
    VersionMismatch = 0x03, "version_mismatch", 502, final, "no common protocol version",
        "The two nodes speak different major versions of the protocol.",
        "Upgrade the older node.";
    Timeout = 0x04, "timeout", 504, retry, "no answer before the deadline",
        "The other side is slow, overloaded or gone, or the deadline is shorter than the work.",
        "Give a longer deadline (`--timeout`, `Macula-Timeout`) or look at the provider's log.";
    Cancelled = 0x05, "cancelled", 499, final, "the caller gave up",
        "The caller cancelled, or its connection ended, before the answer was there.",
        "Nothing, unless the caller did not mean to.";
    Unreachable = 0x06, "unreachable", 503, retry, "the node cannot be reached",
        "None of its addresses answers, or the path drops UDP.",
        "Try `macula-node ping ADDRESS`; see whether UDP passes between the two.";
    Overloaded = 0x07, "overloaded", 503, retry, "a bounded queue is full",
        "More work arrives than the node can do, and it keeps no queue without a bound.",
        "Send slower, or try again after a pause.";
    Starting = 0x08, "starting", 503, retry, "the node has not joined the mesh yet",
        "It has no seed, no certificate or no answer from the mesh so far.",
        "Wait as `Retry-After` says; `macula-node status` tells what it waits for.";
    Draining = 0x09, "draining", 503, retry, "the node is stopping",
        "It was asked to stop and takes no new work.",
        "Try again: another instance will answer.";
    TooLarge = 0x0a, "too_large", 413, final, "more bytes than the limit",
        "A payload is at most 1 MiB, and each message type has a limit of its own.",
        "Send less, or send a reference to the data.";
    UnknownRequest = 0x0b, "unknown_request", 501, final, "the other node does not know this request",
        "It runs an older version.",
        "Upgrade it, or do without.";
    Unsupported = 0x0c, "unsupported", 501, final, "not part of this version",
        "What was asked for is planned, and this version does not have it.",
        "Leave it out; `macula-node --help` and the API document list what exists.";
    Superseded = 0x0d, "superseded", 503, retry, "a newer connection took this one's place",
        "Two nodes dialled each other at once, or one of them restarted or renewed its certificate.",
        "Nothing: traffic goes on over the other connection.";

    // Who may speak to whom: 0x20..
    UntrustedCertificate = 0x20, "untrusted_certificate", 403, final,
        "the certificate is not signed by a root of the bundle",
        "The node was enrolled in another mesh, or the bundle is older than its certificate.",
        "Compare both sides' bundles; issue the certificate again with this mesh's authority.";
    CertificateExpired = 0x21, "certificate_expired", 403, retry, "the certificate has expired",
        "Its node could not renew it in time, or one of the two clocks is wrong.",
        "Look at the node's log for why the renewal failed; compare the clocks.";
    CertificateNotYetValid = 0x22, "certificate_not_yet_valid", 403, retry,
        "the certificate is not valid yet",
        "The clocks of the authority and of this node differ by more than the allowed skew.",
        "Compare the clocks.";
    BadCertificate = 0x23, "bad_certificate", 403, final, "the certificate breaks our profile",
        "It is malformed, a CA, or its signature does not fit.",
        "Issue it again with `macula-node authority issue`.";
    NoSan = 0x24, "no_san", 403, final, "the certificate names nobody",
        "It has no URI SAN, or one that is not a SPIFFE ID of ours.",
        "Issue it again with `macula-node authority issue`.";
    SeveralSans = 0x25, "several_sans", 403, final, "the certificate names more than one subject",
        "Exactly one URI SAN is allowed, so that nobody has to choose which one counts.",
        "Issue it again with `macula-node authority issue`.";
    MissingEku = 0x26, "missing_eku", 403, final, "the certificate lacks an extended key usage",
        "A node both listens and dials, so it needs serverAuth and clientAuth.",
        "Issue it again with `macula-node authority issue`.";
    BadExtension = 0x27, "bad_extension", 403, final,
        "the certificate's node id and grants cannot be read",
        "The private extension is missing, malformed or altered.",
        "Issue it again with `macula-node authority issue`.";
    SignedByLeaf = 0x28, "signed_by_leaf", 403, final, "the certificate was signed by another node",
        "Chains have exactly one leaf below a root; a node may not sign for others.",
        "Issue it again with `macula-node authority issue`.";
    UnknownKeyType = 0x29, "unknown_key_type", 403, final, "the key is not Ed25519",
        "One signature scheme is accepted, on purpose.",
        "Make a new key with `macula-node authority issue`.";
    MeshMismatch = 0x2a, "mesh_mismatch", 403, final, "the node belongs to another mesh",
        "Its certificate names another mesh or trust domain.",
        "Check which mesh each side is configured for.";
    RealmMismatch = 0x2b, "realm_mismatch", 403, final, "the node belongs to another realm",
        "Peers of different realms never speak to each other; realms are isolated on purpose.",
        "Use a peer of the same realm; realms do not share topics or procedures.";
    RoleMismatch = 0x2c, "role_mismatch", 403, final, "the node does not hold the role",
        "It was dialled as a bootstrap, and its certificate says otherwise.",
        "Check which addresses the seeds' name resolves to.";
    NodeMismatch = 0x2d, "node_mismatch", 403, retry, "another node lives at that address",
        "Addresses are used again; every dial names the node that it expects.",
        "Nothing: the stale address is forgotten.";
    SessionResumed = 0x2e, "session_resumed", 403, final, "the TLS session was resumed",
        "A resumed session carries a certificate that nobody verified now, so none is accepted.",
        "Dial without a session ticket.";
    TrustWithdrawn = 0x2f, "trust_withdrawn", 403, final, "the root was dropped from the bundle",
        "The issuer of the certificate is no longer trusted.",
        "Enrol again with a current root.";
    Unauthorized = 0x30, "unauthorized", 403, final, "not allowed",
        "The certificate's grants do not include this.",
        "Ask the owner of the realm for the grant.";

    // The DHT: 0x40..
    NotAServer = 0x40, "not_a_server", 403, final, "the node does not store records",
        "It holds no server grant for this realm.",
        "Ask an infrastructure node.";
    InvalidRecord = 0x41, "invalid_record", 400, final, "the record was refused",
        "Its signature, key, name or length does not hold.",
        "See the reason in the answer; a record is made and signed by its own publisher.";
    RecordExpired = 0x42, "record_expired", 400, retry, "the record has expired",
        "Its expiry has passed here; a clock may be wrong.",
        "Compare the clocks.";
    StaleIncarnation = 0x43, "stale_incarnation", 409, retry,
        "a later incarnation of the publisher is known",
        "The publisher restarted since, or its clock went back.",
        "Take an incarnation later than the one in the answer.";
    StaleSequence = 0x44, "stale_sequence", 409, retry, "a later record is known",
        "The publisher has replaced this record since.",
        "Nothing: the later record stands.";
    QuotaExceeded = 0x45, "quota_exceeded", 429, retry, "the publisher's share is used up",
        "What one publisher may make a node remember is bounded.",
        "Withdraw what is no longer needed.";
    TooManyWatches = 0x46, "too_many_watches", 429, retry, "no more leases are given",
        "What one node, and what all of them, may have a storer watch for them is bounded.",
        "Nothing: the key is asked for again at intervals instead.";
    NotWatching = 0x47, "not_watching", 410, final, "the node does not watch this key",
        "It has stopped, or it never asked.",
        "Nothing: its lease is forgotten.";

    // Pub/sub and RPC: 0x60..
    NoProvider = 0x60, "no_provider", 404, retry, "nobody provides the procedure",
        "No peer of this realm advertises it, or none of those that do could be reached.",
        "Start a provider: `macula-node serve PROCEDURE -- COMMAND`; check the spelling and the realm.";
    HandlerError = 0x61, "handler_error", 502, final, "the handler answered with an error",
        "The provider ran the handler and it failed; its words are in the detail.",
        "Look at the provider's log.";
    HandlerUnavailable = 0x62, "handler_unavailable", 502, retry, "the handler's callback is down",
        "The provider's node is up, and the application behind it does not answer.",
        "Start the application; the advertisement stays meanwhile.";
    Interrupted = 0x63, "interrupted", 502, retry, "the connection ended before the answer",
        "The provider died, or was cut off, after the call was sent; whether it ran is not known.",
        "Call again if running twice does no harm.";

    // The local HTTP API, the command line and the configuration: 0x80..
    InvalidName = 0x80, "invalid_name", 400, final, "a name is not well-formed",
        "Names are dot-separated segments of letters, digits, '_' and '-'.",
        "Correct the name; patterns may use '*' for one segment and end in '**'.";
    InvalidRequest = 0x81, "invalid_request", 400, final, "the request is not well-formed",
        "A parameter, a header or the body cannot be read.",
        "See the detail; the API document describes each request.";
    NotFound = 0x82, "not_found", 404, final, "no such endpoint or object",
        "The path is not part of the API.",
        "See docs/API.md for the endpoints.";
    MethodNotAllowed = 0x83, "method_not_allowed", 405, final, "the endpoint has no such method",
        "The path exists with another method.",
        "See docs/API.md for the endpoints.";
    HeadersTooLarge = 0x84, "headers_too_large", 431, final, "more header bytes than the limit",
        "The request's headers are bounded.",
        "Send fewer or shorter headers.";
    IncompleteBody = 0x85, "incomplete_body", 400, retry, "the body ended before its Content-Length",
        "The client closed the connection, or declared a length that it did not send.",
        "Correct the Content-Length.";
    SlowClient = 0x86, "slow_client", 408, retry, "the request took too long to arrive",
        "Headers and bodies have a time limit, so that a stalled client costs nothing.",
        "Send the request at once.";
    TooManyConnections = 0x87, "too_many_connections", 503, retry, "the connection limit is reached",
        "The local API keeps a bounded number of connections.",
        "Close idle connections, or reuse them.";
    ForbiddenHost = 0x88, "forbidden_host", 403, final, "the Host is not a loopback name",
        "The API is for this machine; a foreign Host is how a web page would reach it by DNS rebinding.",
        "Use 127.0.0.1, [::1] or localhost.";
    ForbiddenOrigin = 0x89, "forbidden_origin", 403, final, "a web page of another site asked",
        "A page that the developer happens to visit must not publish or call.",
        "Call the API from a program; a page may ask only where it was served from.";
    InvalidConfig = 0x8a, "invalid_config", 400, final, "the configuration is not valid",
        "A key, value, flag or file is wrong or missing.",
        "See which one in the detail; `macula-node run --help` shows a complete file.";
    TooMany = 0x8b, "too_many", 429, retry, "the limit of open subscriptions or advertisements is reached",
        "What one application may hold open is bounded.",
        "Close what is no longer needed.";

    // Enrolment: 0xa0..
    TokenRefused = 0xa0, "token_refused", 401, retry, "the token proves nothing",
        "The API server does not know it, or it was made for another audience, or it has expired.",
        "See that the pod's token is projected with the audience of the mesh that it asks for.";
    PodGone = 0xa1, "pod_gone", 403, final, "the token's pod is no more",
        "The pod was deleted, or another one has its name now; a token may outlive its pod.",
        "Nothing: the pod that lives now has a token of its own.";
    NotAMember = 0xa2, "not_a_member", 403, retry, "the realm does not admit this pod",
        "No entry of the realm's `members` selects its namespace and service account.",
        "Ask the owner of the MaculaRealm to add the namespace or the service account to `spec.members`.";
    UnknownMesh = 0xa3, "unknown_mesh", 404, retry, "there is no such mesh",
        "No MaculaMesh of this namespace and name exists where the operator manages meshes.",
        "Compare the label macula.io/mesh with `kubectl get maculamesh --all-namespaces`.";
    UnknownRealm = 0xa4, "unknown_realm", 404, retry, "there is no such realm on the mesh",
        "No MaculaRealm with this `spec.name` refers to the mesh.",
        "Compare the label macula.io/realm with `kubectl get macularealm --all-namespaces`.";
    RealmNotAccepted = 0xa5, "realm_not_accepted", 403, retry, "the mesh has not accepted the realm",
        "The mesh does not allow it, or another realm has its name.",
        "Read the condition Accepted of the MaculaRealm.";
    NotInfrastructure = 0xa6, "not_infrastructure", 403, final, "the pod is none of the mesh's own",
        "Only pods of the mesh's StatefulSet and Deployment may be bootstrap or gateway.",
        "Leave it to the operator to run them.";
    BadCsr = 0xa7, "bad_csr", 400, final, "the certificate request is refused",
        "It is malformed, asks for names, or does not prove that its sender holds the key.",
        "See the detail; a request has an Ed25519 key and nothing else.";
    EnrolmentUnavailable = 0xa8, "enrolment_unavailable", 503, retry, "no certificate can be had for now",
        "The operator, the API server or the mesh's authority does not answer.",
        "Nothing: it is tried again; look at the operator's log if it lasts.";
}

impl Code {
    /// The code with this stable name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// The code with this wire number. An unknown number, from a later version, is `None`.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| u64::from(code.number()) == number)
    }

    /// Where a person reads more: the `type` of a problem document (RFC 9457 §3.1.1).
    #[must_use]
    pub fn page(self) -> String {
        format!("https://macula.io/errors/{}", self.name())
    }

    /// The code of a refused certificate.
    #[must_use]
    pub fn of_refusal(refusal: &macula_identity::Refusal) -> Self {
        Self::from_name(refusal.code()).expect("a test holds every refusal against the table")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failure with its circumstances: what was tried, and why it failed, in a sentence each.
///
/// The two other things that a person needs, what to do next and where to read more, come from the
/// table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which row of the table.
    pub code: Code,
    /// What was tried, such as ``call `math.add` ``. Empty when the other side did not say.
    pub tried: String,
    /// Why it failed this time.
    pub because: String,
    /// After how long it may be tried again, when the other side said so.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault of this code, because of this.
    #[must_use]
    pub fn new(code: Code, because: impl Into<String>) -> Self {
        Self { code, tried: String::new(), because: because.into(), retry_after: None }
    }

    /// A fault whose cause is what the table says.
    #[must_use]
    pub fn of(code: Code) -> Self {
        Self::new(code, code.because())
    }

    /// The same fault, of an attempt at this.
    #[must_use]
    pub fn tried(mut self, tried: impl Into<String>) -> Self {
        self.tried = tried.into();
        self
    }
}

impl Fault {
    /// The same fault, of something that may be tried again after this long.
    #[must_use]
    pub const fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.because)
    }
}

impl std::error::Error for Fault {}
