//! Which network an address is in, so that one of them does not fill a table: whoever rents a network has
//! all of its addresses, and so every node behind them (Marcus, Heilman and Goldberg, 2018, on Ethereum).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::Contact;

/// The most contacts of one public network in a bucket, as of go-libp2p's filter. Two, so that the loss of one
/// network leaves nine in ten.
pub(crate) const MAX_PER_BUCKET: usize = 2;
/// The most contacts of one public network in a table.
pub(crate) const MAX_PER_TABLE: usize = 10;

/// What one owner commonly has: of IPv4 a /24, the smallest network that is routed on its own, of IPv6 a
/// /48, the smallest that a registry gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subnet {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Subnet {
    /// The network of a public address. Others have none that counts: a cluster is one subnet.
    fn of(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                is_public_v4(ip).then_some(Self::V4([a, b, c]))
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                is_public_v6(ip).then_some(Self::V6([a, b, c, d, e, f]))
            }
        }
    }
}

/// The public networks that a contact is in, each once.
pub(crate) fn of(contact: &Contact) -> Vec<Subnet> {
    let mut subnets = Vec::new();
    for subnet in contact.addresses.iter().filter_map(|address| Subnet::of(address.ip())) {
        if !subnets.contains(&subnet) {
            subnets.push(subnet);
        }
    }
    subnets
}

/// Whether one more contact in these networks leaves each of them at most so many.
pub(crate) fn fits<'a>(
    subnets: &[Subnet],
    others: impl Iterator<Item = &'a Contact>,
    most: usize,
) -> bool {
    if subnets.is_empty() {
        return true;
    }
    let mut counts = vec![0; subnets.len()];
    for other in others {
        let theirs = of(other);
        for (subnet, count) in subnets.iter().zip(&mut counts) {
            *count += usize::from(theirs.contains(subnet));
        }
    }
    counts.into_iter().all(|count| count < most)
}

const fn is_public_v4(ip: Ipv4Addr) -> bool {
    // 100.64.0.0/10: carriers' NAT (RFC 6598).
    let is_shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared)
}

const fn is_public_v6(ip: Ipv6Addr) -> bool {
    !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(ip: &str) -> Option<Subnet> {
        Subnet::of(ip.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_owner_are_in_one_network_and_the_next_are_not() {
        assert_eq!(subnet("203.0.113.0"), subnet("203.0.113.255"));
        assert_eq!(subnet("203.0.113.0"), subnet("::ffff:203.0.113.7"));
        assert_ne!(subnet("203.0.113.0"), subnet("203.0.114.0"));
        assert_eq!(subnet("2001:db8:1::"), subnet("2001:db8:1:ffff::1"));
        assert_ne!(subnet("2001:db8:1::"), subnet("2001:db8:2::"));
    }

    #[test]
    fn what_is_not_public_is_in_none_and_its_neighbours_are() {
        for (inside, outside) in [
            ("10.255.255.255", "11.0.0.0"),
            ("172.31.255.255", "172.32.0.0"),
            ("192.168.255.255", "192.169.0.0"),
            ("127.0.0.1", "128.0.0.1"),
            ("169.254.255.255", "169.255.0.0"),
            ("100.64.0.0", "100.63.255.255"),
            ("100.127.255.255", "100.128.0.0"),
            ("::1", "::2"),
            ("fdff::1", "fe00::1"),
            ("febf::1", "fec0::1"),
            ("::ffff:10.0.0.1", "::ffff:11.0.0.1"),
        ] {
            assert_eq!(subnet(inside), None, "{inside}");
            assert!(subnet(outside).is_some(), "{outside}");
        }
    }
}
