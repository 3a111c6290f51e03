//! `producer.override.*`, `consumer.override.*`, `admin.override.*`: options of the Kafka clients of one connector.

use super::below;
use aqueduct_core::{Issue, Options};
use std::collections::BTreeSet;
use std::fmt;

/// `connector.client.config.override.policy`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OverridePolicy {
    #[default]
    All,
    None,
    /// Only who the connector is.
    Principal,
    Allowlist(BTreeSet<String>),
}

impl OverridePolicy {
    pub fn allows(&self, option: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Principal => matches!(option, "sasl.jaas.config" | "sasl.mechanism" | "security.protocol"),
            Self::Allowlist(allowed) => allowed.contains(option),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::All => "All",
            Self::None => "None",
            Self::Principal => "Principal",
            Self::Allowlist(_) => "Allowlist",
        }
    }
}

/// Kafka's option names and values, unresolved. `Debug` shows no value (invariant 9).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientOverrides {
    pub producer: Options,
    pub consumer: Options,
    pub admin: Options,
}

impl fmt::Debug for ClientOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("ClientOverrides");
        for (name, options) in self.clients() {
            fields.field(name, &options.keys().collect::<Vec<_>>());
        }
        fields.finish()
    }
}

impl ClientOverrides {
    pub fn of(options: &Options) -> Self {
        let of = |client: &str| below(options, &format!("{client}.override."));
        Self { producer: of("producer"), consumer: of("consumer"), admin: of("admin") }
    }

    fn clients(&self) -> [(&'static str, &Options); 3] {
        [("producer", &self.producer), ("consumer", &self.consumer), ("admin", &self.admin)]
    }

    /// `policy: None`: the log has no Kafka clients.
    pub(super) fn issues(&self, policy: Option<&OverridePolicy>) -> Vec<Issue> {
        let mut issues = Vec::new();
        for (client, options) in self.clients() {
            for option in options.keys() {
                let path = format!("{client}.override.{option}");
                match policy {
                    None => {
                        let message = "has no effect with the embedded log, which has no Kafka clients";
                        issues.push(Issue::warning(path, "config.no_effect", message).fix("remove the line"));
                    }
                    Some(policy) if !policy.allows(option) => {
                        let message = format!(
                            "the {:?} policy does not allow {option:?} to be overridden in the connector configuration",
                            policy.name()
                        );
                        let fix = "remove the line, or change connector.client.config.override.policy in worker.yaml";
                        issues.push(Issue::error(path, "config.forbidden", message).fix(fix));
                    }
                    Some(_) => {}
                }
            }
        }
        issues
    }
}
