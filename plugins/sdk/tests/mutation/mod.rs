//! Documents that are almost right, for tests that compare two parsers. The tests of `visits` use it too.

/// A generator of random numbers, from a seed that is not 0.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % n
    }

    /// Changes one place of a document.
    pub(crate) fn mutate(&mut self, document: &mut Vec<u8>, alphabet: &[u8]) {
        let (at, byte) = (self.below(document.len()), alphabet[self.below(alphabet.len())]);
        match self.below(5) {
            0 => document[at] = byte,
            1 => document.insert(at, byte),
            2 if document.len() > 1 => drop(document.remove(at)),
            3 => document.truncate(at.max(1)),
            _ => {
                // A piece comes twice: often a whole field.
                let other = self.below(document.len());
                let (from, to) = (at.min(other), at.max(other));
                let piece = document[from..to].to_vec();
                document.splice(from..from, piece);
            }
        }
    }
}
