//! Types and reasons of conditions. They are part of the interface: scripts compare them.

/// Types of conditions.
pub mod conditions {
    /// On a mesh: the operator looks after it. On a realm: its mesh allows it.
    pub const ACCEPTED: &str = "Accepted";
    /// On a mesh: all its nodes are alive. On a realm: its pods can join.
    pub const READY: &str = "Ready";
    /// On a realm: every pod that asked for a sidecar has one.
    pub const INJECTION_HEALTHY: &str = "InjectionHealthy";
}

macro_rules! reasons {
    ($($NAME:ident = $text:literal, $why:literal;)*) => {
        $(
            #[doc = $why]
            pub const $NAME: &str = $text;
        )*

        /// Every reason, and what it means.
        pub const ALL: &[(&str, &str)] = &[$(($NAME, $why)),*];
    };
}

reasons! {
    ALLOWED = "Accepted", "Nothing is in its way.";
    NAMESPACE_NOT_MANAGED = "NamespaceNotManaged",
        "The mesh is in a namespace that the operator was not given (`meshNamespaces` of the chart).";
    NAME_TOO_LONG = "NameTooLong",
        "`<namespace>.<name>` of the mesh is longer than the value of a label may be.";
    MESH_NOT_FOUND = "MeshNotFound", "There is no such mesh as the realm's `meshRef`.";
    MESH_NOT_ACCEPTED = "MeshNotAccepted", "The realm's mesh is not accepted itself.";
    MESH_NOT_READY = "MeshNotReady", "Too little of the realm's mesh is alive for pods to join.";
    NOT_ALLOWED = "NotAllowed",
        "The mesh's `allowedRealms` does not fit the realm's namespace or its name.";
    NAME_TAKEN = "NameTaken", "An older realm on the same mesh has the name.";
    NOT_ACCEPTED = "NotAccepted", "It is not ready because it is not accepted.";
    ALL_ALIVE = "AllAlive", "Every node that should be there is alive.";
    STARTING = "Starting", "The mesh is new, and its nodes are on their way.";
    NODES_MISSING = "NodesMissing", "Fewer nodes are alive than there should be.";
    NOT_COUNTED = "NotCounted", "No living node could be asked how many are alive.";
    RECONCILE_FAILED = "ReconcileFailed",
        "The operator could not do what the object asks for. It tries again; the message says what failed.";
    MEMBERS_ADMITTED = "MembersAdmitted", "Its pods can join.";
    ALL_INJECTED = "AllInjected", "Every pod that asked for a sidecar has one.";
    SIDECARS_MISSING = "SidecarsMissing",
        "Pods that asked for a sidecar run without one; they were made while the webhook was not there. Make them again.";
}
