//! `macula-node run`: reads the file, lets the flags override it, and refuses by name what is wrong.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use macula_config::{Admin, Api, Config, EXAMPLE, Files, Seed};
use macula_identity::NodeName;
use macula_proto::Code;

use super::failure::Failure;
use super::logging::Logging;

/// What `run` is told.
#[derive(Args, Debug)]
#[command(after_help = format!("\
Examples:
  macula-node run --config node.yaml
  macula-node run --config node.yaml --listen 0.0.0.0:9444 --api 127.0.0.1:7790
  macula-node run --config node.yaml --check

It runs one node until SIGTERM or Ctrl-C. The file is valid by itself; a flag replaces what it
says. A complete file:

{EXAMPLE}"))]
pub(crate) struct Run {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Reads and checks file and flags, and ends
    #[arg(long)]
    pub(super) check: bool,
    /// The node's name
    #[arg(long, value_name = "NAME", help_heading = "Overrides")]
    name: Option<NodeName>,
    /// The UDP address for QUIC
    #[arg(long, value_name = "IP:PORT", help_heading = "Overrides")]
    listen: Option<SocketAddr>,
    /// A bootstrap's HOST or HOST:PORT, instead of all that the file has (may be repeated)
    #[arg(long = "seed", value_name = "SEED", help_heading = "Overrides")]
    seeds: Vec<Seed>,
    /// The HTTP API, on loopback
    #[arg(long, value_name = "IP:PORT", help_heading = "Overrides")]
    api: Option<SocketAddr>,
    /// Health and metrics
    #[arg(long, value_name = "IP:PORT", help_heading = "Overrides")]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    pub(super) logging: Logging,
}

impl Run {
    /// The configuration that file and flags make together.
    ///
    /// # Errors
    /// `invalid_config`, naming the file and the place in it, or the flag.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let Self { config: path, check: _, name, listen, seeds, api, admin, logging: _ } = self;
        let mut config = read(path)?;
        // Which keys are the flags' now, for the error that they may cause.
        let mut overridden: Vec<(&str, &str)> = Vec::new();
        if let Some(name) = name {
            config.name = Some(name.clone());
            overridden.push(("name", "--name"));
        }
        if let Some(listen) = *listen {
            config.listen = listen;
            overridden.push(("listen", "--listen"));
        }
        if !seeds.is_empty() {
            config.seeds.clone_from(seeds);
            overridden.push(("seeds", "--seed"));
        }
        if let Some(listen) = *api {
            config.api = Some(Api { listen });
            overridden.extend([("api.listen", "--api"), ("api", "--api")]);
        }
        if let Some(listen) = *admin {
            config.admin = Admin { listen };
            overridden.push(("admin.listen", "--admin"));
        }
        config.validate().map_err(|wrong| {
            let flag = overridden.iter().find(|(key, _)| *key == wrong.key).map(|(_, flag)| flag);
            let whole = match flag {
                Some(flag) => format!("{flag}: {}", wrong.why),
                None => {
                    format!("with these flags, {}: {}: {}", path.display(), wrong.key, wrong.why)
                }
            };
            invalid(&reading(path), whole)
        })?;
        // Those of a node that enrols may come later.
        let Ok(Files { key, certificate, bundle }) = config.identity.files() else {
            return Ok(config);
        };
        for (name, file) in [
            ("identity.key", &key),
            ("identity.certificate", &certificate),
            ("identity.bundle", &bundle),
        ] {
            readable(file).map_err(|why| {
                let because = format!("{}: {name}: {}: {why}", path.display(), file.display());
                invalid(&reading(path), because)
                    .with_next("`macula-node authority issue` makes the three files.")
            })?;
        }
        Ok(config)
    }
}

/// Reads a configuration file; its relative paths become those of its folder.
///
/// # Errors
/// `invalid_config`, naming the file and the place in it.
pub(super) fn read(path: &Path) -> Result<Config, Failure> {
    let shown = path.display().to_string();
    let text = read_text(path).map_err(|why| {
        invalid(&reading(path), format!("{shown}: {why}")).with_next(
            "Name the file with --config FILE; `macula-node run --help` shows a complete one.",
        )
    })?;
    let config = Config::from_yaml(&text, &shown)
        .map_err(|error| invalid(&reading(path), error.to_string()))?;
    Ok(config.relative_to(path.parent().unwrap_or(Path::new(""))))
}

/// More than any configuration; what is longer is another file, or a device.
const LONGEST_FILE: u64 = 1 << 20;

fn read_text(path: &Path) -> Result<String, String> {
    let file = open(path)?;
    let mut text = String::new();
    match file.take(LONGEST_FILE + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > LONGEST_FILE => {
            Err(format!("it has more than {LONGEST_FILE} bytes"))
        }
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err("it is not UTF-8".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a file is there and can be read, or why not.
pub(super) fn readable(path: &Path) -> Result<(), String> {
    open(path).map(drop)
}

fn open(path: &Path) -> Result<File, String> {
    let why = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "it may not be read".to_owned(),
        _ => error.to_string(),
    };
    let file = File::open(path).map_err(why)?;
    if file.metadata().map_err(why)?.is_dir() {
        return Err("it is a folder".to_owned());
    }
    Ok(file)
}

fn reading(path: &Path) -> String {
    format!("read the configuration {}", path.display())
}

pub(super) fn invalid(tried: &str, because: String) -> Failure {
    Failure::new(Code::InvalidConfig, tried, because)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// The documentation's own file, with the files that it names.
    fn folder() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("node.yaml"), EXAMPLE).unwrap();
        fs::create_dir(folder.path().join("tls")).unwrap();
        for name in ["node.key", "node.crt", "bundle.pem"] {
            fs::write(folder.path().join("tls").join(name), "").unwrap();
        }
        folder
    }

    fn run(folder: &TempDir) -> Run {
        Run {
            config: folder.path().join("node.yaml"),
            check: false,
            name: None,
            listen: None,
            seeds: vec![],
            api: None,
            admin: None,
            logging: Logging::default(),
        }
    }

    #[test]
    fn the_example_is_read_and_flags_replace_what_it_says() {
        let folder = folder();
        let config = run(&folder).config().unwrap();
        assert_eq!(config.identity.key, Some(folder.path().join("tls/node.key")));
        let config = Run {
            name: Some("shop.cart-1".parse().unwrap()),
            listen: Some("127.0.0.1:1".parse().unwrap()),
            seeds: vec!["10.0.0.1".parse().unwrap()],
            api: Some("127.0.0.1:2".parse().unwrap()),
            admin: Some("127.0.0.1:3".parse().unwrap()),
            ..run(&folder)
        }
        .config()
        .unwrap();
        assert_eq!(config.name.unwrap().as_str(), "shop.cart-1");
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.seeds.len(), 1);
        assert_eq!((config.api.unwrap().listen.port(), config.admin.listen.port()), (2, 3));
    }

    #[test]
    fn a_wrong_flag_is_named() {
        let folder = folder();
        let api = Some("0.0.0.0:7780".parse().unwrap());
        let failure = Run { api, ..run(&folder) }.config().unwrap_err();
        assert_eq!(failure.code, "invalid_config");
        assert!(failure.because.starts_with("--api: 0.0.0.0:7780 is not loopback"), "{failure:?}");
    }

    #[test]
    fn a_wrong_key_is_named_with_its_place() {
        let folder = folder();
        let path = folder.path().join("node.yaml");
        fs::write(&path, EXAMPLE.replace("\nlisten:", "\nlissen:")).unwrap();
        let failure = run(&folder).config().unwrap_err();
        assert!(failure.because.starts_with(&format!("{}:", path.display())), "{failure:?}");
        assert!(failure.because.contains("lissen"), "{failure:?}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = folder();
        fs::remove_file(folder.path().join("tls/node.crt")).unwrap();
        let failure = run(&folder).config().unwrap_err();
        assert!(failure.because.contains("identity.certificate: "), "{failure:?}");
        assert!(failure.because.ends_with("node.crt: there is no such file"), "{failure:?}");
        fs::remove_file(folder.path().join("node.yaml")).unwrap();
        let failure = run(&folder).config().unwrap_err();
        assert!(failure.because.ends_with("node.yaml: there is no such file"), "{failure:?}");
        let failure = Run { config: folder.path().into(), ..run(&folder) }.config().unwrap_err();
        assert!(failure.because.ends_with("it is a folder"), "{failure:?}");
    }
}
