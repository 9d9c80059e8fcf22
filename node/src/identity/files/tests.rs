//! Real files in a folder of the test's own, replaced while they are watched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use macula_identity::{Authority, Bundle, NodeKey, Order, Place, Scope};
use tokio::task::JoinHandle;

use super::*;

#[test]
fn loads_a_set_that_fits() {
    let folder = Folder::new();
    let credentials = folder.load().unwrap();
    assert_eq!(credentials.identity.subject, subject("cart-0"));
    assert!(credentials.remaining(clock::unix_time()) > Duration::from_secs(3_000));
}

#[test]
fn names_the_file_and_what_is_wrong_with_it() {
    type Break = fn(&Folder);
    let cases: [(Break, &str); 11] = [
        (
            |f| fs::remove_file(f.path("key")).unwrap(),
            "cannot read the key DIR/key: No such file or directory (os error 2)",
        ),
        (
            |f| fs::write(f.path("key"), [0xff, 0xfe]).unwrap(),
            "cannot read the key DIR/key: stream did not contain valid UTF-8",
        ),
        (
            |f| fs::write(f.path("bundle"), "x".repeat(300_000)).unwrap(),
            "cannot read the bundle DIR/bundle: it has more than 262144 bytes",
        ),
        (|f| f.write("key", "hello"), "the key DIR/key: there is no PRIVATE KEY section"),
        (
            |f| f.write("certificate", ""),
            "the certificate DIR/certificate: there is no CERTIFICATE section",
        ),
        (
            |f| f.write("bundle", &fs::read_to_string(f.path("key")).unwrap()),
            "the bundle DIR/bundle: section 1 of the bundle is a PrivateKey, not a certificate",
        ),
        (
            |f| f.write("key", &NodeKey::generate().to_pem()),
            "the key DIR/key is not that of the certificate DIR/certificate",
        ),
        (
            |f| f.write("bundle", &authority("ns.test").bundle().to_pem()),
            "the certificate DIR/certificate is refused by the bundle DIR/bundle \
          (untrusted_certificate): ",
        ),
        (
            |f| f.issue("cart-0", 3600, 7200),
            "the certificate DIR/certificate is refused by the bundle DIR/bundle \
          (certificate_expired): ",
        ),
        (
            |f| f.issue("cart-1", 3600, 0),
            "the certificate DIR/certificate is for \
          spiffe://test/mesh/ns.test/realm/shop/peer/cart-1, and the configuration says \
          spiffe://test/mesh/ns.test/realm/shop/peer/cart-0",
        ),
        (
            |f| {
                let other = authority("ns.other");
                let subject = other.scope().subject(Place::Gateway, "g".parse().unwrap());
                let chain =
                    other.issue(&f.key().csr_der(), &Order::new(subject), clock::unix_time());
                f.write("certificate", &chain.unwrap().to_pem());
                f.write("bundle", &other.bundle().to_pem());
            },
            "the certificate DIR/certificate is refused by the bundle DIR/bundle (mesh_mismatch): ",
        ),
    ];
    for (spoil, message) in cases {
        let folder = Folder::new();
        spoil(&folder);
        let error = folder.load().unwrap_err().to_string();
        let error = error.replace(folder.dir.path().to_str().unwrap(), "DIR");
        assert!(error.starts_with(message), "{error}\nis not\n{message}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_over() {
    let mut watched = Folder::new().watch();
    let before = watched.source.borrow_and_update().clone();
    watched.folder.issue("cart-0", 7200, 0);
    watched.changed().await;
    let after = watched.source.borrow().clone();
    assert!(after.identity.not_after > before.identity.not_after);
    assert_eq!(after.identity.id, before.identity.id);
    watched.reported(|report| report.reloads == 1 && report.problem.is_none()).await;
}

#[tokio::test]
async fn a_flipped_link_is_a_change_like_that_of_a_mounted_secret() {
    let folder = Folder::new();
    let real = folder.dir.path().join("..data_1");
    let next = folder.dir.path().join("..data_2");
    for part in ["key", "certificate", "bundle"] {
        fs::create_dir_all(&real).unwrap();
        fs::create_dir_all(&next).unwrap();
        fs::copy(folder.path(part), real.join(part)).unwrap();
        fs::rename(folder.path(part), next.join(part)).unwrap();
        symlink(format!("..data/{part}"), folder.path(part)).unwrap();
    }
    let data = folder.dir.path().join("..data");
    symlink("..data_1", &data).unwrap();
    let mut watched = folder.watch();
    let order = Order { lifetime: Duration::from_secs(7200), ..Order::new(subject("cart-0")) };
    let folder = &watched.folder;
    let chain = folder.authority.issue(&folder.key().csr_der(), &order, clock::unix_time());
    fs::write(next.join("certificate"), chain.unwrap().to_pem()).unwrap();
    let flip = folder.dir.path().join("..data_tmp");
    symlink("..data_2", &flip).unwrap();
    fs::rename(&flip, &data).unwrap();
    watched.changed().await;
}

#[tokio::test]
async fn a_bad_set_leaves_the_last_good_one_and_is_told_once() {
    let watched = Folder::new().watch();
    let good = fs::read_to_string(watched.folder.path("certificate")).unwrap();
    watched.folder.write("certificate", "nothing");
    let report = watched.reported(|report| report.problem.is_some()).await;
    assert_eq!(report.refused, 1);
    assert!(report.problem.unwrap().ends_with("there is no CERTIFICATE section"));
    fs::remove_file(watched.folder.path("key")).unwrap();
    let report = watched.reported(|report| report.refused == 2).await;
    assert!(report.problem.unwrap().contains("No such file"));
    assert!(!watched.source.has_changed().unwrap(), "the last good one stays");

    watched.folder.write("key", &watched.folder.key.to_pem());
    watched.folder.write("certificate", &good);
    let report = watched.reported(|report| report.problem.is_none()).await;
    assert_eq!((report.reloads, report.refused), (0, 2), "they are what is in use");
}

#[tokio::test]
async fn a_root_that_is_added_and_one_that_is_dropped_reach_the_source() {
    let mut watched = Folder::new().watch();
    let ours = watched.folder.authority.bundle();
    let both = ours.merged(&authority("ns.test").bundle()).unwrap();
    watched.folder.write("bundle", &both.to_pem());
    watched.changed().await;
    assert_eq!(watched.bundle(), both);
    watched.folder.write("bundle", &ours.to_pem());
    watched.changed().await;
    assert_eq!(watched.bundle(), ours);
}

#[tokio::test]
async fn a_bundle_that_drops_our_own_root_is_believed_and_told() {
    let mut watched = Folder::new().watch();
    let others = authority("ns.test").bundle();
    watched.folder.write("bundle", &others.to_pem());
    watched.changed().await;
    assert_eq!(watched.bundle(), others);
    let identity = watched.source.borrow().identity.clone();
    assert!(others.still_trusts(&identity).is_err());
    let report = watched.reported(|report| report.problem.is_some()).await;
    assert!(report.problem.unwrap().contains("(untrusted_certificate)"));
}

#[tokio::test]
async fn an_end_that_is_near_is_reported() {
    let folder = Folder::new();
    folder.issue("cart-0", 3600, 3590);
    let watched = folder.watch();
    watched.reported(|report| report.nearness == Nearness::Imminent).await;
    watched.folder.issue("cart-0", 3600, 0);
    watched.reported(|report| report.nearness == Nearness::Far && report.reloads == 1).await;
}

/// The files of `cart-0`, and who signs for it.
struct Folder {
    dir: tempfile::TempDir,
    authority: Authority,
    key: NodeKey,
}

/// Files that are watched until this is dropped.
struct Watched {
    folder: Folder,
    watch: Arc<Watch>,
    source: Source,
    task: JoinHandle<()>,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Self { dir, authority: authority("ns.test"), key: NodeKey::generate() };
        folder.write("key", &folder.key.to_pem());
        folder.write("bundle", &folder.authority.bundle().to_pem());
        folder.issue("cart-0", 3600, 0);
        folder
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    fn files(&self) -> Files {
        let [key, certificate, bundle] =
            ["key", "certificate", "bundle"].map(|part| self.path(part));
        Files { key, certificate, bundle }
    }

    fn key(&self) -> &NodeKey {
        &self.key
    }

    /// As one step, like everybody should.
    fn write(&self, part: &str, text: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(part)).unwrap();
    }

    /// A certificate of this lifetime, issued so many seconds ago.
    fn issue(&self, name: &str, lifetime: u64, ago: u64) {
        let then = clock::unix_time().as_secs() - ago;
        let then = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(then));
        let lifetime = Duration::from_secs(lifetime);
        let order = Order { lifetime, ..Order::new(subject(name)) };
        // A root that was there already then.
        let chain = self.authority.issue(&self.key.csr_der(), &order, then).unwrap();
        self.write("certificate", &chain.to_pem());
    }

    fn load(&self) -> Result<Credentials, Error> {
        load(&self.files(), &subject("cart-0"), clock::unix_time())
    }

    fn watch(self) -> Watched {
        let watch = watch(self.files(), subject("cart-0"), Duration::from_millis(5)).unwrap();
        let source = watch.source();
        let running = watch.clone();
        let task = tokio::spawn(async move { running.run(&Metrics::default()).await });
        Watched { folder: self, watch, source, task }
    }
}

impl Watched {
    async fn changed(&mut self) {
        let changed = tokio::time::timeout(PATIENCE, self.source.changed()).await;
        changed.expect("the source changes").unwrap();
        self.source.mark_unchanged();
    }

    async fn reported(&self, condition: impl Fn(&Report) -> bool) -> Report {
        let mut report = self.watch.report();
        let waited = tokio::time::timeout(PATIENCE, report.wait_for(|report| condition(report)));
        waited.await.expect("it is reported").unwrap().clone()
    }

    fn bundle(&self) -> Bundle {
        Bundle::clone(&self.source.borrow().bundle)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn authority(mesh: &str) -> Authority {
    Authority::new(scope(mesh), clock::unix_time())
}

fn scope(mesh: &str) -> Scope {
    Scope { trust_domain: "test".parse().unwrap(), mesh: mesh.parse().unwrap() }
}

fn subject(name: &str) -> Subject {
    let place = Place::Realm("shop".parse().unwrap());
    scope("ns.test").subject(place, name.parse().unwrap())
}
