//! An authority, its nodes' files, and who may read them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use macula_config::Config;
use macula_identity::{Bundle, Chain, NodeKey};
use tempfile::TempDir;

use super::*;

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

fn made() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), "demo.main").unwrap();
    folder
}

fn init(folder: &Path, mesh: &str) -> Result<Exit, Stop> {
    let (dir, mesh) = (folder.join("ca"), mesh.parse().unwrap());
    let trust_domain = "cluster.local".parse().unwrap();
    super::init(Init { dir, mesh, trust_domain }, now(), Format::Json)
}

fn order(folder: &Path, role: Role, realm: Option<&str>) -> Issue {
    Issue {
        dir: folder.join("ca"),
        role,
        realm: realm.map(|realm| realm.parse().unwrap()),
        name: "a".parse().unwrap(),
        server: false,
        out: folder.join("a"),
        lifetime: Duration::from_secs(3600),
    }
}

fn issue(args: Issue) -> Result<Exit, Stop> {
    super::issue(args, now(), Format::Text)
}

fn identity(folder: &Path) -> Identity {
    let read = |name: &str| fs::read_to_string(folder.join("a").join(name)).unwrap();
    let bundle = Bundle::from_pem(&read("bundle.pem")).unwrap();
    let scope = AuthorityDir::new(&folder.join("ca")).open().unwrap().scope().clone();
    Chain::from_pem(&read("certificate.pem")).unwrap().verify(&bundle, &scope, now()).unwrap()
}

fn failure(result: Result<Exit, Stop>) -> Failure {
    match result {
        Err(Stop::Failed(failure)) => failure,
        other => panic!("no failure but {other:?}"),
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn secrets_are_for_their_owner_alone() {
    let folder = made();
    issue(order(folder.path(), Role::Bootstrap, None)).unwrap();
    let mode = |path: &str| mode(&folder.path().join(path));
    for secret in ["ca/ca-key.pem", "ca/node-id-key", "a/key.pem"] {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }
    for public in ["ca/ca.pem", "ca/authority.json", "a/certificate.pem", "a/bundle.pem"] {
        assert_eq!(mode(public), 0o644, "{public}");
    }
    assert_eq!((mode("ca"), mode("a")), (0o700, 0o700));
    assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 3, "nothing else is left");
}

#[test]
fn an_authority_is_never_overwritten() {
    let folder = made();
    let before = fs::read(folder.path().join("ca/ca-key.pem")).unwrap();
    let failure = failure(init(folder.path(), "demo.other"));
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.because.ends_with("is there already"), "{failure:?}");
    assert_eq!(fs::read(folder.path().join("ca/ca-key.pem")).unwrap(), before);
}

#[test]
fn half_an_authority_is_not_overwritten_either() {
    let folder = made();
    fs::remove_file(folder.path().join("ca/authority.json")).unwrap();
    assert!(failure(init(folder.path(), "demo.main")).because.ends_with("is there already"));
    let failure = failure(issue(order(folder.path(), Role::Bootstrap, None)));
    assert!(failure.because.contains("authority.json: "), "{failure:?}");
}

#[test]
fn issues_what_was_ordered() {
    let folder = made();
    issue(order(folder.path(), Role::Peer, Some("com.example.shop"))).unwrap();
    let identity = identity(folder.path());
    assert_eq!(
        identity.subject.to_string(),
        "spiffe://cluster.local/mesh/demo.main/realm/com.example.shop/peer/a"
    );
    assert!(!identity.grants.server);
    assert_eq!(identity.not_after, now().as_secs() + 3600);
    let key = fs::read_to_string(folder.path().join("a/key.pem")).unwrap();
    assert_eq!(identity.public_key, NodeKey::from_pem(&key).unwrap().public_key());
}

#[test]
fn a_renewal_keeps_the_key_and_the_id() {
    let folder = made();
    let peer = || order(folder.path(), Role::Peer, Some("r"));
    issue(peer()).unwrap();
    let first = identity(folder.path());
    issue(Issue { server: true, lifetime: Duration::from_secs(7200), ..peer() }).unwrap();
    let second = identity(folder.path());
    assert_eq!((first.id, first.public_key), (second.id, second.public_key));
    assert!(second.grants.server && second.not_after > first.not_after);
}

#[test]
fn a_key_that_cannot_be_read_is_not_overwritten() {
    let folder = made();
    fs::create_dir(folder.path().join("a")).unwrap();
    fs::write(folder.path().join("a/key.pem"), "mine").unwrap();
    let failure = failure(issue(order(folder.path(), Role::Gateway, None)));
    assert_eq!(failure.exit, Exit::Usage);
    assert_eq!(fs::read_to_string(folder.path().join("a/key.pem")).unwrap(), "mine");
}

#[test]
fn only_a_peer_has_a_realm_and_it_must_have_one() {
    let folder = made();
    for (role, realm) in
        [(Role::Peer, None), (Role::Gateway, Some("r")), (Role::Bootstrap, Some("r"))]
    {
        let failure = failure(issue(order(folder.path(), role, realm)));
        assert!(failure.because.starts_with("--realm: "), "{failure:?}");
    }
    assert!(!folder.path().join("a").exists(), "a refused order makes nothing");
}

#[test]
fn the_printed_configuration_is_one_that_run_reads() {
    let folder = made();
    for (role, realm) in [(Role::Bootstrap, None), (Role::Gateway, None), (Role::Peer, Some("r"))] {
        issue(order(folder.path(), role, realm)).unwrap();
        let text =
            config(&identity(folder.path()).subject, &IdentityDir::new(&folder.path().join("a")));
        let config = Config::from_yaml(&text, "printed").unwrap();
        assert_eq!(config.role.as_str(), role.as_str());
        assert_eq!(config.identity.key, Some(folder.path().join("a/key.pem")));
    }
}
