//! One process as `/proc` has it, and its columns as procps writes them. Times are UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Clock ticks per second: the same on every architecture that skep runs on.
const TICKS: u64 = 100;

/// What can be shown of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Pid,
    Parent,
    Group,
    Session,
    UserId,
    GroupId,
    /// Its name when it is short, else the beginning and `+`.
    ShortUser,
    /// Use of a processor in percent since its start, whole.
    Cpu,
    CpuPercent,
    MemoryPercent,
    Virtual,
    Resident,
    Started,
    Elapsed,
    Terminal,
    /// Processor time, `hours:minutes:seconds`.
    Time,
    /// Processor time, `minutes:seconds`.
    MinuteTime,
    State,
    Status,
    Threads,
    Nice,
    Name,
    Arguments,
}

/// What the columns of all processes need.
pub(super) struct Machine {
    /// Seconds since the machine was started, in ticks.
    up: u64,
    /// Seconds since 1970.
    now: i64,
    /// Kilobytes.
    memory: u64,
    passwd: String,
}

impl Machine {
    pub(super) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let up = read("/proc/uptime");
        let up = up.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok()).unwrap_or(0);
        let memory = read("/proc/meminfo");
        let memory = memory.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            up: up * TICKS,
            now: i64::try_from(now).unwrap_or(i64::MAX),
            memory: memory.unwrap_or(1).max(1),
            passwd: read("/etc/passwd"),
        }
    }

    fn user(&self, uid: u32) -> Option<&str> {
        let id = uid.to_string();
        let line = self.passwd.lines().find(|line| line.split(':').nth(2) == Some(&id))?;
        line.split(':').next()
    }
}

/// A process.
#[derive(Debug, Clone, Default)]
pub(super) struct Process {
    pid: i32,
    name: String,
    state: char,
    parent: i32,
    group: i32,
    session: i32,
    terminal: u32,
    foreground: i32,
    /// Processor time in ticks.
    used: u64,
    nice: i64,
    threads: u64,
    /// Ticks after the machine's start.
    started: u64,
    virtual_kb: u64,
    resident_kb: u64,
    uid: u32,
    gid: u32,
    arguments: String,
}

impl Process {
    /// `None` when it is gone.
    pub(super) fn read(pid: i32) -> Option<Self> {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
        let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
        let (open, close) = (stat.find('(')?, stat.rfind(')')?);
        let fields: Vec<&str> = stat.get(close + 1..)?.split_ascii_whitespace().collect();
        // The third column of the file is the first here.
        let number = |column: usize| fields.get(column - 3).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let positive = |column: usize| u64::try_from(number(column)).unwrap_or(0);
        let small = |column: usize| i32::try_from(number(column)).unwrap_or(0);
        let status = String::from_utf8_lossy(&read("status")?).into_owned();
        let status = |key: &str, word: usize| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_ascii_whitespace().nth(word)?.parse::<u64>().ok()
        };
        // Real, effective, saved, of files.
        let id = |key: &str| status(key, 1).and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
        let arguments = read("cmdline").unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace(['\0', '\n'], " ");
        Some(Self {
            pid,
            name: stat.get(open + 1..close)?.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: small(4),
            group: small(5),
            session: small(6),
            terminal: u32::try_from(number(7)).unwrap_or(0),
            foreground: small(8),
            used: positive(14) + positive(15),
            nice: number(19),
            threads: positive(20),
            started: positive(22),
            virtual_kb: positive(23) / 1024,
            resident_kb: status("VmRSS:", 0).unwrap_or(0),
            uid: id("Uid:"),
            gid: id("Gid:"),
            arguments,
        })
    }

    pub(super) fn show(&self, column: Column, machine: &Machine) -> String {
        let seconds = self.used / TICKS;
        match column {
            Column::Pid => self.pid.to_string(),
            Column::Parent => self.parent.to_string(),
            Column::Group => self.group.to_string(),
            Column::Session => self.session.to_string(),
            Column::UserId => self.uid.to_string(),
            Column::GroupId => self.gid.to_string(),
            Column::ShortUser => match machine.user(self.uid) {
                Some(name) if name.chars().count() <= 8 => name.to_owned(),
                Some(name) => name.chars().take(7).chain(['+']).collect(),
                None => self.uid.to_string(),
            },
            Column::Cpu => (self.used * 100 / self.age(machine).max(1)).min(99).to_string(),
            Column::CpuPercent => tenths(self.used * 1000 / self.age(machine).max(1)),
            Column::MemoryPercent => tenths(self.resident_kb * 1000 / machine.memory),
            Column::Virtual => self.virtual_kb.to_string(),
            Column::Resident => self.resident_kb.to_string(),
            Column::Started => self.started(machine),
            Column::Elapsed => elapsed(self.age(machine) / TICKS),
            Column::Terminal => self.terminal(),
            Column::Time => {
                let days = seconds / 86_400;
                let days = if days > 0 { format!("{days}-") } else { String::new() };
                format!("{days}{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
            }
            Column::MinuteTime => format!("{}:{:02}", seconds / 60, seconds % 60),
            Column::State => self.state.to_string(),
            Column::Status => self.status(),
            Column::Threads => self.threads.to_string(),
            Column::Nice => self.nice.to_string(),
            Column::Name => self.name.clone(),
            Column::Arguments if self.arguments.is_empty() => format!("[{}]", self.name),
            Column::Arguments => self.arguments.clone(),
        }
    }

    /// Ticks since its start.
    fn age(&self, machine: &Machine) -> u64 {
        machine.up.saturating_sub(self.started)
    }

    /// `14:36` when it was started today, `Nov22` this year, else the year.
    fn started(&self, machine: &Machine) -> String {
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let age = i64::try_from(self.age(machine) / TICKS).unwrap_or(0);
        let time =
            |seconds| time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let (now, then) = (time(machine.now), time(machine.now - age));
        if now.date() == then.date() {
            format!("{:02}:{:02}", then.hour(), then.minute())
        } else if now.year() == then.year() {
            format!("{}{:02}", MONTHS[usize::from(u8::from(then.month())) - 1], then.day())
        } else {
            then.year().to_string()
        }
    }

    /// The name of its terminal, from the numbers of the device.
    fn terminal(&self) -> String {
        let (major, minor) = ((self.terminal >> 8) & 0xfff, (self.terminal & 0xff) | ((self.terminal >> 12) & 0xfff00));
        match major {
            4 if minor < 64 => format!("tty{minor}"),
            4 => format!("ttyS{}", minor - 64),
            136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
            _ => "?".to_owned(),
        }
    }

    fn status(&self) -> String {
        let flags = [
            (self.nice < 0, '<'),
            (self.nice > 0, 'N'),
            (self.session == self.pid, 's'),
            (self.threads > 1, 'l'),
            (self.foreground == self.group, '+'),
        ];
        std::iter::once(self.state).chain(flags.into_iter().filter_map(|(is, flag)| is.then_some(flag))).collect()
    }
}

fn tenths(number: u64) -> String {
    format!("{}.{}", number / 10, number % 10)
}

/// `[[days-]hours:]minutes:seconds`.
fn elapsed(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => rest,
        (0, _) => format!("{hours:02}:{rest}"),
        _ => format!("{days}-{hours:02}:{rest}"),
    }
}
