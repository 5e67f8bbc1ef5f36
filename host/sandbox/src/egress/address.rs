//! Which addresses are the world, and which belong to somebody's house. Pure, but for [`is_own`].
//!
//! An address that is not of the public internet is denied unless the operator has allowed its network: an
//! activity must not reach the host it runs on, the neighbours of that host, or the metadata service of
//! its cloud. An IPv6 address that carries an IPv4 address is judged as that one, because a gateway on
//! the way may unpack it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::str::FromStr;

/// What an address that is not public is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Class {
    #[error("the unspecified address")]
    Unspecified,
    #[error("a loopback address")]
    Loopback,
    #[error("a private address")]
    Private,
    #[error("a link-local address, as cloud metadata services have")]
    LinkLocal,
    #[error("an address of a carrier's NAT")]
    Shared,
    #[error("a multicast address")]
    Multicast,
    #[error("the broadcast address")]
    Broadcast,
    #[error("an address for documentation or measurements")]
    Documentation,
    #[error("a reserved address")]
    Reserved,
    #[error("an address that a cloud platform has for its own machines")]
    Platform,
    #[error("an address of this host")]
    Own,
}

/// Published addresses of cloud platforms that look public and mean something else on their machines: services that
/// trust whoever asks from there. The others that platforms publish are of [`V4`] and [`V6`] anyway: 169.254.169.254
/// (AWS, Azure, Google, Oracle, DigitalOcean, Hetzner, OpenStack), 169.254.170.2 and .23 (AWS ECS, EKS), 169.254.0.23
/// (Tencent) and `fe80::a9fe:a9fe` (OpenStack) are link-local; 100.100.100.200 (Alibaba) is a carrier's; `fd00:ec2::254`
/// and `fd00:ec2::23` (AWS), `fd20:ce::254` (Google), `fd00:c1::a9fe:a9fe` (Oracle) and `fd00:42::42` (Scaleway) are private;
/// 192.0.0.192 (Oracle's first) is reserved.
const PLATFORM_V4: [([u8; 4], u8); 4] = [
    // Azure's WireServer: learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
    ([168, 63, 129, 16], 32),
    // Services of a cluster on Google's Kubernetes, its API among them:
    // cloud.google.com/kubernetes-engine/docs/concepts/alias-ips#cluster_sizing
    ([34, 118, 224, 0], 20),
    // IBM Cloud's infrastructure and private service endpoints:
    // cloud.ibm.com/docs/vpc?topic=vpc-service-endpoints-for-vpc
    ([161, 26, 0, 0], 16),
    ([166, 8, 0, 0], 14),
];

/// IPv4 blocks that are not public, from IANA's registry of special-purpose addresses. The first that
/// matches gives the class.
const V4: [([u8; 4], u8, Class); 19] = [
    ([0, 0, 0, 0], 32, Class::Unspecified),
    ([0, 0, 0, 0], 8, Class::Reserved),
    ([10, 0, 0, 0], 8, Class::Private),
    ([100, 64, 0, 0], 10, Class::Shared),
    ([127, 0, 0, 0], 8, Class::Loopback),
    ([169, 254, 0, 0], 16, Class::LinkLocal),
    ([172, 16, 0, 0], 12, Class::Private),
    ([192, 0, 0, 0], 24, Class::Reserved),
    ([192, 0, 2, 0], 24, Class::Documentation),
    ([192, 31, 196, 0], 24, Class::Reserved),
    ([192, 52, 193, 0], 24, Class::Reserved),
    ([192, 88, 99, 0], 24, Class::Reserved),
    ([192, 168, 0, 0], 16, Class::Private),
    ([192, 175, 48, 0], 24, Class::Reserved),
    ([198, 18, 0, 0], 15, Class::Documentation),
    ([198, 51, 100, 0], 24, Class::Documentation),
    ([203, 0, 113, 0], 24, Class::Documentation),
    ([224, 0, 0, 0], 4, Class::Multicast),
    ([255, 255, 255, 255], 32, Class::Broadcast),
];

/// IPv6 blocks that are not public, though they lie in `2000::/3`, which is all that is public, or whose
/// class says more than "reserved".
const V6: [([u16; 8], u8, Class); 9] = [
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, Class::Unspecified),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Class::Loopback),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Class::Private),
    // Site-local: deprecated, and still routed here and there.
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Class::Private),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Class::LinkLocal),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Class::Multicast),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Class::Documentation),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Class::Documentation),
    // The protocol assignments, without Teredo, which has been unpacked before.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Class::Reserved),
];

/// What the address is for; none: it is public.
pub(crate) fn class(address: IpAddr) -> Option<Class> {
    match unpacked(address) {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => {
            let found = V6.iter().find(|(net, prefix, _)| in_v6(address, Ipv6Addr::from(*net), *prefix));
            let reserved = || (address.segments()[0] & 0xe000 != 0x2000).then_some(Class::Reserved);
            found.map(|(_, _, class)| *class).or_else(reserved).or_else(|| class_v4(isatap(address)?))
        }
    }
}

fn class_v4(address: Ipv4Addr) -> Option<Class> {
    let found = V4.iter().find(|(net, prefix, _)| in_v4(address, Ipv4Addr::from(*net), *prefix));
    // What is left of 240.0.0.0/4 was never given out.
    let reserved = || (address.octets()[0] >= 240).then_some(Class::Reserved);
    let platform = || {
        let is_platform =
            PLATFORM_V4.iter().any(|(net, prefix)| in_v4(address, Ipv4Addr::from(*net), *prefix));
        is_platform.then_some(Class::Platform)
    };
    found.map(|(_, _, class)| *class).or_else(reserved).or_else(platform)
}

/// Whether the address is one of this machine's interfaces, of whatever kind: nobody else has it, and from
/// itself a machine goes to it. The system is asked where it would send from, each time, for interfaces come and go;
/// nothing is sent.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let address = unpacked(address);
    let any =
        if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        // The discard service; it is not asked.
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address)
}

/// The IPv4 address at the end of a tunnel within a site (ISATAP). The network that it stands in counts
/// as well: `fe80::5efe:1.1.1.1` is no public address.
fn isatap(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., e, f, g, h] = address.segments();
    (matches!(e, 0 | 0x200) && f == 0x5efe).then(|| joined(g, h))
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))
}

/// The IPv4 address that an IPv6 address carries, or the address itself.
pub(crate) fn unpacked(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(joined(high, low));
    match [a, b, c, d, e, f] {
        // Compatible (::a.b.c.d, deprecated), without :: and ::1; mapped; translated (SIIT).
        [0, 0, 0, 0, 0, 0] if (g, h) != (0, 0) && (g, h) != (0, 1) => v4(g, h),
        [0, 0, 0, 0, 0, 0xffff] | [0, 0, 0, 0, 0xffff, 0] => v4(g, h),
        // NAT64 with the well-known prefix. Where the one for networks of one's own (64:ff9b:1::/48) has
        // its IPv4 address is that network's affair: it is not public, whatever it carries.
        [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        // 6to4 carries the gateway's address, Teredo the client's, inverted.
        [0x2002, high, low, ..] => v4(high, low),
        [0x2001, 0, ..] => v4(!g, !h),
        _ => address,
    }
}

/// A network, as `127.0.0.0/8`. A bare address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write an address and the bits of its prefix, such as 10.1.0.0/16 or fd00::/8")]
pub struct NotANetwork(String);

impl Network {
    /// Whether the address, or the IPv4 address that it carries, is one of the network.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        [address, unpacked(address)].into_iter().any(|address| match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(address)) => in_v4(address, net, self.prefix),
            (IpAddr::V6(net), IpAddr::V6(address)) => in_v6(address, net, self.prefix),
            _ => false,
        })
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |prefix| prefix.parse::<u8>().map_err(|_| wrong()))?;
        let network = Self { address, prefix };
        // A bit beyond the prefix is a slip of the pen: what is meant, nobody can tell.
        let is_first = match address {
            IpAddr::V4(v4) => v4.to_bits() & !mask_v4(prefix.min(32)) == 0,
            IpAddr::V6(v6) => v6.to_bits() & !mask_v6(prefix.min(128)) == 0,
        };
        if prefix <= bits && is_first { Ok(network) } else { Err(wrong()) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn in_v4(address: Ipv4Addr, net: Ipv4Addr, prefix: u8) -> bool {
    (address.to_bits() ^ net.to_bits()) & mask_v4(prefix) == 0
}

fn in_v6(address: Ipv6Addr, net: Ipv6Addr, prefix: u8) -> bool {
    (address.to_bits() ^ net.to_bits()) & mask_v6(prefix) == 0
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_that_is_not_public_has_its_class() {
        for (address, expected) in [
            ("0.0.0.0", Class::Unspecified),
            ("0.1.2.3", Class::Reserved),
            ("10.0.0.1", Class::Private),
            ("10.255.255.255", Class::Private),
            ("100.64.0.1", Class::Shared),
            ("100.127.255.255", Class::Shared),
            ("127.0.0.1", Class::Loopback),
            ("127.255.255.254", Class::Loopback),
            ("169.254.169.254", Class::LinkLocal),
            ("169.254.170.2", Class::LinkLocal),
            ("172.16.0.1", Class::Private),
            ("172.31.255.255", Class::Private),
            ("192.0.0.192", Class::Reserved),
            ("192.0.2.1", Class::Documentation),
            ("192.88.99.1", Class::Reserved),
            ("192.168.1.1", Class::Private),
            ("192.175.48.1", Class::Reserved),
            ("198.18.0.1", Class::Documentation),
            ("198.19.255.255", Class::Documentation),
            ("198.51.100.7", Class::Documentation),
            ("203.0.113.7", Class::Documentation),
            ("224.0.0.1", Class::Multicast),
            ("239.255.255.255", Class::Multicast),
            ("240.0.0.1", Class::Reserved),
            ("255.255.255.255", Class::Broadcast),
            ("::", Class::Unspecified),
            ("::1", Class::Loopback),
            ("fc00::1", Class::Private),
            ("fd00:ec2::254", Class::Private),
            ("fe80::1", Class::LinkLocal),
            ("febf::1", Class::LinkLocal),
            ("fec0::1", Class::Private),
            ("ff02::1", Class::Multicast),
            ("2001:db8::1", Class::Documentation),
            ("3fff::1", Class::Documentation),
            ("2001:2::1", Class::Reserved),
            ("100::1", Class::Reserved),
            ("5f00::1", Class::Reserved),
            // What platforms publish.
            ("168.63.129.16", Class::Platform),
            ("::ffff:168.63.129.16", Class::Platform),
            ("64:ff9b::a83f:8110", Class::Platform),
            ("34.118.224.1", Class::Platform),
            ("34.118.239.255", Class::Platform),
            ("161.26.0.10", Class::Platform),
            ("166.11.255.255", Class::Platform),
            ("100.100.100.200", Class::Shared),
            ("169.254.170.23", Class::LinkLocal),
            ("169.254.0.23", Class::LinkLocal),
            ("fd00:ec2::23", Class::Private),
            ("fd20:ce::254", Class::Private),
            ("fd00:c1::a9fe:a9fe", Class::Private),
            ("fd00:42::42", Class::Private),
            ("fe80::a9fe:a9fe", Class::LinkLocal),
            // IPv4 within IPv6, in every way there is.
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::ffff:169.254.169.254", Class::LinkLocal),
            ("::127.0.0.1", Class::Loopback),
            ("::ffff:0:10.0.0.1", Class::Private),
            ("64:ff9b::10.0.0.1", Class::Private),
            ("64:ff9b::a9fe:a9fe", Class::LinkLocal),
            ("64:ff9b:1::808:808", Class::Reserved),
            ("2002:7f00:1::1", Class::Loopback),
            ("2002:a9fe:a9fe::", Class::LinkLocal),
            ("2002:c0a8:101:5::9", Class::Private),
            // Teredo: the client's address is the inverse of 192.168.1.1.
            ("2001:0:4136:e378:8000:63bf:3f57:fefe", Class::Private),
            ("2606:4700::5efe:10.0.0.1", Class::Private),
            ("2606:4700:0:0:200:5efe:7f00:1", Class::Loopback),
            ("fe80::5efe:1.1.1.1", Class::LinkLocal),
        ] {
            assert_eq!(class(address.parse().unwrap()), Some(expected), "{address}");
        }
    }

    #[test]
    fn what_lies_beside_a_block_is_public() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "34.118.223.255",
            "34.118.240.0",
            "161.25.255.255",
            "166.12.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert_eq!(class(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn a_machine_knows_its_own_addresses() {
        for (address, own) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.1", false),
            ("1.1.1.1", false),
            ("2606:4700::1111", false),
        ] {
            assert_eq!(is_own(address.parse().unwrap()), own, "{address}");
        }
        // Where it would send from to the world, if it can, is its own.
        let world = UdpSocket::bind("0.0.0.0:0").unwrap();
        if world.connect("192.0.2.1:9").is_ok() {
            assert!(is_own(world.local_addr().unwrap().ip()));
        }
    }

    #[test]
    fn a_network_holds_its_addresses_in_every_guise() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let holds = |net: &str, address: &str| network(net).contains(address.parse().unwrap());
        assert!(holds("127.0.0.0/8", "127.9.9.9"));
        assert!(holds("127.0.0.0/8", "::ffff:127.0.0.1"));
        assert!(holds("10.1.2.3", "10.1.2.3"));
        assert!(holds("0.0.0.0/0", "255.1.2.3"));
        assert!(holds("::/0", "fd00::1"));
        assert!(holds("fd00::/8", "fdff::1"));
        assert!(!holds("127.0.0.0/8", "128.0.0.1"));
        assert!(!holds("127.0.0.0/8", "::1"));
        assert!(!holds("10.1.2.3", "10.1.2.4"));
        assert!(!holds("fd00::/8", "fc00::1"));
        assert_eq!(network("10.1.0.0/16").to_string(), "10.1.0.0/16");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "fd00::/129",
            "localhost",
            "010.0.0.0/8",
            "127.1/8",
            "fd00::1/8",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork(text.to_owned())), "{text}");
        }
    }
}
