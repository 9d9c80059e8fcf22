use kube::Resource;
use macula_api::Member;
use serde_json::{Value, json};

use super::*;

/// A mesh as the API server would give it, with every default.
pub(crate) fn mesh(namespace: &str, name: &str) -> MaculaMesh {
    serde_json::from_value(json!({
        "apiVersion": "macula.io/v1alpha1", "kind": "MaculaMesh",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("uid-of-{name}"), "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {},
    }))
    .unwrap()
}

/// A realm of the mesh `macula-system/main`, made in this minute of an hour.
pub(crate) fn realm(namespace: &str, name: &str, called: &str, minute: u8) -> MaculaRealm {
    serde_json::from_value(json!({
        "apiVersion": "macula.io/v1alpha1", "kind": "MaculaRealm",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("uid-of-{namespace}-{name}"),
            "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z"),
        },
        "spec": {
            "name": called,
            "meshRef": { "namespace": "macula-system", "name": "main" },
            "members": [{ "namespaceSelector": {} }],
        },
    }))
    .unwrap()
}

fn open_mesh(allowed: Value) -> MaculaMesh {
    let mut mesh = mesh("macula-system", "main");
    mesh.spec.allowed_realms = serde_json::from_value(allowed).unwrap();
    mesh
}

fn any_mesh() -> MaculaMesh {
    open_mesh(json!({ "namespaces": { "from": "All" } }))
}

fn labelled(entries: &[(&str, &str)]) -> Labels {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn managed() -> BTreeSet<String> {
    BTreeSet::from(["macula-system".to_owned()])
}

/// The reason against a realm whose namespace has these labels, with no rival.
fn reason(mesh: &MaculaMesh, realm: &MaculaRealm, labels: &Labels) -> Option<&'static str> {
    let candidate = Candidate { realm, namespace_labels: labels };
    judge(Some(mesh), &managed(), candidate, &[candidate]).err().map(|not| not.reason)
}

#[test]
fn a_mesh_is_looked_after_in_the_given_namespaces_alone() {
    assert!(judge_mesh(&mesh("macula-system", "main"), &managed()).is_ok());
    let not = judge_mesh(&mesh("elsewhere", "main"), &managed()).unwrap_err();
    assert_eq!(not.reason, reasons::NAMESPACE_NOT_MANAGED);
    assert!(not.message.contains("macula-system; move the mesh, or add elsewhere"), "{not}");
}

#[test]
fn a_mesh_is_looked_after_when_a_label_can_hold_its_name() {
    let name_of = |length: usize| "m".repeat(length - "macula-system.".len());
    assert!(judge_mesh(&mesh("macula-system", &name_of(63)), &managed()).is_ok());
    let not = judge_mesh(&mesh("macula-system", &name_of(64)), &managed()).unwrap_err();
    assert_eq!(not.reason, reasons::NAME_TOO_LONG);
    assert!(not.message.contains("holds 63 characters") && not.message.contains("has 64"), "{not}");
}

#[test]
fn a_realm_needs_its_mesh_and_that_mesh_to_be_accepted() {
    let realm = realm("shop", "shop", "com.example.shop", 0);
    let candidate = Candidate { realm: &realm, namespace_labels: &Labels::new() };
    let none = judge(None, &managed(), candidate, &[]).unwrap_err();
    assert_eq!(none.reason, reasons::MESH_NOT_FOUND);
    assert_eq!(none.message, "there is no MaculaMesh main in the namespace macula-system");
    let elsewhere = BTreeSet::from(["other".to_owned()]);
    let not = judge(Some(&any_mesh()), &elsewhere, candidate, &[]).unwrap_err();
    assert_eq!(not.reason, reasons::MESH_NOT_ACCEPTED);
}

#[test]
fn a_mesh_allows_its_own_namespace_unless_it_says_otherwise() {
    let none = Labels::new();
    let inside = realm("macula-system", "shop", "com.example.shop", 0);
    let outside = realm("shop", "shop", "com.example.shop", 0);
    let same = mesh("macula-system", "main");
    assert_eq!(reason(&same, &inside, &none), None);
    assert_eq!(reason(&same, &outside, &none), Some(reasons::NOT_ALLOWED));
    assert_eq!(reason(&any_mesh(), &outside, &none), None);
}

#[test]
fn a_selector_looks_at_the_labels_and_the_name_of_the_namespace() {
    let outside = realm("shop", "shop", "com.example.shop", 0);
    let tenant = labelled(&[("tenant", "yes")]);
    let by = |selector: Value| {
        open_mesh(json!({ "namespaces": { "from": "Selector", "selector": selector } }))
    };
    let by_label = by(json!({ "matchLabels": { "tenant": "yes" } }));
    assert_eq!(reason(&by_label, &outside, &tenant), None);
    assert_eq!(reason(&by_label, &outside, &Labels::new()), Some(reasons::NOT_ALLOWED));
    let by_name = by(json!({ "matchLabels": { "kubernetes.io/metadata.name": "shop" } }));
    assert_eq!(reason(&by_name, &outside, &Labels::new()), None);
    // One that cannot be understood lets nobody in.
    let broken = by(json!({ "matchExpressions": [{ "key": "a", "operator": "Likes" }] }));
    assert_eq!(reason(&broken, &outside, &tenant), Some(reasons::NOT_ALLOWED));
}

#[test]
fn names_are_allowed_whole_or_by_their_beginning() {
    let shop = realm("shop", "shop", "com.example.shop", 0);
    for (names, allowed) in [
        (json!(["*"]), true),
        (json!(["com.example.shop"]), true),
        (json!(["com.example.*"]), true),
        (json!(["org.*", "com.example.*"]), true),
        (json!(["com.example"]), false),
        (json!(["com.example.sho"]), false),
        (json!(["com.example.shop.*"]), false),
        (json!([]), false),
    ] {
        let mesh = open_mesh(json!({ "namespaces": { "from": "All" }, "names": names }));
        assert_eq!(reason(&mesh, &shop, &Labels::new()).is_none(), allowed, "{names}");
    }
}

/// The place of the one realm that has the name, of those at these places.
fn holder(mesh: &MaculaMesh, realms: &[MaculaRealm]) -> Option<usize> {
    let none = Labels::new();
    let candidates: Vec<_> =
        realms.iter().map(|realm| Candidate { realm, namespace_labels: &none }).collect();
    let mut holders = (0..realms.len())
        .filter(|index| judge(Some(mesh), &managed(), candidates[*index], &candidates).is_ok());
    let holder = holders.next();
    assert_eq!(holders.next(), None, "two realms have one name");
    holder
}

#[test]
fn of_several_with_one_name_the_oldest_has_it_whatever_the_order() {
    let called = "com.example.shop";
    let realms =
        [realm("b", "one", called, 5), realm("a", "two", called, 5), realm("a", "one", called, 7)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let shuffled = order.map(|index| realms[index].clone());
        let holder = holder(&any_mesh(), &shuffled).expect("one has the name");
        // Equally old as the first, and before it by namespace.
        assert_eq!(order[holder], 1);
    }
    let none = Labels::new();
    let candidates =
        [&realms[0], &realms[1]].map(|realm| Candidate { realm, namespace_labels: &none });
    let not = judge(Some(&any_mesh()), &managed(), candidates[0], &candidates).unwrap_err();
    assert_eq!(not.reason, reasons::NAME_TAKEN);
    assert!(not.message.contains("the MaculaRealm a/two, which is older"), "{not}");
}

#[test]
fn one_that_is_not_allowed_keeps_the_name_from_nobody() {
    let called = "com.example.shop";
    let squatter = realm("elsewhere", "shop", called, 0);
    let owner = realm("macula-system", "shop", called, 9);
    let same = mesh("macula-system", "main");
    assert_eq!(holder(&same, &[squatter.clone(), owner.clone()]), Some(1));
    assert_eq!(holder(&any_mesh(), &[squatter, owner]), Some(0));
}

#[test]
fn another_name_or_another_mesh_is_no_rival() {
    let shop = realm("a", "shop", "com.example.shop", 9);
    let bank = realm("a", "bank", "com.example.bank", 0);
    let mut there = realm("a", "there", "com.example.shop", 0);
    there.spec.mesh_ref.name = "other".to_owned();
    let none = Labels::new();
    let candidates =
        [&shop, &bank, &there].map(|realm| Candidate { realm, namespace_labels: &none });
    assert_eq!(judge(Some(&any_mesh()), &managed(), candidates[0], &candidates), Ok(()));
}

#[test]
fn a_realm_admits_service_accounts_of_the_namespaces_that_it_selects() {
    let mut shop = realm("shop", "shop", "com.example.shop", 0);
    let member = |selector: Value, accounts: &[&str]| Member {
        namespace_selector: serde_json::from_value(selector).unwrap(),
        service_accounts: accounts.iter().map(|&name| name.to_owned()).collect(),
    };
    shop.spec.members = vec![
        member(json!({ "matchLabels": { "team": "shop" } }), &["till"]),
        member(json!({ "matchLabels": { "kubernetes.io/metadata.name": "lab" } }), &["*"]),
    ];
    let team = labelled(&[("team", "shop")]);
    let none = Labels::new();
    assert!(admits(&shop, "anywhere", &team, "till"));
    assert!(!admits(&shop, "anywhere", &team, "default"));
    assert!(!admits(&shop, "anywhere", &none, "till"));
    assert!(admits(&shop, "lab", &none, "default"));
    // The label that Kubernetes sets cannot be claimed by another namespace.
    let claims = labelled(&[("kubernetes.io/metadata.name", "lab")]);
    assert!(!admits(&shop, "other", &claims, "default"));
}

/// What [`choose`] finds among these realms and meshes: the name of the mesh.
fn chosen(
    meshes: &[MaculaMesh],
    realms: &[MaculaRealm],
    named: Option<&str>,
) -> Result<String, Denied> {
    let none = Labels::new();
    let rooms: Vec<_> = realms
        .iter()
        .map(|realm| {
            let mesh = meshes.iter().find(|mesh| mesh.mesh_name() == realm.mesh_name());
            Room {
                mesh: mesh.cloned().map(Arc::new),
                realm: Arc::new(realm.clone()),
                namespace_labels: &none,
            }
        })
        .collect();
    let named: Option<MeshName> = named.map(|name| name.parse().unwrap());
    let named = named
        .as_ref()
        .map(|name| (name, meshes.iter().any(|mesh| mesh.mesh_name() == name.as_str())));
    let realm = "com.example.shop".parse().unwrap();
    choose(&rooms, &managed(), named, &realm).map(|found| found.mesh.mesh_name())
}

#[test]
fn a_realm_is_found_by_its_name_where_only_one_mesh_has_it() {
    let (main, mut other) = (any_mesh(), any_mesh());
    other.meta_mut().name = Some("other".to_owned());
    let shop = realm("a", "shop", "com.example.shop", 0);
    let mut there = realm("a", "there", "com.example.shop", 0);
    there.spec.mesh_ref.name = "other".to_owned();
    let meshes = [main, other];

    let one = std::slice::from_ref(&shop);
    assert_eq!(chosen(&meshes, one, None).as_deref(), Ok("macula-system.main"));
    assert_eq!(
        chosen(&meshes, one, Some("macula-system.main")).as_deref(),
        Ok("macula-system.main")
    );

    let both = [shop, there];
    let said = chosen(&meshes, &both, None).unwrap_err().to_string();
    assert_eq!(
        said,
        "several meshes have a realm com.example.shop: macula-system.main, macula-system.other; \
         say which with the label macula.io/mesh"
    );
    assert_eq!(
        chosen(&meshes, &both, Some("macula-system.other")).as_deref(),
        Ok("macula-system.other")
    );
    // The other is there, but its mesh is gone: one is left.
    assert_eq!(chosen(&meshes[..1], &both, None).as_deref(), Ok("macula-system.main"));
}

#[test]
fn who_finds_no_realm_is_told_why() {
    let meshes = [mesh("macula-system", "main")];
    let said =
        |realms: &[MaculaRealm], named| chosen(&meshes, realms, named).unwrap_err().to_string();
    assert_eq!(said(&[], None), "no MaculaRealm has the name com.example.shop on any mesh");
    assert_eq!(
        said(&[], Some("macula-system.main")),
        "no MaculaRealm has the name com.example.shop on the mesh macula-system.main"
    );
    assert_eq!(
        said(&[], Some("nowhere.main")),
        "there is no mesh nowhere.main; it is written <namespace>.<name>"
    );
    let outside = [realm("shop", "shop", "com.example.shop", 0)];
    assert!(matches!(
        chosen(&meshes, &outside, None),
        Err(Denied::NotAccepted { why, .. }) if why.reason == reasons::NOT_ALLOWED
    ));
}
