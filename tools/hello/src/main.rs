//! A tiny web server to try skep with: it says which container answers. Linked statically it needs nothing else in its image,
//! so the demo and the tests can make an image without a registry.
//!
//! `GET /` answers with the host name, the version given in `HELLO_VERSION` and the client's address; `/exit/N` ends the process
//! with code N; `/env/NAME` tells a variable. SIGTERM ends it with code 0 once open answers are sent.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Longest request line that is read.
const LINE_MAX: u64 = 4096;

fn main() -> std::io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    std::thread::spawn(move || {
        let signal = signals.wait();
        eprintln!("stopping: {signal:?}");
        std::process::exit(0);
    });
    let address = std::env::args().nth(1).unwrap_or_else(|| "0.0.0.0:8080".to_owned());
    let listener = TcpListener::bind(&address)?;
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
