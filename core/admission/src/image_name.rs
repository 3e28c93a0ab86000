//! Is this text an image reference? Only its form; whether the image exists is for the node to find out.

/// True for `[domain[:port]/]path[:tag][@digest]` as Docker's reference grammar has it (`distribution/reference`).
pub(crate) fn is_image_reference(text: &str) -> bool {
    if text.len() > 4096 {
        return false;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if !digest.is_none_or(is_digest) {
        return false;
    }
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    tag.is_none_or(is_tag) && is_name(name)
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.chars().all(|c| c.is_ascii_alphanumeric() || "+._-".contains(c))
            && hex.len() >= 32
            && hex.chars().all(|c| c.is_ascii_hexdigit())
    })
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_name(name: &str) -> bool {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.contains(char::is_uppercase) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    };
    domain.is_none_or(is_domain) && path.len() <= 255 && path.split('/').all(is_component)
}

fn is_domain(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    !port.is_empty()
        && port.chars().all(|c| c.is_ascii_digit())
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
}

/// `[a-z0-9]+` parts, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(lower)
        && text.ends_with(lower)
        && text.chars().all(|c| lower(c) || "._-".contains(c))
        && !text.contains("..")
        && !text.contains("___")
        && !["._", "_.", ".-", "-.", "_-", "-_"].iter().any(|pair| text.contains(pair))
}

#[cfg(test)]
mod tests {
    use super::is_image_reference;

    #[test]
    fn references_as_docker_takes_them() {
        let digest = "a".repeat(64);
        for good in ["busybox", "a/b:1.2", "localhost:5000/x/y", "Registry.example/x", "a--b__c.d"] {
            assert!(is_image_reference(good), "{good}");
        }
        assert!(is_image_reference(&format!("a:1@sha256:{digest}")));
        for bad in ["", "Busybox", "a b", "a:", "a/", "/a", "a@sha256:12", "a..b", "-a", "a:-x", "https://a/b", "a___b"]
        {
            assert!(!is_image_reference(bad), "{bad}");
        }
    }
}
