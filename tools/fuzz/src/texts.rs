//! Documents and texts that are read as a whole: manifests, configurations, references, filters, credentials.

use anyhow::ensure;
use skep_api_types::Filters;
use skep_image::{Credentials, ImageConfig, Platform, Reference};

use crate::{Mutator, Target};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Manifests and lists of them, as registries send them.
pub(crate) struct Manifests;

impl Target for Manifests {
    fn case(&mut self, mutator: &mut Mutator) -> anyhow::Result<()> {
        let part = |kind: &str| {
            format!(
                r#"{{"mediaType":"{kind}","size":3,"digest":"{DIGEST}","platform":{{"os":"linux","architecture":"arm64","variant":"v8"}},"annotations":{{"a":"b"}}}}"#
            )
        };
        let layer = part("application/vnd.oci.image.layer.v1.tar+gzip");
        let samples = [
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{layer},{layer}]}}"#,
                part("application/vnd.oci.image.config.v1+json")
            ),
            format!(r#"{{"schemaVersion":2,"manifests":[{layer},{layer},null]}}"#),
        ];
        let mut bytes = samples[mutator.below(2)].clone().into_bytes();
        mutator.mutate(&mut bytes);
        // Whether it is refused or not: it is read, and the choice of a platform comes to an end.
        let _ = skep_image::check_manifest(&bytes, &Platform::host());
        Ok(())
    }
}

/// Configurations of images.
pub(crate) struct Configs;

impl Target for Configs {
    fn case(&mut self, mutator: &mut Mutator) -> anyhow::Result<()> {
        let mut bytes = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z","config":{{"Env":["A=b"],"Cmd":["sh"],"Healthcheck":{{"Test":["CMD","x"],"Interval":1}},"Volumes":{{"/v":{{}}}},"Labels":null}},"history":[{{"created_by":"x","empty_layer":true}}],"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}}}}"#
        )
        .into_bytes();
        mutator.mutate(&mut bytes);
        if let Ok(config) = ImageConfig::parse(&bytes) {
            let again = ImageConfig::parse(&config.to_bytes());
            ensure!(again.is_ok_and(|again| again == config), "a configuration does not survive a round trip");
        }
        Ok(())
    }
}

/// What comes in the queries and headers of requests about images.
pub(crate) struct Texts;

impl Target for Texts {
    fn case(&mut self, mutator: &mut Mutator) -> anyhow::Result<()> {
        let mut bytes = format!("registry.test:5000/a/b-c__d:tag@{DIGEST}").into_bytes();
        mutator.mutate(&mut bytes);
        let name = text(bytes);
        if let Ok(reference) = Reference::parse(&name) {
            let again = Reference::parse(&reference.familiar());
            ensure!(again.is_ok_and(|again| again == reference), "{name:?} does not survive a round trip");
        }
        let mut bytes = br#"{"dangling":["true"],"label":{"a=b":true},"until":["10m"],"reference":["x*"]}"#.to_vec();
        mutator.mutate(&mut bytes);
        let _ = Filters::parse(Some(&text(bytes)), &["dangling", "label", "until", "reference"]);
        let mut bytes = b"eyJ1c2VybmFtZSI6ImFsaWNlIiwicGFzc3dvcmQiOiJ3b25kZXIiLCJhdXRoIjoiWWpwaiJ9".to_vec();
        mutator.mutate(&mut bytes);
        let _ = Credentials::from_header(&text(bytes));
        let mut bytes = b"linux/arm64/v8".to_vec();
        mutator.mutate(&mut bytes);
        let _ = Platform::parse(&text(bytes));
        Ok(())
    }
}
