//! Labels that users write, and labels that the operator writes.

use super::annotations::Documented;

/// On a namespace or a pod: whether its pods get a sidecar, [`ENABLED`] or [`DISABLED`].
pub const INJECT: &str = "macula.io/inject";
/// A value of [`INJECT`].
pub const ENABLED: &str = "enabled";
/// A value of [`INJECT`].
pub const DISABLED: &str = "disabled";
/// On a pod or a namespace: the realm, by its `spec.name`.
pub const REALM: &str = "macula.io/realm";
/// On a pod or a namespace: the mesh, `<namespace>.<name>`.
pub const MESH: &str = "macula.io/mesh";
/// On what the operator made beyond the reach of owner references: the UID of what it is for.
pub const OWNER_UID: &str = "macula.io/owner-uid";

/// On what the operator made: what it is an instance of.
pub const NAME: &str = "app.kubernetes.io/name";
/// The value of [`NAME`].
pub const NAME_VALUE: &str = "macula";
/// On what the operator made: which part of a mesh.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// On what the operator made: which mesh, by its name.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// On what the operator made: by whom.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// On every namespace, by Kubernetes: its name.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The labels that users write.
pub const FOR_USERS: &[Documented] = &[
    Documented {
        key: INJECT,
        on: "pod, namespace",
        values: "`enabled`, `disabled`",
        meaning: "Whether a pod gets a sidecar. On a namespace it is the default for its pods; a \
                  pod's own label wins.",
    },
    Documented {
        key: REALM,
        on: "pod, namespace",
        values: "`spec.name` of a MaculaRealm, such as `com.example.shop`",
        meaning: "The realm that a pod wants to join. On a namespace it is the default for its pods.",
    },
    Documented {
        key: MESH,
        on: "pod, namespace",
        values: "`<namespace>.<name>` of a MaculaMesh",
        meaning: "The mesh that a pod wants to join. It may be left out where only one accepted \
                  realm has the name. On a namespace it is the default for its pods.",
    },
];

/// The labels that the operator writes.
pub const FROM_OPERATOR: &[Documented] = &[
    Documented {
        key: NAME,
        on: "everything of a mesh",
        values: "`macula`",
        meaning: "What it is an instance of.",
    },
    Documented {
        key: COMPONENT,
        on: "everything of a mesh",
        values: "`bootstrap`, `gateway`, `authority`, `trust`",
        meaning: "Which part of a mesh it is.",
    },
    Documented {
        key: INSTANCE,
        on: "everything of a mesh",
        values: "the name of the MaculaMesh",
        meaning: "Which mesh it is of.",
    },
    Documented {
        key: MANAGED_BY,
        on: "everything of a mesh",
        values: "`macula-operator`",
        meaning: "Who made it, and will undo changes to it.",
    },
    Documented {
        key: OWNER_UID,
        on: "what is in another namespace than its mesh",
        values: "a UID",
        meaning: "The UID of the object that it is for. When that is gone, the operator deletes it.",
    },
];
