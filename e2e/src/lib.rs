//! What the stories stand on. A story is a test that does on a real cluster what a user would do, and
//! looks at what a user would see.
//!
//! | module | holds |
//! | --- | --- |
//! | [`cluster`] | the cluster at hand, its `kubectl` and `helm` |
//! | [`world`] | what all stories of one run share: the cluster, the chart's installation |
//! | [`story`] | what one story has for itself: namespaces, which go when it ends; what is printed when it fails |
//! | [`manifests`] | meshes, realms and pods as a user writes them |
//! | [`pod`] | a living pod: what it answers to `kubectl exec` |
//! | [`wait`] | waiting for something, with a deadline and the reason why it is not yet so |

pub mod cluster;
pub mod manifests;
pub mod pod;
pub mod story;
pub mod wait;
pub mod world;

pub use pod::Pod;
pub use story::Story;
pub use world::World;
