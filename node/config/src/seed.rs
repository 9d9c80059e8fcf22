//! A seed: a name or an address, and a port, where a bootstrap may be found.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::DEFAULT_PORT;

/// Where bootstraps may be found. Written `host`, `host:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed {
    /// The name or address.
    pub host: Host,
    /// The UDP port; [`DEFAULT_PORT`] when left out.
    pub port: u16,
}

/// The host of a [`Seed`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A DNS name, as it was written: completed by the search path unless it ends with a dot.
    Name(String),
    /// An address, which is never looked up.
    Ip(IpAddr),
}

/// Why a text is not a seed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {given:?} is refused: {why}")]
pub struct ParseError {
    given: String,
    why: &'static str,
}

impl FromStr for Seed {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |why| ParseError { given: text.chars().take(80).collect(), why };
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { host: Host::Ip(ip), port: DEFAULT_PORT });
        }
        if let Some(ip) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let ip: Ipv6Addr = ip.parse().map_err(|_| refuse("no IPv6 address in brackets"))?;
            return Ok(Self { host: Host::Ip(ip.into()), port: DEFAULT_PORT });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let port = nonzero(address.port()).ok_or_else(|| refuse("port 0 cannot be dialled"))?;
            return Ok(Self { host: Host::Ip(address.ip()), port });
        }
        if text.contains("://") {
            return Err(refuse("it is written host:port, without a scheme"));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => {
                let port = port.parse().map_err(|_| refuse("its port is not a number to 65535"))?;
                (name, nonzero(port).ok_or_else(|| refuse("port 0 cannot be dialled"))?)
            }
            None => (text, DEFAULT_PORT),
        };
        host_name(name).map_err(refuse)?;
        Ok(Self { host: Host::Name(name.to_owned()), port })
    }
}

fn nonzero(port: u16) -> Option<u16> {
    (port != 0).then_some(port)
}

/// RFC 1123 §2.1, and the underscore that some clusters use.
fn host_name(name: &str) -> Result<(), &'static str> {
    let labels = name.strip_suffix('.').unwrap_or(name);
    if labels.is_empty() {
        return Err("it has no host");
    }
    if labels.len() > 253 {
        return Err("its name has more than 253 bytes");
    }
    for label in labels.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("a part between dots has no bytes or more than 63");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Err("a name has letters, digits, '-', '_' and '.'");
        }
    }
    // 10.0.0.300 or 1.2.3: nobody's name, and somebody's typing error.
    let last = labels.rsplit('.').next().unwrap_or(labels);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it is neither an address nor a name");
    }
    Ok(())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl From<SocketAddr> for Seed {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: address.port() }
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        crate::text::deserialize(from)
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        crate::text::serialize(self, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completes_the_port_and_prints_what_it_reads() {
        for (given, whole) in [
            ("main-bootstrap.macula-system.svc", "main-bootstrap.macula-system.svc:9443"),
            ("seed.example.com.:1", "seed.example.com.:1"),
            ("localhost:9000", "localhost:9000"),
            ("10.0.0.7", "10.0.0.7:9443"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("::1", "[::1]:9443"),
            ("[::1]", "[::1]:9443"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
        ] {
            let seed: Seed = given.parse().unwrap();
            assert_eq!(seed.to_string(), whole);
            assert_eq!(whole.parse(), Ok(seed), "{whole}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_dialled() {
        for (given, why) in [
            ("", "it has no host"),
            (":9443", "it has no host"),
            ("a:0", "port 0 cannot be dialled"),
            ("10.0.0.7:0", "port 0 cannot be dialled"),
            ("a:65536", "its port is not a number to 65535"),
            ("a:b", "its port is not a number to 65535"),
            ("https://a:1", "it is written host:port, without a scheme"),
            ("10.0.0.300:9443", "it is neither an address nor a name"),
            ("a..b", "a part between dots has no bytes or more than 63"),
            ("a b", "a name has letters, digits, '-', '_' and '.'"),
            ("[::g]", "no IPv6 address in brackets"),
        ] {
            let refused = given.parse::<Seed>().unwrap_err().to_string();
            assert_eq!(refused, format!("seed {given:?} is refused: {why}"));
        }
    }
}
