//! Random numbers that are the same for ever: SplitMix64, by hand, since offsets outlive the versions of a crate.

/// The dice of one record.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    pub(crate) fn new(seed: u64, n: u64) -> Self {
        Self(mix(seed.wrapping_add(GOLDEN)) ^ mix(n.wrapping_mul(GOLDEN)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Below `end`, which is above 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    pub(crate) fn range(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from) as u64 + 1) as i64
    }

    /// From `from` to `to` in steps of `1 / scale`.
    pub(crate) fn decimal(&mut self, from: f64, to: f64, scale: f64) -> f64 {
        let steps = ((to - from) * scale).round();
        ((from * scale).round() + self.below(steps as u64 + 1) as f64) / scale
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_never_change() {
        let mut dice = Dice::new(7, 42);
        let rolled: Vec<u64> = (0..4).map(|_| dice.below(1000)).collect();
        assert_eq!(rolled, [456, 753, 515, 646]);
        assert!((0..10_000).all(|n| (-3..=3).contains(&Dice::new(1, n).range(-3, 3))));
        let halves: u64 = (0..10_000).map(|n| Dice::new(1, n).below(2)).sum();
        assert!((4800..5200).contains(&halves), "{halves}");
    }
}
