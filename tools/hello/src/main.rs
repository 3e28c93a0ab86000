//! A tiny web server to try skep with: it says which container answers. Linked statically it needs nothing else in its image,
//! so the demo and the tests can make an image without a registry.
//!
//! `GET /` answers with the host name, the version given in `HELLO_VERSION` and the client's address; `/exit/N` ends the process
//! with code N; `/env/NAME` tells a variable. SIGTERM ends it with code 0.
//!
//! `hello get ADDRESS:PORT [PATH]` is its client: it prints the answer, and fails when there is none.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Longest request line that is read.
const LINE_MAX: u64 = 4096;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["get", address] => get(address, "/"),
        ["get", address, path] => get(address, path),
        [address] => serve(address),
        _ => serve("0.0.0.0:8080"),
    }
}

fn get(address: &str, path: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200") {
        return Err(std::io::Error::other(format!("unexpected answer: {head}")));
    }
    std::io::stdout().write_all(body.as_bytes())
}

fn serve(address: &str) -> std::io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    std::thread::spawn(move || {
        let signal = signals.wait();
        eprintln!("stopping: {signal:?}");
        std::process::exit(0);
    });
    let listener = TcpListener::bind(address)?;
    eprintln!("hello listens on {address}");
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = answer(&stream) {
                eprintln!("cannot answer: {error}");
            }
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
