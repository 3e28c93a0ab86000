//! What is checked and when: the container's own settings over those of its image, with Docker's defaults where both are silent.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_image::Healthcheck;
use skep_model::HealthConfig;

use crate::error::{EngineError, Result};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u64 = 3;
/// Least time of a health check's periods.
const TIME_MIN: i64 = 1_000_000;

/// The health check of a container. Times are nanoseconds; zero is Docker's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `NONE`, `CMD` and a program, or `CMD-SHELL` and a command.
    pub test: Vec<String>,
    /// Time between checks.
    pub interval: i64,
    /// Time a check may take.
    pub timeout: i64,
    /// Time in which failures do not count.
    pub start_period: i64,
    /// Time between checks in the start period.
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    pub retries: i64,
    /// The image's shell for `CMD-SHELL`; empty is `/bin/sh -c`.
    pub shell: Vec<String>,
}

impl HealthCheck {
    /// The check of a container; `None` when neither it nor its image names one.
    pub(crate) fn merge(
        own: Option<&HealthConfig>,
        image: Option<&Healthcheck>,
        shell: &[String],
    ) -> Result<Option<Self>> {
        let of_image = image.map(|image| Self {
            test: image.test.clone(),
            interval: image.interval,
            timeout: image.timeout,
            start_period: image.start_period,
            start_interval: image.start_interval,
            retries: image.retries,
            shell: Vec::new(),
        });
        let of_own = own.map(|own| Self {
            test: own.test.clone(),
            interval: nanos(own.interval),
            timeout: nanos(own.timeout),
            start_period: nanos(own.start_period),
            start_interval: nanos(own.start_interval),
            retries: own.retries,
            shell: Vec::new(),
        });
        let Some(mut merged) = of_own.or_else(|| of_image.clone()) else { return Ok(None) };
        if let Some(image) = of_image {
            let given = |own: i64, image: i64| if own == 0 { image } else { own };
            merged = Self {
                test: if merged.test.is_empty() { image.test } else { merged.test },
                interval: given(merged.interval, image.interval),
                timeout: given(merged.timeout, image.timeout),
                start_period: given(merged.start_period, image.start_period),
                start_interval: given(merged.start_interval, image.start_interval),
                retries: given(merged.retries, image.retries),
                shell: Vec::new(),
            };
        }
        merged.shell = shell.to_vec();
        merged.validate()?;
        Ok(Some(merged))
    }

    fn validate(&self) -> Result<()> {
        let invalid = |text: String| Err(EngineError::Invalid(text));
        for (name, time) in [
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
        ] {
            if time != 0 && time < TIME_MIN {
                return invalid(format!("{name} in Healthcheck cannot be less than 1ms"));
            }
        }
        if self.retries < 0 {
            return invalid("Retries in Healthcheck cannot be negative".to_owned());
        }
        match self.test.first().map(String::as_str) {
            None | Some("NONE") => Ok(()),
            Some("CMD" | "CMD-SHELL") if self.test.len() < 2 || self.test[1].is_empty() => {
                invalid(format!("Test in Healthcheck names no command after {:?}", self.test[0]))
            }
            Some("CMD" | "CMD-SHELL") => Ok(()),
            Some(other) => invalid(format!("Unknown healthcheck type '{other}' (expected 'CMD')")),
        }
    }

    /// True unless it is switched off.
    #[must_use]
    pub fn is_run(&self) -> bool {
        self.test.first().is_some_and(|kind| kind != "NONE")
    }

    /// The program and its arguments.
    pub(super) fn command(&self) -> Vec<String> {
        let mut command = match self.test.first().map(String::as_str) {
            Some("CMD-SHELL") if self.shell.is_empty() => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            Some("CMD-SHELL") => self.shell.clone(),
            _ => Vec::new(),
        };
        command.extend(self.test.iter().skip(1).cloned());
        command
    }

    pub(super) fn timeout(&self) -> Duration {
        or(self.timeout, TIMEOUT)
    }

    pub(super) fn start_period(&self) -> Duration {
        or(self.start_period, Duration::ZERO)
    }

    pub(super) fn retries(&self) -> u64 {
        u64::try_from(self.retries).ok().filter(|retries| *retries > 0).unwrap_or(RETRIES)
    }

    /// Time until the next check of a container of this age.
    pub(super) fn pause(&self, age: Duration, starting: bool) -> Duration {
        if starting && age < self.start_period() {
            return or(self.start_interval, START_INTERVAL);
        }
        or(self.interval, INTERVAL)
    }
}

fn or(nanos: i64, default: Duration) -> Duration {
    u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map_or(default, Duration::from_nanos)
}

fn nanos(time: Option<Duration>) -> i64 {
    time.map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(test: &[&str]) -> HealthConfig {
        HealthConfig { test: test.iter().map(|word| (*word).to_owned()).collect(), ..HealthConfig::default() }
    }

    fn image() -> Healthcheck {
        Healthcheck {
            test: vec!["CMD-SHELL".to_owned(), "true".to_owned()],
            interval: 7_000_000_000,
            retries: 9,
            ..Healthcheck::default()
        }
    }

    #[test]
    fn what_the_container_does_not_say_is_the_image_s_and_then_docker_s() {
        let merge = |own: Option<&HealthConfig>| HealthCheck::merge(own, Some(&image()), &[]).unwrap().unwrap();
        let check = merge(None);
        assert_eq!((check.command(), check.retries()), (["/bin/sh", "-c", "true"].map(str::to_owned).to_vec(), 9));
        assert_eq!(check.pause(Duration::ZERO, true), Duration::from_secs(7));
        assert_eq!(check.timeout(), Duration::from_secs(30));
        let check = merge(Some(&HealthConfig { start_period: Some(Duration::from_secs(60)), ..own(&["CMD", "id"]) }));
        assert_eq!((check.command(), check.is_run()), (vec!["id".to_owned()], true));
        assert_eq!(check.pause(Duration::from_secs(59), true), Duration::from_secs(5));
        assert_eq!(check.pause(Duration::from_secs(59), false), Duration::from_secs(7));
        assert_eq!(check.pause(Duration::from_secs(60), true), Duration::from_secs(7));
        assert!(!merge(Some(&own(&["NONE"]))).is_run());
        assert_eq!(HealthCheck::merge(None, None, &[]).unwrap(), None);
        assert!(!HealthCheck::merge(Some(&own(&[])), None, &[]).unwrap().unwrap().is_run());
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let refused = |own: &HealthConfig| HealthCheck::merge(Some(own), None, &[]).unwrap_err().to_string();
        assert_eq!(refused(&own(&["curl", "x"])), "Unknown healthcheck type 'curl' (expected 'CMD')");
        assert!(refused(&own(&["CMD"])).contains("names no command"));
        let short = HealthConfig { interval: Some(Duration::from_micros(5)), ..own(&["CMD", "id"]) };
        assert_eq!(refused(&short), "Interval in Healthcheck cannot be less than 1ms");
    }
}
