//! Asks DNS: the only user of hickory.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;

/// Turns names into addresses. Keeps no cache: whoever asks has decided that it is time.
#[derive(Clone)]
pub struct Resolver {
    hickory: TokioResolver,
    search: Vec<Name>,
    ndots: usize,
}

/// What a lookup found, at least one address in all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) v4: Family,
    pub(super) v6: Family,
}

/// What a lookup found in one address family.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// All of them; none when the name has none.
    Addresses(Vec<IpAddr>),
    /// The server failed to say, while the other family was found.
    Unknown,
}

/// Why a name has no addresses for now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No resolver can be made of a configuration.
    #[error("cannot set up a resolver: {0}")]
    Setup(NetError),
    /// The text is no DNS name.
    #[error("it is not a DNS name: {0}")]
    BadName(String),
    /// No name of the search path exists with an address.
    #[error("DNS knows no address for it")]
    NoSuchName,
    /// A server answered that it cannot answer.
    #[error("the DNS server answered {0}")]
    Refused(String),
    /// No server answered in time.
    #[error("the DNS server did not answer in time")]
    Silent,
    /// No server could be asked.
    #[error("the DNS server cannot be asked: {0}")]
    Unreachable(NetError),
}

impl Resolver {
    /// The system's: servers, search path and options of `/etc/resolv.conf`, and `/etc/hosts`. Without
    /// that file, or with none in it, the server of this machine (resolv.conf(5)).
    ///
    /// # Errors
    /// When no resolver can be made.
    pub fn from_system() -> Result<Self, Error> {
        match read_system_conf() {
            Ok((config, options)) if !config.name_servers().is_empty() => {
                Self::new(config, options)
            }
            Ok(_) | Err(_) => Self::at((Ipv4Addr::LOCALHOST, 53).into()),
        }
    }

    /// The addresses of a host that is a name or an address.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn addresses(
        &self,
        host: &str,
        patience: Duration,
    ) -> Result<Vec<IpAddr>, Error> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let Answer { v4, v6 } = self.lookup(host, patience).await?;
        let families = [v4, v6].into_iter().filter_map(|family| match family {
            Family::Addresses(addresses) => Some(addresses),
            Family::Unknown => None,
        });
        Ok(families.flatten().collect())
    }

    /// One server, no search path, no `/etc/hosts`.
    ///
    /// # Errors
    /// When no resolver can be made.
    pub fn at(server: SocketAddr) -> Result<Self, Error> {
        Self::with_search(server, &[])
    }

    /// One server and a search path, as a pod has it (`ndots:5`).
    pub(super) fn with_search(server: SocketAddr, search: &[&str]) -> Result<Self, Error> {
        let connections =
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
        let servers = vec![NameServerConfig::new(server.ip(), true, connections.into())];
        let search = search.iter().map(|name| parse(name)).collect::<Result<_, _>>()?;
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        options.ndots = 5;
        Self::new(ResolverConfig::from_parts(None, search, servers), options)
    }

    fn new(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, Error> {
        options.cache_size = 0;
        let ndots = options.ndots;
        let search = config.domain().into_iter().chain(config.search()).cloned().collect();
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let hickory = builder.build().map_err(Error::Setup)?;
        Ok(Self { hickory, search, ndots })
    }

    /// Looks for A and AAAA under each name of the search path, in order, and stops at the first
    /// that has any: a wildcard further down the path must not add a stranger's addresses.
    pub(super) async fn lookup(&self, host: &str, patience: Duration) -> Result<Answer, Error> {
        let walk = async {
            let mut failure = Error::NoSuchName;
            for name in self.candidates(host)? {
                match self.ask(name).await {
                    Ok(answer) => return Ok(answer),
                    Err(Error::NoSuchName) => {}
                    // As glibc does: the next name may still exist. But "the server failed" is
                    // what is told in the end, not "there is no such name".
                    Err(error @ Error::Refused(_)) => failure = error,
                    Err(
                        error @ (Error::Setup(_)
                        | Error::BadName(_)
                        | Error::Silent
                        | Error::Unreachable(_)),
                    ) => return Err(error),
                }
            }
            Err(failure)
        };
        match tokio::time::timeout(patience, walk).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Silent),
        }
    }

    /// The names to try, in order, as resolv.conf(5) has it.
    fn candidates(&self, host: &str) -> Result<Vec<Name>, Error> {
        let given = parse(host)?;
        let mut whole = given.clone();
        whole.set_fqdn(true);
        if given.is_fqdn() {
            return Ok(vec![whole]);
        }
        let mut names: Vec<_> =
            self.search.iter().filter_map(|end| given.clone().append_domain(end).ok()).collect();
        let dots = usize::from(given.num_labels()).saturating_sub(1);
        if dots >= self.ndots || given.is_localhost() {
            names.insert(0, whole);
        } else {
            names.push(whole);
        }
        for name in &mut names {
            name.set_fqdn(true);
        }
        let mut seen = Vec::with_capacity(names.len());
        names.retain(|name| {
            !seen.contains(name) && {
                seen.push(name.clone());
                true
            }
        });
        Ok(names)
    }

    async fn ask(&self, name: Name) -> Result<Answer, Error> {
        let (v4, v6) = tokio::join!(
            self.hickory.lookup(name.clone(), RecordType::A),
            self.hickory.lookup(name, RecordType::AAAA),
        );
        let addresses = |outcome: Result<hickory_resolver::lookup::Lookup, NetError>| match outcome
        {
            Ok(lookup) => {
                let found = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
                Ok(found.collect::<Vec<_>>())
            }
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(reason(error)),
        };
        match (addresses(v4), addresses(v6)) {
            (Ok(v4), Ok(v6)) if v4.is_empty() && v6.is_empty() => Err(Error::NoSuchName),
            (Ok(v4), Ok(v6)) => Ok(Answer { v4: Family::Addresses(v4), v6: Family::Addresses(v6) }),
            (Ok(v4), Err(_)) if !v4.is_empty() => {
                Ok(Answer { v4: Family::Addresses(v4), v6: Family::Unknown })
            }
            (Err(_), Ok(v6)) if !v6.is_empty() => {
                Ok(Answer { v4: Family::Unknown, v6: Family::Addresses(v6) })
            }
            (Err(error), Ok(_) | Err(_)) | (Ok(_), Err(error)) => Err(error),
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hickory: _, search, ndots } = self;
        f.debug_struct("Resolver")
            .field("search", search)
            .field("ndots", ndots)
            .finish_non_exhaustive()
    }
}

fn parse(name: &str) -> Result<Name, Error> {
    Name::from_str_relaxed(name).map_err(|error| Error::BadName(error.to_string()))
}

fn reason(error: NetError) -> Error {
    match error {
        NetError::Dns(DnsError::ResponseCode(code)) => Error::Refused(code.to_str().to_owned()),
        NetError::Timeout => Error::Silent,
        other => Error::Unreachable(other),
    }
}
