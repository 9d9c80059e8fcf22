//! Annotations of pods: what users write about their sidecar, and what the webhook writes.

/// What the documentation says about a label or an annotation.
#[derive(Clone, Copy, Debug)]
pub struct Documented {
    /// Its key.
    pub key: &'static str,
    /// What carries it.
    pub on: &'static str,
    /// Its values.
    pub values: &'static str,
    /// What it does, in a sentence or two.
    pub meaning: &'static str,
}

/// The sidecar's request for processor time.
pub const CPU_REQUEST: &str = "macula.io/sidecar-cpu-request";
/// The sidecar's request for memory.
pub const MEMORY_REQUEST: &str = "macula.io/sidecar-memory-request";
/// The sidecar's limit of processor time.
pub const CPU_LIMIT: &str = "macula.io/sidecar-cpu-limit";
/// The sidecar's limit of memory.
pub const MEMORY_LIMIT: &str = "macula.io/sidecar-memory-limit";
/// What the sidecar logs.
pub const LOG: &str = "macula.io/sidecar-log";
/// The sidecar's configuration, written by the webhook.
pub const CONFIG: &str = "macula.io/config";
/// On the pods of infrastructure: a hash of their configuration. Another one makes them anew.
pub const CONFIG_HASH: &str = "macula.io/config-hash";

/// The annotations that users write.
pub const FOR_USERS: &[Documented] = &[
    Documented {
        key: CPU_REQUEST,
        on: "pod",
        values: "a quantity such as `10m`",
        meaning: "Processor time that is set aside for the sidecar.",
    },
    Documented {
        key: MEMORY_REQUEST,
        on: "pod",
        values: "a quantity such as `16Mi`",
        meaning: "Memory that is set aside for the sidecar.",
    },
    Documented {
        key: CPU_LIMIT,
        on: "pod",
        values: "a quantity such as `1`",
        meaning: "Processor time that the sidecar may use at most.",
    },
    Documented {
        key: MEMORY_LIMIT,
        on: "pod",
        values: "a quantity such as `64Mi`",
        meaning: "Memory that the sidecar may use at most.",
    },
    Documented {
        key: LOG,
        on: "pod",
        values: "a filter such as `macula_node=debug`",
        meaning: "What the sidecar logs.",
    },
];

/// The annotations that the operator writes.
pub const FROM_OPERATOR: &[Documented] = &[
    Documented {
        key: CONFIG,
        on: "pod with a sidecar",
        values: "YAML",
        meaning: "The sidecar's configuration, which it reads as a file.",
    },
    Documented {
        key: CONFIG_HASH,
        on: "pod of a bootstrap or gateway",
        values: "16 hexadecimal digits",
        meaning: "A hash of the node's configuration. When it changes, the pods are replaced.",
    },
];
