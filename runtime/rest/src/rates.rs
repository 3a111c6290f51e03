//! How often each caller may call: a script that went wild, or a token that was stolen, does not take the API from the others.

use crate::failures::network;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// What may come at once, in seconds of the rate: a user interface that opens asks for much in one moment.
const BURST: Duration = Duration::from_secs(2);
/// 4,096 entries are some 400 KiB; beyond, the one that has waited longest gives way.
const ENTRIES_MAX: usize = 4096;

/// The generic cell rate algorithm (ITU-T I.371): for each caller one moment, which each call moves on by the time that it is worth.
pub struct Rates {
    /// What one call is worth.
    per_call: Duration,
    callers: Mutex<HashMap<Key, Instant>>,
}

/// Several machines may share a user, and one of them shall not shut the others out.
type Key = (Box<str>, Option<IpAddr>);

impl Rates {
    /// `None`: any number of calls.
    pub fn new(calls_in_a_second: u32) -> Option<Self> {
        let per_call = Duration::from_secs(1).checked_div(calls_in_a_second)?;
        Some(Self { per_call, callers: Mutex::default() })
    }

    /// # Errors
    /// How long to wait.
    pub(crate) fn take(&self, user: &str, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut callers = self.callers.lock();
        let key = (user.into(), address.map(network));
        let paid = callers.get(&key).copied().unwrap_or(now).max(now);
        if let Some(over) = (paid + self.per_call).checked_duration_since(now + BURST).filter(|over| !over.is_zero()) {
            return Err(over);
        }
        if callers.len() >= ENTRIES_MAX && !callers.contains_key(&key) {
            callers.retain(|_, paid| *paid > now);
            let first = callers.iter().min_by_key(|(_, paid)| **paid).map(|(key, _)| key.clone());
            if let Some(first) = first.filter(|_| callers.len() >= ENTRIES_MAX) {
                callers.remove(&first);
            }
        }
        callers.insert(key, paid + self.per_call);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate_for_each_caller_alone() {
        let (rates, begin) = (Rates::new(10).unwrap(), Instant::now());
        let at = |text: &str| Some(text.parse().unwrap());
        let here = at("10.0.0.1");
        assert!((0..20).all(|_| rates.take("ann", here, begin) == Ok(())));
        assert_eq!(rates.take("ann", here, begin), Err(Duration::from_millis(100)));
        assert_eq!((rates.take("bob", here, begin), rates.take("ann", at("10.0.0.2"), begin)), (Ok(()), Ok(())));
        // 10 seconds of trying ten times as often.
        let taken = (0..1000).filter(|n| rates.take("ann", here, begin + Duration::from_millis(10 * n)).is_ok()).count();
        assert!((99..=100).contains(&taken), "{taken}");
        assert_eq!(rates.take("ann", here, begin + Duration::from_secs(60)), Ok(()));
        assert!(Rates::new(0).is_none());
    }

    #[test]
    fn the_table_has_a_bound() {
        let (rates, now) = (Rates::new(1).unwrap(), Instant::now());
        for n in 0..20_000_u32 {
            rates.take("ann", Some(std::net::Ipv4Addr::from(n).into()), now).unwrap();
        }
        assert!(rates.callers.lock().len() <= ENTRIES_MAX);
    }
}
