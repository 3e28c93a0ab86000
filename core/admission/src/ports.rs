//! Published ports: what a service may ask for, alone and beside the others.

use std::collections::BTreeSet;

use skep_model::{EndpointMode, EndpointSpec, PublishMode, ServiceId};
use skep_store::State;

use crate::{Code, Refusal};

pub(crate) fn check(view: &State, own: Option<ServiceId>, endpoint: &EndpointSpec) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for port in &endpoint.ports {
        if port.target_port == 0 {
            return Err(Refusal::invalid("EndpointSpec: a published port needs a target port between 1 and 65535"));
        }
        if endpoint.mode == EndpointMode::DnsRr && port.mode == PublishMode::Ingress {
            return Err(Refusal::invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        if port.published_port != 0 && !seen.insert((port.protocol, port.published_port)) {
            return Err(Refusal::invalid("EndpointSpec: duplicate published ports provided"));
        }
    }
    for other in view.services().filter(|other| Some(other.id) != own) {
        let (spec, given) = (other.spec.ports(), &other.endpoint.ports);
        for port in endpoint.ports.iter().filter(|port| port.published_port != 0) {
            let clash = spec.iter().chain(given).find(|theirs| {
                theirs.protocol == port.protocol
                    && theirs.published_port == port.published_port
                    && (theirs.mode == PublishMode::Ingress || port.mode == PublishMode::Ingress)
            });
            if let Some(theirs) = clash {
                let how = if theirs.mode == PublishMode::Ingress { "an ingress" } else { "a host-published" };
                return Err(Refusal::new(
                    Code::InvalidArgument,
                    format!(
                        "port '{}' is already in use by service '{}' ({}) as {how} port",
                        port.published_port, other.spec.name, other.id
                    ),
                ));
            }
        }
    }
    Ok(())
}
