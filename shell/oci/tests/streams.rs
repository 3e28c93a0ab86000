//! Terminals, open standard input and attached clients, with real containers. Needs root; says so and passes otherwise.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: a panic is the answer, output is for its reader")]

mod rig;

use rig::{Fixture, command, ended, real, wait_until};
use skep_oci::{ExecConfig, attachment};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Reads until the text is there.
async fn expect(from: &mut (impl tokio::io::AsyncRead + Unpin), wanted: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(wanted) {
        let count = from.read(&mut buffer).await.unwrap();
        assert!(count > 0, "ended before {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

#[test]
fn a_terminal_is_one_stream_with_a_size() {
    real(async {
        let script = "trap 'stty size; exit 3' WINCH; stty size; test -t 0 && test -t 2 && echo $TERM; echo err >&2; \
                      while :; do sleep 0.05; done";
        let fixture = Fixture::new(script).with(|config| {
            config.tty = true;
            config.console_size = Some([24, 81]);
        });
        let (mut client, ends) = attachment(false, true).unwrap();
        let running = fixture.start_with(vec![ends]).await.unwrap();
        let out = client.stdout.as_mut().unwrap();
        assert_eq!(expect(out, "err\r\n").await, "24 81\r\nxterm\r\nerr\r\n");
        running.client.resize(40, 100).await.unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "40 100\r\n");
        let record = ended(&fixture.bundle(), &running).await;
        assert_eq!(record.exit_code, 3);
        assert_eq!(fixture.output(), "24 81\r\nxterm\r\nerr\r\n40 100\r\n");
        assert!(fixture.entries().iter().all(|(stream, _)| stream == "stdout"));
        fixture.assert_no_leaks(&running);
    });
}

#[test]
fn what_is_typed_reaches_the_terminal_and_several_watch() {
    real(async {
        let script = "trap 'exit 130' INT; read line; echo got $line; tty; while :; do sleep 0.05; done";
        let fixture = Fixture::new(script).with(|config| {
            config.tty = true;
            config.open_stdin = true;
            config.user = "web".to_owned();
        });
        let running = fixture.start().await.unwrap();
        let (mut one, ends) = attachment(true, true).unwrap();
        running.client.attach(ends).await.unwrap();
        let (mut two, ends) = attachment(false, true).unwrap();
        running.client.attach(ends).await.unwrap();
        one.stdin.as_mut().unwrap().write_all(b"hello\r").await.unwrap();
        let text = expect(one.stdout.as_mut().unwrap(), "/dev/").await;
        assert!(text.starts_with("hello\r\ngot hello\r\n"), "{text:?}");
        expect(two.stdout.as_mut().unwrap(), "got hello\r\n").await;
        // Control-C.
        drop(two);
        one.stdin.as_mut().unwrap().write_all(b"\x03").await.unwrap();
        assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, 130);
        fixture.assert_no_leaks(&running);
    });
}

#[test]
fn standard_input_is_a_pipe_that_ends_with_its_client() {
    real(async {
        let fixture = Fixture::new("cat; echo end >&2; id > /dev/stderr").with(|config| {
            config.open_stdin = true;
            config.stdin_once = true;
            config.user = "web".to_owned();
        });
        let (mut client, ends) = attachment(true, false).unwrap();
        let running = fixture.start_with(vec![ends]).await.unwrap();
        let text = "x".repeat(300_000);
        let mut stdin = client.stdin.take().unwrap();
        let sent = text.clone();
        let writer = tokio::spawn(async move {
            stdin.write_all(sent.as_bytes()).await.unwrap();
        });
        let (mut out, mut err) = (String::new(), String::new());
        client.stdout.as_mut().unwrap().read_to_string(&mut out).await.unwrap();
        client.stderr.as_mut().unwrap().read_to_string(&mut err).await.unwrap();
        writer.await.unwrap();
        assert!(out == text, "{} bytes came back", out.len());
        assert!(err.starts_with("end\nuid=101(web)"), "{err}");
        assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, 0);
        assert_eq!(fixture.output().len(), text.len() + err.len());
    });
}

#[test]
fn a_slow_reader_loses_nothing() {
    real(async {
        let fixture = Fixture::new("head -c 3000000 /dev/zero; echo end").with(|config| config.log = None);
        let (mut client, ends) = attachment(false, false).unwrap();
        let running = fixture.start_with(vec![ends]).await.unwrap();
        drop(client.stderr.take());
        let mut out = client.stdout.take().unwrap();
        let mut bytes = 0;
        let mut buffer = vec![0; 1 << 16];
        // It reads only while the container waits.
        loop {
            tokio::task::yield_now().await;
            match out.read(&mut buffer).await.unwrap() {
                0 => break,
                count => bytes += count,
            }
        }
        assert_eq!(bytes, 3_000_004);
        assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, 0);
        wait_until(|| !running.pids.shim.is_alive());
    });
}

#[test]
fn an_exec_has_a_terminal_of_its_own() {
    real(async {
        let fixture = Fixture::new("sleep 1000");
        let running = fixture.start().await.unwrap();
        let script = "stty size; echo $TERM $(tty); trap 'stty size; exit 4' WINCH; read line; echo got $line; while :; do sleep 0.05; done";
        let config = ExecConfig { tty: true, console_size: Some([10, 20]), user: "web".to_owned(), ..command(script) };
        let mut exec = running.client.exec(config, true).await.unwrap();
        assert!(exec.stderr.is_none());
        let text = expect(&mut exec.stdout, "/dev/").await;
        assert!(text.starts_with("10 20\r\nxterm /dev/"), "{text:?}");
        exec.stdin.as_mut().unwrap().write_all(b"hi\n").await.unwrap();
        expect(&mut exec.stdout, "got hi\r\n").await;
        running.client.resize_exec(exec.pid, 30, 40).await.unwrap();
        let mut rest = String::new();
        exec.stdout.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "30 40\r\n");
        assert_eq!(exec.exit.wait().await.unwrap().code, 4);
        let none = running.client.resize(1, 1).await.unwrap_err().to_string();
        assert_eq!(none, "the container has no terminal");
        // A client that goes away does not disturb the program.
        let config = ExecConfig { tty: true, ..command("echo one; sleep 0.2; echo two; exit 9") };
        let exec = running.client.exec(config, false).await.unwrap();
        drop(exec.stdout);
        assert_eq!(exec.exit.wait().await.unwrap().code, 9);
        running.client.kill(9).await.unwrap();
        ended(&fixture.bundle(), &running).await;
        fixture.assert_no_leaks(&running);
    });
}

#[test]
fn an_init_process_passes_signals_on_and_reaps() {
    real(async {
        // The program itself has no handler: as pid 1 it would not get the signal.
        let script = "sh -c 'sleep 0.01 & true'; cat /proc/1/cmdline /proc/1/comm; echo $$; exec sleep 1000";
        let fixture = Fixture::new(script).with(|config| {
            config.init = true;
            config.user = "web".to_owned();
        });
        let running = fixture.start().await.unwrap();
        wait_until(|| fixture.output().ends_with("2\n"));
        let wanted = format!("/sbin/docker-init\0--\0sh\0-c\0{script}\0docker-init\n2\n");
        assert_eq!(fixture.output(), wanted);
        let states =
            command("while grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null; do sleep 0.01; done; echo none");
        assert!(rig::exec(&running.client, states).await.1.ends_with("none\n"));
        running.client.kill(libc::SIGTERM).await.unwrap();
        assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, 143);
        fixture.assert_no_leaks(&running);
        for (script, code) in [("exit 7", 7), ("kill -9 $$", 137)] {
            let fixture = Fixture::new(script).with(|config| config.init = true);
            assert_eq!(fixture.run().await.0.exit_code, code, "{script}");
        }
        // With a terminal the program is in its foreground.
        let fixture = Fixture::new("trap 'exit 6' INT; echo go; while :; do sleep 0.05; done").with(|config| {
            config.init = true;
            config.tty = true;
            config.open_stdin = true;
        });
        let (mut client, ends) = attachment(true, true).unwrap();
        let running = fixture.start_with(vec![ends]).await.unwrap();
        expect(client.stdout.as_mut().unwrap(), "go\r\n").await;
        client.stdin.as_mut().unwrap().write_all(b"\x03").await.unwrap();
        assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, 6);
    });
}

#[test]
fn logs_rotate_and_are_compressed_while_the_container_writes() {
    real(async {
        for format in [skep_oci::LogFormat::JsonFile, skep_oci::LogFormat::Local] {
            let fixture =
                Fixture::new("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done").with(|config| {
                    let log = config.log.as_mut().unwrap();
                    log.path = log.path.with_file_name("logs").join("log");
                    (log.format, log.max_size, log.max_files, log.compress) = (format, Some(20_000), 4, true);
                });
            let running = fixture.start().await.unwrap();
            assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, 0);
            let names = || {
                let directory = std::fs::read_dir(fixture.dir.path().join("logs")).unwrap();
                let mut names: Vec<_> =
                    directory.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
                names.sort();
                names
            };
            // The last compression may outlast the container.
            wait_until(|| names() == ["log", "log.1.gz", "log.2.gz", "log.3.gz"]);
            fixture.assert_no_leaks(&running);
        }
    });
}
