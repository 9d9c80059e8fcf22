//! `in-network-of`: a command of this machine (its `iptables`, say) in the network of one of its pods.
//! The images of nodes hold one binary and nothing else, so that the tool must come from elsewhere.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Becomes the command, in the pod's network and with the files of process 1, which is the machine's.
pub(crate) fn enter(container: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let process = process_of(container)?;
    let network = File::open(process.join("ns/net"))?;
    let files = File::open("/proc/1/ns/mnt")?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter the pod's network")?;
    move_into_link_name_space(files.as_fd(), Some(LinkNameSpaceType::Mount))
        .context("cannot enter the machine's files")?;
    let (program, arguments) = command.split_first().context("no command")?;
    let error = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .exec();
    Err(error).with_context(|| format!("cannot run {program} on this machine"))
}

/// A process of this container: its control group carries the container's id.
fn process_of(container: &str) -> anyhow::Result<PathBuf> {
    let mut processes = fs::read_dir("/proc")?.filter_map(|entry| Some(entry.ok()?.path()));
    processes
        .find(|path| {
            fs::read_to_string(path.join("cgroup")).is_ok_and(|groups| groups.contains(container))
        })
        .with_context(|| format!("no process on this machine is of container {container}"))
}
