//! The one table of what the death of each kind of task means.

use std::fmt;

/// What a supervisor does when a task dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Counts it; only this task's own work is lost.
    Ignore,
    /// Starts it again (`one_for_one`).
    Restart,
    /// Starts it and those that were started after it again (`rest_for_one`).
    RestartRest,
    /// Starts every child of the tree again (`one_for_all`).
    RestartAll,
    /// Ends the tree at once.
    Fatal,
}

macro_rules! table {
    ($($(#[$doc:meta])* $Kind:ident = $name:literal, $Strategy:ident;)*) => {
        /// A kind of task. `Display` gives the stable name, which is also the metrics' label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $Kind,)*
        }

        impl Kind {
            /// Every kind, in the table's order.
            pub const ALL: &[Self] = &[$(Self::$Kind,)*];

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Kind => $name,)* }
            }

            /// What its death means.
            #[must_use]
            pub const fn on_death(self) -> Strategy {
                match self { $(Self::$Kind => Strategy::$Strategy,)* }
            }
        }
    };
}

table! {
    /// The data plane: the endpoint, and the actor of DHT, pub/sub and RPC. They live and die as
    /// one (`one_for_all`); subscriptions and advertisements are replayed.
    Mesh = "mesh", Restart;
    /// One connection, from its handshake to its end.
    Connection = "connection", Ignore;
    /// One stream of a connection.
    Stream = "stream", Ignore;
    /// One flow of messages to or from another node. Its connection ends with it.
    Flow = "flow", Ignore;
    /// The HTTP API's listener.
    HttpApi = "http_api", Restart;
    /// The listener for health and metrics.
    Admin = "admin", Restart;
    /// One HTTP connection, of either listener.
    Http = "http", Ignore;
    /// Finds the seeds.
    Discovery = "discovery", Restart;
    /// Writes what is kept on disk. Meanwhile the node goes on in memory.
    Disk = "disk", Restart;
    /// Reloads or renews the node's certificate.
    Renewal = "renewal", Restart;
    /// One call of an application's callback.
    Callback = "callback", Ignore;
    /// One call of a handler of the library's user.
    Handler = "handler", Ignore;
    /// One subscription's delivery to its subscriber.
    Subscription = "subscription", Ignore;
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
