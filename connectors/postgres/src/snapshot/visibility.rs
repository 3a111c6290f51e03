//! Which transactions a read has seen, told from their ids alone. Pure.

use aqueduct_core::{Error, Result};
use std::fmt;

/// `pg_current_snapshot()`: every transaction below `xmin` is seen or rolled back; none from `xmax` on; in between, those that are not `running`.
///
/// An LSN cannot tell this: a transaction becomes visible some time after its commit record is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible {
    pub xmin: u64,
    pub xmax: u64,
    /// Sorted. Of top-level transactions, which is what the stream names.
    running: Vec<u64>,
}

impl Visible {
    /// `771:779:771,775`
    ///
    /// # Errors
    /// When the server answers with something else.
    pub fn parse(text: &str) -> Result<Self> {
        let parts = || -> Option<Self> {
            let mut parts = text.splitn(3, ':');
            let (xmin, xmax, running) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
            let mut running: Vec<u64> =
                running.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().ok()).collect::<Option<_>>()?;
            running.sort_unstable();
            Some(Self { xmin, xmax, running })
        };
        parts().ok_or_else(|| Error::retriable("postgres.protocol", format!("{text:?} is no snapshot of transactions")))
    }

    /// Whether the read has seen what this transaction did, once it is known to have committed. `xid` as the stream has it: without its epoch.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    pub fn running(&self) -> &[u64] {
        &self.running
    }

    /// The full id that is nearest to `xmax`: ids in use are less than 2^31 apart.
    fn widen(&self, xid: u32) -> u64 {
        let ahead = xid.wrapping_sub(self.xmax as u32).cast_signed();
        self.xmax.wrapping_add_signed(i64::from(ahead))
    }
}

impl fmt::Display for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, running.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_ran_or_was_not_yet_there_is_not_seen() {
        let visible = Visible::parse("10:20:15,10").unwrap();
        let seen: Vec<u32> = (8..23).filter(|xid| visible.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 14, 16, 17, 18, 19]);
        assert_eq!(visible.to_string(), "10:20:10,15");
        assert_eq!(Visible::parse("10:10:").unwrap().to_string(), "10:10:");
        for bad in ["", "1", "1:2", "a:b:", "1:2:x"] {
            assert_eq!(Visible::parse(bad).unwrap_err().code(), "postgres.protocol", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn ids_survive_the_wrap(xmax in (1u64 << 31)..(1 << 40), back in 0u64..(1 << 30), ahead in 0u64..(1 << 30)) {
            let visible = Visible { xmin: xmax, xmax, running: Vec::new() };
            prop_assert_eq!(visible.sees((xmax - back) as u32), back > 0);
            prop_assert!(!visible.sees((xmax + ahead) as u32));
        }
    }
}
