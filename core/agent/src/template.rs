//! Expansion of templates in a container spec: the part of Go's `text/template` that SwarmKit's fields and functions need
//! (`template/expand.go`), with `missingkey=error`. Anything else is an error that names the template, never copied through.
//!
//! Known are `{{.Service.ID}}`, `{{.Service.Name}}`, `{{.Service.Labels.key}}`, `{{index .Service.Labels "key"}}`,
//! `{{.Node.ID}}`, `{{.Node.Hostname}}`, `{{.Node.Platform.Architecture}}`, `{{.Node.Platform.OS}}`, `{{.Task.ID}}`,
//! `{{.Task.Name}}`, `{{.Task.Slot}}`, `{{join "sep" a b}}`, string literals, comments and `{{-`/`-}}`.

mod payload;

use std::iter::Peekable;
use std::str::CharIndices;

use skep_model::{ContainerSpec, Labels, Platform};

use crate::Assignment;
use crate::naming::{container_name, slot_text};

/// A template that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expanding {field} failed: template {template:?}: {problem}")]
pub struct TemplateError {
    /// Which part of the container spec.
    pub field: &'static str,
    /// The template, cut at 120 characters.
    pub template: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What templates may refer to.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateContext {
    service_id: String,
    service_name: String,
    service_labels: Labels,
    node_id: String,
    node_hostname: String,
    platform: Platform,
    task_id: String,
    task_name: String,
    task_slot: String,
    /// Only secrets and configs may call these.
    functions: Option<payload::Functions>,
}

impl TemplateContext {
    /// The context of a task on this machine.
    #[must_use]
    pub fn new(assignment: &Assignment, node_hostname: &str, platform: &Platform) -> Self {
        Self {
            service_id: assignment.service_id.map(|id| id.to_string()).unwrap_or_default(),
            service_name: assignment.service_name.clone(),
            service_labels: assignment.service_labels.clone(),
            node_id: assignment.node_id.to_string(),
            node_hostname: node_hostname.to_owned(),
            platform: platform.clone(),
            task_id: assignment.task_id.to_string(),
            task_name: container_name(assignment),
            task_slot: slot_text(assignment),
            functions: None,
        }
    }

    /// Expands one text; `field` says in an error what it was.
    pub fn expand(&self, field: &'static str, template: &str) -> Result<String, TemplateError> {
        if !template.contains("{{") {
            return Ok(template.to_owned());
        }
        expand(template, self).map_err(|problem| TemplateError {
            field,
            template: template.chars().take(120).collect(),
            problem,
        })
    }

    fn field(&self, path: &str) -> Result<Value<'_>, String> {
        let text = match path {
            ".Service.ID" => &self.service_id,
            ".Service.Name" => &self.service_name,
            ".Service.Labels" => return Ok(Value::Map(&self.service_labels)),
            ".Node.ID" => &self.node_id,
            ".Node.Hostname" => &self.node_hostname,
            ".Node.Platform.Architecture" => &self.platform.architecture,
            ".Node.Platform.OS" => &self.platform.os,
            ".Task.ID" => &self.task_id,
            ".Task.Name" => &self.task_name,
            ".Task.Slot" => &self.task_slot,
            _ => {
                let key = path.strip_prefix(".Service.Labels.").ok_or_else(|| format!("no field {path}"))?;
                return self.label(key).map(Value::Text);
            }
        };
        Ok(Value::Text(text.clone()))
    }

    fn label(&self, key: &str) -> Result<String, String> {
        self.service_labels.get(key).cloned().ok_or_else(|| format!("map has no entry for key {key:?}"))
    }
}

/// Expands everything of a container spec that may hold templates: hostname, values of the environment, mount sources and
/// targets, labels and driver options of volumes (SwarmKit `template/expand.go`).
pub fn expand_container(spec: &ContainerSpec, context: &TemplateContext) -> Result<ContainerSpec, TemplateError> {
    let mut spec = spec.clone();
    spec.hostname = context.expand("hostname", &spec.hostname)?;
    for variable in &mut spec.env {
        if let Some((name, value)) = variable.split_once('=') {
            *variable = format!("{name}={}", context.expand("env", value)?);
        }
    }
    for mount in &mut spec.mounts {
        mount.source = context.expand("mount source", &mount.source)?;
        mount.target = context.expand("mount target", &mount.target)?;
        let Some(volume) = &mut mount.volume else { continue };
        for value in volume.labels.values_mut() {
            *value = context.expand("volume label", value)?;
        }
        for value in volume.driver.iter_mut().flat_map(|driver| driver.options.values_mut()) {
            *value = context.expand("volume driver option", value)?;
        }
    }
    Ok(spec)
}

enum Value<'a> {
    Text(String),
    Map(&'a Labels),
}

impl Value<'_> {
    fn print(self) -> String {
        match self {
            Value::Text(text) => text,
            Value::Map(map) => {
                let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{value}")).collect();
                format!("map[{}]", pairs.join(" "))
            }
        }
    }
}

fn expand(template: &str, context: &TemplateContext) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    let mut trim_next = false;
    while let Some(open) = rest.find("{{") {
        let text = if trim_next { rest[..open].trim_start() } else { &rest[..open] };
        let inside = &rest[open + 2..];
        let trims_before = inside.strip_prefix('-').is_some_and(|after| after.starts_with(char::is_whitespace));
        out.push_str(if trims_before { text.trim_end() } else { text });
        let inside = if trims_before { &inside[1..] } else { inside };
        let close = end_of_action(inside)?;
        let action = &inside[..close];
        trim_next = action.strip_suffix('-').is_some_and(|before| before.ends_with(char::is_whitespace));
        let action = if trim_next { &action[..action.len() - 1] } else { action }.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            out.push_str(&evaluate(action, context)?.print());
        }
        rest = &inside[close + 2..];
    }
    out.push_str(if trim_next { rest.trim_start() } else { rest });
    Ok(out)
}

/// Where the action ends: `}}` outside of string literals.
fn end_of_action(text: &str) -> Result<usize, String> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Ok(at),
            None => {}
        }
    }
    Err("unclosed action".to_owned())
}

fn evaluate<'a>(action: &str, context: &'a TemplateContext) -> Result<Value<'a>, String> {
    let mut words = words_of(action)?.into_iter();
    let first = words.next().ok_or("missing value for command")?;
    match first {
        Word::Bare(name) if name == "join" => {
            let mut texts = words.map(|word| text_of(word, context)).collect::<Result<Vec<_>, _>>()?;
            if texts.is_empty() {
                return Err("wrong number of args for join: want at least 1 got 0".to_owned());
            }
            let separator = texts.remove(0);
            Ok(Value::Text(texts.join(&separator)))
        }
        Word::Bare(name) if name == "index" => {
            let Some(Word::Bare(path)) = words.next() else { return Err("index of untyped nil".to_owned()) };
            let Value::Map(_) = context.field(&path)? else { return Err(format!("cannot index {path}")) };
            let Some(Word::Literal(key)) = words.next() else { return Err("index needs a key in quotes".to_owned()) };
            match words.next() {
                // Go's `index` of a map gives the zero value for a key that is not there.
                None => Ok(Value::Text(context.label(&key).unwrap_or_default())),
                Some(_) => Err("index has too many arguments".to_owned()),
            }
        }
        Word::Bare(name) if context.functions.is_some() && matches!(name.as_str(), "secret" | "config" | "env") => {
            let argument = words.next().ok_or_else(|| format!("wrong number of args for {name}: want 1 got 0"))?;
            let argument = text_of(argument, context)?;
            if words.next().is_some() {
                return Err(format!("wrong number of args for {name}: want 1"));
            }
            let functions = context.functions.as_ref().ok_or("no functions")?;
            functions.call(&name, &argument).ok_or_else(|| not_defined(&name))?.map(Value::Text)
        }
        word => {
            let value = value_of(word, context)?;
            match words.next() {
                None => Ok(value),
                Some(_) => Err("can't give argument to non-function".to_owned()),
            }
        }
    }
}

fn value_of(word: Word, context: &TemplateContext) -> Result<Value<'_>, String> {
    match word {
        Word::Literal(text) => Ok(Value::Text(text)),
        Word::Bare(path) if path.starts_with('.') => context.field(&path),
        Word::Bare(name) => Err(not_defined(&name)),
    }
}

fn not_defined(name: &str) -> String {
    format!("function {name:?} not defined")
}

fn text_of(word: Word, context: &TemplateContext) -> Result<String, String> {
    match value_of(word, context)? {
        Value::Text(text) => Ok(text),
        Value::Map(_) => Err("wrong type for value; expected string; got map".to_owned()),
    }
}

enum Word {
    Bare(String),
    Literal(String),
}

fn words_of(action: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut chars = action.char_indices().peekable();
    while let Some((at, c)) = chars.peek().copied() {
        match c {
            c if c.is_whitespace() => {
                chars.next();
            }
            '"' | '`' => words.push(Word::Literal(literal(&mut chars)?)),
            _ => {
                while chars.peek().is_some_and(|(_, c)| !c.is_whitespace() && *c != '"' && *c != '`') {
                    chars.next();
                }
                let end = chars.peek().map_or(action.len(), |(end, _)| *end);
                let word = &action[at..end];
                if let Some(bad) = word.chars().find(|c| !(c.is_alphanumeric() || *c == '.' || *c == '_')) {
                    return Err(format!("unexpected {bad:?} in action"));
                }
                words.push(Word::Bare(word.to_owned()));
            }
        }
    }
    Ok(words)
}

fn literal(chars: &mut Peekable<CharIndices<'_>>) -> Result<String, String> {
    let (_, quote) = chars.next().ok_or("unterminated quoted string")?;
    let mut text = String::new();
    while let Some((_, c)) = chars.next() {
        match c {
            c if c == quote => return Ok(text),
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, c @ ('"' | '\\'))) => text.push(c),
                _ => return Err("invalid syntax in quoted string".to_owned()),
            },
            c => text.push(c),
        }
    }
    Err("unterminated quoted string".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::task;

    fn context() -> TemplateContext {
        let mut assignment = task(1);
        assignment.service_labels.insert("tier".to_owned(), "front".to_owned());
        let platform = Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() };
        TemplateContext::new(&assignment, "host-1", &platform)
    }

    fn check(template: &str, expected: Result<&str, &str>) {
        let got = context().expand("env", template).map_err(|error| error.problem);
        assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned), "{template}");
    }

    #[test]
    fn fields_functions_and_literals() {
        check("plain {text}", Ok("plain {text}"));
        check("{{.Service.Name}}-{{ .Task.Slot }}", Ok("web-1"));
        check("{{.Node.Hostname}}/{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", Ok("host-1/linux/x86_64"));
        check("{{.Service.Labels.tier}}{{index .Service.Labels \"tier\"}}", Ok("frontfront"));
        check("{{index .Service.Labels \"other\"}}", Ok(""));
        check("{{.Service.Labels}}", Ok("map[tier:front]"));
        check("{{join \"-\" .Service.Name .Node.Hostname `}}`}}", Ok("web-host-1-}}"));
        check("a {{- .Task.Slot -}} b", Ok("a1b"));
        check("{{/* nothing */}}x", Ok("x"));
        check("{{\"{{\"}}", Ok("{{"));
    }

    #[test]
    fn everything_else_is_refused() {
        check("{{.Service.Nam}}", Err("no field .Service.Nam"));
        check("{{.Service.Labels.other}}", Err("map has no entry for key \"other\""));
        check("{{.Task.Slot", Err("unclosed action"));
        check("{{}}", Err("missing value for command"));
        check("{{upper .Task.Slot}}", Err("function \"upper\" not defined"));
        check("{{.Task.Slot | print}}", Err("unexpected '|' in action"));
        check("{{if .Task.Slot}}x{{end}}", Err("function \"if\" not defined"));
        check("{{\"a}}", Err("unclosed action"));
        check("{{.Task.Slot .Task.ID}}", Err("can't give argument to non-function"));
    }

    #[test]
    fn only_some_fields_are_expanded() {
        let mut spec = ContainerSpec {
            hostname: "{{.Task.Slot}}".to_owned(),
            env: vec!["A{{=x".to_owned(), "B={{.Task.Slot}}".to_owned(), "C".to_owned()],
            args: vec!["{{.Task.Slot}}".to_owned()],
            ..ContainerSpec::default()
        };
        let expanded = expand_container(&spec, &context()).unwrap();
        assert_eq!(expanded.hostname, "1");
        assert_eq!(expanded.env, ["A{{=x", "B=1", "C"]);
        assert_eq!(expanded.args, spec.args);
        spec.hostname = "{{.X}}".to_owned();
        let error = expand_container(&spec, &context()).unwrap_err();
        assert_eq!(error.to_string(), "expanding hostname failed: template \"{{.X}}\": no field .X");
    }
}
