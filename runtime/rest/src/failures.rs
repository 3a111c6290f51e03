//! Failed logins by address and user, in a bounded table: each further one costs a longer wait.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;
use tokio::time::Instant;

/// Typing errors are free.
const FREE: u32 = 5;
/// Of one address with whatever names: several people may share one.
const FREE_OF_ADDRESS: u32 = 20;
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(300);
/// What is older is forgotten.
const MEMORY: Duration = Duration::from_secs(900);
/// 4,096 entries are some 400 KiB; beyond, the one that ends first gives way.
const ENTRIES_MAX: usize = 4096;
/// A user name that is longer is nobody's.
const NAME_MAX: usize = 128;

#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<Key, Entry>>);

/// An empty name: of the address, whatever the names.
type Key = (Option<IpAddr>, String);

struct Entry {
    count: u32,
    last: Instant,
    until: Instant,
}

impl Failures {
    /// How long this user at this address must wait; `None`: not at all.
    pub(crate) fn wait(&self, address: Option<IpAddr>, user: &str, now: Instant) -> Option<Duration> {
        let entries = self.0.lock();
        let until = keys(address, user).iter().filter_map(|key| Some(entries.get(key)?.until)).max()?;
        Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    pub(crate) fn failed(&self, address: Option<IpAddr>, user: &str, now: Instant) {
        let mut entries = self.0.lock();
        for (key, free) in keys(address, user).into_iter().zip([FREE_OF_ADDRESS, FREE]) {
            if entries.len() >= ENTRIES_MAX && !entries.contains_key(&key) {
                entries.retain(|_, entry| now.duration_since(entry.last) < MEMORY);
                if entries.len() >= ENTRIES_MAX
                    && let Some(first) =
                        entries.iter().min_by_key(|(_, entry)| (entry.until, entry.last)).map(|(key, _)| key.clone())
                {
                    entries.remove(&first);
                }
            }
            let entry = entries.entry(key).or_insert(Entry { count: 0, last: now, until: now });
            if now.duration_since(entry.last) >= MEMORY {
                entry.count = 0;
            }
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
            entry.until = now + wait_after(entry.count, free);
        }
    }

    /// The user has the right credential. What the address did under other names is not forgiven: else one account would open all others.
    pub(crate) fn succeeded(&self, address: Option<IpAddr>, user: &str) {
        let [_, key] = keys(address, user);
        self.0.lock().remove(&key);
    }
}

fn keys(address: Option<IpAddr>, user: &str) -> [Key; 2] {
    let address = address.map(network);
    let user: String = user.chars().take(NAME_MAX).collect();
    [(address, String::new()), (address, format!("={user}"))]
}

/// Whoever has one IPv6 address has the whole /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

fn wait_after(count: u32, free: u32) -> Duration {
    match count.checked_sub(free) {
        None | Some(0) => Duration::ZERO,
        Some(over) => WAIT_FIRST.saturating_mul(1 << (over - 1).min(20)).min(WAIT_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let waits: Vec<u64> =
            [1, 5, 6, 7, 8, 13, 14, 15, 4_000_000_000].iter().map(|count| wait_after(*count, 5).as_secs()).collect();
        assert_eq!(waits, [0, 0, 1, 2, 4, 128, 256, 300, 300]);
    }

    #[test]
    fn one_user_waits_and_the_others_do_not() {
        let (failures, now) = (Failures::default(), Instant::now());
        let (here, there) = (Some("10.0.0.1".parse().unwrap()), Some("10.0.0.2".parse().unwrap()));
        for _ in 0..7 {
            failures.failed(here, "ann", now);
        }
        assert_eq!(failures.wait(here, "ann", now), Some(Duration::from_secs(2)));
        assert_eq!((failures.wait(here, "bob", now), failures.wait(there, "ann", now)), (None, None));
        assert_eq!(failures.wait(here, "ann", now + Duration::from_secs(2)), None);
        failures.succeeded(here, "ann");
        assert_eq!(failures.wait(here, "ann", now), None);
    }

    #[test]
    fn one_address_with_many_names_waits_and_a_right_password_does_not_forgive_it() {
        let (failures, now) = (Failures::default(), Instant::now());
        let address = |text: &str| Some(text.parse().unwrap());
        for n in 0..22 {
            failures.failed(address(&format!("2001:db8::{n}")), &format!("user{n}"), now);
        }
        failures.succeeded(address("2001:db8::1"), "ann");
        assert_eq!(failures.wait(address("2001:db8::ffff"), "ann", now), Some(Duration::from_secs(2)));
        assert_eq!(failures.wait(address("2001:db8:0:1::1"), "ann", now), None);
    }

    #[test]
    fn the_table_has_a_bound() {
        let (failures, now) = (Failures::default(), Instant::now());
        for n in 0..20_000_u32 {
            failures.failed(Some(std::net::Ipv4Addr::from(n).into()), &n.to_string(), now);
        }
        assert!(failures.0.lock().len() <= ENTRIES_MAX);
        assert_eq!(keys(None, &"x".repeat(1 << 20))[1].1.len(), NAME_MAX + 1);
    }
}
