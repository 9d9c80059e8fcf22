//! What a file may say, and how each mistake is answered.

use super::*;
use crate::{EXAMPLE, Location};

#[test]
fn reads_the_example_with_every_key() {
    let config = Config::from_yaml(EXAMPLE, "example.yaml").unwrap();
    assert_eq!(
        config.to_yaml(),
        "trustDomain: cluster.local
mesh: macula-system.main
role: peer
realm: com.example.shop
name: shop.cart-0
identity:
  key: tls/node.key
  certificate: tls/node.crt
  bundle: tls/bundle.pem
listen: 0.0.0.0:9443
seeds:
- main-bootstrap.macula-system.svc:9443
- 10.0.0.7:9443
discovery:
  every: 30s
api:
  listen: 127.0.0.1:7780
admin:
  listen: 127.0.0.1:7781
log: info
"
    );
}

#[test]
fn the_example_shows_the_defaults() {
    let bare = Config::from_yaml(&peer(""), "f").unwrap();
    let example = Config::from_yaml(EXAMPLE, "f").unwrap();
    assert_eq!(bare.listen, example.listen);
    assert_eq!(bare.discovery, example.discovery);
    assert_eq!(bare.api, example.api);
    assert_eq!(bare.admin, example.admin);
}

#[test]
fn what_is_written_is_read_back() {
    for text in [
        EXAMPLE.to_owned(),
        peer("discovery: {every: 1500ms, server: '[::1]:53'}\nlisten: '[::]:9443'\n"),
        infrastructure("bootstrap", ""),
        infrastructure("gateway", "seeds: [a]\nlog: debug\nadmin: {listen: '0.0.0.0:0'}\n"),
    ] {
        let config = Config::from_yaml(&text, "f").unwrap();
        assert_eq!(Config::from_yaml(&config.to_yaml(), "f"), Ok(config));
    }
}

#[test]
fn a_bootstrap_needs_no_seed_and_has_an_api_only_where_it_is_named() {
    let config = Config::from_yaml(&infrastructure("bootstrap", ""), "f").unwrap();
    assert_eq!((config.seeds.len(), config.api, config.realm), (0, None, None));
    let config = Config::from_yaml(&infrastructure("bootstrap", "api: {}\n"), "f").unwrap();
    assert_eq!(config.api, Some(Api::default()));
}

#[test]
fn says_whom_the_certificate_must_be_about() {
    let subject = |text: &str| Config::from_yaml(text, "f").unwrap().subject().unwrap().to_string();
    assert_eq!(
        subject(EXAMPLE),
        "spiffe://cluster.local/mesh/macula-system.main/realm/com.example.shop/peer/shop.cart-0"
    );
    assert_eq!(
        subject(&infrastructure("bootstrap", "")),
        "spiffe://cluster.local/mesh/ns.main/bootstrap/main-0"
    );
}

#[test]
fn relative_paths_start_at_the_files_folder() {
    let text = infrastructure("bootstrap", "").replace("key: k", "key: /abs/k");
    let config = Config::from_yaml(&text, "f").unwrap().relative_to(Path::new("/etc/macula"));
    assert_eq!(config.identity.key.as_deref(), Some(Path::new("/abs/k")));
    assert_eq!(config.identity.bundle, Path::new("/etc/macula/b"));
}

#[test]
fn names_the_file_the_place_the_key_and_the_reason() {
    for (text, refusal) in [
        (String::new(), "node.yaml: it is empty"),
        ("# nothing\n\n".to_owned(), "node.yaml: it is empty"),
        (
            peer("relm: x\n"),
            "node.yaml:8:1: unknown field `relm`, expected one of `trustDomain`, \
          `mesh`, `role`, `realm`, `name`, `identity`, `dataDir`, `listen`, `seeds`, `discovery`, \
          `api`, `admin`, `counts`, `log`",
        ),
        (peer("api: {port: 1}\n"), "node.yaml:8:7: api: unknown field `port`, expected `listen`"),
        (
            peer("listen: 9443\n"),
            "node.yaml:8:9: listen: \"9443\" is not an address and a port, such as 0.0.0.0:9443 or [::]:9443",
        ),
        (
            peer("listen: localhost:9443\n"),
            "node.yaml:8:9: listen: \"localhost:9443\" is not an address and a port, such as 0.0.0.0:9443 or [::]:9443",
        ),
        (peer("").replace("mesh: ns.main\n", ""), "node.yaml:1:1: missing field `mesh`"),
        (
            peer("").replace("bundle: b", "x: y"),
            "node.yaml:6:36: identity: unknown field `x`, expected one of `key`, `certificate`, `bundle`, `enrolment`",
        ),
        (peer("").replace(", bundle: b", ""), "node.yaml:6:11: identity: missing field `bundle`"),
        (
            peer("").replace("ns.main", "main"),
            "node.yaml:2:7: mesh: mesh name \"main\" is refused: \
          it is written <namespace>.<name>",
        ),
        (
            peer("").replace("com.example.shop", "Shop"),
            "node.yaml:4:8: realm: realm name \"Shop\" \
          is refused: 'S' is not a lowercase letter, a digit, '-' or '.'",
        ),
        (
            peer("").replace("role: peer", "role: sidecar"),
            "node.yaml:3:7: role: \"sidecar\" is not a role: bootstrap, gateway or peer",
        ),
        (
            peer("").replace("[a]", "[a, 'b:0']"),
            "node.yaml:7:12: seeds[1]: seed \"b:0\" is refused: port 0 cannot be dialled",
        ),
        (
            peer("discovery: {every: 30}\n"),
            "node.yaml:8:20: discovery.every: \"30\" is not a length of time: write a whole number and ms, s, m or h, as in 500ms or 30s",
        ),
        (peer("mesh: ns.other\n"), "node.yaml:1:1: duplicate field `mesh`"),
        (
            "@".to_owned(),
            "node.yaml:1:1: found character that cannot start any token, while scanning for the next token",
        ),
    ] {
        refused(&text, refusal);
    }
}

#[test]
fn names_the_key_that_does_not_fit_the_others() {
    for (text, refusal) in [
        (
            peer("").replace("realm: com.example.shop\n", ""),
            "node.yaml: realm: it is missing, and a peer belongs to one",
        ),
        (
            infrastructure("gateway", "seeds: [a]\nrealm: shop\n"),
            "node.yaml:7:1: realm: a gateway serves every realm and belongs to none; leave it out",
        ),
        (
            infrastructure("bootstrap", "realm: shop\n"),
            "node.yaml:6:1: realm: a bootstrap serves every realm and belongs to none; leave it out",
        ),
        (
            infrastructure("gateway", ""),
            "node.yaml: seeds: a gateway needs at least one seed to find the mesh",
        ),
        (
            peer("").replace("[a]", "[]"),
            "node.yaml:7:1: seeds: a peer needs at least one seed to find the mesh",
        ),
        (
            peer("").replace("[a]", "[a, b, 'a:9443']"),
            "node.yaml:7:1: seeds: a:9443 is there twice",
        ),
        (
            peer("api:\n  listen: 0.0.0.0:7780\n"),
            "node.yaml:9:3: api.listen: 0.0.0.0:7780 is not \
          loopback, and whoever reaches the API may publish as this node; use 127.0.0.1 or [::1]",
        ),
        (
            peer("admin:\n  listen: 127.0.0.1:7780\n"),
            "node.yaml:9:3: admin.listen: 127.0.0.1:7780 is the API's already",
        ),
        (
            peer("discovery:\n  every: 999ms\n"),
            "node.yaml:9:3: discovery.every: 999ms is not between 1s and 1h",
        ),
        (
            peer("discovery:\n  server: 1.1.1.1:0\n"),
            "node.yaml:9:3: discovery.server: port 0 cannot be asked",
        ),
        (peer("").replace("key: k", "key: ''"), "node.yaml: identity.key: the path is empty"),
        (infrastructure("bootstrap", "dataDir: ''\n"), "node.yaml:6:1: dataDir: the path is empty"),
        (
            peer("dataDir: d\n"),
            "node.yaml:8:1: dataDir: a peer keeps only what identity.enrolment gave it; leave it out",
        ),
        (peer("log: ''\n"), "node.yaml:8:1: log: the filter is empty; leave it out for info"),
    ] {
        refused(&text, refusal);
    }
}

const ENROLLED: &str = "\
trustDomain: cluster.local
mesh: ns.main
role: gateway
identity:
  enrolment: {url: 'https://macula-operator.ns.svc', ca: ca.pem, token: /t}
  bundle: b
dataDir: d
seeds: [a]
counts: {listen: '0.0.0.0:7782', ca: ca.pem}
";

#[test]
fn a_node_that_enrols_needs_no_name_and_no_files_of_its_own() {
    let config = Config::from_yaml(ENROLLED, "node.yaml").unwrap();
    let config = config.relative_to(Path::new("/f"));
    assert!(config.name.is_none() && config.identity.files().is_err());
    let enrolment = config.identity.enrolment.as_ref().unwrap();
    assert_eq!(enrolment.url.to_string(), "https://macula-operator.ns.svc:7783");
    assert_eq!(
        (enrolment.ca.as_path(), enrolment.token.as_path()),
        (Path::new("/f/ca.pem"), Path::new("/t"))
    );
    assert_eq!(config.data_dir.as_deref(), Some(Path::new("/f/d")));
    assert_eq!(config.counts.as_ref().unwrap().ca, Path::new("/f/ca.pem"));
    assert_eq!(Config::from_yaml(&config.to_yaml(), "again").unwrap(), config);
}

#[test]
fn enrolment_and_files_exclude_each_other_and_one_must_be() {
    let enrolled = |from: &str, to: &str| ENROLLED.replace(from, to);
    for (text, refusal) in [
        (
            enrolled("  bundle: b", "  bundle: b\n  key: k"),
            "node.yaml:7:3: identity.key: with identity.enrolment the node makes its own; leave it out",
        ),
        (
            peer("").replace("key: k, ", ""),
            "node.yaml: identity.key: it is missing; or give identity.enrolment",
        ),
        (
            peer("").replace("certificate: c, ", ""),
            "node.yaml: identity.certificate: it is missing; or give identity.enrolment",
        ),
        (
            peer("").replace("name: shop.cart-0\n", ""),
            "node.yaml: name: it is missing; only with enrolment it may be",
        ),
        (
            enrolled("0.0.0.0:7782", "127.0.0.1:7781"),
            "node.yaml: counts.listen: 127.0.0.1:7781 is the address of health and metrics already",
        ),
        (
            enrolled(
                "counts: {listen: '0.0.0.0:7782', ca: ca.pem}",
                "counts: {listen: '0.0.0.0:7782', ca: ''}",
            ),
            "node.yaml: counts.ca: the path is empty",
        ),
        (
            peer("counts: {listen: '0.0.0.0:1', ca: c}\n"),
            "node.yaml:8:1: counts: a peer tells the operator nothing; only infrastructure has this",
        ),
    ] {
        refused(&text, refusal);
    }
}

#[test]
fn an_error_tells_its_place_to_programs_too() {
    let error = Config::from_yaml(&peer("log: ''\n"), "f").unwrap_err();
    assert_eq!(error.location(), Some(Location { line: 8, column: 1 }));
    assert_eq!(error.why(), "log: the filter is empty; leave it out for info");
}

#[track_caller]
fn refused(text: &str, refusal: &str) {
    let error = Config::from_yaml(text, "node.yaml").expect_err(text);
    assert_eq!(error.to_string(), refusal, "of\n{text}");
}

/// Seven lines, and `more` from the eighth.
fn peer(more: &str) -> String {
    format!(
        "trustDomain: cluster.local
mesh: ns.main
role: peer
realm: com.example.shop
name: shop.cart-0
identity: {{key: k, certificate: c, bundle: b}}
seeds: [a]
{more}"
    )
}

/// Five lines, and `more` from the sixth.
fn infrastructure(role: &str, more: &str) -> String {
    format!(
        "trustDomain: cluster.local
mesh: ns.main
role: {role}
name: main-0
identity: {{key: k, certificate: c, bundle: b}}
{more}"
    )
}
