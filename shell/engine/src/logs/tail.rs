//! Finds where the last lines of a log begin, reading backwards only as far as needed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK: usize = 64 * 1024;

/// Which file (by index, oldest first) and where in it the last `lines` lines begin.
pub(super) fn begin(files: &[File], lines: u64) -> io::Result<(usize, u64)> {
    let mut missing = lines;
    for (index, file) in files.iter().enumerate().rev() {
        let size = file.metadata()?.len();
        match begin_in(file, size, missing)? {
            Found::At(position) => return Ok((index, position)),
            Found::Lines(found) => missing -= found,
        }
    }
    Ok((0, 0))
}

enum Found {
    /// Here the wanted lines begin.
    At(u64),
    /// The file has only so many lines.
    Lines(u64),
}

fn begin_in(file: &File, size: u64, lines: u64) -> io::Result<Found> {
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

    #[test]
    fn last_lines_of_several_files() {
        let files = [file("1\n2\n"), file(""), file("3\n4\n5")];
        for (lines, expected) in [
            (0, (2, 5)),
            (1, (2, 4)),
            (2, (2, 2)),
            (3, (2, 0)),
            (4, (0, 2)),
            (5, (0, 0)),
            (6, (0, 0)),
            (u64::MAX, (0, 0)),
        ] {
            assert_eq!(begin(&files, lines).unwrap(), expected, "{lines}");
        }
    }

    #[test]
    fn lines_longer_than_a_block() {
        let long = "x".repeat(3 * BLOCK);
        let files = [file(&format!("a\n{long}\n{long}\nb\n"))];
        assert_eq!(begin(&files, 1).unwrap(), (0, 2 + 2 * (long.len() as u64 + 1)));
        assert_eq!(begin(&files, 3).unwrap(), (0, 2));
    }
}
