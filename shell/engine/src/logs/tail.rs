//! Finds where the last lines of a file of lines begin, reading backwards only as far as needed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK: usize = 64 * 1024;

/// Where the last lines begin.
pub(super) enum Found {
    /// Here the wanted lines begin.
    At(u64),
    /// The file has only so many lines.
    Lines(u64),
}

/// In a plain file of lines.
pub(super) fn begin_in(file: &File, size: u64, lines: u64) -> io::Result<Found> {
    if lines == 0 {
        return Ok(Found::At(size));
    }
    let mut block = vec![0; BLOCK];
    let mut end = size;
    // Newlines seen from the end. The last line may not have one yet: it counts as a line all the same.
    let mut seen = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let length = usize::try_from(end - start).expect("a block fits the memory");
        let piece = &mut block[..length];
        file.read_exact_at(piece, start)?;
        for (offset, byte) in piece.iter().enumerate().rev() {
            let position = start + offset as u64;
            if *byte == b'\n' && position + 1 < size {
                seen += 1;
                if seen == lines {
                    return Ok(Found::At(position + 1));
                }
            }
        }
        end = start;
    }
    let found = if size == 0 { 0 } else { seen + 1 };
    Ok(if found == lines { Found::At(0) } else { Found::Lines(found) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    fn begin(content: &str, lines: u64) -> Result<u64, u64> {
        let file = file(content);
        match begin_in(&file, content.len() as u64, lines).unwrap() {
            Found::At(position) => Ok(position),
            Found::Lines(found) => Err(found),
        }
    }

    #[test]
    fn last_lines() {
        let content = "3\n4\n5";
        for (lines, expected) in [(0, Ok(5)), (1, Ok(4)), (2, Ok(2)), (3, Ok(0)), (4, Err(3)), (u64::MAX, Err(3))] {
            assert_eq!(begin(content, lines), expected, "{lines}");
        }
        assert_eq!(begin("", 1), Err(0));
    }

    #[test]
    fn lines_longer_than_a_block() {
        let long = "x".repeat(3 * BLOCK);
        let content = format!("a\n{long}\n{long}\nb\n");
        assert_eq!(begin(&content, 1), Ok(2 + 2 * (long.len() as u64 + 1)));
        assert_eq!(begin(&content, 3), Ok(2));
    }
}
