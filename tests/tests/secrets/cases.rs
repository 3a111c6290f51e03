//! A connector for each option that holds a secret, and for each place where one may stand in another option.

use serde_json::{Map, Value, json};

/// What the configs point to.
pub struct Targets {
    /// Nobody listens.
    pub closed: u16,
    /// Answers with what it was sent.
    pub echo: u16,
    /// Keys and certificates in PEM.
    pub pem: String,
}

/// A secret in one option of one connector.
pub struct Case {
    pub class: String,
    pub option: String,
    /// `{}` stands for the secret.
    pub template: &'static str,
    pub config: Map<String, Value>,
    /// Its type in the reference is `password`: it must be taken, and it is hidden in `validate` as well.
    pub is_password: bool,
}

/// What a connector of this class needs beside the option. `None`: nobody wrote it down yet.
fn base(class: &str, targets: &Targets) -> Option<Value> {
    let (closed, localhost) = (targets.closed, format!("127.0.0.1:{}", targets.closed));
    Some(match class {
        "http-source" => json!({
            "http.request.url": format!("http://{localhost}/feed"), "kafka.topic": "fed", "http.allowed.hosts": "127.0.0.1", "max.retries": "0"
        }),
        "http-sink" => json!({
            "topics": "records", "http.url": format!("http://{localhost}/take"), "http.allowed.hosts": "127.0.0.1", "max.retries": "0"
        }),
        "kafka-source" => json!({"bootstrap.servers": localhost, "topics": "a", "request.timeout.ms": "3000"}),
        "kafka-sink" => json!({"bootstrap.servers": localhost, "topics": "records", "request.timeout.ms": "3000"}),
        "mqtt-source" => json!({"mqtt.server.uri": format!("tcp://{localhost}"), "mqtt.topics": "a/#", "mqtt.username": "u"}),
        "mqtt-sink" => json!({"mqtt.server.uri": format!("tcp://{localhost}"), "topics": "records", "mqtt.username": "u"}),
        "postgres-source" => json!({
            "topic.prefix": "shop", "database.hostname": "127.0.0.1", "database.port": closed.to_string(), "database.user": "u", "database.dbname": "d"
        }),
        "postgres-sink" => {
            json!({"topics": "records", "connection.url": format!("postgresql://{localhost}/d"), "connection.user": "u"})
        }
        "sql-source" => json!({
            "connection.url": format!("postgresql://{localhost}/d"), "connection.user": "u", "connection.attempts": "1", "mode": "bulk",
            "topic.prefix": "sql-"
        }),
        "webhook-source" => {
            json!({"listener": format!("http://127.0.0.1:{}", aqueduct_tests::site::free_port()), "path": "/in", "topic": "hooks"})
        }
        _ => return None,
    })
}

/// What the option needs to count, and its template.
fn with(class: &str, option: &str, targets: &Targets) -> (&'static str, Value) {
    let localhost = format!("http://127.0.0.1:{}", targets.closed);
    let sasl = |mechanism: &str| json!({"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": mechanism});
    // Other names of the same.
    let option = ["source.cluster.", "target.cluster."].iter().find_map(|prefix| option.strip_prefix(prefix)).unwrap_or(option);
    let option = match option {
        "connection.password" if class.starts_with("http-") => "http.auth.password",
        "http.proxy.password" => "http.client.proxy.password",
        option => option,
    };
    let more = match option {
        "http.auth.password" => json!({"http.auth.type": "basic", "http.auth.user": "us"}),
        "http.auth.token" => json!({"http.auth.type": "bearer"}),
        "http.auth.api.key" => json!({"http.auth.type": "api-key"}),
        "http.headers.authorization" => json!({"http.auth.type": "static"}),
        "oauth2.client.secret" => {
            json!({"http.auth.type": "oauth2", "oauth2.access.token.url": format!("{localhost}/token"), "oauth2.client.id": "id"})
        }
        "http.client.proxy.password" => json!({
            "http.client.proxy.host": "127.0.0.1", "http.client.proxy.port": targets.closed.to_string(), "http.client.proxy.username": "u"
        }),
        "sasl.jaas.config" => {
            let template = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"u\" password=\"{}\";";
            return (template, sasl("PLAIN"));
        }
        "sasl.oauthbearer.client.credentials.client.secret" => {
            let mut more = sasl("OAUTHBEARER");
            more["sasl.oauthbearer.token.endpoint.url"] = format!("{localhost}/token").into();
            more["sasl.oauthbearer.client.credentials.client.id"] = "id".into();
            more
        }
        "ssl.keystore.key" => {
            let more = json!({"security.protocol": "SSL", "ssl.keystore.certificate.chain": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"});
            return ("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", more);
        }
        "ssl.key.password" => json!({"security.protocol": "SSL", "ssl.keystore.location": targets.pem}),
        "database.sslpassword" => {
            json!({"database.sslkey": targets.pem, "database.sslcert": targets.pem, "database.sslmode": "require"})
        }
        "query.masked" => return ("SELECT '{}' AS x", json!({})),
        "auth.token" => json!({"auth": "bearer"}),
        "auth.password" => json!({"auth": "basic", "auth.username": "u"}),
        "signature.secret" => json!({"signature.scheme": "github"}),
        // They need nothing.
        "mqtt.password" | "database.password" | "connection.password" | "challenge.verify.token" => json!({}),
        other => panic!("{class} has a new secret, {other}: say here what it needs to be used"),
    };
    ("{}", more)
}

/// A class, its option, the text around the secret in it, and what else it needs.
type Elsewhere = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

/// Secrets in options that are not for them: in URLs, headers, transforms, options of the log's clients.
const ELSEWHERE: &[Elsewhere] = &[
    ("http-source", "http.request.headers", "Authorization: Bearer {}", &[]),
    ("http-source", "http.request.header.X-Api-Key", "{}", &[]),
    ("http-source", "http.request.url", "http://127.0.0.1:CLOSED/feed?key={}", &[]),
    ("http-source", "http.request.url", "http://u:{}@127.0.0.1:CLOSED/feed", &[]),
    ("http-source", "oauth2.access.token.url", "http://u:{}@127.0.0.1:CLOSED/t", &[("http.auth.type", "oauth2")]),
    ("http-sink", "http.request.headers", "Authorization: Bearer {}", &[]),
    ("http-sink", "headers", "Authorization: Bearer {}", &[]),
    ("http-sink", "http.url", "http://127.0.0.1:CLOSED/take?key={}", &[]),
    ("http-sink", "http.url", "http://u:{}@127.0.0.1:CLOSED/take", &[]),
    ("mqtt-source", "mqtt.server.uri", "tcp://u:{}@127.0.0.1:CLOSED", &[]),
    ("mqtt-source", "mqtt.will.message", "{}", &[("mqtt.will.topic", "gone")]),
    ("postgres-sink", "connection.url", "jdbc:postgresql://127.0.0.1:CLOSED/d?user=u&password={}", &[]),
    ("postgres-sink", "connection.url", "postgresql://u:{}@127.0.0.1:CLOSED/d", &[]),
    ("postgres-source", "database.initial.statements", "SET x = '{}'", &[]),
    ("sql-source", "connection.url", "postgresql://u:{}@127.0.0.1:CLOSED/d", &[]),
    ("sql-source", "connection.url", "jdbc:mysql://127.0.0.1:CLOSED/d?user=u&password={}", &[]),
    ("sql-source", "query", "SELECT '{}' AS x", &[]),
    ("sql-source", "incrementing.column.mapping", "({}", &[]),
    ("webhook-source", "response.status", "{}", &[]),
    // What cannot be: the issue must not say what the reference stands for.
    ("http-source", "tasks.max", "{}", &[]),
    ("http-source", "errors.tolerance", "{}", &[]),
    ("http-source", "key.converter", "{}", &[]),
    ("http-source", "value.converter.schemas.enable", "{}", &[("value.converter", "json")]),
    (
        "http-source",
        "transforms.r.regex",
        "({}",
        &[("transforms", "r"), ("transforms.r.type", "RegexRouter"), ("transforms.r.replacement", "x")],
    ),
    ("http-source", "transforms.i.type", "{}", &[("transforms", "i")]),
    ("http-source", "predicates.p.pattern", "({}", &[("predicates", "p"), ("predicates.p.type", "TopicNameMatches")]),
    ("http-source", "producer.override.sasl.jaas.config", "x password=\"{}\";", &[]),
    ("http-sink", "consumer.override.ssl.key.password", "{}", &[]),
    ("http-sink", "errors.deadletterqueue.topic.name", "no topic {}", &[]),
];

/// `passwords`: the options of that type of each class, as the worker lists them.
pub fn cases(passwords: &[(String, String)], targets: &Targets) -> Vec<Case> {
    let mut cases = Vec::new();
    let closed = targets.closed.to_string();
    let case = |class: &str, option: &str, template, more: &[(String, Value)], is_password| {
        let base = base(class, targets);
        let base = base.unwrap_or_else(|| panic!("{class} has a secret, {option}: say here what it needs to start"));
        let mut config = base.as_object().cloned().unwrap_or_default();
        config.insert("connector.class".to_owned(), class.into());
        config.extend(more.iter().cloned());
        Case { class: class.to_owned(), option: option.to_owned(), template, config, is_password }
    };
    for (class, option) in passwords {
        let (template, more) = with(class, option, targets);
        let more: Vec<(String, Value)> = more.as_object().cloned().unwrap_or_default().into_iter().collect();
        cases.push(case(class, option, template, &more, true));
        // The same, where the other side says back what it is sent.
        if class.starts_with("http-") {
            let mut echoed = case(class, option, template, &more, true);
            for value in echoed.config.values_mut() {
                let text = value.as_str().unwrap_or_default().replace(&closed, &targets.echo.to_string());
                *value = text.into();
            }
            if class == "http-sink" {
                echoed.config.extend(dead_letters());
            }
            cases.push(echoed);
        }
    }
    for (class, option, template, more) in ELSEWHERE {
        let more: Vec<(String, Value)> = more.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let template: &'static str = Box::leak(template.replace("CLOSED", &closed).into_boxed_str());
        cases.push(case(class, option, template, &more, false));
        if template.contains("Bearer") || *option == "http.request.header.X-Api-Key" {
            let mut echoed = case(class, option, template, &more, false);
            let url = if *class == "http-sink" { "http.url" } else { "http.request.url" };
            echoed.config.insert(url.to_owned(), format!("http://127.0.0.1:{}/echo", targets.echo).into());
            if *class == "http-sink" {
                echoed.config.extend(dead_letters());
            }
            cases.push(echoed);
        }
    }
    cases
}

/// What is refused goes there with everything that is known about why.
fn dead_letters() -> Map<String, Value> {
    let options = json!({
        "errors.tolerance": "all", "errors.log.enable": "true", "errors.log.include.messages": "true",
        "errors.deadletterqueue.topic.name": "dead", "errors.deadletterqueue.context.headers.enable": "true",
        "reporter.error.topic.name": "reported", "fail.on.status.codes": "",
    });
    options.as_object().cloned().unwrap_or_default()
}
