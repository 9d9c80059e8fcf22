//! How many nodes of a mesh are alive: asked of the infrastructure itself, never of the kubelet.
//!
//! Every bootstrap and gateway tells the operator, and nobody else, to whom it has an authenticated
//! connection. Nodes are counted by their id over all answers, so that it does not matter who is
//! connected to whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use macula_api::MaculaMesh;
use macula_config::Role;
use macula_config::counts::Counts;
use macula_identity::{Bundle, Scope};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::context::Context;
use crate::stores::{Change, is_ready};
use crate::tenancy::{judge_mesh, scope_of};

mod ask;

use ask::Certificates;

/// What was counted in one mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Living bootstraps.
    pub bootstraps: usize,
    /// Living gateways.
    pub gateways: usize,
    /// Living peers, by realm.
    pub peers: BTreeMap<String, usize>,
    /// Why it could not be counted at all: what those said who should have answered.
    pub trouble: Option<String>,
}

impl Count {
    /// The living peers of every realm.
    #[must_use]
    pub fn all_peers(&self) -> usize {
        self.peers.values().sum()
    }
}

/// The last count of each mesh, by UID.
#[derive(Debug, Default)]
pub struct Census {
    last: Mutex<HashMap<String, Arc<Count>>>,
}

impl Census {
    /// What was counted last; nothing before the first time.
    #[must_use]
    pub fn of(&self, mesh: &MaculaMesh) -> Option<Arc<Count>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(mesh.metadata.uid.as_deref()?).cloned()
    }

    /// Keeps a count. Whether it is another than before.
    fn put(&self, uid: String, count: Count) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = last.get(&uid).is_none_or(|before| **before != count);
        if is_news {
            last.insert(uid, Arc::new(count));
        }
        is_news
    }

    fn retain(&self, lives: &BTreeSet<String>) {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|uid, _| lives.contains(uid));
    }
}

/// How often everybody is asked.
const EVERY: Duration = Duration::from_secs(5);

/// How often while a mesh has fewer nodes than it wants.
const EVERY_WHILE_SHORT: Duration = Duration::from_secs(2);

/// How soon after the last time at the earliest, however much happens to the pods.
const SOONEST: Duration = Duration::from_secs(1);

/// How many nodes are asked at the same time. An answer may be as long as [`ask::MAX_ANSWER`].
const AT_ONCE: usize = 8;

/// Counts for ever, and tells what has changed.
pub(crate) async fn run(ctx: &Context, census: &Census) {
    let mut certificates = Certificates::default();
    let mut changes = ctx.stores.changes();
    ctx.stores.ready().await;
    loop {
        let begin = Instant::now();
        let all_there = round(ctx, census, &mut certificates).await;
        let next = begin + if all_there { EVERY } else { EVERY_WHILE_SHORT };
        // The pods of a mesh that changed are asked soon.
        loop {
            tokio::select! {
                () = sleep_until(next) => break,
                change = changes.recv() => match change {
                    Ok(Change::Infrastructure(_)) | Err(RecvError::Lagged(_)) => {
                        sleep_until(begin + SOONEST).await;
                        break;
                    }
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}

/// Asks everybody once. Whether every mesh has all the nodes that it wants.
async fn round(ctx: &Context, census: &Census, certificates: &mut Certificates) -> bool {
    let meshes: Vec<_> = ctx
        .stores
        .meshes
        .state()
        .into_iter()
        .filter(|mesh| judge_mesh(mesh, &ctx.settings.mesh_namespaces).is_ok())
        .filter(|mesh| mesh.metadata.deletion_timestamp.is_none())
        .collect();
    census.retain(&meshes.iter().filter_map(|mesh| mesh.uid()).collect());
    let mut polls = Vec::new();
    for mesh in meshes {
        match poll(ctx, &mesh, certificates).await {
            Ok(poll) => polls.push((mesh, poll)),
            Err(trouble) => {
                let count = Count { trouble: Some(trouble), ..Count::default() };
                publish(ctx, census, &mesh, count);
            }
        }
    }
    let asks: Vec<_> = polls
        .iter()
        .enumerate()
        .flat_map(|(index, (_, poll))| poll.pods.iter().map(move |pod| (index, poll, pod)))
        .map(|(index, poll, pod)| async move {
            (index, pod.is_ready, poll.ask(pod).await.map_err(|why| format!("{}: {why}", pod.name)))
        })
        .collect();
    let mut answers: Vec<Answers> = polls.iter().map(|_| Answers::default()).collect();
    let mut asked = stream::iter(asks).buffer_unordered(AT_ONCE);
    while let Some((index, is_ready, answer)) = asked.next().await {
        let all = &mut answers[index];
        match answer {
            Ok(counts) => all.said.push(counts),
            Err(why) => {
                debug!(why, "a node did not tell its counts");
                if is_ready {
                    all.silent.push(why);
                }
            }
        }
    }
    drop(asked);
    let mut all_there = true;
    for ((mesh, _), answers) in polls.iter().zip(answers) {
        let (bootstraps, gateways) = (mesh.spec.bootstrap.replicas, mesh.spec.gateway.replicas);
        let count = answers.count(usize::try_from(bootstraps + gateways).unwrap_or(0));
        all_there &= count.bootstraps >= usize::try_from(bootstraps).unwrap_or(0)
            && count.gateways >= usize::try_from(gateways).unwrap_or(0);
        publish(ctx, census, mesh, count);
    }
    all_there
}

fn publish(ctx: &Context, census: &Census, mesh: &Arc<MaculaMesh>, count: Count) {
    if census.put(mesh.uid().unwrap_or_default(), count) {
        ctx.stores.tell(Change::Census(ObjectRef::from_obj(mesh)));
    }
}

/// What is needed to ask the nodes of one mesh.
struct Poll {
    pods: Vec<Asked>,
    pair: Arc<macula_identity::operator::Pair>,
    bundle: Arc<Bundle>,
    scope: Scope,
}

/// A pod that is asked.
struct Asked {
    name: String,
    address: IpAddr,
    is_ready: bool,
}

impl Poll {
    async fn ask(&self, pod: &Asked) -> Result<Counts, String> {
        ask::ask(pod.address, &self.pair, &self.bundle, &self.scope).await
    }
}

async fn poll(
    ctx: &Context,
    mesh: &MaculaMesh,
    certificates: &mut Certificates,
) -> Result<Poll, String> {
    let scope = scope_of(mesh).map_err(|error| error.to_string())?;
    let authority = ctx.authorities.of(mesh).await.map_err(|error| error.to_string())?;
    let operator = Arc::clone(&ctx.operator_ca);
    let pair = certificates.of(&operator, &scope.trust_domain)?;
    let pods = ctx.stores.infrastructure_of(&ObjectRef::from_obj(mesh));
    let pods = pods.iter().filter_map(|pod| asked(pod)).collect();
    Ok(Poll { pods, pair, bundle: Arc::new(authority.bundle()), scope })
}

/// Whether and where to ask a pod. One that is on its way out still knows who is alive.
fn asked(pod: &Pod) -> Option<Asked> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Running") {
        return None;
    }
    let address = status.pod_ip.as_deref()?.parse().ok()?;
    Some(Asked { name: pod.name_any(), address, is_ready: is_ready(pod) })
}

/// What came back from the nodes of one mesh.
#[derive(Debug, Default)]
struct Answers {
    said: Vec<Counts>,
    /// Those that did not answer although the kubelet finds them well.
    silent: Vec<String>,
}

impl Answers {
    /// `wanted` is how many nodes the infrastructure should have.
    ///
    /// A node is alive when another of the infrastructure is connected to it. The one that answers
    /// counts itself only if it is connected to another, or if it is meant to be alone: that it
    /// answers by TCP does not mean that the mesh reaches it.
    fn count(self, wanted: usize) -> Count {
        let Self { said, silent } = self;
        if said.is_empty() && !silent.is_empty() {
            let trouble = Some(silent.join("; "));
            return Count { trouble, ..Count::default() };
        }
        let mut alive: BTreeMap<&str, (Role, Option<&str>)> = BTreeMap::new();
        for counts in &said {
            for node in &counts.links {
                alive.insert(&node.id, (node.role, node.realm.as_deref()));
            }
            let has_company = counts.links.iter().any(|node| node.role.is_infrastructure());
            if has_company || wanted == 1 {
                alive.insert(&counts.node.id, (counts.node.role, None));
            }
        }
        let mut count = Count::default();
        for (role, realm) in alive.into_values() {
            match (role, realm) {
                (Role::Bootstrap, _) => count.bootstraps += 1,
                (Role::Gateway, _) => count.gateways += 1,
                (Role::Peer, realm) => {
                    *count.peers.entry(realm.unwrap_or_default().to_owned()).or_default() += 1;
                }
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use macula_config::counts::Node;

    use super::*;

    /// `b1`, `g2` or `p3`: the role is the first letter, and peers are of the realm `r`.
    fn node(id: &str) -> Node {
        let role = match &id[..1] {
            "b" => Role::Bootstrap,
            "g" => Role::Gateway,
            _ => Role::Peer,
        };
        let realm = (role == Role::Peer).then(|| "r".to_owned());
        Node { id: id.to_owned(), role, realm }
    }

    fn says(who: &str, links: &[&str]) -> Counts {
        Counts { node: node(who), links: links.iter().map(|id| node(id)).collect() }
    }

    fn count(wanted: usize, said: Vec<Counts>) -> (usize, usize, usize) {
        let Count { bootstraps, gateways, peers, .. } =
            Answers { said, silent: Vec::new() }.count(wanted);
        (bootstraps, gateways, peers.values().sum())
    }

    #[test]
    fn a_node_is_counted_once_however_many_are_connected_to_it() {
        let said = vec![
            says("b1", &["b2", "b3", "g1", "p1", "p2"]),
            says("b2", &["b1", "b3", "p1"]),
            says("b3", &["b1", "b2"]),
            says("g1", &["b1"]),
        ];
        assert_eq!(count(4, said), (3, 1, 2));
    }

    #[test]
    fn one_that_answers_but_that_nobody_reaches_is_not_alive() {
        let said = vec![
            says("b1", &["b2"]),
            says("b2", &["b1", "p1"]),
            says("b3", &[]),
            says("g1", &["p2"]),
        ];
        assert_eq!(count(4, said), (2, 0, 2));
    }

    #[test]
    fn one_that_does_not_answer_is_alive_while_others_are_connected_to_it() {
        assert_eq!(count(3, vec![says("b1", &["b2", "b3"])]), (3, 0, 0));
    }

    #[test]
    fn one_that_is_meant_to_be_alone_is_alive_when_it_says_so() {
        assert_eq!(count(1, vec![says("b1", &[])]), (1, 0, 0));
        assert_eq!(count(2, vec![says("b1", &[])]), (0, 0, 0));
    }

    #[test]
    fn silence_of_those_that_should_answer_is_not_a_count_of_zero() {
        let silent = |said| {
            let silent = vec!["main-bootstrap-0: no answer".to_owned()];
            Answers { said, silent }.count(3)
        };
        assert_eq!(silent(Vec::new()).trouble.as_deref(), Some("main-bootstrap-0: no answer"));
        assert_eq!(silent(vec![says("b1", &["b2"])]).trouble, None);
        assert_eq!(Answers::default().count(3), Count::default());
    }

    #[test]
    fn only_another_count_is_news() {
        let census = Census::default();
        let count = Count { bootstraps: 1, ..Count::default() };
        assert!(census.put("a".to_owned(), count.clone()));
        assert!(!census.put("a".to_owned(), count.clone()));
        assert!(census.put("b".to_owned(), count));
        assert!(census.put("a".to_owned(), Count::default()));
        census.retain(&BTreeSet::from(["b".to_owned()]));
        assert!(census.put("a".to_owned(), Count::default()));
    }
}
