//! A node, a client machine and small servers. A namespace here is held by an open file; threads enter it to work.

use nix::sched::{CloneFlags, setns, unshare};
use skep_network::{Backend, Endpoint, Network, NetworkConfig, Protocol, PublishMode, PublishedPort};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// An address of the client machine that only its default gateway (the node) leads to.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence has to last to be believed.
const SILENCE: Duration = Duration::from_millis(700);

pub(crate) struct World {
    pub(crate) node: File,
    pub(crate) client: File,
    pub(crate) directory: tempfile::TempDir,
    servers: Vec<Server>,
}

struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl World {
    /// Moves this thread into a new node.
    pub(crate) fn new() -> Self {
        let client = fresh_namespace();
        let node = fresh_namespace();
        setns(&node, CloneFlags::CLONE_NEWNET).unwrap();
        let world = Self { node, client, directory: tempfile::tempdir().unwrap(), servers: Vec::new() };
        ip("link set lo up");
        ip("link add up0 type veth peer name cl0");
        // `ip` names a namespace by a process in it.
        let mut holder = within(&world.client, move || {
            ip("link set lo up");
            Command::new("sleep").arg("60").spawn().unwrap()
        });
        ip(&format!("link set cl0 netns {}", holder.id()));
        holder.kill().unwrap();
        holder.wait().unwrap();
        ip(&format!("addr add {NODE}/24 dev up0"));
        ip("link set up0 up");
        ip(&format!("route add default via {CLIENT}"));
        within(&world.client, || {
            ip(&format!("addr add {CLIENT}/24 dev cl0"));
            ip(&format!("addr add {FAR}/32 dev lo"));
            ip("link set cl0 up");
        });
        world
    }

    pub(crate) fn config(&self) -> NetworkConfig {
        NetworkConfig::new(self.directory.path().join("exec/netns"), self.directory.path().join("data/network"))
    }

    pub(crate) fn open(&self) -> Network {
        Network::open(self.config()).unwrap()
    }

    /// Serves TCP and UDP on the port inside the container; each answer is `NAME CLIENT-ADDRESS`.
    pub(crate) fn serve(&mut self, endpoint: &Endpoint, name: &str, port: u16) {
        let netns = File::open(&endpoint.netns_path).unwrap();
        self.serve_in(&netns, name, port);
    }

    pub(crate) fn serve_in(&mut self, netns: &File, name: &str, port: u16) {
        let (tcp, udp) = within(netns, || {
            let any = (Ipv4Addr::UNSPECIFIED, port);
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        });
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, name) = (stop.clone(), name.to_owned());
        let thread = thread::spawn(move || {
            let answer = |peer: SocketAddr| format!("{name} {}", peer.ip());
            let mut buffer = [0; 64];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((mut stream, peer)) = tcp.accept() {
                    let _ = stream.write_all(answer(peer).as_bytes());
                }
                if let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(answer(peer).as_bytes(), peer);
                }
            }
        });
        self.servers.push(Server { stop, thread: Some(thread) });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.stop.store(true, Ordering::Relaxed);
            if let Some(thread) = server.thread.take() {
                let _ = thread.join();
            }
        }
        // What a failed test leaves mounted under its directory.
        let pins = self.directory.path().join("exec/netns");
        if let Ok(entries) = std::fs::read_dir(&pins) {
            for entry in entries.flatten() {
                let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
            }
        }
        let _ = nix::mount::umount2(&pins, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn fresh_namespace() -> File {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    thread::spawn(make).join().unwrap()
}

pub(crate) fn within<T: Send>(netns: &File, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

/// Runs `ip` in this thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the server at the address says by TCP; the error's kind when it does not.
pub(crate) fn ask_tcp(netns: &File, address: Ipv4Addr, port: u16) -> Result<String, ErrorKind> {
    ask_tcp_for(netns, address, port, PATIENCE)
}

fn ask_tcp_for(netns: &File, address: Ipv4Addr, port: u16, patience: Duration) -> Result<String, ErrorKind> {
    within(netns, || {
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&(address, port).into(), patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        ask().map_err(|error: std::io::Error| error.kind())
    })
}

/// The same by UDP, from a new port.
pub(crate) fn ask_udp(netns: &File, address: Ipv4Addr, port: u16) -> Result<String, ErrorKind> {
    let socket = within(netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    ask_from(&socket, address, port, PATIENCE)
}

/// The same from this socket.
pub(crate) fn ask_from(
    socket: &UdpSocket,
    address: Ipv4Addr,
    port: u16,
    patience: Duration,
) -> Result<String, ErrorKind> {
    let ask = || {
        socket.set_read_timeout(Some(patience))?;
        socket.send_to(b"?", (address, port))?;
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer)?;
        assert_eq!(from, SocketAddr::from((address, port)), "the answer comes from where the question went");
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    ask().map_err(|error: std::io::Error| error.kind())
}

/// Nobody answers, neither by TCP nor by UDP.
pub(crate) fn unreachable(netns: &File, address: Ipv4Addr, port: u16) -> bool {
    let socket = within(netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    ask_tcp_for(netns, address, port, SILENCE).is_err() && ask_from(&socket, address, port, SILENCE).is_err()
}

pub(crate) fn ports(port: u16, mode: PublishMode, backends: &[(&str, &Endpoint, u16)]) -> Vec<PublishedPort> {
    let list = |protocol| PublishedPort {
        protocol,
        port,
        mode,
        backends: backends
            .iter()
            .map(|(container, endpoint, target_port)| Backend {
                container: (*container).to_owned(),
                address: endpoint.address,
                target_port: *target_port,
            })
            .collect(),
    };
    vec![list(Protocol::Tcp), list(Protocol::Udp)]
}

/// Publishes and expects that nothing is refused.
pub(crate) fn publish(network: &Network, ports: Vec<PublishedPort>) {
    let report = network.set_published(ports).unwrap();
    assert!(report.refused.is_empty(), "{report:?}");
}

/// Everything that a network leaves in the node's namespace and in its directories.
pub(crate) fn traces(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let links = ip("-o link");
    found.extend(links.lines().filter(|line| line.contains(": sk")).map(str::to_owned));
    found.extend(run("nft", "list tables").lines().map(str::to_owned));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = directory.to_str().unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(path)).map(str::to_owned));
    for name in ["exec/netns", "data/network"] {
        if directory.join(name).exists() {
            found.push(name.to_owned());
        }
    }
    found
}
