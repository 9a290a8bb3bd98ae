//! [`Input`]: a fuzzer's bytes as a source of decisions. When they run out, every decision is the first one.

/// See the module.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Decisions from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left to decide with.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// One byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else {
            return 0;
        };
        self.rest = rest;
        *first
    }

    /// Two bytes.
    pub fn number(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let drawn = if end > 256 {
            usize::from(self.number())
        } else {
            usize::from(self.byte())
        };
        drawn % end
    }

    /// True once in `times`, and not at the end.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// One of these; the first one at the end.
    pub fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// At most `most` bytes, as many as the next byte says.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let wanted = self.below(most + 1).min(self.rest.len());
        let (taken, rest) = self.rest.split_at(wanted);
        self.rest = rest;
        taken
    }
}
