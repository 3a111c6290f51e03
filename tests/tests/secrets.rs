//! Invariant 9: a secret is in no answer, log line, topic, metric, trace or file. Every option of type `password` of every plugin, and every other place
//! where one may stand, gets a canary of its own: as a literal, by `${env:…}` and by `${file:…}`. Then everything that the worker says is searched for them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

#[path = "secrets/canary.rs"]
mod canary;
#[path = "secrets/cases.rs"]
mod cases;

use aqueduct_tests::site::{aqueduct, free_port};
use aqueduct_tests::{Client, Run, Site, poll_for, wait_until};
use canary::{Forms, WAYS, Way, canary};
use cases::{Case, Targets, cases};
use http_services::{Answer, Api, Certificates, Request};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// At least as many as there are cases.
const CANARIES: usize = 400;

/// Says back what it was sent, credentials first.
fn echo(request: &Request) -> Answer {
    let mut said = String::from("cannot take");
    for (_, value) in &request.query {
        let _ = write!(said, " {value}");
    }
    let last = ["accept", "content-length", "content-type", "host", "user-agent", "accept-encoding", "idempotency-key"];
    for (name, value) in request.headers.iter().filter(|(name, _)| !last.contains(&name.as_str())) {
        let _ = write!(said, " {name}: {value}");
    }
    Answer::new(422, "text/plain", format!("{said} {}", request.text()))
}

/// Everything that was said, and where.
#[derive(Default)]
struct Seen(Vec<(String, String)>);

impl Seen {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    /// All of it; a place is named once.
    fn leaks(&self, forms: &Forms) -> String {
        let mut report = String::new();
        for (place, text) in &self.0 {
            if let Some(around) = forms.find(text) {
                let _ = writeln!(report, "--- {place}:\n{around}\n");
            }
        }
        report
    }
}

/// One connector that was asked for.
struct Made {
    name: String,
    way: Way,
    config: Map<String, Value>,
    created: bool,
}

fn variables() -> Vec<(String, String)> {
    (0..CANARIES).map(|n| (format!("CANARY_{n}"), canary(n, Way::Env))).collect()
}

/// Its config with the canary of this number.
fn config_of(case: &Case, number: usize, way: Way, file: &Path) -> Map<String, Value> {
    let secret = match way {
        // Within a URL.
        Way::Literal => canary(number, way),
        Way::Env => format!("${{env:CANARY_{number}}}"),
        Way::File => format!("${{file:{}:canary.{number}}}", file.display()),
    };
    let mut config = case.config.clone();
    config.insert(case.option.clone(), case.template.replace("{}", &secret).into());
    if case.class == "webhook-source" {
        let listener = format!("http://127.0.0.1:{}", free_port());
        config.insert("listener".to_owned(), listener.into());
    }
    config
}

/// Asks for the connector in every way that looks at a config.
fn create(client: &Client, case: &Case, number: usize, way: Way, file: &Path, seen: &mut Seen) -> Made {
    let name = format!("{}-{number}", case.class);
    let config = config_of(case, number, way, file);
    // A literal of an option that is no secret is what the client sent itself: it is told what is wrong with it.
    let own = way == Way::Literal && !case.is_password;
    let validated = client.put(&format!("/connector-plugins/{}/config/validate", case.class), Some(&json!(config)));
    let body = json!({"name": name, "config": config});
    let answer = client.post("/connectors", Some(&body));
    let created = answer.status == 201;
    assert!(created || answer.status == 400, "{name} {}: {}", case.option, answer.text);
    assert!(created || !case.is_password, "{name}: {} is not used: {}", case.option, answer.text);
    if !own {
        seen.add(format!("{name} {} {way:?}: validate", case.option), &validated.text);
        if !created {
            seen.add(format!("{name} {} {way:?}: refused", case.option), &answer.text);
        }
    }
    if created {
        let mut info = answer.json();
        let mut expected = config.clone();
        expected.insert("name".to_owned(), name.clone().into());
        assert_eq!(info["config"], json!(expected), "exactly what was put");
        assert_eq!(client.get(&format!("/connectors/{name}/config")).json(), json!(expected), "references stay references");
        info["config"] = Value::Null;
        seen.add(format!("{name} {}: created", case.option), info.to_string());
    }
    Made { name, way, config, created }
}

/// Its task has used what it was given: it failed, or what it sent was refused; a webhook only listens.
fn wait_tried(client: &Client, made: &Made) {
    wait_until(SOON, &format!("{} has tried", made.name), || {
        let status = client.get(&format!("/connectors/{}/status", made.name)).json();
        let task = &status["tasks"][0];
        let listens = made.config["connector.class"] == "webhook-source" && task["state"] == "RUNNING";
        let failed =
            [&task["trace"], &status["connector"]["trace"], &task["aqueduct"]["last_error"]].iter().any(|said| said.is_string());
        let refused = task["aqueduct"]["records_dead_lettered"].as_u64().is_some_and(|letters| letters > 0);
        (listens || failed || refused).then_some(())
    });
}

/// What REST answers, but for the configs that were put.
fn ask(client: &Client, made: &[Made], seen: &mut Seen) {
    let get = |path: &str| client.call(Method::GET, path, None).unwrap();
    for Made { name, config, .. } in made.iter().filter(|made| made.created) {
        let mut info = get(&format!("/connectors/{name}")).json();
        info["config"] = Value::Null;
        seen.add(format!("GET /connectors/{name}"), info.to_string());
        for path in ["status", "tasks/0/status", "topics", "offsets"] {
            let path = format!("/connectors/{name}/{path}");
            seen.add(format!("GET {path}"), get(&path).text);
        }
        // The config of a task has the connector's in it, as it was put.
        let mut tasks = get(&format!("/connectors/{name}/tasks")).json();
        for task in tasks.as_array_mut().unwrap() {
            task["config"].as_object_mut().unwrap().retain(|key, value| config.get(key) != Some(value));
        }
        seen.add(format!("GET /connectors/{name}/tasks"), tasks.to_string());
        let path = format!("/aqueduct/v1/connectors/{name}/logs");
        seen.add(format!("GET {path}"), get(&path).text);
    }
    let mut all = get("/connectors?expand=info&expand=status").json();
    for (_, connector) in all.as_object_mut().unwrap() {
        connector["info"]["config"] = Value::Null;
    }
    seen.add("GET /connectors?expand", all.to_string());
    for path in
        ["/", "/health", "/metrics", "/connector-plugins", "/admin/loggers", "/aqueduct/v1/summary", "/aqueduct/v1/folder"]
    {
        seen.add(format!("GET {path}"), get(path).text);
    }
    let topics = get("/aqueduct/v1/topics");
    seen.add("GET /aqueduct/v1/topics", &topics.text);
    for topic in ["records", "dead", "reported", "fed"] {
        let records = get(&format!("/aqueduct/v1/topics/{topic}/records"));
        seen.add(format!("records of {topic}"), records.text);
    }
}

/// What the command line shows.
fn ask_by_hand(site: &Site, made: &[Made], seen: &mut Seen) {
    for args in
        [&["status"][..], &["connectors", "list"], &["connectors", "list", "--output", "json"], &["offsets", "show", "webhook"]]
    {
        // For scripts it is what REST answers: configs as they were put.
        let output = site.cli(args);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        if args.contains(&"json") {
            let mut all: Value = serde_json::from_str(&text).unwrap();
            all.as_object_mut().unwrap().values_mut().for_each(|connector| connector["info"]["config"] = Value::Null);
            seen.add(format!("aqueduct {args:?}"), all.to_string());
        } else {
            seen.add(format!("aqueduct {args:?}"), text);
        }
    }
    // One of each class and way is enough: it is one program.
    let mut shown = std::collections::BTreeSet::new();
    for Made { name, way, config, .. } in made.iter().filter(|made| made.created) {
        if shown.insert((config["connector.class"].to_string(), format!("{way:?}"))) {
            seen.add(format!("aqueduct connectors describe {name} ({way:?})"), site.ok(&["connectors", "describe", name]));
        }
    }
}

/// `aqueduct validate` of files with the same configs and a mistake in each: what is shown of the file has no secret either.
fn validate_files(site: &Site, made: &[Made], cases: &[(usize, bool)], seen: &mut Seen) {
    let folder = site.path("validated");
    std::fs::create_dir_all(&folder).unwrap();
    for (made, (_, is_password)) in made.iter().zip(cases) {
        if !is_password && made.way == Way::Literal {
            continue;
        }
        let mut text = format!("name: {}\n", made.name);
        // A misspelt option on each side of each line.
        for (n, (key, value)) in made.config.iter().enumerate() {
            let _ = writeln!(text, "misspelt{n}: x\n{key}: {value}");
        }
        let file = format!("{}.yaml", made.name);
        std::fs::write(folder.join(&file), text).unwrap();
        let mut command = Command::new(aqueduct());
        command
            .args(["validate", "--config", "worker.yaml"])
            .arg(folder.join(&file))
            .current_dir(&site.root)
            .env("NO_COLOR", "1");
        let output = command.envs(variables()).output().unwrap();
        assert!(!output.status.success(), "{file} is not valid");
        seen.add(format!("aqueduct validate {file}"), String::from_utf8_lossy(&output.stdout));
        seen.add(format!("aqueduct validate {file}, stderr"), String::from_utf8_lossy(&output.stderr));
    }
}

fn trace_everything(client: &Client) {
    for logger in client.get("/admin/loggers").json().as_object().unwrap().keys().filter(|name| name.starts_with("aqueduct")) {
        client.put(&format!("/admin/loggers/{logger}"), Some(&json!({"level": "TRACE"}))).expect(200);
    }
}

/// The options of type `password` that the worker lists, of each connector.
fn passwords(client: &Client) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for plugin in client.get("/connector-plugins").json().as_array().unwrap() {
        let class = plugin["class"].as_str().unwrap();
        let options = client.get(&format!("/connector-plugins/{class}/config")).expect(200).json();
        let secret = options.as_array().unwrap().iter().filter(|option| option["type"] == "PASSWORD");
        found.extend(secret.map(|option| (class.to_owned(), option["name"].as_str().unwrap().to_owned())));
    }
    found
}

fn files_below(dir: &Path, seen: &mut Seen) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, seen);
        } else {
            seen.add(path.display().to_string(), String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        }
    }
}

fn start(spans: &Api) -> (Site, std::path::PathBuf) {
    let mut site = Site::new();
    let file = site.path("secrets.properties");
    site.configure(&format!(
        "config.providers.env.param.allowlist.pattern: CANARY_.*\nconfig.providers.file.param.allowed.paths: {}\n\
         otel.exporter.otlp.endpoint: {}\n",
        site.root.display(),
        spans.url("")
    ));
    let properties: String = (0..CANARIES).map(|n| format!("canary.{n}={}\n", canary(n, Way::File))).collect();
    std::fs::write(&file, properties).unwrap();
    site.start_with(&Run { env: variables(), ..Run::default() });
    (site, file)
}

#[test]
fn a_secret_in_any_option_is_seen_nowhere() {
    let (certificates, api) = (Certificates::new(), Api::start(echo));
    let targets = Targets { closed: free_port(), echo: api.port(), pem: certificates.server_pem().display().to_string() };
    let spans = Api::start(|_: &Request| Answer::json(200, "{}"));
    let (mut site, file) = start(&spans);
    let client = site.client();
    trace_everything(&client);
    let records = json!({"connector.class": "datagen-source", "template": "orders", "topic": "records", "count": "5", "rate": "1000", "seed": "1"});
    client.put("/connectors/gen/config", Some(&records)).expect(201);
    wait_until(SOON, "there are records", || {
        client.get("/aqueduct/v1/topics/records/records").text.contains("order").then_some(())
    });

    let passwords = passwords(&client);
    assert!(passwords.len() >= 25, "the worker lists its secrets: {passwords:?}");
    let (mut seen, mut made, mut sorts) = (Seen::default(), Vec::new(), Vec::new());
    for case in cases(&passwords, &targets) {
        for way in WAYS {
            // Of an option that is for no secret, a literal is refused together with its value; elsewhere it counts as one.
            let number = made.len();
            assert!(number < CANARIES);
            made.push(create(&client, &case, number, way, &file, &mut seen));
            sorts.push((number, case.is_password));
        }
    }
    println!("{} connectors, {} of them taken", made.len(), made.iter().filter(|made| made.created).count());
    made.iter().filter(|made| made.created).for_each(|made| wait_tried(&client, made));
    // What was refused lies with its reason in the dead letter queue.
    wait_until(SOON, "there are dead letters", || {
        client.get("/aqueduct/v1/topics/dead/records").text.contains("cannot take").then_some(())
    });
    assert!(
        api.requests().iter().any(|request| Forms::of_all().find(request.header("authorization").unwrap_or_default()).is_some())
    );

    ask(&client, &made, &mut seen);
    ask_by_hand(&site, &made, &mut seen);
    validate_files(&site, &made, &sorts, &mut seen);
    site.stop();
    seen.add("the worker's log", site.log());
    // Protobuf keeps texts as they are.
    let exported = spans.requests();
    assert!(exported.iter().any(|request| request.text().contains("POST /connectors")), "calls are spans");
    exported.iter().for_each(|request| seen.add("exported spans", request.text()));
    let mut report = seen.leaks(&Forms::of_all());
    let mut stored = Seen::default();
    files_below(&site.data_dir(), &mut stored);
    report.push_str(&stored.leaks(&Forms::of_references()));
    assert!(report.is_empty(), "canaries are seen:\n{report}");
}

/// A worker whose own secrets do not work: it says why, and not what they are.
#[test]
fn the_workers_own_secrets_are_not_in_its_log_nor_in_what_it_answers() {
    let certificates = Certificates::new();
    let closed = free_port();
    let jaas = |secret: &str| {
        format!("org.apache.kafka.common.security.plain.PlainLoginModule required username=\"u\" password=\"{secret}\";")
    };
    let (literal, referenced) = (canary(1, Way::Literal), canary(2, Way::Env));
    let sasl = "security.protocol: SASL_PLAINTEXT\nsasl.mechanism: PLAIN\n";
    for (says, settings) in [
        ("kafka.", format!("bootstrap.servers: 127.0.0.1:{closed}\n{sasl}sasl.jaas.config: '{}'\n", jaas(&literal))),
        ("kafka.", format!("bootstrap.servers: 127.0.0.1:{closed}\n{sasl}sasl.jaas.config: '{}'\n", jaas("${env:CANARY_2}"))),
        (
            "kafka.",
            format!(
                "bootstrap.servers: 127.0.0.1:{closed}\nsecurity.protocol: SSL\nssl.keystore.location: {}\nssl.key.password: '{literal}'\n",
                certificates.server_pem().display()
            ),
        ),
        // No key, and so on one line what it would have been.
        (
            "",
            format!(
                "listeners.https.ssl.keystore.certificate.chain: x\nlisteners.https.ssl.keystore.key: '{literal}'\nlisteners: https://127.0.0.1:{closed}\n"
            ),
        ),
        (
            "",
            format!(
                "admin.listeners.https.ssl.keystore.certificate.chain: x\nadmin.listeners.https.ssl.keystore.key: '{literal}'\n\
                 admin.listeners: https://127.0.0.1:{closed}\n"
            ),
        ),
        ("", format!("bootstrap.servers: 127.0.0.1:{closed}\n{sasl}sasl.jaas.config: 'password={literal}'\n")),
        ("", format!("bootstrap.servers: 127.0.0.1:{closed}\n{sasl}sasl.jaas.config: '${{env:CANARY_2}}'\n")),
        ("", format!("offset.flush.interval.ms: '${{env:CANARY_2}}'\nssl.key.pasword: '{literal}'\n")),
    ] {
        let mut site = Site::new();
        let listeners = settings.lines().any(|line| line.starts_with("listeners: "));
        site.configure(&settings);
        if listeners {
            // In place of the site's own.
            let text = std::fs::read_to_string(site.path("worker.yaml")).unwrap();
            std::fs::write(site.path("worker.yaml"), text.lines().skip(1).fold(String::new(), |all, line| all + line + "\n"))
                .unwrap();
        }
        let env = vec![
            ("CANARY_2".to_owned(), referenced.clone()),
            ("AQUEDUCT_LOG_LEVEL".to_owned(), "info,aqueduct=trace".to_owned()),
        ];
        let mut command = Command::new(aqueduct());
        command.args(["validate", "worker.yaml"]).current_dir(&site.root).env("NO_COLOR", "1").envs(env.clone());
        let output = command.output().unwrap();
        let mut seen = Seen::default();
        seen.add("aqueduct validate", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
        site.spawn(&Run { env, ..Run::default() });
        let (client, mut ended) = (site.client(), false);
        let health = poll_for(SOON, || {
            ended = site.exited().is_some();
            let answer =
                client.call(Method::GET, "/health", None).ok().filter(|answer| !says.is_empty() && answer.text.contains(says));
            if ended { Some(String::new()) } else { answer.map(|answer| answer.text) }
        });
        let health = health.unwrap_or_else(|| panic!("neither trouble nor an end: {settings}\n{}", site.log_tail(20)));
        assert_eq!(ended, says.is_empty(), "{settings}\n{}", site.log_tail(20));
        seen.add("/health", health);
        site.kill();
        seen.add("the worker's log", site.log());
        let report = seen.leaks(&Forms::of_all());
        assert!(report.is_empty(), "{settings}\n{report}");
    }
}

/// A file of secrets that changes reaches the tasks that use it, also those that have failed for the old one, and no others.
#[test]
fn a_changed_secret_reaches_the_tasks_that_use_it_and_no_others() {
    let api = Api::start(|request: &Request| {
        let good =
            ["Bearer old-token", "Bearer new-token", "Bearer other-token"].contains(&request.header("authorization").unwrap());
        if good { Answer::json(200, "[]") } else { Answer::status(401) }
    });
    let mut site = Site::new();
    let folder = site.root.clone();
    let write = |name: &str, token: &str| {
        std::fs::write(folder.join(".part"), format!("token={token}\n")).unwrap();
        std::fs::rename(folder.join(".part"), folder.join(name)).unwrap();
    };
    write("mine", "old-token");
    write("wrong", "wrong-token");
    write("others", "other-token");
    site.configure(&format!("config.providers.file.param.allowed.paths: {}\n", site.root.display()));
    let root = site.root.display().to_string();
    site.start();
    let client = site.client();
    for (name, file, reload) in
        [("uses", "mine", "restart"), ("failed", "wrong", "restart"), ("keeps", "mine", "none"), ("other", "others", "restart")]
    {
        let config = json!({
            "connector.class": "http-source", "http.request.url": api.url(&format!("/{name}")), "http.allowed.hosts": "localhost",
            "http.timer.interval.millis": "50", "kafka.topic": "t", "http.auth.type": "bearer", "config.action.reload": reload,
            "http.auth.token": format!("${{file:{root}/{file}:token}}"),
        });
        client.put(&format!("/connectors/{name}/config"), Some(&config)).expect(201);
    }
    let last = |path: &str| {
        let requests = api.requests();
        requests.iter().rev().find(|request| request.path == path)?.header("authorization").map(str::to_owned)
    };
    for (path, token) in [("/uses", "Bearer old-token"), ("/keeps", "Bearer old-token"), ("/other", "Bearer other-token")] {
        wait_until(SOON, &format!("{path} has its token"), || (last(path).as_deref() == Some(token)).then_some(()));
    }
    wait_until(SOON, "what has a wrong token fails", || (client.task_states("failed") == ["FAILED"]).then_some(()));
    write("mine", "new-token");
    write("wrong", "new-token");
    wait_until(SOON, "the new token is used", || (last("/uses").as_deref() == Some("Bearer new-token")).then_some(()));
    wait_until(SOON, "what has failed runs", || (client.task_states("failed") == ["RUNNING"]).then_some(()));
    assert_eq!(last("/keeps").as_deref(), Some("Bearer old-token"), "config.action.reload: none");
    let log = site.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("a secret has changed")).collect();
    assert!(said.len() == 2 && said.iter().all(|line| line.contains("uses") || line.contains("failed")), "{said:#?}");
    assert!(!log.contains("old-token") && !log.contains("new-token"), "a token is in the log");
}
