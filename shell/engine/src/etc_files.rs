//! The files that Docker lays over a container's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use skep_network::Endpoint;
use skep_oci::{BindPropagation, Mount};

use crate::error::{At, Result};
use crate::layout::Directory;
use crate::networks::GATEWAY_NETWORK;
use crate::record::Record;

/// Names of the files, in the container's directory and in `/etc`.
pub(crate) const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

const HOSTS: &str = "127.0.0.1\tlocalhost\n\
::1\tlocalhost ip6-localhost ip6-loopback\n\
fe00::\tip6-localnet\n\
ff00::\tip6-mcastprefix\n\
ff02::1\tip6-allnodes\n\
ff02::2\tip6-allrouters\n";

/// Writes the files and gives the mounts that show them. `machine` is the machine's own resolv.conf.
pub(crate) fn write(
    record: &Record,
    endpoint: Option<&Endpoint>,
    directory: &Directory,
    machine: &str,
) -> Result<Vec<Mount>> {
    let contents = [
        hosts(record, endpoint),
        format!("{}\n", record.config.hostname),
        // Who is on the machine's own network reaches the name servers that the machine reaches.
        resolv_conf(&record.dns, machine, endpoint.is_none()),
    ];
    for (name, content) in NAMES.into_iter().zip(contents) {
        let path = directory.etc(name);
        std::fs::write(&path, content).at("write", &path)?;
    }
    Ok(shared(record, directory))
}

/// The mounts that show the files of a directory: a container's own, or those of the one whose network it shares.
pub(crate) fn shared(record: &Record, directory: &Directory) -> Vec<Mount> {
    let mut mounts = Vec::with_capacity(NAMES.len());
    for name in NAMES {
        let path = directory.etc(name);
        let target = PathBuf::from("/etc").join(name);
        // A mount of the user's at the same place wins.
        if !record.mounts.iter().any(|mount| target == Path::new(&mount.destination)) {
            mounts.push(Mount::Bind {
                source: path,
                target,
                read_only: record.config.read_only_rootfs,
                propagation: BindPropagation::Rprivate,
                non_recursive: false,
                writable_below: false,
            });
        }
    }
    mounts
}

/// Without an endpoint the container is on the machine's own network, whose names it gets.
fn hosts(record: &Record, endpoint: Option<&Endpoint>) -> String {
    let mut text = match endpoint {
        Some(_) => HOSTS.to_owned(),
        None => std::fs::read_to_string("/etc/hosts").unwrap_or_else(|_| HOSTS.to_owned()),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for line in &record.hosts {
        // `IP name [aliases]`; Docker takes the first name.
        let mut words = line.split_whitespace();
        if let (Some(address), Some(name)) = (words.next(), words.next()) {
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    for leg in endpoint.iter().flat_map(|endpoint| &endpoint.legs).filter(|leg| leg.bridge != GATEWAY_NETWORK) {
        text.push_str(&format!("{}\t{}\n", leg.address, record.config.hostname));
    }
    text
}

/// The machine's name servers, search domains and options, each replaced where the container has its own. Servers on the
/// machine's loopback cannot be reached from a container; without any other, public ones are used, as Docker does.
fn resolv_conf(own: &[Vec<String>; 3], machine: &str, on_host: bool) -> String {
    let [servers, search, options] = own;
    let mut found: [Vec<String>; 3] = Default::default();
    for line in machine.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let words = words.map(str::to_owned);
        match keyword {
            "nameserver" => found[0].extend(words.take(1).filter(|server| on_host || is_reachable(server))),
            "search" | "domain" => found[1] = words.collect(),
            "options" => found[2].extend(words),
            _ => {}
        }
    }
    if found[0].is_empty() && !on_host {
        found[0] = vec!["8.8.8.8".to_owned(), "8.8.4.4".to_owned()];
    }
    let choose = |own: &Vec<String>, index: usize| if own.is_empty() { found[index].clone() } else { own.clone() };
    let mut text = String::new();
    for server in choose(servers, 0) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let search = choose(search, 1);
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let options = choose(options, 2);
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

fn is_reachable(server: &str) -> bool {
    // Containers have no IPv6 yet.
    server.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4() && !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_machine_and_container() {
        let none: [Vec<String>; 3] = Default::default();
        let machine = "# x\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch a b\noptions edns0\n";
        assert_eq!(resolv_conf(&none, machine, false), "nameserver 10.0.0.2\nsearch a b\noptions edns0\n");
        assert_eq!(resolv_conf(&none, "nameserver ::1\n", false), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        let own = [vec!["1.1.1.1".to_owned()], vec![".".to_owned()], vec!["ndots:1".to_owned()]];
        assert_eq!(resolv_conf(&own, machine, false), "nameserver 1.1.1.1\noptions ndots:1\n");
    }
}
