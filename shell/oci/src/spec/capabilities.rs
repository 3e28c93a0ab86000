//! Which capabilities a container gets: Docker's default 14, more or fewer on request.

use std::str::FromStr;

use caps::{CapSet, Capability};

/// Docker's default set.
const DEFAULT: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// What this process can hand on.
pub(crate) fn available() -> Vec<Capability> {
    let mut all: Vec<_> = caps::read(None, CapSet::Bounding).unwrap_or_default().into_iter().collect();
    let permitted = caps::read(None, CapSet::Permitted).unwrap_or_default();
    all.retain(|capability| permitted.contains(capability));
    all.sort_by_key(Capability::index);
    all
}

/// The capabilities of a container, as `CAP_…`, sorted by number. The text of an error is for people.
pub(crate) fn select(add: &[String], drop: &[String], available: &[Capability]) -> Result<Vec<String>, String> {
    let add = parse("CapAdd", add)?;
    let drop = parse("CapDrop", drop)?;
    let (add_all, drop_all) = (add.contains(&None), drop.contains(&None));
    for capability in add.iter().flatten() {
        if !available.contains(capability) {
            return Err(format!(
                "invalid CapAdd: capability not supported by your kernel or not available in the current environment: \"{capability}\""
            ));
        }
    }
    let chosen = |capability: &&Capability| {
        let (added, dropped) = (add.contains(&Some(**capability)), drop.contains(&Some(**capability)));
        match (add_all, drop_all) {
            (true, _) => !dropped,
            (false, true) => added,
            (false, false) => added || (DEFAULT.contains(capability) && !dropped),
        }
    };
    Ok(available.iter().filter(chosen).map(ToString::to_string).collect())
}

/// `None` stands for `ALL`.
fn parse(field: &str, names: &[String]) -> Result<Vec<Option<Capability>>, String> {
    let one = |name: &String| {
        let upper = name.trim().to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            return Ok(None);
        }
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        Capability::from_str(&full).map(Some).map_err(|_| format!("invalid {field}: unknown capability: \"{full}\""))
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select_from_all(add: &[&str], drop: &[&str]) -> Result<Vec<String>, String> {
        let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut all: Vec<_> = caps::all().into_iter().collect();
        all.sort_by_key(Capability::index);
        select(&own(add), &own(drop), &all)
    }

    #[test]
    fn as_docker_does() {
        assert_eq!(select_from_all(&[], &[]).map(|it| it.len()), Ok(14));
        assert_eq!(select_from_all(&["net_admin"], &["ALL"]), Ok(vec!["CAP_NET_ADMIN".to_owned()]));
        let all = select_from_all(&["ALL"], &["CAP_SYS_ADMIN"]).expect("valid");
        assert!(!all.contains(&"CAP_SYS_ADMIN".to_owned()) && all.contains(&"CAP_SYS_PTRACE".to_owned()));
        assert_eq!(select_from_all(&["x"], &[]), Err("invalid CapAdd: unknown capability: \"CAP_X\"".to_owned()));
        assert!(!select_from_all(&[], &["chown"]).expect("valid").contains(&"CAP_CHOWN".to_owned()));
    }
}
