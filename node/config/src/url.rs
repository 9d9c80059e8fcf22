//! The URL of the enrolment server: HTTPS, a host, and at most a port.

use std::fmt;
use std::str::FromStr;

use macula_identity::enrolment::PORT;

/// `https://HOST[:PORT]`; the port is 7783 when left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentUrl {
    host: Box<str>,
    port: u16,
}

impl EnrolmentUrl {
    /// The server of this host.
    ///
    /// # Errors
    /// When the host is not a DNS name or an IPv4 address.
    pub fn new(host: &str, port: u16) -> Result<Self, Error> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if host.is_empty() || host.len() > 253 || !host.chars().all(fits) {
            return Err(Error::Host(host.chars().take(80).collect()));
        }
        Ok(Self { host: host.into(), port })
    }

    /// The DNS name or address, for which the server's certificate must be.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for EnrolmentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

impl FromStr for EnrolmentUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix("https://").ok_or(Error::Scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        match rest.split_once(':') {
            None => Self::new(rest, PORT),
            Some((host, port)) => match port.parse() {
                Ok(port) if port > 0 => Self::new(host, port),
                Ok(_) | Err(_) => Err(Error::Port),
            },
        }
    }
}

/// Why a text is not the URL of an enrolment server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another scheme, or none.
    #[error("it begins with https://")]
    Scheme,
    /// Not a host.
    #[error("{0:?} is not a DNS name or an IPv4 address, and a path cannot be given")]
    Host(String),
    /// Not a port.
    #[error("the port is a number from 1 to 65535")]
    Port,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_with_and_without_a_port() {
        for (text, printed) in [
            ("https://a.b.svc", "https://a.b.svc:7783"),
            ("https://a.b.svc/", "https://a.b.svc:7783"),
            ("https://10.0.0.1:443", "https://10.0.0.1:443"),
        ] {
            assert_eq!(text.parse::<EnrolmentUrl>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn whatever_else_is_refused() {
        for text in
            ["", "http://a", "https://", "https://a:0", "https://a:x", "https://a/b", "https://a@b"]
        {
            assert!(text.parse::<EnrolmentUrl>().is_err(), "{text}");
        }
    }
}
