//! System call filters in the kernel's form. libseccomp takes some milliseconds to compile one, and containers with the same
//! profile and capabilities have the same: what was compiled once is kept in a directory and used again. A file there says
//! what it was made from, in full, and whatever does not fit to the letter is made anew.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};

/// One instruction: `struct sock_filter`.
const INSTRUCTION: usize = 8;
/// Most instructions that the kernel takes (`BPF_MAXINSNS`).
const INSTRUCTIONS_MAX: usize = 4096;
/// Files kept; at the bound the directory is emptied.
const KEPT_MAX: usize = 64;
/// `seccomp(2)`.
const SET_MODE_FILTER: libc::c_uint = 1;
const FLAG_LOG: u64 = 2;
const FLAG_SPEC_ALLOW: u64 = 4;

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    flags: u64,
    /// [`INSTRUCTION`] bytes each.
    program: Vec<u8>,
}

impl Filter {
    /// The filter of a profile, from `cache` if it is there. The text of an error is for people.
    pub(super) fn of(profile: &LinuxSeccomp, cache: Option<&Path>) -> Result<Self, String> {
        let source = serde_json::to_vec(profile).map_err(|error| error.to_string())?;
        let file = cache.map(|directory| directory.join(format!("{:016x}", hash(&source))));
        if let Some(filter) = file.as_deref().and_then(|file| cached(file, &source)) {
            return Ok(filter);
        }
        let filter = compile(profile)?;
        if let (Some(directory), Some(file)) = (cache, &file) {
            // Without it the next one is compiled again.
            let _ = keep(directory, file, &source, &filter);
        }
        Ok(filter)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.flags.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.program);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let (flags, program) = bytes.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let fits = !program.is_empty() && program.len() % INSTRUCTION == 0;
        if !fits || program.len() / INSTRUCTION > INSTRUCTIONS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the compiled system call filter is damaged"));
        }
        Ok(Self { flags: u64::from_le_bytes(*flags), program: program.to_vec() })
    }

    /// Holds the calling process to it, for good.
    pub(super) fn load(&self) -> io::Result<()> {
        let (instructions, _) = self.program.as_chunks::<INSTRUCTION>();
        let mut instructions: Vec<libc::sock_filter> = instructions
            .iter()
            .map(|bytes| libc::sock_filter {
                code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                jt: bytes[2],
                jf: bytes[3],
                k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect();
        let program = libc::sock_fprog {
            len: u16::try_from(instructions.len()).map_err(io::Error::other)?,
            filter: instructions.as_mut_ptr(),
        };
        // SAFETY: a program with its length, which the kernel copies and checks.
        let done = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, self.flags, &raw const program) };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(io::Error::new(error.kind(), format!("cannot load the system call filter: {error}")))
    }
}

/// What the cache has, if it was made from exactly this.
fn cached(file: &Path, source: &[u8]) -> Option<Filter> {
    let bytes = std::fs::read(file).ok()?;
    let rest = bytes.strip_prefix(marker().as_bytes())?;
    let (length, rest) = rest.split_first_chunk()?;
    let (made_from, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (length, filter) = rest.split_first_chunk()?;
    let whole = u64::from_le_bytes(*length) == filter.len() as u64;
    if whole && made_from == source { Filter::from_bytes(filter).ok() } else { None }
}

fn keep(directory: &Path, file: &Path, source: &[u8], filter: &Filter) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let entries: Vec<_> = std::fs::read_dir(directory)?.flatten().collect();
    if entries.len() >= KEPT_MAX {
        for entry in entries {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let mut bytes = marker().into_bytes();
    bytes.extend_from_slice(&(source.len() as u64).to_le_bytes());
    bytes.extend_from_slice(source);
    let filter = filter.to_bytes();
    bytes.extend_from_slice(&(filter.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&filter);
    let temporary = file.with_extension(std::process::id().to_string());
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(temporary, file)
}

/// Another release, or another libseccomp, may compile the same profile to something else.
fn marker() -> String {
    let library = libseccomp::ScmpVersion::current().map(|version| version.to_string()).unwrap_or_default();
    format!("skep filter 1, {}, libseccomp {library}\n", env!("CARGO_PKG_VERSION"))
}

/// FNV-1a: only a file's name, what counts is compared in full.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn compile(profile: &LinuxSeccomp) -> Result<Filter, String> {
    let failed = |error: libseccomp::error::SeccompError| format!("cannot compile the seccomp profile: {error}");
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(failed)?;
    context.set_ctl_nnp(false).map_err(failed)?;
    // A tree instead of a list, where the library can: each system call passes some ten comparisons, not some hundred.
    let _ = context.set_ctl_optimize(2);
    for architecture in profile.architectures().iter().flatten() {
        context.add_arch(arch(*architecture)).map_err(failed)?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            continue;
        }
        for name in rule.names() {
            // One that this kernel's library does not know cannot be called either.
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            let compare: Vec<ScmpArgCompare> = rule
                .args()
                .iter()
                .flatten()
                .map(|arg| {
                    let index = u32::try_from(arg.index()).unwrap_or(u32::MAX);
                    ScmpArgCompare::new(index, operator(arg.op(), arg.value_two()), arg.value())
                })
                .collect();
            let indexes: std::collections::BTreeSet<_> = rule.args().iter().flatten().map(|arg| arg.index()).collect();
            if indexes.len() == compare.len() {
                context.add_rule_conditional(action, call, &compare).map_err(failed)?;
            } else {
                // Two conditions on one argument are two rules, as in runc.
                for one in compare {
                    context.add_rule_conditional(action, call, &[one]).map_err(failed)?;
                }
            }
        }
    }
    let mut file =
        File::from(memfd_create(c"filter", MemFdCreateFlag::MFD_CLOEXEC).map_err(|error| error.to_string())?);
    context.export_bpf(&file).map_err(failed)?;
    let mut program = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut program)).map_err(|error| error.to_string())?;
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => flags |= FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flags |= FLAG_SPEC_ALLOW,
            // The process has one thread; nobody is notified.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync
            | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {}
        }
    }
    let mut bytes = Vec::from(0_u64.to_le_bytes());
    bytes.write_all(&program).map_err(|error| error.to_string())?;
    let filter = Filter::from_bytes(&bytes).map_err(|error| error.to_string())?;
    Ok(Filter { flags, ..filter })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, String> {
    let errno = i32::try_from(errno.unwrap_or(libc::EPERM.cast_unsigned())).map_err(|error| error.to_string())?;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(errno).map_err(|_| "seccomp: errnoRet is too large".to_owned())?)
        }
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => {
            return Err("the seccomp profile has the action SCMP_ACT_NOTIFY, which is not supported".to_owned());
        }
    })
}

fn operator(operator: LinuxSeccompOperator, second: Option<u64>) -> ScmpCompareOp {
    match operator {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(second.unwrap_or(0)),
    }
}

fn arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(names: &[&str]) -> LinuxSeccomp {
        serde_json::from_value(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        }))
        .expect("a profile")
    }

    #[test]
    fn the_cache_is_used_and_never_believed() {
        let directory = tempfile::tempdir().expect("temp dir");
        let cache = directory.path().join("cache");
        let profile_one = profile(&["mkdir"]);
        let filter = Filter::of(&profile_one, Some(&cache)).expect("compiled");
        assert_eq!(Filter::of(&profile_one, None).expect("compiled"), filter);
        assert_ne!(Filter::of(&profile(&["rmdir"]), Some(&cache)).expect("compiled"), filter);
        let source = serde_json::to_vec(&profile_one).expect("JSON");
        let file = cache.join(format!("{:016x}", hash(&source)));
        assert_eq!(cached(&file, &source), Some(filter.clone()));
        assert_eq!(cached(&file, b"other"), None);
        let bytes = std::fs::read(&file).expect("read");
        for length in 0..bytes.len() {
            std::fs::write(&file, &bytes[..length]).expect("write");
            assert_eq!(cached(&file, &source), None);
        }
        std::fs::write(&file, "rubbish").expect("write");
        assert_eq!(Filter::of(&profile_one, Some(&cache)).expect("compiled"), filter);
        assert_eq!(cached(&file, &source), Some(filter));
    }

    #[test]
    fn what_needs_a_listener_is_refused() {
        let mut profile = serde_json::to_value(profile(&["mkdir"])).expect("JSON");
        profile["syscalls"][0]["action"] = "SCMP_ACT_NOTIFY".into();
        let profile = serde_json::from_value(profile).expect("a profile");
        assert!(Filter::of(&profile, None).expect_err("refused").contains("SCMP_ACT_NOTIFY"));
    }
}
