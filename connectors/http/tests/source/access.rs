//! Credentials, TLS, proxies, and hosts that may be called.

use crate::rig::{Source, api, options};
use http_services::{Answer, Api, Certificates, Fault, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SECRET: &str = "canary-7c1d";

fn source(url: &str, more: &[(&str, &str)]) -> Source {
    let mut pairs = vec![("http.request.url", url), ("max.retries", "0")];
    pairs.extend(more);
    Source::new(options(&pairs))
}

fn one() -> Answer {
    Answer::json(200, "[{\"id\": 0}]")
}

/// What the API saw of the first request.
async fn seen(more: &[(&str, &str)]) -> Request {
    let api = api(|_| one());
    source(&api.url("/x?a=b"), more).read(1).await.unwrap();
    api.requests().remove(0)
}

#[tokio::test]
async fn credentials() {
    assert_eq!(seen(&[]).await.header("authorization"), None);
    let basic = seen(&[("http.auth.type", "Basic"), ("http.auth.user", "me"), ("http.auth.password", "pässword")]).await;
    assert_eq!(basic.header("authorization"), Some("Basic bWU6cMOkc3N3b3Jk"));
    let bearer = seen(&[("http.auth.type", "bearer"), ("http.auth.token", SECRET)]).await;
    assert_eq!(bearer.header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
    let aiven = seen(&[("http.authorization.type", "static"), ("http.headers.authorization", "Token x")]).await;
    assert_eq!(aiven.header("authorization"), Some("Token x"));
    let key = seen(&[("http.auth.type", "api-key"), ("http.auth.api.key", SECRET)]).await;
    assert_eq!(key.header("x-api-key"), Some(SECRET));
    let param = [
        ("http.auth.type", "api-key"),
        ("http.auth.api.key", "a b&c"),
        ("http.auth.api.key.in", "query"),
        ("http.auth.api.key.name", "k"),
    ];
    let param = seen(&param).await;
    assert_eq!((param.param("a"), param.param("k")), (Some("b"), Some("a b&c")));
    let headers = [("http.request.headers", "X-One: 1, X-Two: 2"), ("http.request.header.X-Three", "a, b")];
    let headers = seen(&headers).await;
    assert_eq!(["x-one", "x-two", "x-three"].map(|name| headers.header(name)), [Some("1"), Some("2"), Some("a, b")]);
}

/// A token endpoint and an API that takes the newest token only.
fn oauth(life: &'static str) -> (Api, Arc<AtomicU64>) {
    let tokens = Arc::new(AtomicU64::new(0));
    let given = tokens.clone();
    let api = api(move |request| {
        if request.path == "/token" {
            let number = given.fetch_add(1, Ordering::AcqRel) + 1;
            return Answer::json(200, format!("{{\"access_token\": \"{SECRET}-{number}\", \"token_type\": \"Bearer\"{life}}}"));
        }
        let good = format!("Bearer {SECRET}-{}", given.load(Ordering::Acquire));
        if request.header("authorization") == Some(good.as_str()) { one() } else { Answer::json(401, "{}") }
    });
    (api, tokens)
}

fn oauth_options(api: &Api) -> Vec<(&'static str, String)> {
    [
        ("http.auth.type", "oauth2"),
        ("oauth2.client.id", "me & you"),
        ("oauth2.client.secret", SECRET),
        ("oauth2.client.scope", "read write"),
        ("oauth2.token.params.audience", "https://api"),
        ("http.response.record.offset.pointer", "-"),
    ]
    .into_iter()
    .map(|(key, value)| (key, value.to_owned()))
    .chain([("oauth2.access.token.url", api.url("/token"))])
    .collect()
}

fn borrowed<'a>(pairs: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    pairs.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

#[tokio::test]
async fn oauth2_fetches_a_token_once_and_another_when_it_is_refused() {
    let (api, tokens) = oauth(", \"expires_in\": 3600");
    let pairs = oauth_options(&api);
    let mut source = source(&api.url("/x"), &borrowed(&pairs));
    source.read(3).await.unwrap();
    assert_eq!(tokens.load(Ordering::Acquire), 1);
    let request = api.requests().remove(0);
    assert_eq!(request.header("authorization"), Some("Basic bWUlMjAlMjYlMjB5b3U6Y2FuYXJ5LTdjMWQ="));
    let form = request.text();
    assert!(
        form.contains("grant_type=client_credentials")
            && form.contains("scope=read%20write")
            && form.contains("audience=https%3A%2F%2Fapi"),
        "{form}"
    );
    // Revoked: the next request is refused once.
    tokens.fetch_add(1, Ordering::AcqRel);
    source.read(6).await.unwrap();
    assert_eq!(tokens.load(Ordering::Acquire), 3);
    // An API that refuses every token ends it, with no request too many.
    let before = api.count();
    api.fault("/x", Fault::status(401));
    api.fault("/x", Fault::status(401));
    let error = source.fails().await;
    assert_eq!((error.code(), error.is_retriable()), ("http.unauthorized", false));
    assert!(api.count() - before <= 10);
    assert!(!error.trace().contains(SECRET), "{}", error.trace());
}

#[tokio::test]
async fn oauth2_replaces_a_token_before_it_ends() {
    let (api, tokens) = oauth(", \"expires_in\": \"0\"");
    let mut pairs = oauth_options(&api);
    pairs.push(("oauth2.client.authorization.mode", "url".into()));
    let mut source = source(&api.url("/x"), &borrowed(&pairs));
    source.read(3).await.unwrap();
    assert!(tokens.load(Ordering::Acquire) >= 3);
    let request = api.requests().remove(0);
    assert_eq!(request.header("authorization"), None);
    assert!(request.text().contains(&format!("client_secret={SECRET}")));
}

#[tokio::test]
async fn oauth2_that_fails_shows_no_secret() {
    let (api, _) = oauth("");
    let pairs = oauth_options(&api);
    for (fault, retriable) in [
        (Fault::status(503), true),
        (Fault::Instead(Answer::json(401, format!("{{\"error\": \"invalid_client\", \"hint\": \"{SECRET}\"}}"))), false),
        (Fault::Instead(Answer::json(200, format!("{{\"token\": \"{SECRET}\"}}"))), false),
        (Fault::Instead(Answer::json(200, format!("{{\"access_token\": \"{SECRET}\\r\\nX: y\"}}"))), false),
    ] {
        api.fault("/token", fault);
        let error = source(&api.url("/x"), &borrowed(&pairs)).fails().await;
        assert_eq!(error.is_retriable(), retriable, "{error}");
        assert!(!error.trace().contains(SECRET), "{}", error.trace());
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_gets_no_credentials() {
    let other = Arc::new(api(|_| one()));
    let to = other.url("/y?z=1");
    let api = api(move |request| match request.path.as_str() {
        "/x" => Answer::redirect(307, "/here"),
        _ => Answer::redirect(302, to.clone()),
    });
    let more = [
        ("http.auth.type", "bearer"),
        ("http.auth.token", SECRET),
        ("http.request.headers", "X-Own: 1, Accept: application/json"),
    ];
    source(&api.url("/x"), &more).read(1).await.unwrap();
    assert!(api.requests().iter().all(|request| request.header("authorization").is_some() && request.header("x-own").is_some()));
    let stranger = other.requests().remove(0);
    assert_eq!((stranger.header("authorization"), stranger.header("x-own")), (None, None));
    assert_eq!((stranger.header("accept"), stranger.param("z")), (Some("application/json"), Some("1")));
}

#[tokio::test]
async fn errors_show_no_secret_of_a_url() {
    let api = api(|_| Answer::json(404, "{}"));
    let param = [("http.auth.type", "api-key"), ("http.auth.api.key", SECRET), ("http.auth.api.key.in", "query")];
    let url = format!("{}?token={SECRET}", api.url("/x"));
    let mut found = source(&url, &param);
    let error = found.fails().await;
    assert!(!error.trace().contains(SECRET), "{}", error.trace());
    drop(api);
    let error = found.fails().await;
    assert!(["http.connect", "http.broken"].contains(&error.code()), "{error}");
    assert!(!error.trace().contains(SECRET) && !found.report().contains(SECRET), "{}", error.trace());
}

#[tokio::test]
async fn tls() {
    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let api = Api::start_tls(&ours, false, |_| one());
    let path = |path: std::path::PathBuf| path.display().to_string();
    let (ca, other) = (path(ours.authority()), path(theirs.authority()));
    fn trusting(location: &str) -> [(&str, &str); 1] {
        [("https.ssl.truststore.location", location)]
    }
    source(&api.url("/x"), &trusting(&ca)).read(1).await.unwrap();
    let refused = source(&api.url("/x"), &trusting(&other)).fails().await;
    assert_eq!((refused.code(), refused.is_retriable()), ("http.tls", false), "{refused}");
    let system = source(&api.url("/x"), &[]).fails().await;
    assert_eq!(system.code(), "http.tls", "{system}");
    source(&api.url("/x"), &[("http.ssl.trust.all.certs", "true")]).read(1).await.unwrap();
    // By a name that the certificate does not have.
    let nameless = format!("https://other.localhost:{}/x", api.port());
    let hosts = [("https.ssl.truststore.location", ca.as_str()), ("http.allowed.hosts", "other.localhost")];
    let wrong = source(&nameless, &hosts).fails().await;
    assert!(["http.tls", "http.connect"].contains(&wrong.code()), "{wrong}");
    for missing in ["/nowhere.pem", &path(ours.client_parts().1)] {
        let error = source(&api.url("/x"), &trusting(missing)).fails().await;
        assert_eq!((error.code(), error.is_retriable()), ("http.tls", false), "{error}");
    }
}

#[tokio::test]
async fn mutual_tls() {
    let certificates = Certificates::new();
    let api = Api::start_tls(&certificates, true, |_| one());
    let path = |path: std::path::PathBuf| path.display().to_string();
    let (ca, both, (chain, key)) = (path(certificates.authority()), path(certificates.client()), certificates.client_parts());
    let (chain, key) = (path(chain), path(key));
    let trust = ("https.ssl.truststore.location", ca.as_str());
    source(&api.url("/x"), &[trust, ("https.ssl.keystore.location", &both)]).read(1).await.unwrap();
    let parts = [trust, ("https.ssl.keystore.location", chain.as_str()), ("https.ssl.keystore.key.location", key.as_str())];
    source(&api.url("/x"), &parts).read(1).await.unwrap();
    let error = source(&api.url("/x"), &[trust]).fails().await;
    assert!(error.is_retriable(), "{error}");
}

#[tokio::test]
async fn a_proxy_is_asked_for_what_is_elsewhere() {
    let proxy = api(|_| one());
    let port = proxy.port().to_string();
    let more = [
        ("http.allowed.hosts", "-"),
        ("http.client.proxy.host", "127.0.0.1"),
        ("http.client.proxy.port", port.as_str()),
        ("http.client.proxy.username", "me"),
        ("http.client.proxy.password", SECRET),
    ];
    source("http://api.example.com/x", &more).read(1).await.unwrap();
    let request = proxy.requests().remove(0);
    assert_eq!(request.path, "http://api.example.com/x");
    assert!(request.header("proxy-authorization").is_some_and(|value| value.starts_with("Basic ")));
}

#[test]
fn hosts_that_may_not_be_called_are_said_before_anything_is_tried() {
    let aqueduct_core::Plugin::Source(plugin) = aqueduct_connector_http::source::plugin() else { unreachable!() };
    let codes = |more: &[(&str, &str)]| -> Vec<String> {
        plugin
            .validate(&options(more))
            .into_iter()
            .filter(|issue| issue.is_error())
            .inspect(|issue| assert!(issue.fix.is_some(), "{issue}"))
            .map(|issue| format!("{} {}", issue.path, issue.code))
            .collect()
    };
    for url in ["http://127.0.0.1/", "http://10.0.0.1/x", "http://localhost:8080/", "http://169.254.169.254/"] {
        let denied = codes(&[("http.allowed.hosts", "-"), ("http.request.url", url)]);
        assert_eq!(denied, ["http.request.url http.denied"], "{url}");
    }
    assert_eq!(codes(&[("http.request.url", "http://localhost:8080/")]), [""; 0]);
    let ok = ("http.request.url", "http://localhost/");
    for (more, expected) in [
        (&[("http.request.url", "localhost/x")][..], "http.request.url http.url"),
        (&[("http.request.url", "http://u:p@localhost/")], "http.request.url http.url"),
        (&[("http.request.url", "http://localhost/${nothing}")], "http.request.url http.template"),
        (&[ok, ("http.request.headers", "Host: x")], "http.request.headers http.header"),
        (&[ok, ("http.request.headers", "x")], "http.request.headers http.header"),
        (&[ok, ("http.request.header.A", "x\r\nB: y")], "http.request.header.A http.header"),
        (&[ok, ("http.auth.type", "bearer")], "http.auth.token config.missing"),
        (&[ok, ("http.auth.type", "bearer"), ("http.auth.token", "a\n")], "http.auth.type http.header"),
        (
            &[
                ok,
                ("http.auth.type", "oauth2"),
                ("oauth2.client.id", "a"),
                ("oauth2.client.secret", "b"),
                ("oauth2.access.token.url", "http://10.0.0.1/"),
            ],
            "oauth2.access.token.url http.denied",
        ),
        (&[ok, ("http.page.mode", "cursor")], "http.page.next.pointer config.missing"),
        (&[ok, ("http.page.mode", "page")], "http.page.size config.missing"),
        (&[ok, ("http.response.list.pointer", "data")], "http.response.list.pointer http.pointer"),
        (&[ok, ("http.response.record.offset.pointer", "key")], "http.response.record.offset.pointer http.pointer"),
        (&[ok, ("http.retry.codes", "teapot")], "http.retry.codes http.codes"),
        (&[ok, ("http.allowed.hosts", "http://localhost")], "http.allowed.hosts http.hosts"),
        (&[ok, ("kafka.topic", "a b")], "kafka.topic http.topic"),
    ] {
        assert!(codes(more).contains(&expected.to_owned()), "{more:?}: {:?}", codes(more));
    }
}
