//! What a service may not ask for yet. One line each, named as the user wrote it; a line goes away when the thing works.

use skep_model::{ContainerSpec, MountKind, Privileges, ServiceMode, ServiceSpec};

use crate::Refusal;

pub(crate) fn check(spec: &ServiceSpec) -> Result<(), Refusal> {
    let found = in_service(spec).or_else(|| in_container(&spec.task.container));
    found.map_or(Ok(()), |what| Err(Refusal::unsupported(what)))
}

fn in_service(spec: &ServiceSpec) -> Option<String> {
    let mode = match spec.mode {
        ServiceMode::Replicated | ServiceMode::Global => None,
        ServiceMode::ReplicatedJob { .. } => Some("replicated-job"),
        ServiceMode::GlobalJob => Some("global-job"),
    };
    let rows = [(mode.is_some(), format!("service mode {}", mode.unwrap_or_default()))];
    first(rows)
}

fn in_container(container: &ContainerSpec) -> Option<String> {
    let mount = container.mounts.iter().find_map(|mount| match mount.kind {
        MountKind::Bind | MountKind::Volume | MountKind::Tmpfs => None,
        MountKind::NamedPipe => Some("npipe"),
        MountKind::Cluster => Some("cluster"),
        MountKind::Image => Some("image"),
    });
    let default = Privileges::default();
    let privileges = container.privileges.as_ref().unwrap_or(&default);
    let rows = [
        (mount.is_some(), format!("a mount of type {} (--mount type=...)", mount.unwrap_or_default())),
        (
            !matches!(container.isolation.as_str(), "" | "default"),
            format!("Isolation {:?} (--isolation)", container.isolation),
        ),
        (!privileges.credential_spec.is_empty(), "Privileges.CredentialSpec (--credential-spec)".into()),
        // Without SELinux and AppArmor on the nodes, switching them off is what is.
        (privileges.selinux.iter().any(|option| option != "disable"), "Privileges.SELinuxContext".into()),
    ];
    first(rows)
}

fn first<const N: usize>(rows: [(bool, String); N]) -> Option<String> {
    rows.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, what)| what)
}
