//! `macula-node dev`: a whole mesh in one process. What to run is decided here; `crate::dev` runs it.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use macula_identity::RealmName;

use super::logging::Logging;
use super::output::Format;
use crate::dev::Options;

/// What `dev` is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node dev
  macula-node dev -- sh -c 'curl -s \"$MACULA_URL/v1/status\"'
  macula-node dev --realm com.example.shop --join-file /tmp/join.json

A bootstrap, a gateway and two peers, with an authority of their own; nothing is kept. With a
command the mesh is a separate one on free ports, the command finds its peer in MACULA_URL, and
`dev` ends with the command and with its exit code.")]
pub(crate) struct Dev {
    /// The first peer's HTTP API [default: 127.0.0.1:7780, or a free port with a command]
    #[arg(long, value_name = "IP:PORT", value_parser = super::loopback)]
    api: Option<SocketAddr>,
    /// The second peer's HTTP API [default: 127.0.0.1:7790, or a free port with a command]
    #[arg(long, value_name = "IP:PORT", value_parser = super::loopback)]
    second_api: Option<SocketAddr>,
    /// The realm of both peers
    #[arg(long, value_name = "NAME", default_value = "dev.local")]
    realm: RealmName,
    /// Where the join file for programs that use the library is written [default: a temporary file]
    #[arg(long, value_name = "PATH")]
    join_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) logging: Logging,
    /// A command to run beside the first peer
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Dev {
    /// What to run, with the defaults that depend on one another.
    pub(super) fn options(self, format: Format) -> Options {
        let Self { api, second_api, realm, join_file, logging: _, command } = self;
        let usual = |port| {
            let port = if command.is_empty() { port } else { 0 };
            (Ipv4Addr::LOCALHOST, port).into()
        };
        let apis = [api.unwrap_or_else(|| usual(7780)), second_api.unwrap_or_else(|| usual(7790))];
        let json = format == Format::Json;
        Options { apis, realm, join_file, command, json, ..Options::default() }
    }
}
