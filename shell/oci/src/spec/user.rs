//! Who a process runs as: Docker's `user[:group]` looked up in the container's own passwd and group files, with the
//! rules and texts of moby's user package.

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional: Vec<u32>,
    pub(crate) home: String,
}

/// Why nobody was found; Docker's texts.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    /// No such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
    /// Out of range.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
}

/// Resolves `spec` and the additional `groups`.
pub(crate) fn resolve(spec: &str, groups: &[String], passwd: &str, group: &str) -> Result<User, UserError> {
    let (name, group_name) = spec.split_once(':').unwrap_or((spec, ""));
    let uid = name.parse::<i64>().ok();
    let mut user = User { uid: 0, gid: 0, additional: Vec::new(), home: "/".to_owned() };
    let mut matched = None;
    let entry = passwd
        .lines()
        .filter_map(PasswdEntry::parse)
        .find(|entry| if name.is_empty() { entry.uid == 0 } else { entry.name == name || uid == Some(entry.uid) });
    if let Some(entry) = entry {
        user.uid = in_range(entry.uid)?;
        user.gid = in_range(entry.gid)?;
        entry.home.clone_into(&mut user.home);
        matched = Some(entry.name);
    } else if !name.is_empty() {
        user.uid = in_range(uid.ok_or_else(|| UserError::User(name.to_owned()))?)?;
    }
    let entries = || group.lines().filter_map(GroupEntry::parse);
    if !group_name.is_empty() {
        user.gid = find_group(group_name, entries())?;
    } else if let Some(matched) = matched {
        for entry in entries().filter(|entry| entry.members.split(',').any(|member| member == matched)) {
            user.additional.push(in_range(entry.gid)?);
        }
    }
    for name in groups {
        user.additional.push(find_group(name, entries())?);
    }
    let mut seen = Vec::new();
    user.additional.retain(|gid| {
        let new = !seen.contains(gid);
        seen.push(*gid);
        new
    });
    Ok(user)
}

fn find_group<'a>(name: &str, mut entries: impl Iterator<Item = GroupEntry<'a>>) -> Result<u32, UserError> {
    let number = name.parse::<i64>().ok();
    match (entries.find(|entry| entry.name == name || number == Some(entry.gid)), number) {
        (Some(entry), _) => in_range(entry.gid),
        (None, Some(number)) => in_range(number),
        (None, None) => Err(UserError::Group(name.to_owned())),
    }
}

fn in_range(id: i64) -> Result<u32, UserError> {
    u32::try_from(id).ok().filter(|id| *id <= 0x7fff_ffff).ok_or(UserError::Range)
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: i64,
    gid: i64,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?.trim();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        (!name.is_empty()).then_some(Self { name, uid, gid, home })
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: i64,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?.trim();
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or("");
        (!name.is_empty()).then_some(Self { name, gid, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nmedia:x:50:www,other\naudio:x:51:other\n";

    fn check(spec: &str, groups: &[&str], wanted: Result<(u32, u32, &[u32], &str), &str>) {
        let groups: Vec<_> = groups.iter().map(|&name| name.to_owned()).collect();
        let got = resolve(spec, &groups, PASSWD, GROUP);
        match wanted {
            Ok((uid, gid, additional, home)) => {
                let wanted = User { uid, gid, additional: additional.to_vec(), home: home.to_owned() };
                assert_eq!(got, Ok(wanted), "{spec}");
            }
            Err(text) => assert_eq!(got.expect_err(spec).to_string(), text),
        }
    }

    #[test]
    fn as_docker_does() {
        check("", &[], Ok((0, 0, &[], "/root")));
        check("www", &[], Ok((33, 34, &[50], "/var/www")));
        check("33", &[], Ok((33, 34, &[50], "/var/www")));
        check("1000", &[], Ok((1000, 0, &[], "/")));
        check("1000:1001", &[], Ok((1000, 1001, &[], "/")));
        check("www:audio", &[], Ok((33, 51, &[], "/var/www")));
        check("www", &["audio", "77", "50"], Ok((33, 34, &[50, 51, 77], "/var/www")));
        check("nobody", &[], Err("unable to find user nobody: no matching entries in passwd file"));
        check("0:nogroup", &[], Err("unable to find group nogroup: no matching entries in group file"));
        check("-1", &[], Err("uids and gids must be in range 0-2147483647"));
    }
}
