//! A tiny web server to try skep with: it says which container answers. Linked statically it needs nothing else in its image,
//! so the demo and the tests can make an image without a registry.
//!
//! `GET /` answers with the host name, the version given in `HELLO_VERSION` and the client's address; `/exit/N` ends the process
//! with code N; `/env/NAME` tells a variable. SIGTERM ends it with code 0, when what was begun is answered.
//!
//! `hello get ADDRESS:PORT [PATH]` is its client: it prints the answer, and fails when there is none. `hello load ADDRESS:PORT`
//! asks again and again, over four connections at a time, until its standard input ends; then it tells how many requests were
//! answered, by which versions, and how many failed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Longest request line that is read.
const LINE_MAX: u64 = 4096;
/// Requests at a time of `load`.
const CLIENTS: usize = 4;
/// A server that was asked to stop does so when nothing came for this long.
const QUIET: Duration = Duration::from_millis(50);

/// Requests that were taken and are not answered yet, and all that were ever taken.
static OPEN: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["get", address] => show(&get(address, "/")?),
        ["get", address, path] => show(&get(address, path)?),
        ["load", address] => show(&load(address)?),
        [address] => serve(address),
        _ => serve("0.0.0.0:8080"),
    }
}

fn show(text: &str) -> std::io::Result<()> {
    std::io::stdout().write_all(text.as_bytes())
}

fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200") {
        return Err(std::io::Error::other(format!("unexpected answer: {head}")));
    }
    Ok(body.to_owned())
}

/// What became of the requests of one client.
#[derive(Default)]
struct Tally {
    answered: usize,
    failed: usize,
    /// The first failure.
    error: Option<String>,
    /// Answers of each version.
    versions: BTreeMap<String, usize>,
}

/// Asks until standard input ends; gives the report.
fn load(address: &str) -> std::io::Result<String> {
    let stop = AtomicBool::new(false);
    let client = || {
        let mut tally = Tally::default();
        while !stop.load(Ordering::Relaxed) {
            match get(address, "/") {
                Ok(text) => {
                    tally.answered += 1;
                    let version = text.split(", ").nth(1).unwrap_or("no version").to_owned();
                    *tally.versions.entry(version).or_default() += 1;
                }
                Err(error) => {
                    tally.failed += 1;
                    tally.error.get_or_insert(error.to_string());
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        tally
    };
    let mut sum = Tally::default();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stop.store(true, Ordering::Relaxed);
        for tally in clients.into_iter().filter_map(|client| client.join().ok()) {
            sum.answered += tally.answered;
            sum.failed += tally.failed;
            sum.error = sum.error.take().or(tally.error);
            for (version, count) in tally.versions {
                *sum.versions.entry(version).or_default() += count;
            }
        }
        ended
    })?;
    let versions: Vec<_> = sum.versions.iter().map(|(version, count)| format!("{count} by {version}")).collect();
    let error = sum.error.map(|error| format!(" (the first: {error})")).unwrap_or_default();
    Ok(format!("{} answered ({}), {} failed{error}\n", sum.answered, versions.join(", "), sum.failed))
}

fn serve(address: &str) -> std::io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    std::thread::spawn(move || {
        let signal = signals.wait();
        eprintln!("stopping: {signal:?}");
        // Who was let in is answered.
        loop {
            let taken = TAKEN.load(Ordering::SeqCst);
            std::thread::sleep(QUIET);
            if OPEN.load(Ordering::SeqCst) == 0 && TAKEN.load(Ordering::SeqCst) == taken {
                std::process::exit(0);
            }
        }
    });
    let listener = TcpListener::bind(address)?;
    eprintln!("hello listens on {address}");
    for stream in listener.incoming() {
        let stream = stream?;
        OPEN.fetch_add(1, Ordering::SeqCst);
        TAKEN.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            if let Err(error) = answer(&stream) {
                eprintln!("cannot answer: {error}");
            }
            drop(stream);
            OPEN.fetch_sub(1, Ordering::SeqCst);
        });
    }
    Ok(())
}

fn answer(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(std::io::Read::take(stream, LINE_MAX)).read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
    if let Some(code) = path.strip_prefix("/exit/").and_then(|code| code.parse().ok()) {
        respond(stream, "bye\n")?;
        std::process::exit(code);
    }
    let text = match path.strip_prefix("/env/") {
        Some(name) => format!("{}\n", std::env::var(name).unwrap_or_default()),
        None => greeting(stream)?,
    };
    eprintln!("{}: {path}", stream.peer_addr()?);
    respond(stream, &text)
}

fn greeting(stream: &TcpStream) -> std::io::Result<String> {
    let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let version = std::env::var("HELLO_VERSION").unwrap_or_else(|_| "1".to_owned());
    Ok(format!("hello from {host}, version {version}, to {}\n", stream.peer_addr()?.ip()))
}

fn respond(mut stream: &TcpStream, text: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    stream.flush()?;
    stream.shutdown(std::net::Shutdown::Write)
}
