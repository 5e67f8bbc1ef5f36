//! Who is in: connections counted, all and by peer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bounds::Room;

/// Those who are in. Cheap to clone: all clones are one.
#[derive(Clone)]
pub(super) struct Crowd {
    room: Room,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    all: usize,
    peers: HashMap<IpAddr, usize>,
}

/// A connection's place. Dropped, it is another's.
pub(super) struct Place {
    crowd: Crowd,
    peer: IpAddr,
}

impl Crowd {
    pub(super) fn new(room: Room) -> Self {
        Self { room, inside: Arc::default() }
    }

    /// A place for a connection from `address`, if there is one.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let peer = peer(address);
        let mut inside = self.inside();
        if inside.all >= self.room.all {
            return None;
        }
        let of_peer = inside.peers.entry(peer).or_default();
        if *of_peer >= self.room.peer {
            return None;
        }
        *of_peer += 1;
        inside.all += 1;
        Some(Place { crowd: self.clone(), peer })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.crowd.inside();
        inside.all -= 1;
        let left = inside.peers.get_mut(&self.peer).map(|of_peer| {
            *of_peer -= 1;
            *of_peer
        });
        if left == Some(0) {
            inside.peers.remove(&self.peer);
        }
    }
}

/// Who is counted as one: an IPv4 address in either guise, or the /64 of an IPv6 address, which one machine has
/// to itself.
fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_takes_no_more_than_its_part_and_leaves_it_when_it_goes() {
        let crowd = Crowd::new(Room { all: 3, peer: 2 });
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let (first, _second) = (enter("192.0.2.1").unwrap(), enter("::ffff:192.0.2.1").unwrap());
        assert!(enter("192.0.2.1").is_none(), "in whatever guise");
        let _other = enter("2001:db8::1").unwrap();
        assert!(enter("192.0.2.9").is_none(), "three are all");
        drop(first);
        let again = enter("2001:db8::2:3").unwrap();
        drop(again);
        assert!(enter("192.0.2.1").is_some());
    }

    #[test]
    fn a_site_is_one_peer_however_many_addresses_it_has() {
        let crowd = Crowd::new(Room { all: 9, peer: 1 });
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let _one = enter("2001:db8:0:1::1").unwrap();
        assert!(enter("2001:db8:0:1:ffff::2").is_none());
        let _two = enter("2001:db8:0:2::1").unwrap();
        let _me = enter("::1").unwrap();
    }

    #[test]
    fn nothing_is_remembered_of_those_who_have_left() {
        let crowd = Crowd::new(Room { all: 9, peer: 9 });
        drop(crowd.enter("192.0.2.1".parse().unwrap()));
        assert!(crowd.inside().peers.is_empty() && crowd.inside().all == 0);
    }
}
