//! The daemon, shims and containers are killed at random instants under load, updates and rollbacks running, again and again. After every round the daemon is
//! started anew, and then: what was acknowledged is there, every service converges, containers that nobody killed are the very
//! same processes, logs have no gap, exit codes of what ended meanwhile are right. In the end nothing is left behind.
//!
//! `SKEP_CRASH_ROUNDS` makes it longer, `SKEP_CRASH_SEED` repeats the choices of a run (not its timing).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use skep_conformance::{
    ArchiveKind, Client, Daemon, Setup, busybox_archive, leftovers, missing, shims_of, wait_for, wait_until,
};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(30);
const ROUNDS: u32 = 25;
const CHURN: u64 = 5;
const STEADY: [&str; 3] = ["steady", "counter", "exiter"];
const SLEEP: &str = "exec sleep 100000";
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done";
const EXIT_42: &str = "trap 'exit 42' USR1; while :; do sleep 1000 & wait $!; done";

/// A small generator of its own, so that a seed means the same for ever (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn is(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What each service may be: its replicas, or `None` for no service. More than one only while an outcome is unknown.
type Beliefs = BTreeMap<String, BTreeSet<Option<u64>>>;

/// The user who goes on changing things until the daemon is gone.
struct User<'a> {
    client: &'a Client,
    dice: Dice,
    beliefs: &'a mut Beliefs,
    acknowledged: &'a mut usize,
    /// Where the daemon lives, and the shims there that are not to be killed.
    dir: PathBuf,
    spared: Vec<i32>,
}

fn spec(name: &str, replicas: u64, script: &str) -> Value {
    json!({
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": { "Image": "busybox:latest", "Command": ["sh", "-c", script], "StopSignal": "SIGKILL" },
            "RestartPolicy": { "Condition": "any", "Delay": 0 },
        },
        "Mode": { "Replicated": { "Replicas": replicas } },
    })
}

fn update_config(parallelism: u64, action: &str, order: &str) -> Value {
    // Nanoseconds. A failure counts also when the daemon learns of it only after a new start: Docker's 5 seconds are enough.
    let monitor: u64 = if action == "rollback" { 5_000_000_000 } else { 200_000_000 };
    json!({ "Parallelism": parallelism, "FailureAction": action, "Order": order, "Monitor": monitor })
}

impl User<'_> {
    /// One change; `false` when the daemon no longer answers.
    fn act(&mut self) -> bool {
        let name = format!("churn{}", self.dice.below(CHURN));
        let replicas = self.dice.below(5);
        let belief = self.beliefs.entry(name.clone()).or_insert_with(|| BTreeSet::from([None]));
        let (wanted, answer) = if belief.contains(&None) {
            let body = spec(&name, replicas, SLEEP);
            (Some(replicas), self.client.post("/v1.41/services/create", &body))
        } else if self.dice.is(30) {
            (None, self.client.http("DELETE", &format!("/v1.41/services/{name}"), None))
        } else if self.dice.is(10) {
            strike_a_shim(&self.dir, &self.spared, &mut self.dice);
            return true;
        } else if self.dice.is(30) {
            return self.kill_a_container(&name);
        } else {
            let Ok(found) = self.client.http("GET", &format!("/v1.41/services/{name}"), None) else { return false };
            let Some((wanted, path, spec)) = self.changed(&name, &found.json(), replicas) else { return true };
            (Some(wanted), self.client.post(&path, &spec))
        };
        let belief = self.beliefs.entry(name).or_default();
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {
                *belief = BTreeSet::from([wanted]);
                *self.acknowledged += 1;
                true
            }
            // Refused or lost: it may have happened or not.
            _ => {
                belief.insert(wanted);
                false
            }
        }
    }

    /// Another scale, another revision, one that fails and is rolled back, or the spec before: how many replicas it means, and
    /// the request. `None` for a service that is failing just now: it goes back by itself.
    fn changed(&mut self, name: &str, found: &Value, replicas: u64) -> Option<(u64, String, Value)> {
        let is_good = |spec: &Value| spec["TaskTemplate"]["ContainerSpec"]["Command"][2] == SLEEP;
        let count = |spec: &Value| spec["Mode"]["Replicated"]["Replicas"].as_u64();
        let mut spec = found["Spec"].clone();
        if !is_good(&spec) {
            return None;
        }
        let mut path = format!("/v1.41/services/{name}/update?version={}", found["Version"]["Index"]);
        let mut wanted = replicas;
        match self.dice.below(10) {
            0..4 => spec["Mode"]["Replicated"]["Replicas"] = replicas.into(),
            4..7 => {
                wanted = count(&spec)?;
                let force = spec["TaskTemplate"]["ForceUpdate"].as_u64().unwrap_or(0) + 1;
                spec["TaskTemplate"]["ForceUpdate"] = force.into();
                let order = if self.dice.is(50) { "start-first" } else { "stop-first" };
                spec["UpdateConfig"] = update_config(1 + self.dice.below(2), "continue", order);
            }
            7 => {
                // Where no task runs yet there is nothing to return to: the first ones have the new revision at once.
                wanted = count(&spec).filter(|count| *count > 0)?;
                self.client.running_tasks(name).ok().filter(|tasks| tasks.len() as u64 == wanted)?;
                spec["TaskTemplate"]["ContainerSpec"]["Command"][2] = "exit 1".into();
                spec["UpdateConfig"] = update_config(1, "rollback", "stop-first");
                spec["RollbackConfig"] = update_config(0, "continue", "stop-first");
            }
            _ if is_good(&found["PreviousSpec"]) => {
                wanted = count(&found["PreviousSpec"])?;
                path += "&rollback=previous";
            }
            _ => return None,
        }
        Some((wanted, path, spec))
    }

    fn kill_a_container(&mut self, service: &str) -> bool {
        let Ok(tasks) = self.client.running_tasks(service) else { return false };
        if tasks.is_empty() {
            return true;
        }
        let task = &tasks[usize::try_from(self.dice.below(tasks.len() as u64)).unwrap()];
        let id = task["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap_or_default();
        self.client.http("POST", &format!("/v1.41/containers/{id}/kill"), None).is_ok()
    }
}

/// Container and process of each running task of a service.
fn processes(client: &Client, service: &str) -> BTreeMap<String, i64> {
    let tasks = client.running_tasks(service).unwrap_or_default();
    let status = |task: &Value| task["Status"]["ContainerStatus"].clone();
    let pair = |status: Value| Some((status["ContainerID"].as_str()?.to_owned(), status["PID"].as_i64()?));
    tasks.iter().map(status).filter_map(pair).collect()
}

/// What the swarm says of the task of a container.
fn why_ended(client: &Client, container: &str) -> String {
    let Ok(answer) = client.http("GET", "/v1.41/tasks", None) else { return "the daemon does not answer".to_owned() };
    let Value::Array(tasks) = answer.json() else { return answer.text() };
    let of_container = |task: &&Value| task["Status"]["ContainerStatus"]["ContainerID"] == container;
    tasks.iter().find(of_container).map_or("its task is forgotten".to_owned(), |task| task["Status"].to_string())
}

fn strike(pid: i64, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).ok();
}

/// Kills a shim, but none of those that are spared.
fn strike_a_shim(dir: &Path, spared: &[i32], dice: &mut Dice) {
    let others: Vec<_> = shims_of(dir).into_iter().filter(|pid| !spared.contains(pid)).collect();
    if !others.is_empty() {
        let index = usize::try_from(dice.below(others.len() as u64)).unwrap();
        strike(i64::from(others[index]), Signal::SIGKILL);
    }
}

/// True when a container's process is gone. A number alone does not tell: under load it is soon another process's.
fn is_gone(container: &str, pid: i64) -> bool {
    !std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(container))
}

struct Rig {
    daemon: Daemon,
    dice: Dice,
    beliefs: Beliefs,
    steady: BTreeMap<&'static str, BTreeMap<String, i64>>,
    /// Changes that the daemon confirmed, in all rounds: without them nothing was tested.
    acknowledged: usize,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let daemon = Setup::new(SKEP).start();
        let _ = daemon.docker_with(&["load"], &busybox_archive("busybox:latest", ArchiveKind::Today), &[]).ok();
        daemon.swarm_init();
        let mut steady = BTreeMap::new();
        for (name, replicas, script) in
            [("steady", 3, "exec sleep 100000"), ("counter", 1, COUNT), ("exiter", 1, EXIT_42)]
        {
            let answer = daemon.post("/v1.41/services/create", &spec(name, replicas, script)).unwrap();
            assert_eq!(answer.status, 201, "{}", answer.text());
            daemon.wait_running(name, usize::try_from(replicas).unwrap(), SOON);
            steady.insert(STEADY.into_iter().find(|known| *known == name).unwrap(), processes(&daemon, name));
        }
        Self { daemon, dice: Dice(seed | 1), beliefs: Beliefs::new(), steady, acknowledged: 0 }
    }

    /// Changes things until the daemon dies, mostly by SIGKILL, at an instant nobody chose.
    fn load_and_kill(&mut self) {
        let seed = self.dice.below(u64::from(u32::MAX)) | 1;
        let client = Client::new(self.daemon.socket());
        let delay = Duration::from_millis(self.dice.below(700));
        let is_orderly = self.dice.is(20);
        let (dir, spared) = (self.daemon.setup().dir().to_owned(), self.steady_shims());
        let stop = AtomicBool::new(false);
        let (daemon, beliefs, acknowledged) = (&mut self.daemon, &mut self.beliefs, &mut self.acknowledged);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut user = User { client: &client, dice: Dice(seed), beliefs, acknowledged, dir, spared };
                let mut goes_on = true;
                while goes_on && !stop.load(Ordering::Relaxed) {
                    goes_on = user.act();
                }
            });
            std::thread::sleep(delay);
            if is_orderly {
                daemon.terminate();
            } else {
                daemon.kill9();
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// Kills some shims and containers while nobody watches; ends the exiter in its own way. The container that exits with 42.
    fn strike_while_down(&mut self) -> Option<String> {
        let mut lost = BTreeSet::new();
        if self.dice.is(50) {
            let victims = self.steady["steady"].clone();
            let index = usize::try_from(self.dice.below(victims.len() as u64)).unwrap();
            if let Some((id, pid)) = victims.iter().nth(index) {
                let shim = shim_of(&self.daemon, id);
                match (self.dice.is(40), shim) {
                    (true, Some(shim)) => strike(i64::from(shim), Signal::SIGKILL),
                    _ => strike(*pid, Signal::SIGKILL),
                }
                lost.insert(id.clone());
            }
        }
        if self.dice.is(30) {
            strike_a_shim(self.daemon.setup().dir(), &self.steady_shims(), &mut self.dice);
        }
        self.steady.get_mut("steady").unwrap().retain(|id, _| !lost.contains(id));
        if !self.dice.is(40) {
            return None;
        }
        let (id, pid) = self.steady.get_mut("exiter").unwrap().pop_first()?;
        strike(pid, Signal::SIGUSR1);
        wait_until("the exiter to end", SOON, || is_gone(&id, pid));
        Some(id)
    }

    fn steady_shims(&self) -> Vec<i32> {
        self.steady.values().flatten().filter_map(|(id, _)| shim_of(&self.daemon, id)).collect()
    }

    fn start(&mut self) {
        if self.dice.is(30) {
            // Killed once more while it is starting.
            self.daemon.spawn();
            std::thread::sleep(Duration::from_millis(self.dice.below(250)));
            self.daemon.kill9();
        }
        self.daemon.start();
    }

    fn check(&mut self, exited: Option<&str>) -> Result<(), String> {
        self.check_acknowledged()?;
        self.check_convergence()?;
        self.check_adopted()?;
        self.check_log()?;
        exited.map_or(Ok(()), |id| self.check_exit(id))
    }

    fn check_acknowledged(&mut self) -> Result<(), String> {
        let services = wait_for("the services", SOON, || {
            let answer = self.daemon.http("GET", "/v1.41/services", None).map_err(|error| error.to_string())?;
            let Value::Array(services) = answer.json() else { return Err(answer.text()) };
            Ok(services)
        })?;
        let count = |service: &Value| service["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64();
        for (name, belief) in &mut self.beliefs {
            let found = services.iter().find(|service| service["Spec"]["Name"] == name.as_str()).and_then(count);
            if !belief.contains(&found) {
                return Err(format!("service {name}: acknowledged {belief:?}, found {found:?}"));
            }
            *belief = BTreeSet::from([found]);
        }
        Ok(())
    }

    fn check_convergence(&self) -> Result<(), String> {
        let churn = self.beliefs.iter().filter_map(|(name, belief)| Some((name.as_str(), (*belief.first()?)?)));
        for (name, count) in churn.chain([("steady", 3), ("counter", 1), ("exiter", 1)]) {
            let all = wait_for(&format!("{count} running tasks of {name}"), SOON, || {
                // Right after a start a task may still be said to run whose process ended while nobody watched.
                let running = processes(&self.daemon, name);
                let alive = running.iter().filter(|(id, pid)| !is_gone(id, **pid)).count();
                let is_so = alive as u64 == count && running.len() == alive;
                if is_so { Ok(()) } else { Err(format!("{alive} of {} run", running.len())) }
            });
            all.map_err(|error| {
                let list = self.daemon.docker(&["service", "ps", "--no-trunc", name]).stdout;
                format!("{error}\n{list}")
            })?;
        }
        Ok(())
    }

    fn check_adopted(&mut self) -> Result<(), String> {
        for (name, before) in &mut self.steady {
            let now = processes(&self.daemon, name);
            for (id, pid) in before.iter() {
                if now.get(id) != Some(pid) {
                    let why = why_ended(&self.daemon, id);
                    return Err(format!(
                        "container {id} of {name} had pid {pid} and was replaced ({why}): now {now:?}"
                    ));
                }
                if is_gone(id, *pid) {
                    return Err(format!("container {id} of {name} is said to run and its process {pid} is gone"));
                }
            }
            *before = now;
        }
        Ok(())
    }

    fn check_log(&self) -> Result<(), String> {
        let id = self.steady["counter"].keys().next().ok_or("the counter is gone")?;
        let output = self.daemon.docker(&["logs", id]);
        let numbers: Vec<u64> = output.stdout.lines().filter_map(|line| line.parse().ok()).collect();
        let gap = (1..).zip(&numbers).find(|(wanted, found)| wanted != *found);
        match gap {
            Some((wanted, found)) => Err(format!("the log has {found} where {wanted} should be")),
            None if numbers.is_empty() => Err(format!("the log is empty: {output}")),
            None => Ok(()),
        }
    }

    fn check_exit(&self, container: &str) -> Result<(), String> {
        wait_for("the task that ended while the daemon was down", SOON, || {
            let answer = self.daemon.http("GET", "/v1.41/tasks", None).map_err(|error| error.to_string())?;
            let Value::Array(tasks) = answer.json() else { return Err(answer.text()) };
            let ended = tasks.iter().map(|task| &task["Status"]);
            let status = ended.into_iter().find(|status| status["ContainerStatus"]["ContainerID"] == container);
            let status = status.ok_or("it is not in the history")?;
            if status["State"] == "failed" && status["ContainerStatus"]["ExitCode"] == 42 {
                return Ok(());
            }
            Err(format!("wanted exit code 42: {status}"))
        })
    }

    /// Removes everything; nothing may be left.
    fn end(&self) -> Result<(), String> {
        let known = self.beliefs.iter().filter(|(_, belief)| !belief.contains(&None)).map(|(name, _)| name.as_str());
        for name in known.chain(STEADY) {
            let _ = self.daemon.docker(&["service", "rm", name]).ok();
        }
        wait_for("nothing to be left", SOON, || {
            let answer = self.daemon.http("GET", "/v1.41/containers/json?all=1", None);
            let listed = answer.map_err(|error| error.to_string())?.json();
            let mut left = leftovers(&self.daemon);
            left.extend(listed.as_array().into_iter().flatten().map(|container| container["Names"].to_string()));
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        })
    }
}

fn shim_of(daemon: &Daemon, container: &str) -> Option<i32> {
    let names = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(container))
    };
    daemon.shims().into_iter().find(names)
}

#[test]
fn kills_at_any_instant_lose_and_replace_nothing() {
    if missing() || std::env::var_os("SKEP_TEST_HOST").is_some() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    let seed = number("SKEP_CRASH_SEED").unwrap_or(u64::try_from(clock).unwrap() & 0xffff_ffff);
    let rounds = number("SKEP_CRASH_ROUNDS").unwrap_or(u64::from(ROUNDS));
    eprintln!("SKEP_CRASH_SEED={seed} SKEP_CRASH_ROUNDS={rounds}");
    let mut rig = Rig::new(seed);
    for round in 1..=rounds {
        rig.load_and_kill();
        let exited = rig.strike_while_down();
        rig.start();
        let checked = rig.check(exited.as_deref());
        checked.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
    }
    eprintln!("{} changes were acknowledged", rig.acknowledged);
    assert!(rig.acknowledged as u64 >= rounds, "only {} changes were acknowledged", rig.acknowledged);
    rig.end().unwrap_or_else(|error| panic!("seed {seed}, in the end: {error}"));
}
