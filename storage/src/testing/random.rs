//! Seeded randomness for tests: the same seed, the same run, whatever the versions of the crates around.

/// A generator of numbers that look random (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of that seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is above zero. The bias is far below what a test could see.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A place in a collection of `length` items, which is not empty.
    pub fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a usize")
    }

    /// True `of` times out of `total`.
    pub fn chance(&mut self, of: u64, total: u64) -> bool {
        self.below(total) < of
    }
}
