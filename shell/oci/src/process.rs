//! Which process is meant: a pid alone is reused by the kernel, a pid with its start time is not.

use serde::{Deserialize, Serialize};

/// A process, told apart from a later one with the same pid by its start time (field 22 of `/proc/PID/stat`, clock
/// ticks since boot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid in the host's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has `pid` now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, start_time: stat.start_time })
    }

    /// This process.
    #[must_use]
    pub fn this() -> Option<Self> {
        i32::try_from(std::process::id()).ok().and_then(Self::of)
    }

    /// Whether it still runs; a zombie does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_time == self.start_time && !matches!(stat.state, b'Z' | b'X'))
    }

    /// Sends a signal to it and to nobody else: the start time is checked on a descriptor of the process.
    /// Answers whether the process was there.
    #[must_use]
    pub fn kill(self, signal: i32) -> bool {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        let Ok(fd) = i32::try_from(fd) else { return false };
        if fd < 0 {
            return false;
        }
        // SAFETY: fd is a fresh descriptor that nobody else owns.
        let fd = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        // The descriptor pins the process: if the start time fits now, it is the one we mean.
        if !self.is_alive() {
            return false;
        }
        // SAFETY: a valid pidfd, a signal number, no siginfo, no flags.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                std::os::fd::AsRawFd::as_raw_fd(&fd),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        sent == 0
    }
}

struct Stat {
    state: u8,
    start_time: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    if pid <= 0 {
        return None;
    }
    parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name may hold blanks and brackets: everything after the last `)` counts.
fn parse(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_does_not_confuse() {
        let line = b"12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        let stat = parse(line).expect("parses");
        assert_eq!((stat.state, stat.start_time), (b'S', 4711));
    }

    #[test]
    fn a_wrong_start_time_is_another_process() {
        let this = ProcessId::this().expect("we run");
        assert!(this.is_alive());
        let other = ProcessId { start_time: this.start_time + 1, ..this };
        assert!(!other.is_alive());
        assert!(!other.kill(0));
        assert!(this.kill(0));
    }
}
