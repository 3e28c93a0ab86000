//! The init process of a container with `--init`: it starts the program, passes every signal on to it, reaps what is orphaned,
//! and ends as the program ends. As pid 1 the kernel would not let signals without a handler through to the program, and
//! nobody would reap. It is a static program without a library, because it runs in any container's root file system;
//! `build.rs` compiles it, and the shim executes it from memory. Its rules are those of tini, which Docker uses.

#![no_std]
#![no_main]
#![no_builtins]

use core::arch::{asm, global_asm};

/// What a program reads when it cannot be executed or is not there.
const NOT_FOUND: usize = 127;
const NOT_EXECUTABLE: usize = 126;
/// Of the message on standard error, and of a program's path.
const TEXT_MAX: usize = 4096;

const SIGCHLD: usize = 17;
const WNOHANG: usize = 1;
const SIG_SETMASK: usize = 2;
const PR_SET_NAME: usize = 15;
const TIOCSPGRP: usize = 0x5410;
const EINTR: isize = -4;
const ENOENT: isize = -2;
const ENOTDIR: isize = -20;
const EACCES: isize = -13;
/// SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: our own faults must end us. SIGTTIN and SIGTTOU are blocked.
const FAULTS: u64 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WRITE: usize = 1;
    pub const SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const SETPGID: usize = 109;
    pub const GETPID: usize = 39;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const WRITE: usize = 64;
    pub const SIGPROCMASK: usize = 135;
    pub const IOCTL: usize = 29;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
    pub const KILL: usize = 129;
    pub const SETPGID: usize = 154;
    pub const GETPID: usize = 172;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const PRCTL: usize = 167;
    pub const EXIT_GROUP: usize = 94;
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {start}", "ud2", start = sym start);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x0, sp", "bl {start}", "brk #1", start = sym start);

/// A system call: a negative answer is an error number.
fn call(number: usize, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    let answer: isize;
    // SAFETY: the callers below pass what each call expects: integers, or pointers to memory that outlives the call.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => answer, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
             options(nostack));
    }
    answer
}

fn exit(code: usize) -> ! {
    loop {
        call(number::EXIT_GROUP, [code, 0, 0, 0, 0]);
    }
}

/// What the kernel puts on the stack: the number of arguments, they, NULL, the environment, NULL.
extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: the kernel laid it out so.
    let (count, arguments) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    // `docker-init -- PROGRAM ARGUMENTS...`
    if count < 3 {
        exit(NOT_FOUND);
    }
    // SAFETY: there are `count` of them, at least three, and a NULL.
    let (program, environment) = unsafe { (arguments.add(2), arguments.add(count + 1)) };
    call(number::PRCTL, [PR_SET_NAME, c"docker-init".as_ptr() as usize, 0, 0, 0]);
    let (wanted, mut before) = (!FAULTS, 0_u64);
    call(number::SIGPROCMASK, [SIG_SETMASK, &raw const wanted as usize, &raw mut before as usize, 8, 0]);
    let child = call(number::CLONE, [SIGCHLD, 0, 0, 0, 0]);
    if child == 0 {
        become_program(program, environment, before);
    }
    if child < 0 {
        exit(NOT_EXECUTABLE);
    }
    loop {
        let signal = call(number::SIGTIMEDWAIT, [&raw const wanted as usize, 0, 0, 8, 0]);
        if signal > 0 && signal != SIGCHLD.cast_signed() {
            call(number::KILL, [child.cast_unsigned(), signal.cast_unsigned(), 0, 0, 0]);
        }
        reap(child);
    }
}

/// Takes every child that has ended; ends with the program.
fn reap(program: isize) {
    loop {
        let mut status = 0_u32;
        let pid = call(number::WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG, 0, 0]);
        if pid == program {
            let signal = status & 0x7f;
            exit(if signal == 0 { status >> 8 & 0xff } else { 128 + signal } as usize);
        }
        if pid <= 0 && pid != EINTR {
            return;
        }
    }
}

/// A process group of its own, the terminal's foreground if there is one, the signals as they were, and the program.
fn become_program(program: *const *const u8, environment: *const *const u8, mask: u64) -> ! {
    call(number::SETPGID, [0, 0, 0, 0, 0]);
    let group = call(number::GETPID, [0, 0, 0, 0, 0]);
    // Without a terminal this is refused, and that is right. SIGTTOU is blocked.
    let group = group as i32;
    call(number::IOCTL, [0, TIOCSPGRP, &raw const group as usize, 0, 0]);
    call(number::SIGPROCMASK, [SIG_SETMASK, &raw const mask as usize, 0, 8, 0]);
    // SAFETY: the first argument of the program is there.
    let name = unsafe { text(*program) };
    let error = if name.contains(&b'/') {
        // SAFETY: as above.
        execute(unsafe { *program }, program, environment)
    } else {
        search(name, program, environment)
    };
    say(b"[FATAL docker-init] exec ");
    say(name);
    say(if error == EACCES { b" failed: Permission denied\n" } else { b" failed: No such file or directory\n" });
    exit(if error == ENOENT { NOT_FOUND } else { NOT_EXECUTABLE });
}

fn execute(path: *const u8, program: *const *const u8, environment: *const *const u8) -> isize {
    call(number::EXECVE, [path as usize, program as usize, environment as usize, 0, 0])
}

/// As a shell does.
fn search(name: &[u8], program: *const *const u8, environment: *const *const u8) -> isize {
    let mut worst = ENOENT;
    let mut path = [0_u8; TEXT_MAX];
    for directory in path_variable(environment).split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let Some(room) = path.get_mut(..directory.len() + name.len() + 2) else { continue };
        let (head, tail) = room.split_at_mut(directory.len());
        head.copy_from_slice(directory);
        tail[0] = b'/';
        tail[1..=name.len()].copy_from_slice(name);
        tail[name.len() + 1] = 0;
        match execute(path.as_ptr(), program, environment) {
            ENOENT | ENOTDIR => {}
            error => worst = error,
        }
    }
    worst
}

fn path_variable(mut environment: *const *const u8) -> &'static [u8] {
    // SAFETY: it ends with NULL, and each of it with a NUL; both live as long as the process.
    unsafe {
        while !(*environment).is_null() {
            if let Some(path) = text(*environment).strip_prefix(b"PATH=") {
                return path;
            }
            environment = environment.add(1);
        }
    }
    b"/usr/local/bin:/bin:/usr/bin"
}

/// # Safety
/// It must end with a NUL, and live as long as the process.
unsafe fn text(start: *const u8) -> &'static [u8] {
    let mut length = 0;
    // SAFETY: the caller says so.
    unsafe {
        while *start.add(length) != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(start, length)
    }
}

fn say(text: &[u8]) {
    call(number::WRITE, [2, text.as_ptr() as usize, text.len(), 0, 0]);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(NOT_EXECUTABLE)
}

/// What the compiler calls where it copies, fills or compares memory; there is no library that has it.
mod memory {
    /// # Safety
    /// C's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, count: usize) -> *mut u8 {
        for index in 0..count {
            // SAFETY: the caller says that there are so many.
            unsafe { *target.add(index) = *source.add(index) };
        }
        target
    }

    /// # Safety
    /// C's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(target: *mut u8, byte: i32, count: usize) -> *mut u8 {
        for index in 0..count {
            // SAFETY: the caller says that there are so many.
            unsafe { *target.add(index) = byte as u8 };
        }
        target
    }

    /// # Safety
    /// C's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
        for index in 0..count {
            // SAFETY: the caller says that there are so many.
            let (one, other) = unsafe { (*one.add(index), *other.add(index)) };
            if one != other {
                return i32::from(one) - i32::from(other);
            }
        }
        0
    }

    /// # Safety
    /// C's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
        // SAFETY: the caller's promise is the same.
        unsafe { memcmp(one, other, count) }
    }

    /// # Safety
    /// C's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut length = 0;
        // SAFETY: the caller says that there is a NUL.
        while unsafe { *text.add(length) } != 0 {
            length += 1;
        }
        length
    }

    /// Never called: panics end the process at once. The core library's objects name it.
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}
}
