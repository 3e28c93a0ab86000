//! Which system calls a container may use. Docker's profiles have conditions (architecture, capabilities, kernel);
//! the OCI form has none, so they are resolved here. The default table has what Docker's default profile allows.

use serde::Deserialize;
use serde_json::{Value, json};

/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET`: clone without any of them is allowed.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// `AF_VSOCK` reaches the hypervisor past every namespace.
const AF_VSOCK: u64 = 40;

/// Allowed to everybody.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname
    getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock
    mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
    mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
    name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
    pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease
    process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead
    readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
    select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
    sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink
    unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Allowed with a capability.
const WITH_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Values of personality(2) that only change how things look: plain Linux, 32 bit, and the question what it is.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Docker's default profile for a container with these capabilities on this machine, in OCI form.
pub(crate) fn default_profile(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let allow = |names: &str| {
        let names: Vec<_> = names.split_ascii_whitespace().collect();
        json!({"names": names, "action": "SCMP_ACT_ALLOW"})
    };
    let allow_if = |name: &str, op: &str, value: u64, value_two: u64| {
        json!({"names": [name], "action": "SCMP_ACT_ALLOW",
               "args": [{"index": 0, "value": value, "valueTwo": value_two, "op": op}]})
    };
    let mut rules = vec![allow(ALWAYS), allow_if("socket", "SCMP_CMP_NE", AF_VSOCK, 0)];
    rules.extend(PERSONALITIES.map(|value| allow_if("personality", "SCMP_CMP_EQ", value, 0)));
    if cfg!(target_arch = "x86_64") {
        rules.push(allow("arch_prctl modify_ldt"));
    } else if cfg!(target_arch = "aarch64") {
        rules.push(allow("arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"));
    }
    rules.extend(WITH_CAPABILITY.iter().filter(|(name, _)| has(name)).map(|(_, names)| allow(names)));
    if !has("CAP_SYS_ADMIN") {
        rules.push(allow_if("clone", "SCMP_CMP_MASKED_EQ", NAMESPACE_FLAGS, 0));
        // "No such system call": glibc falls back to clone, whose flags a filter can see.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

fn architectures() -> Vec<&'static str> {
    if cfg!(target_arch = "x86_64") {
        vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else if cfg!(target_arch = "aarch64") {
        vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        Vec::new()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    flags: Option<Vec<String>>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// A user's profile in Docker's JSON form, resolved. `minKernel` holds: profiles in use name 4.8, we need 5.11. The text of an error is for people.
pub(crate) fn resolve_profile(text: &str, capabilities: &[String]) -> Result<Value, String> {
    let profile: Profile =
        serde_json::from_str(text).map_err(|error| format!("decoding seccomp profile failed: {error}"))?;
    let mut rules = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        let mut names = rule.names;
        if !rule.name.is_empty() {
            names.push(rule.name);
        }
        let wanted = holds_all(&rule.includes, capabilities) && !holds_any(&rule.excludes, capabilities);
        if names.is_empty() || !wanted || rule.action == profile.default_action && rule.errno_ret.is_none() {
            continue;
        }
        let mut resolved = json!({"names": names, "action": rule.action});
        if let Some(args) = rule.args.filter(|args| !args.is_empty()) {
            resolved["args"] = Value::Array(args);
        }
        if let Some(errno) = rule.errno_ret {
            resolved["errnoRet"] = json!(errno);
        }
        rules.push(resolved);
    }
    let mut resolved = json!({
        "defaultAction": profile.default_action,
        "architectures": profile.architectures.map_or_else(|| json!(architectures()), |list| json!(list)),
        "syscalls": rules,
    });
    if let Some(errno) = profile.default_errno_ret {
        resolved["defaultErrnoRet"] = json!(errno);
    }
    if let Some(flags) = profile.flags {
        resolved["flags"] = json!(flags);
    }
    Ok(resolved)
}

fn our_arch(names: &[String]) -> bool {
    let ours: &[&str] = if cfg!(target_arch = "x86_64") { &["amd64", "x32", "x86"] } else { &["arm64", "arm"] };
    names.iter().any(|name| ours[..1].contains(&name.as_str()))
}

fn holds_all(condition: &Condition, capabilities: &[String]) -> bool {
    condition.caps.iter().flatten().all(|name| capabilities.contains(name))
        && condition.arches.as_ref().is_none_or(|names| names.is_empty() || our_arch(names))
}

fn holds_any(condition: &Condition, capabilities: &[String]) -> bool {
    condition.caps.iter().flatten().any(|name| capabilities.contains(name))
        || condition.arches.as_ref().is_some_and(|names| our_arch(names))
        || condition.min_kernel.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Value) -> Vec<&str> {
        let rules = profile["syscalls"].as_array().expect("rules");
        rules.iter().flat_map(|rule| rule["names"].as_array().expect("names")).filter_map(Value::as_str).collect()
    }

    #[test]
    fn the_default_depends_on_capabilities() {
        let without = default_profile(&["CAP_CHOWN".to_owned()]);
        assert!(!names(&without).contains(&"mount") && !names(&without).contains(&"io_uring_setup"));
        let with = default_profile(&["CAP_SYS_ADMIN".to_owned()]);
        assert!(names(&with).contains(&"mount"));
        assert!(with["syscalls"].as_array().expect("rules").iter().all(|rule| rule["errnoRet"].is_null()));
    }

    #[test]
    fn conditions_of_a_profile_are_resolved() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir"],"action":"SCMP_ACT_ERRNO"},
            {"names":["mount"],"action":"SCMP_ACT_ERRNO","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["chmod"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_CHOWN"]}},
            {"names":["s390_runtime_instr"],"action":"SCMP_ACT_ERRNO","includes":{"arches":["s390x"]}}]}"#;
        let profile = resolve_profile(text, &["CAP_CHOWN".to_owned()]).expect("valid");
        assert_eq!(names(&profile), ["mkdir"]);
        assert!(resolve_profile("{", &[]).expect_err("broken").starts_with("decoding seccomp profile failed"));
    }
}
