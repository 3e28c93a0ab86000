//! A little room kept for the moment when the disk is full: enough to store a vote and the first entry of a term, so that a
//! manager that is started on a full disk still leads and can be read.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use super::Place;

const NAME: &str = "reserve";
const BYTES: i64 = 128 << 10;

/// Takes the room, if there is any and it is not taken yet. Without it nothing is lost but this last resort.
pub(crate) fn keep_reserve(place: &Place) {
    let path = place.directory.join(NAME);
    let is_whole = |file: &File| file.metadata().is_ok_and(|about| about.len() >= BYTES.unsigned_abs());
    let taken = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).and_then(|file| {
        if is_whole(&file) {
            return Ok(());
        }
        nix::fcntl::posix_fallocate(file.as_raw_fd(), 0, BYTES).map_err(std::io::Error::from)
    });
    if taken.is_err() {
        release_reserve(place);
    }
}

/// Gives the room back; true when there was some.
pub(crate) fn release_reserve(place: &Place) -> bool {
    std::fs::remove_file(place.directory.join(NAME)).is_ok()
}
