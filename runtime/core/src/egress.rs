//! Where an address leads: what connectors and plugins may not call by mistake (reliability.md, 23).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Public,
    /// This machine, or a network that is not everybody's.
    Private,
    /// Metadata of clouds (link-local), multicast, nothing at all.
    Forbidden,
}

/// Metadata servers outside the link-local range: Alibaba, Oracle, Azure's wire server.
const METADATA: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
/// AWS, in the private range.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Of IPv6 addresses that stand for one of IPv4, that one's.
pub fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => match within(v6) {
            Some(v4) => reach_v4(v4),
            None => reach_v6(v6),
        },
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, _] = address.octets();
    if METADATA.contains(&address) || address.is_link_local() || address.is_multicast() || a >= 240 {
        Reach::Forbidden
    } else if address.is_private()
        || matches!(a, 0 | 127)
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && matches!(b, 18 | 19))
        || address.is_documentation()
    {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let head = address.segments()[0];
    if address == METADATA_V6 || head & 0xffc0 == 0xfe80 || address.is_multicast() {
        Reach::Forbidden
    } else if address.is_unspecified() || address.is_loopback() || head & 0xfe00 == 0xfc00 || head & 0xffc0 == 0xfec0 {
        Reach::Private
    } else {
        Reach::Public
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, NAT64, 6to4.
fn within(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches() {
        for (address, expected) in [
            ("8.8.8.8", Reach::Public),
            ("2606:4700::1", Reach::Public),
            ("127.0.0.1", Reach::Private),
            ("0.0.0.0", Reach::Private),
            ("10.1.2.3", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("198.18.0.1", Reach::Private),
            ("::1", Reach::Private),
            ("::", Reach::Private),
            ("fc00::1", Reach::Private),
            ("::ffff:127.0.0.1", Reach::Private),
            ("64:ff9b::7f00:1", Reach::Private),
            ("2002:7f00:1::", Reach::Private),
            ("::7f00:1", Reach::Private),
            ("169.254.169.254", Reach::Forbidden),
            ("::ffff:169.254.169.254", Reach::Forbidden),
            ("fe80::1", Reach::Forbidden),
            ("fd00:ec2::254", Reach::Forbidden),
            ("100.100.100.200", Reach::Forbidden),
            ("224.0.0.1", Reach::Forbidden),
            ("255.255.255.255", Reach::Forbidden),
        ] {
            assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
        }
    }
}
