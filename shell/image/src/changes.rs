//! The Dockerfile instructions that `docker import --change` takes, applied to a configuration. Syntax and limits are those of
//! Docker's builder: exec and shell forms, quoting, `$NAME` from the environment so far.

use std::collections::BTreeMap;

use crate::config::{ContainerConfig, Empty, Healthcheck};
use crate::digest::shorten;
use crate::error::{Error, Result};

const PORTS_MAX: usize = 65_536;

/// Applies instructions in order. Each string may hold several lines; `\` at the end of a line continues it.
pub(crate) fn apply(mut config: ContainerConfig, changes: &[String]) -> Result<ContainerConfig> {
    for change in changes {
        for line in logical_lines(change) {
            instruction(&mut config, &line)?;
        }
    }
    Ok(config)
}

fn invalid(text: impl Into<String>) -> Error {
    Error::InvalidChange(text.into())
}

fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        let line = line.trim();
        if current.is_empty() && (line.is_empty() || line.starts_with('#')) {
            continue;
        }
        if let Some(part) = line.strip_suffix('\\') {
            current.push_str(part);
            continue;
        }
        current.push_str(line);
        lines.push(std::mem::take(&mut current));
    }
    if !current.is_empty() {
        lines.push(current);
    }
    lines
}

fn instruction(config: &mut ContainerConfig, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (name, rest) = (word.to_ascii_uppercase(), rest.trim());
    let needs_argument = |least: &str| invalid(format!("{name} requires {least} argument"));
    match name.as_str() {
        "CMD" => config.cmd = Some(command(rest)?),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)?),
        "ENV" => {
            for (key, value) in pairs(&name, rest, &config.env)? {
                set_env(&mut config.env, &key, &value);
            }
        }
        "LABEL" => {
            let pairs = pairs(&name, rest, &config.env)?;
            config.labels.get_or_insert_default().extend(pairs);
        }
        "EXPOSE" => {
            let words = words(rest, &config.env)?;
            if words.is_empty() {
                return Err(needs_argument("at least one"));
            }
            for word in words {
                for port in ports(&word)? {
                    config.exposed_ports.insert(port, Empty {});
                }
            }
        }
        "VOLUME" => {
            let volumes = match json_array(rest) {
                Some(volumes) => volumes,
                None => words(rest, &config.env)?,
            };
            if volumes.is_empty() {
                return Err(needs_argument("at least one"));
            }
            for volume in volumes {
                if volume.trim().is_empty() {
                    return Err(invalid("VOLUME specified can not be an empty string"));
                }
                config.volumes.insert(volume.trim().to_owned(), Empty {});
            }
        }
        "USER" => config.user = single(&name, rest, &config.env)?,
        "STOPSIGNAL" => config.stop_signal = stop_signal(&single(&name, rest, &config.env)?)?,
        "WORKDIR" => config.working_dir = workdir(&config.working_dir, &single(&name, rest, &config.env)?),
        "ONBUILD" => config.on_build.push(trigger(rest)?),
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        _ => return Err(invalid(format!("{} is not a valid change command", shorten(&name.to_ascii_lowercase())))),
    }
    Ok(())
}

fn json_array(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// Exec form if it is a JSON array of strings, else shell form.
fn command(text: &str) -> Result<Vec<String>> {
    Ok(match json_array(text) {
        Some(arguments) => arguments,
        None if text.is_empty() => Vec::new(),
        None => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()],
    })
}

fn single(name: &str, rest: &str, env: &[String]) -> Result<String> {
    match words(rest, env)?.as_slice() {
        [one] if !one.is_empty() => Ok(one.clone()),
        _ => Err(invalid(format!("{name} requires exactly one argument"))),
    }
}

fn trigger(rest: &str) -> Result<String> {
    let first = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match first.as_str() {
        "" => Err(invalid("ONBUILD requires at least one argument")),
        "ONBUILD" => Err(invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        "MAINTAINER" | "FROM" => Err(invalid(format!("{first} isn't allowed as an ONBUILD trigger"))),
        _ => Ok(rest.to_owned()),
    }
}

fn workdir(current: &str, new: &str) -> String {
    let joined = if new.starts_with('/') { new.to_owned() } else { format!("{current}/{new}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

const SIGNALS: &[&str] = &[
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "IOT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
    "TERM", "STKFLT", "CHLD", "CLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
    "WINCH", "IO", "POLL", "PWR", "SYS",
];

fn stop_signal(text: &str) -> Result<String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, sign: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix(sign).and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| n <= 15)
        })
    };
    let number = text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    if number || SIGNALS.contains(&name) || real_time("RTMIN", "+") || real_time("RTMAX", "-") {
        Ok(text.to_owned())
    } else {
        Err(invalid(format!("invalid signal: {}", shorten(text))))
    }
}

fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    match env.iter_mut().find(|old| old.split('=').next() == Some(key)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

/// `a=1 b="2 3"`, or the old form `a everything else`.
fn pairs(name: &str, rest: &str, env: &[String]) -> Result<Pairs> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if rest.is_empty() {
        return Err(invalid(format!("{name} requires at least one argument")));
    }
    if !first.contains('=') {
        let (key, value) =
            rest.split_once(char::is_whitespace).ok_or_else(|| invalid(format!("{name} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), expand(value.trim(), env)?)]);
    }
    let mut pairs = Vec::new();
    for word in words(rest, env)? {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            invalid(format!("Syntax error - can't find = in \"{}\". Must be of the form: name=value", shorten(&word)))
        })?;
        if key.is_empty() {
            return Err(invalid(format!("{name} names can not be blank")));
        }
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

/// Key and value in the order they were written.
type Pairs = Vec<(String, String)>;

/// Splits at white space outside quotes; quotes and backslashes go, `$NAME` is replaced outside single quotes.
fn words(text: &str, env: &[String]) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut current: Option<String> = None;
    let mut chars = text.chars().peekable();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                let Some(next) = chars.next() else { break };
                let word = current.get_or_insert_default();
                if quote == Some('"') && !matches!(next, '"' | '$' | '\\') {
                    word.push('\\');
                }
                word.push(next);
            }
            ('\'' | '"', None) => {
                quote = Some(c);
                current.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            ('$', None | Some('"')) => {
                let value = variable(&mut chars, env)?;
                current.get_or_insert_default().push_str(&value);
            }
            (c, None) if c.is_whitespace() => words.extend(current.take()),
            (c, _) => current.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        let kind = if quote == '"' { "double-quote" } else { "single-quote" };
        return Err(invalid(format!(
            "failed to process {:?}: unexpected end of statement while looking for matching {kind}",
            shorten(text)
        )));
    }
    words.extend(current);
    Ok(words)
}

/// The whole text as one value.
fn expand(text: &str, env: &[String]) -> Result<String> {
    Ok(words(&text.replace(' ', "\\ ").replace('\t', "\\\t"), env)?.concat())
}

fn variable(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, env: &[String]) -> Result<String> {
    let braces = chars.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if braces && chars.next() != Some('}') {
        return Err(invalid(format!("unsupported modifier in substitution of ${{{name}")));
    }
    if name.is_empty() {
        return if braces { Err(invalid("bad substitution: ${}")) } else { Ok("$".to_owned()) };
    }
    let lookup: BTreeMap<&str, &str> = env.iter().filter_map(|entry| entry.split_once('=')).collect();
    Ok(lookup.get(name.as_str()).copied().unwrap_or_default().to_owned())
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(text: &str) -> Result<Vec<String>> {
    let bad = || invalid(format!("invalid containerPort: {}", shorten(text)));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(invalid(format!("invalid proto: {}", shorten(&protocol))));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if last < first {
        return Err(bad());
    }
    Ok((first..=last).take(PORTS_MAX).map(|port| format!("{port}/{protocol}")).collect())
}

fn healthcheck(rest: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        rest = after.trim_start();
        let (key, value) =
            option.split_once('=').ok_or_else(|| invalid(format!("Missing a value on flag: {}", shorten(option))))?;
        match key {
            "interval" => check.interval = duration(key, value)?,
            "timeout" => check.timeout = duration(key, value)?,
            "start-period" => check.start_period = duration(key, value)?,
            "start-interval" => check.start_interval = duration(key, value)?,
            "retries" => {
                check.retries =
                    value.parse().ok().filter(|retries| (0..=i64::from(i32::MAX)).contains(retries)).ok_or_else(
                        || invalid(format!("--retries cannot be negative or no number ({})", shorten(value))),
                    )?;
            }
            _ => return Err(invalid(format!("Unknown flag: {}", shorten(key)))),
        }
    }
    let (kind, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let arguments = arguments.trim();
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if !arguments.is_empty() => return Err(invalid("HEALTHCHECK NONE takes no arguments")),
        "NONE" if check != Healthcheck::default() => return Err(invalid("HEALTHCHECK NONE takes no options")),
        "NONE" => vec!["NONE".to_owned()],
        "CMD" if arguments.is_empty() => return Err(invalid("Missing command after HEALTHCHECK CMD")),
        "CMD" => match json_array(arguments) {
            Some(list) if list.is_empty() => return Err(invalid("Missing command after HEALTHCHECK CMD")),
            Some(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
            None => vec!["CMD-SHELL".to_owned(), arguments.to_owned()],
        },
        "" => return Err(invalid("HEALTHCHECK requires at least one argument")),
        other => return Err(invalid(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)"))),
    };
    Ok(check)
}

/// A Go duration (`1m30s`) in nanoseconds; zero, or at least a millisecond.
fn duration(key: &str, text: &str) -> Result<i64> {
    let bad = || invalid(format!("time: invalid duration \"{}\"", shorten(text)));
    if text == "0" {
        return Ok(0);
    }
    let mut total = 0_f64;
    let mut rest = text;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        total += number * unit;
        rest = &rest[end..];
    }
    if total > 9e18 {
        return Err(bad());
    }
    if total > 0.0 && total < 1e6 {
        return Err(invalid(format!("Interval {key:?} cannot be less than 1ms")));
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded above just now and never negative")]
    let nanos = total as i64;
    Ok(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(changes: &[&str]) -> Result<ContainerConfig> {
        apply(ContainerConfig::default(), &changes.iter().map(|change| (*change).to_owned()).collect::<Vec<_>>())
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn every_instruction_lands_in_its_field() {
        let config = applied(&[
            "CMD [\"/bin/sh\", \"-l\"]",
            "entrypoint exec app",
            "ENV PATH=/bin:/usr/bin A=\"b c\"\nENV OLD some words",
            "ENV PATH=$PATH:/app B='$A' C=${A}!",
            "EXPOSE 80 53/udp 8000-8002",
            "LABEL a=1 \"b c\"=\"2 3\"",
            "ONBUILD RUN make",
            "STOPSIGNAL SIGQUIT",
            "USER 1000:1000",
            "VOLUME /data /more",
            "VOLUME [\"/a b\"]",
            "WORKDIR /srv",
            "WORKDIR app/../www",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f http://x/",
        ])
        .unwrap();
        assert_eq!(config.cmd.unwrap(), strings(&["/bin/sh", "-l"]));
        assert_eq!(config.entrypoint.unwrap(), strings(&["/bin/sh", "-c", "exec app"]));
        assert_eq!(config.env, strings(&["PATH=/bin:/usr/bin:/app", "A=b c", "OLD=some words", "B=$A", "C=b c!"]));
        assert_eq!(
            config.exposed_ports.keys().cloned().collect::<Vec<_>>(),
            strings(&["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"])
        );
        assert_eq!(
            config.labels.unwrap().into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), "1".to_owned()), ("b c".to_owned(), "2 3".to_owned())]
        );
        assert_eq!(config.on_build, strings(&["RUN make"]));
        assert_eq!(
            (config.stop_signal.as_str(), config.user.as_str(), config.working_dir.as_str()),
            ("SIGQUIT", "1000:1000", "/srv/www")
        );
        assert_eq!(config.volumes.keys().cloned().collect::<Vec<_>>(), strings(&["/a b", "/data", "/more"]));
        let health = config.healthcheck.unwrap();
        assert_eq!((health.interval, health.retries), (90_000_000_000, 3));
        assert_eq!(health.test, strings(&["CMD-SHELL", "curl -f http://x/"]));
    }

    #[test]
    fn bad_instructions_are_refused() {
        for (change, message) in [
            ("RUN x", "run is not a valid change command"),
            ("FOO x", "foo is not a valid change command"),
            ("ENV", "ENV requires at least one argument"),
            ("ENV a", "ENV must have two arguments"),
            ("ENV =b", "ENV names can not be blank"),
            (
                "ENV a='b",
                "failed to process \"a='b\": unexpected end of statement while looking for matching single-quote",
            ),
            ("EXPOSE 70000", "invalid containerPort: 70000"),
            ("EXPOSE 80/icmp", "invalid proto: icmp"),
            ("STOPSIGNAL nope", "invalid signal: nope"),
            ("USER", "USER requires exactly one argument"),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
            ("HEALTHCHECK --interval=1 CMD x", "time: invalid duration \"1\""),
            ("HEALTHCHECK --interval=1us CMD x", "Interval \"interval\" cannot be less than 1ms"),
        ] {
            assert_eq!(applied(&[change]).unwrap_err().to_string(), message, "{change}");
        }
    }
}
