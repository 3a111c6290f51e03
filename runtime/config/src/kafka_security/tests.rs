use super::*;

const PLAIN: &str =
    r#"org.apache.kafka.common.security.plain.PlainLoginModule required username="al\"ice" password='top = secret;x' ;"#;
const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"a\" password=\"b\";";

fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn sasl(mechanism: &str, jaas: &str) -> Options {
    options(&[("security.protocol", "sasl_plaintext"), ("sasl.mechanism", mechanism), ("sasl.jaas.config", jaas)])
}

fn read_error(pairs: &[(&str, &str)]) -> Error {
    KafkaSecurity::read(&options(pairs)).err().unwrap()
}

#[test]
fn logins_are_read_and_what_is_wrong_never_shows_the_password() {
    let Some(KafkaLogin::Plain(login)) = KafkaSecurity::read(&sasl("plain", PLAIN)).unwrap().login else { panic!("a login") };
    assert_eq!((login.user.as_str(), login.password.as_str()), ("al\"ice", "top = secret;x"));
    for mechanism in ["SCRAM-SHA-256", "scram-sha-512"] {
        assert!(KafkaSecurity::read(&sasl(mechanism, SCRAM)).unwrap().login.is_some(), "{mechanism}");
    }
    for (mechanism, jaas) in [
        ("SCRAM-SHA-256", PLAIN),
        ("OAUTHBEARER", PLAIN),
        ("GSSAPI", PLAIN),
        ("PLAIN", SCRAM),
        ("PLAIN", "com.evil.Module required password=\"top = secret;x\";"),
        ("PLAIN", "com.evil.PlainLoginModule required password=\"top = secret;x\";"),
        ("PLAIN", "PlainLoginModule required username=\"a\" password=\"top = secret;x"),
        ("PLAIN", "PlainLoginModule required username=\"a\" password=\"top = secret;x;"),
        ("PLAIN", "PlainLoginModule username=\"top = secret;x\";"),
        ("PLAIN", "PlainLoginModule required top-secret;"),
        ("PLAIN", "PlainLoginModule required password=\"top = secret;x\";"),
    ] {
        let options = sasl(mechanism, jaas);
        let issues = KafkaSecurity::issues(&options);
        assert_eq!(issues.len(), 1, "{mechanism} {jaas}: {issues:?}");
        let error = KafkaSecurity::read(&options).err().unwrap();
        assert_eq!((error.code(), error.is_retriable()), ("kafka.config", false));
        assert!(!format!("{error:?} {issues:?}").contains("top"), "{error:?}");
    }
}

#[test]
fn every_protocol_is_known_and_what_is_missing_is_told() {
    for (protocol, tls, login) in
        [("PLAINTEXT", false, false), ("ssl", true, false), ("SASL_PLAINTEXT", false, true), ("SASL_SSL", true, true)]
    {
        let mut given = sasl("PLAIN", PLAIN);
        given.insert("security.protocol".to_owned(), protocol.to_owned());
        let security = KafkaSecurity::read(&given).unwrap();
        assert_eq!((security.tls.is_some(), security.login.is_some()), (tls, login), "{protocol}");
    }
    let sasl = ("security.protocol", "SASL_PLAINTEXT");
    assert!(read_error(&[sasl]).message().starts_with("sasl.mechanism: is not set"));
    assert!(read_error(&[sasl, ("sasl.mechanism", "PLAIN")]).message().starts_with("sasl.jaas.config: is not set"));
    assert!(read_error(&[sasl, ("sasl.mechanism", "GSSAPI")]).message().contains("none of PLAIN"));
    assert!(read_error(&[("security.protocol", "TLS")]).message().starts_with("security.protocol: "));
    assert!(read_error(&[("security.protocol", "SSL"), ("ssl.truststore.location", "/nowhere")]).message().contains("/nowhere"));
}

#[test]
fn tokens_of_a_provider() {
    let url = ("sasl.oauthbearer.token.endpoint.url", "https://idp.example/token");
    let id = ("sasl.oauthbearer.client.credentials.client.id", "me");
    let secret = ("sasl.oauthbearer.client.credentials.client.secret", "s");
    let begin = [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "oauthbearer")];
    let bearer = |more: &[(&str, &str)]| match KafkaSecurity::read(&options(&[&begin[..], more].concat()))?.login {
        Some(KafkaLogin::OauthBearer(bearer)) => Ok::<_, Error>(bearer),
        _ => panic!("another login"),
    };
    let found = bearer(&[url, id, secret, ("ssl.truststore.certificates", "PEM")]).unwrap();
    assert_eq!((found.endpoint.as_str(), found.id.as_str(), found.secret.as_str(), found.scope), (url.1, "me", "s", None));
    assert_eq!((found.timeout.as_secs(), found.authorities.as_deref()), (10, Some("PEM")));
    let jaas = "OAuthBearerLoginModule required clientId=\"you\" clientSecret=\"t\" scope=\"all\";";
    let found = bearer(&[url, ("sasl.jaas.config", jaas), ("sasl.login.read.timeout.ms", "500")]).unwrap();
    assert_eq!(
        (found.id.as_str(), found.secret.as_str(), found.scope.as_deref(), found.timeout.as_millis()),
        ("you", "t", Some("all"), 500)
    );
    for (given, missing) in [(&[id, secret][..], url.0), (&[url, secret], id.0), (&[url, id], secret.0)] {
        assert!(bearer(given).err().unwrap().message().starts_with(&format!("{missing}: is not set")));
    }
    let error = bearer(&[url, id, secret, ("sasl.login.read.timeout.ms", "0")]).err().unwrap();
    assert!(error.message().starts_with("sasl.login.read.timeout.ms: "), "{error}");
}

#[test]
fn what_excludes_each_other_is_told() {
    let given = [
        ("security.protocol", "TLS"),
        ("ssl.truststore.location", "x"),
        ("ssl.truststore.certificates", "x"),
        ("ssl.keystore.certificate.chain", "x"),
    ];
    let paths =
        |pairs: &[(&str, &str)]| KafkaSecurity::issues(&options(pairs)).into_iter().map(|issue| issue.path).collect::<Vec<_>>();
    assert_eq!(paths(&given), ["security.protocol", "ssl.truststore.location", "ssl.keystore.key"]);
    assert_eq!(paths(&[("ssl.keystore.location", "x"), ("ssl.keystore.key", "x")]), ["ssl.keystore.location"]);
    assert_eq!(paths(&[("ssl.keystore.location", "x"), ("security.protocol", " ")]), Vec::<String>::new());
}

#[test]
fn a_keystore_in_pem_has_both() {
    let text = "junk\n-----BEGIN ENCRYPTED PRIVATE KEY-----\nk\n-----END ENCRYPTED PRIVATE KEY-----\n\
        -----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nb\n-----END CERTIFICATE-----\n";
    let (certificates, keys) = pem::split(text);
    assert_eq!(keys, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nk\n-----END ENCRYPTED PRIVATE KEY-----\n");
    assert_eq!(
        certificates,
        "-----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nb\n-----END CERTIFICATE-----\n"
    );
    let dir = tempfile::tempdir().unwrap();
    let (both, none) = (dir.path().join("both.pem"), dir.path().join("none.jks"));
    std::fs::write(&both, text).unwrap();
    std::fs::write(&none, [0xfe, 0xed]).unwrap();
    let ssl = ("security.protocol", "SSL");
    let tls = KafkaSecurity::read(&options(&[ssl, ("ssl.keystore.location", both.to_str().unwrap()), ("ssl.key.password", "p")]));
    let tls = tls.unwrap().tls.unwrap();
    assert!(tls.identity.is_some_and(|(chain, key)| chain == certificates && key == keys) && tls.key_password.is_some());
    let error = read_error(&[ssl, ("ssl.truststore.location", none.to_str().unwrap())]);
    assert!(error.message().ends_with("is not PEM") && error.hint().unwrap().contains("keytool"), "{error:?}");
}
