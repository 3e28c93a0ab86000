//! The files that Docker lays over a container's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use skep_network::Endpoint;
use skep_oci::{BindPropagation, Mount};

use crate::error::{At, Result};
use crate::layout::Directory;
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
pub(crate) fn write(record: &Record, endpoint: &Endpoint, directory: &Directory, machine: &str) -> Result<Vec<Mount>> {
    let contents =
        [hosts(record, endpoint), format!("{}\n", record.config.hostname), resolv_conf(&record.dns, machine)];
    let mut mounts = Vec::with_capacity(NAMES.len());
    for (name, content) in NAMES.into_iter().zip(contents) {
        let path = directory.etc(name);
        std::fs::write(&path, content).at("write", &path)?;
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
    Ok(mounts)
}

fn hosts(record: &Record, endpoint: &Endpoint) -> String {
    let mut text = HOSTS.to_owned();
    for line in &record.hosts {
        // `IP name [aliases]`; Docker takes the first name.
        let mut words = line.split_whitespace();
        if let (Some(address), Some(name)) = (words.next(), words.next()) {
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    text.push_str(&format!("{}\t{}\n", endpoint.address, record.config.hostname));
    text
}

/// The machine's name servers, search domains and options, each replaced where the container has its own. Servers on the
/// machine's loopback cannot be reached from a container; without any other, public ones are used, as Docker does.
fn resolv_conf(own: &[Vec<String>; 3], machine: &str) -> String {
    let [servers, search, options] = own;
    let mut found: [Vec<String>; 3] = Default::default();
    for line in machine.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let words = words.map(str::to_owned);
        match keyword {
            "nameserver" => found[0].extend(words.take(1).filter(|server| is_reachable(server))),
            "search" | "domain" => found[1] = words.collect(),
            "options" => found[2].extend(words),
            _ => {}
        }
    }
    if found[0].is_empty() {
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
        assert_eq!(resolv_conf(&none, machine), "nameserver 10.0.0.2\nsearch a b\noptions edns0\n");
        assert_eq!(resolv_conf(&none, "nameserver ::1\n"), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        let own = [vec!["1.1.1.1".to_owned()], vec![".".to_owned()], vec!["ndots:1".to_owned()]];
        assert_eq!(resolv_conf(&own, machine), "nameserver 1.1.1.1\noptions ndots:1\n");
    }
}
