//! `macula-node authority`: makes by hand what an operator makes in a cluster.

mod files;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use clap::{Args, Subcommand};
use macula_identity::{
    Authority, Grants, Identity, MeshName, NodeName, Order, Place, RealmName, Role, Scope, Subject,
    TrustDomain,
};
use macula_proto::Code;
use rustls::pki_types::UnixTime;
use serde_json::json;

use super::dates;
use super::exit::Exit;
use super::failure::{Failure, Stop};
use super::output::{self, Format};
use crate::clock;
use files::{AuthorityDir, IdentityDir};

/// What `authority` is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node authority init --dir ca --mesh demo.main
  macula-node authority issue --dir ca --role bootstrap --name boot-0 --out boot-0
  macula-node authority issue --dir ca --role peer --realm com.example.shop --name cart --out cart")]
pub(crate) struct AuthorityArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Makes the authority of a new mesh: root certificate, its key, and the key of the node ids
    Init(Init),
    /// Signs a certificate for a node, and makes its key when it has none
    Issue(Issue),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  macula-node authority init --dir ca --mesh demo.main

DIR gets ca.pem (public), ca-key.pem and node-id-key (secret, mode 0600) and authority.json.
An authority that is there is never overwritten.")]
struct Init {
    /// The folder to make it in
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The mesh, NAMESPACE.NAME
    #[arg(long, value_name = "NS.NAME")]
    mesh: MeshName,
    /// The SPIFFE trust domain
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: TrustDomain,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node authority issue --dir ca --role bootstrap --name boot-0 --out boot-0
  macula-node authority issue --dir ca --role gateway --name gate-0 --out gate-0
  macula-node authority issue --dir ca --role peer --realm com.example.shop --name cart --out cart

OUT gets key.pem (secret, mode 0600), certificate.pem and bundle.pem. A key that is there is kept,
so the same command renews: a running node reloads its files and keeps its id.")]
struct Issue {
    /// The authority's folder
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What the node does for the mesh
    #[arg(long, value_parser = role())]
    role: Role,
    /// A peer's realm
    #[arg(long, value_name = "REALM", required_if_eq("role", "peer"))]
    realm: Option<RealmName>,
    /// The node's name within its role
    #[arg(long, value_name = "NAME")]
    name: NodeName,
    /// Lets a peer keep records for its realm (infrastructure always may)
    #[arg(long)]
    server: bool,
    /// The folder for the node's files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long the certificate is valid, such as 24h
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = super::positive_period)]
    lifetime: Duration,
}

fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.iter().map(|role| role.as_str()))
        .try_map(|text| text.parse::<Role>())
}

/// Makes an authority, or a certificate.
pub(crate) fn run(args: AuthorityArgs, format: Format) -> Result<Exit, Stop> {
    let now = clock::unix_time();
    match args.command {
        Command::Init(args) => init(args, now, format),
        Command::Issue(args) => issue(args, now, format),
    }
}

fn init(args: Init, now: UnixTime, format: Format) -> Result<Exit, Stop> {
    let Init { dir, mesh, trust_domain } = args;
    let scope = Scope { trust_domain, mesh };
    let authority = Authority::new(scope, now);
    AuthorityDir::new(&dir).create(&authority)?;
    let (scope, expires) = (authority.scope(), dates::utc(authority.root().not_after()));
    let shown = dir.display();
    match format {
        Format::Json => output::json(&json!({
            "dir": dir, "mesh": scope.mesh.as_str(), "trust_domain": scope.trust_domain.as_str(),
            "root": authority.root().id().to_string(), "not_after": authority.root().not_after(),
        }))?,
        Format::Text => output::line(format_args!(
            "made the authority of {scope}\n  root      {}, until {expires}\n  public    \
             {shown}/ca.pem\n  secret    {shown}/ca-key.pem, {shown}/node-id-key\n\nnext: \
             macula-node authority issue --dir {shown} --role bootstrap --name boot-0 --out boot-0",
            authority.root().id(),
        ))?,
    }
    Ok(Exit::Ok)
}

fn issue(args: Issue, now: UnixTime, format: Format) -> Result<Exit, Stop> {
    let Issue { dir, role, realm, name, server, out, lifetime } = args;
    let tried = format!("issue a certificate for {role} {name}");
    let place = place(role, realm).map_err(|why| {
        Failure::new(Code::InvalidRequest, &tried, why)
            .with_next("`macula-node authority issue --help` has an example for each role.")
    })?;
    let authority = AuthorityDir::new(&dir).open()?;
    let subject = authority.scope().subject(place, name);
    let folder = IdentityDir::new(&out);
    let (key, kept) = folder.key()?;
    let refuse = |error: &dyn std::fmt::Display| {
        Failure::new(Code::InvalidRequest, &tried, error.to_string())
            .with_next("Correct the order, or look at the authority's folder.")
    };
    let order = Order { subject, grants: Grants { server }, lifetime };
    let chain = authority.issue(&key.csr_der(), &order, now).map_err(|error| refuse(&error))?;
    let bundle = authority.bundle();
    let identity = chain.verify(&bundle, authority.scope(), now).map_err(|error| refuse(&error))?;
    folder.write(&key, &chain, &bundle)?;
    print(&identity, &folder, kept, now, format)?;
    Ok(Exit::Ok)
}

fn place(role: Role, realm: Option<RealmName>) -> Result<Place, String> {
    match (role, realm) {
        (Role::Bootstrap, None) => Ok(Place::Bootstrap),
        (Role::Gateway, None) => Ok(Place::Gateway),
        (Role::Peer, Some(realm)) => Ok(Place::Realm(realm)),
        (Role::Bootstrap | Role::Gateway, Some(_)) => {
            Err(format!("--realm: a {role} serves every realm and belongs to none"))
        }
        (Role::Peer, None) => Err("--realm: it is missing, and a peer belongs to one".to_owned()),
    }
}

fn print(
    identity: &Identity,
    folder: &IdentityDir,
    kept: bool,
    now: UnixTime,
    format: Format,
) -> Result<(), Stop> {
    let config = config(&identity.subject, folder);
    let Identity { id, subject, grants, not_after, .. } = identity;
    let [key, certificate, bundle] = folder.paths();
    match format {
        Format::Json => output::json(&json!({
            "subject": subject.to_string(), "node_id": id.to_string(), "not_after": not_after,
            "server": grants.server, "key": key, "key_kept": kept, "certificate": certificate,
            "bundle": bundle, "config": config,
        })),
        Format::Text => {
            let (expires, left) = (dates::utc(*not_after), dates::rough(identity.remaining(now)));
            let made = if kept { "kept" } else { "new, secret" };
            let server = if grants.server { "keeps records for others" } else { "keeps none" };
            output::line(format_args!(
                "issued {subject}\n  node id      {id}\n  expires      {expires}, in {left}\n  \
                 records      {server}\n  key          {} ({made})\n  certificate  {}\n  \
                 bundle       {}\n\nnext: write this to node.yaml, then: \
                 macula-node run --config node.yaml\n\n{config}",
                key.display(),
                certificate.display(),
                bundle.display(),
            ))
        }
    }
}

/// A configuration file for this node: complete but for the addresses of its seeds.
fn config(subject: &Subject, folder: &IdentityDir) -> String {
    let Subject { trust_domain, mesh, place: _, name } = subject;
    let role = subject.role();
    let realm = subject.realm().map(|realm| format!("realm: {realm}\n")).unwrap_or_default();
    let [key, certificate, bundle] = folder.paths().map(|path| {
        let path = std::path::absolute(&path).unwrap_or(path);
        // A JSON string is a YAML string, whatever the path has in it.
        json!(path.to_string_lossy()).to_string()
    });
    let seeds = match role {
        Role::Bootstrap => "# seeds: [10.0.0.8:9443]       # the other bootstraps, if any\n",
        Role::Gateway | Role::Peer => {
            "seeds: [\"127.0.0.1:9443\"]      # where bootstraps listen\n"
        }
    };
    let api = match role {
        Role::Bootstrap | Role::Gateway => "",
        Role::Peer => "api:\n  listen: 127.0.0.1:7780\n",
    };
    format!(
        "trustDomain: {trust_domain}\nmesh: {mesh}\nrole: {role}\n{realm}name: {name}\nidentity:\n  \
         key: {key}\n  certificate: {certificate}\n  bundle: {bundle}\nlisten: 0.0.0.0:9443\n{seeds}\
         {api}admin:\n  listen: 127.0.0.1:7781"
    )
}

#[cfg(test)]
mod tests;
