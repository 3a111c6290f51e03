//! TLS, SASL and ACLs, against a broker that insists on them.
#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]
#![allow(clippy::disallowed_methods, reason = "the test owns what it spawns")]

use aqueduct_config::worker_config::ClientOptions;
use aqueduct_core::{Error, TopicPartition};
use aqueduct_log::{Log, TopicSpec};
use aqueduct_log_kafka::{KafkaLog, KafkaOptions};
use base64::Engine;
use kafka_services::wire::{Operation, Resource};
use kafka_services::{Broker, Options};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

async fn open(bootstrap: &str, options: &[(&str, &str)]) -> Result<Arc<dyn Log>, Error> {
    let mut given = KafkaOptions::new(bootstrap, "secured");
    given.settings.common = ClientOptions(options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
    Ok(KafkaLog::open(given).await?)
}

fn login(module: &str, user: &str, password: &str) -> String {
    format!("org.apache.kafka.common.security.{module} required username=\"{user}\" password=\"{password}\";")
}

/// How many records of `secret` whoever this is can read.
async fn read(bootstrap: &str, options: &[(&str, &str)]) -> Result<usize, Error> {
    let log = open(bootstrap, options).await?;
    let batch = log.fetch(&TopicPartition::new("secret", 0), 0, 1 << 20, Duration::ZERO).await;
    log.close().await?;
    batch.map(|batch| batch.len())
}

/// Answers every request with an unsecured token for alice, if the client's secret is right.
async fn token_endpoint(listener: tokio::net::TcpListener, tls: TlsAcceptor) {
    let part = |claims: String| for_urls(claims.as_bytes());
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = format!(r#"{{"sub":"alice","iat":{now},"exp":{}}}"#, now + 600);
    let token = format!("{}.{}.", part(r#"{"alg":"none"}"#.into()), part(claims));
    loop {
        let mut stream = tls.accept(listener.accept().await.unwrap().0).await.unwrap();
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        // The body is short and comes with, or right after, the head.
        while !String::from_utf8_lossy(&request).contains("grant_type=client_credentials") {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&buffer[..read]);
        }
        let right =
            String::from_utf8_lossy(&request).contains(&base64::engine::general_purpose::STANDARD.encode("me:token-secret"));
        let (status, body) = match right {
            true => ("200 OK", format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":600}}"#)),
            false => ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned()),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

/// With the broker's own certificate.
fn acceptor(certs: &std::path::Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(certs.join("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certs.join("server.key")).unwrap();
    Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap()).into()
}

/// Without padding, for URLs.
fn for_urls(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_comes_in_and_who_may_not_is_told_why() {
    let broker = Broker::start(Options::guarded());
    let mut admin = broker.admin();
    admin.create_topic("secret", 1, &[]);
    admin.allow("alice", Resource::Topic, "secret", Operation::All);
    broker.produce("secret", &["x"], &[]);
    let (plain, scram) = ("plain.PlainLoginModule", "scram.ScramLoginModule");
    let ca = broker.certs().join("ca.pem").display().to_string();
    let trust = ("ssl.truststore.location", ca.as_str());
    for (mechanism, module) in [("PLAIN", plain), ("SCRAM-SHA-256", scram), ("SCRAM-SHA-512", scram)] {
        let jaas = login(module, "alice", "alice-secret");
        let sasl = [("sasl.mechanism", mechanism), ("sasl.jaas.config", jaas.as_str())];
        let open = [&sasl[..], &[("security.protocol", "SASL_PLAINTEXT")]].concat();
        assert_eq!(read(&broker.sasl(), &open).await.unwrap(), 1, "{mechanism}");
        let tls = [&sasl[..], &[("security.protocol", "SASL_SSL"), trust]].concat();
        assert_eq!(read(&broker.sasl_tls(), &tls).await.unwrap(), 1, "{mechanism} over TLS");

        let jaas = login(module, "alice", "wrong-secret");
        let wrong = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", mechanism), ("sasl.jaas.config", jaas.as_str())];
        let error = read(&broker.sasl(), &wrong).await.unwrap_err();
        assert_eq!((error.code(), error.is_retriable()), ("kafka.authentication", false), "{error:?}");
        assert!(!format!("{error:?}").contains("wrong-secret"), "{error:?}");
    }

    // By certificate, as a PEM keystore has it: key and chain in one file.
    let keystore = broker.certs().join("client.keystore.pem").display().to_string();
    let ssl = ("security.protocol", "SSL");
    let mutual = [ssl, trust, ("ssl.keystore.location", keystore.as_str())];
    assert_eq!(read(&broker.tls(), &mutual).await.unwrap(), 1, "a certificate");
    let error = read(&broker.tls(), &[ssl, ("ssl.keystore.location", keystore.as_str())]).await.unwrap_err();
    assert_eq!(error.code(), "kafka.authentication", "an authority that the system does not know: {error:?}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}/token", listener.local_addr().unwrap());
    let serving = tokio::spawn(token_endpoint(listener, acceptor(&broker.certs())));
    let bearer = |secret| {
        [
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "OAUTHBEARER"),
            trust,
            ("sasl.oauthbearer.token.endpoint.url", endpoint.as_str()),
            ("sasl.oauthbearer.client.credentials.client.id", "me"),
            ("sasl.oauthbearer.client.credentials.client.secret", secret),
        ]
    };
    assert_eq!(read(&broker.sasl(), &bearer("token-secret")).await.unwrap(), 1, "OAUTHBEARER");
    let error = read(&broker.sasl(), &bearer("wrong-secret")).await.unwrap_err();
    assert!(error.code() == "kafka.authentication" && !format!("{error:?}").contains("wrong-secret"), "{error:?}");
    serving.abort();

    let jaas = login(plain, "bob", "bob-secret");
    let bob = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", jaas.as_str())];
    let error = read(&broker.sasl(), &bob).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), ("kafka.not_authorized", false));
    assert!(error.hint().unwrap().ends_with("--operation Describe --topic secret"), "{error:?}");
    admin.allow("bob", Resource::Topic, "secret", Operation::Describe);
    let error = read(&broker.sasl(), &bob).await.unwrap_err();
    assert!(error.hint().unwrap().ends_with("--operation Read --topic secret"), "{error:?}");
    let log = open(&broker.sasl(), &bob).await.unwrap();
    let error = log.create_topic("bobs", &TopicSpec::default()).await.unwrap_err();
    assert!(
        error.code() == "kafka.not_authorized" && error.hint().unwrap().ends_with("--operation Create --topic bobs"),
        "{error:?}"
    );
    // What he may see of it, he sees: configs are not for him.
    let seen = log.topics().await.unwrap();
    assert_eq!(seen.iter().map(|topic| (&*topic.name, topic.partitions[0].end)).collect::<Vec<_>>(), [("secret", 1)]);
    log.close().await.unwrap();
}
