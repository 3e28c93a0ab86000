//! Secrets and configs that are templates: filled in for each task, with three more functions than a container spec has
//! (SwarmKit `template/context.go`): `{{secret "target"}}`, `{{config "target"}}` and `{{env "NAME"}}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::Platform;

use super::{TemplateContext, TemplateError};
use crate::{Assignment, Payload};

/// What the functions of a template in a secret or config find, in the same task.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Functions {
    secrets: BTreeMap<String, Arc<Payload>>,
    configs: BTreeMap<String, Arc<Payload>>,
    env: Vec<String>,
}

impl TemplateContext {
    /// The context of templates in the secrets and configs of a task on this machine.
    #[must_use]
    pub fn of_payloads(assignment: &Assignment, node_hostname: &str, platform: &Platform) -> Self {
        let container = &assignment.spec.container;
        let secrets = container.secrets.iter().filter_map(|reference| {
            Some((reference.file.as_ref()?.name.clone(), assignment.secrets.get(&reference.secret_id)?.clone()))
        });
        let configs = container.configs.iter().filter_map(|reference| {
            Some((reference.file.as_ref()?.name.clone(), assignment.configs.get(&reference.config_id)?.clone()))
        });
        let functions =
            Functions { secrets: secrets.collect(), configs: configs.collect(), env: container.env.clone() };
        Self { functions: Some(functions), ..Self::new(assignment, node_hostname, platform) }
    }

    /// The content of a secret or config for the task. What is no template is given as it is.
    ///
    /// # Errors
    /// Names the object and not its content; with `is_secret` also the reason shows nothing of it.
    pub fn expand_payload(&self, payload: &Payload, is_secret: bool) -> Result<Vec<u8>, TemplateError> {
        if !payload.is_template {
            return Ok(payload.data.clone());
        }
        let field = if is_secret { "secret" } else { "config" };
        let failed = |problem: &str| TemplateError {
            field,
            template: payload.name.clone(),
            problem: if is_secret { "the template is wrong; nothing of a secret is shown" } else { problem }.to_owned(),
        };
        let text = std::str::from_utf8(&payload.data).map_err(|_| failed("it is not text"))?;
        super::expand(text, self).map(String::into_bytes).map_err(|problem| failed(&problem))
    }
}

impl Functions {
    /// What a function gives; `None` when there is no such function.
    pub(super) fn call(&self, name: &str, argument: &str) -> Option<Result<String, String>> {
        match name {
            "secret" => Some(find(&self.secrets, "secret", argument)),
            "config" => Some(find(&self.configs, "config", argument)),
            "env" => {
                let value = self.env.iter().find_map(|variable| {
                    variable.split_once('=').filter(|(name, _)| *name == argument).map(|(_, value)| value.to_owned())
                });
                // As in SwarmKit: a variable that is not there is empty.
                Some(Ok(value.unwrap_or_default()))
            }
            _ => None,
        }
    }
}

/// The value as it was given, not filled in, as in SwarmKit.
fn find(payloads: &BTreeMap<String, Arc<Payload>>, kind: &str, target: &str) -> Result<String, String> {
    let payload = payloads.get(target).ok_or_else(|| format!("{kind} target {target} not found"))?;
    String::from_utf8(payload.data.clone()).map_err(|_| format!("{kind} target {target} is not text"))
}

#[cfg(test)]
mod tests {
    use skep_model::{ConfigReference, FileTarget, ObjectId, SecretReference};

    use super::*;
    use crate::fake::task;

    fn assignment() -> Assignment {
        let mut assignment = task(1);
        let spec = Arc::make_mut(&mut assignment.spec);
        let file = |name: &str| Some(FileTarget { name: name.to_owned(), ..FileTarget::default() });
        let (secret_id, config_id) = (ObjectId::from_random([1; 17]), ObjectId::from_random([2; 17]));
        spec.container.env = vec!["A=b=c".to_owned(), "B".to_owned()];
        let secret_name = "password".to_owned();
        spec.container.secrets.push(SecretReference { secret_id, secret_name, file: file("pw") });
        let config_name = "page".to_owned();
        spec.container.configs.push(ConfigReference { config_id, config_name, file: file("/page") });
        let payload = |name: &str, data: &[u8]| {
            Arc::new(Payload { name: name.to_owned(), data: data.to_vec(), is_template: true })
        };
        assignment.secrets.insert(secret_id, payload("password", b"{{.Hidden}}"));
        assignment.configs.insert(config_id, payload("page", b"\xff"));
        assignment
    }

    fn expand(template: &[u8], is_template: bool, is_secret: bool) -> Result<Vec<u8>, String> {
        let platform = Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() };
        let context = TemplateContext::of_payloads(&assignment(), "host-1", &platform);
        let payload = Payload { name: "it".to_owned(), data: template.to_vec(), is_template };
        context.expand_payload(&payload, is_secret).map_err(|error| error.to_string())
    }

    #[test]
    fn payloads_are_filled_in() {
        let text =
            br#"{{.Service.Name}}.{{.Node.Hostname}} {{secret "pw"}} {{env "A"}}{{env "NO"}} {{join "," (env "A")}}"#;
        assert!(expand(text, true, false).is_err(), "no parentheses");
        let text = br#"{{.Service.Name}}.{{.Node.Hostname}} {{secret "pw"}} {{env "A"}}{{env "NO"}}"#;
        assert_eq!(expand(text, true, false).unwrap(), b"web.host-1 {{.Hidden}} b=c");
        assert_eq!(expand(b"\xff{{", false, true).unwrap(), b"\xff{{");
    }

    #[test]
    fn refusals_show_nothing_of_a_secret() {
        for (template, problem) in [
            (&br#"{{secret "no"}}"#[..], "secret target no not found"),
            (br#"{{config "/page"}}"#, "config target /page is not text"),
            (b"\xff", "it is not text"),
            (b"{{secret}}", "wrong number of args for secret: want 1 got 0"),
            (b"{{.Hunter2}}", "no field .Hunter2"),
        ] {
            let error = expand(template, true, false).unwrap_err();
            assert!(error.contains(problem) && error.contains("config"), "{error}");
            let error = expand(template, true, true).unwrap_err();
            assert!(!error.contains("Hunter2") && error.contains("nothing of a secret is shown"), "{error}");
        }
    }
}
