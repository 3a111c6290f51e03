//! How a broker is set up: listeners, security, more properties.

use std::path::Path;

/// Users of PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512; the password is the name and [`PASSWORD_SUFFIX`].
/// With `acls`, only what [`crate::wire::Admin::allow`] gave them is allowed.
pub const USERS: [&str; 2] = ["alice", "bob"];
pub const PASSWORD_SUFFIX: &str = "-secret";

/// The plain listener is always there, its clients are super users.
#[derive(Clone, Debug)]
pub struct Options {
    /// More lines of `server.properties`; they win over ours.
    pub properties: Vec<String>,
    /// `-Xmx` of the JVM.
    pub heap: String,
    /// More JVM flags. By default the quick compiler alone: a test broker lives for seconds. A benchmark wants both: `""`.
    pub jvm: String,
    /// A listener that is advertised at a [`crate::Proxy`]'s port.
    pub proxied: bool,
    /// Listeners with TLS (`Broker::tls`), SASL (`Broker::sasl`: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER with unsecured JWT) and both (`Broker::sasl_tls`).
    pub security: bool,
    /// The ACL authorizer: nothing is allowed to users of the secured listeners.
    pub acls: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            properties: Vec::new(),
            heap: "384m".into(),
            jvm: "-XX:TieredStopAtLevel=1".into(),
            proxied: false,
            security: false,
            acls: false,
        }
    }
}

impl Options {
    pub fn proxied() -> Self {
        Self { proxied: true, ..Self::default() }
    }

    pub fn secured() -> Self {
        Self { security: true, ..Self::default() }
    }

    /// With TLS, SASL and the authorizer.
    pub fn guarded() -> Self {
        Self { security: true, acls: true, ..Self::default() }
    }

    /// For benchmarks: a heap and a compiler as in production.
    pub fn fast() -> Self {
        Self { heap: "1g".into(), jvm: String::new(), ..Self::default() }
    }

    /// `name=value`, as in `server.properties`.
    #[must_use]
    pub fn with(mut self, property: &str) -> Self {
        self.properties.push(property.to_owned());
        self
    }
}

/// The ports of one broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ports {
    pub plain: u16,
    pub controller: u16,
    /// Where the broker listens, and where it says that it does.
    pub proxied: Option<(u16, u16)>,
    pub tls: u16,
    pub sasl: u16,
    pub sasl_tls: u16,
}

/// The lines for `server.properties` that our scripts do not write by themselves.
pub(crate) fn properties(options: &Options, ports: &Ports, certs: &Path) -> String {
    let mut listeners = vec![("PLAINTEXT", ports.plain, ports.plain, "PLAINTEXT")];
    if let Some((own, advertised)) = ports.proxied {
        listeners.push(("PROXIED", own, advertised, "PLAINTEXT"));
    }
    if options.security {
        listeners.push(("TLS", ports.tls, ports.tls, "SSL"));
        listeners.push(("SASL", ports.sasl, ports.sasl, "SASL_PLAINTEXT"));
        listeners.push(("SASLTLS", ports.sasl_tls, ports.sasl_tls, "SASL_SSL"));
    }
    let (mut here, mut advertised) = (format!("CONTROLLER://127.0.0.1:{}", ports.controller), Vec::new());
    let mut protocols = "CONTROLLER:PLAINTEXT".to_owned();
    for (name, own, seen, protocol) in listeners {
        here.push_str(&format!(",{name}://127.0.0.1:{own}"));
        advertised.push(format!("{name}://127.0.0.1:{seen}"));
        protocols.push_str(&format!(",{name}:{protocol}"));
    }
    let mut lines = vec![
        format!("listeners={here}"),
        format!("advertised.listeners={}", advertised.join(",")),
        format!("listener.security.protocol.map={protocols}"),
    ];
    if options.security {
        lines.extend(security(certs, options.acls));
    }
    if options.acls {
        lines.push("authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".into());
        lines.push("super.users=User:ANONYMOUS".into());
    }
    lines.extend(options.properties.iter().cloned());
    lines.join("\n")
}

fn security(certs: &Path, acls: bool) -> Vec<String> {
    let certs = certs.display();
    let mut lines = vec![
        format!("ssl.keystore.type=PEM\nssl.keystore.location={certs}/server.keystore.pem"),
        format!("ssl.truststore.type=PEM\nssl.truststore.location={certs}/ca.pem"),
        // With ACLs: one without a certificate would be anonymous, and so a super user.
        format!("listener.name.tls.ssl.client.auth={}", if acls { "required" } else { "requested" }),
        "ssl.principal.mapping.rules=RULE:^CN=([a-z]+)$/$1/".into(),
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".into(),
    ];
    let users: String = USERS.iter().map(|user| format!(" user_{user}=\"{user}{PASSWORD_SUFFIX}\"")).collect();
    for listener in ["sasl", "sasltls"] {
        let jaas = |mechanism: &str, module: &str, rest: &str| {
            format!(
                "listener.name.{listener}.{mechanism}.sasl.jaas.config=org.apache.kafka.common.security.{module} required{rest};"
            )
        };
        lines.push(jaas("plain", "plain.PlainLoginModule", &users));
        for mechanism in ["scram-sha-256", "scram-sha-512"] {
            lines.push(jaas(mechanism, "scram.ScramLoginModule", ""));
        }
        lines.push(jaas("oauthbearer", "oauthbearer.OAuthBearerLoginModule", " unsecuredLoginStringClaim_sub=\"broker\""));
    }
    lines
}
