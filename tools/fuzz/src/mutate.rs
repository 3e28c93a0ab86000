//! Random changes of bytes, the same for the same seed.

/// Numbers and bytes from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Mutator {
    state: u64,
}

/// Pieces that readers of archives, JSON and references stumble over.
const PIECES: [&[u8]; 22] = [
    b"",
    b"\0",
    b"../",
    b"/",
    b"\xff\xff",
    b"{",
    b"}",
    b"[[[[[[[[",
    b"null",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"\"",
    b"\\u0000",
    b"sha256:",
    b"@",
    b":",
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b".wh..wh..opq",
    b".wh.",
    b"77777777777",
];

impl Mutator {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Changes some bytes: none once in a while, up to eight places else.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(9) {
            let at = self.below(bytes.len() + 1);
            let longest = if self.one_in(4) { 600 } else { 8 };
            let length = self.below(longest);
            let end = bytes.len().min(at + length);
            match self.below(7) {
                0 => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
                1 => {
                    let value = u8::try_from(self.below(256)).unwrap_or(0);
                    bytes[at..end].fill(value);
                }
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let copy = bytes[at..end].to_vec();
                    let target = self.below(bytes.len() + 1);
                    bytes.splice(target..target, copy);
                }
                4 => {
                    let piece = PIECES[self.below(PIECES.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
                5 => {
                    let piece = PIECES[self.below(PIECES.len())];
                    let end = bytes.len().min(at + piece.len());
                    bytes.splice(at..end, piece.iter().copied());
                }
                _ if self.one_in(3) => bytes.truncate(at),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = byte.wrapping_add(1);
                    }
                }
            }
        }
    }
}
