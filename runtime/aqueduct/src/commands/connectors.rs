//! `connectors list|describe|create|delete|pause|resume|stop|restart|signal`

use crate::client::{Api, Remote, segment};
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, lines, plain};
use aqueduct_config::connector_documents;
use comfy_table::Cell;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// List, create and steer the connectors of a running worker.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List all connectors with their states.
    List(#[command(flatten)] Remote),
    /// Show one connector: config, state, tasks, errors.
    Describe {
        #[command(flatten)]
        remote: Remote,
        /// The connector's name.
        name: String,
    },
    /// Create connectors from files (YAML, JSON or properties; `-` for stdin).
    Create {
        #[command(flatten)]
        remote: Remote,
        /// Each with one or more connectors, as in connectors.dir.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Change the connector if it exists already.
        #[arg(long)]
        update: bool,
        /// Create it without starting it.
        #[arg(long, value_name = "STATE", conflicts_with = "update", value_parser = ["RUNNING", "PAUSED", "STOPPED"], ignore_case = true)]
        initial_state: Option<String>,
    },
    /// Delete connectors. The offsets of a source stay, for one of the same name.
    Delete(Named),
    /// Pause connectors: tasks stay, nothing moves.
    Pause(Named),
    /// Resume paused or stopped connectors.
    Resume(Named),
    /// Stop connectors: tasks end. Their offsets may be changed then.
    Stop(Named),
    /// Restart a connector, or its tasks.
    Restart {
        #[command(flatten)]
        some: Named,
        /// Its tasks too.
        #[arg(long)]
        tasks: bool,
        /// Only what has failed.
        #[arg(long)]
        failed: bool,
        /// This task only.
        #[arg(long, value_name = "N", conflicts_with_all = ["tasks", "failed"])]
        task: Option<u32>,
    },
    /// Send a signal to a running source: `execute-snapshot`, `stop-snapshot`, `pause-snapshot`, `resume-snapshot`, `log` for postgres-source.
    Signal {
        #[command(flatten)]
        remote: Remote,
        /// The connector's name.
        name: String,
        /// What it is to do.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// With what: `{"data-collections": ["public.orders"]}`.
        #[arg(long, value_name = "JSON", value_parser = json_text)]
        data: Option<Value>,
        /// What the signal is called in the connector's reports; made up if not given.
        #[arg(long)]
        id: Option<String>,
    },
}

#[derive(clap::Args)]
pub(crate) struct Named {
    #[command(flatten)]
    remote: Remote,
    /// The connectors' names.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) async fn run(command: Command, screen: &Screen) -> Outcome {
    match command {
        Command::List(remote) => list(&remote.api()?, screen).await,
        Command::Describe { remote, name } => describe(&remote.api()?, &name, screen).await,
        Command::Create { remote, files, update, initial_state } => {
            create(&remote.api()?, &files, update, initial_state.as_deref(), screen).await
        }
        Command::Delete(some) => each(&some, "DELETE", "", "deleted", screen).await,
        Command::Pause(some) => each(&some, "PUT", "/pause", "paused", screen).await,
        Command::Resume(some) => each(&some, "PUT", "/resume", "resumed", screen).await,
        Command::Stop(some) => each(&some, "PUT", "/stop", "stopped", screen).await,
        Command::Restart { some, task: Some(task), .. } => {
            each(&some, "POST", &format!("/tasks/{task}/restart"), "task restarted", screen).await
        }
        Command::Restart { some, tasks, failed, task: None } => {
            let path =
                if tasks || failed { format!("/restart?includeTasks={tasks}&onlyFailed={failed}") } else { "/restart".into() };
            each(&some, "POST", &path, "restarted", screen).await
        }
        Command::Signal { remote, name, kind, data, id } => {
            let body = json!({ "id": id, "type": kind, "data": data });
            let path = format!("/aqueduct/v1/connectors/{}/signals", segment(&name));
            let taken = remote.api()?.call("POST", &path, Some(&body)).await?;
            screen.done(&format!("{name} took the signal {}", plain(&taken["id"])))
        }
    }
}

fn json_text(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))
}

/// All of them, though one fails; then the first failure.
async fn each(some: &Named, method: &str, path: &str, done: &str, screen: &Screen) -> Outcome {
    let api = some.remote.api()?;
    let mut failure = None;
    for name in &some.names {
        match api.call(method, &format!("/connectors/{}{path}", segment(name)), None).await {
            Ok(_) => screen.done(&format!("{name} {done}"))?,
            Err(error) if failure.is_none() => failure = Some(error),
            Err(error) => {
                error.report();
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn list(api: &Api, screen: &Screen) -> Outcome {
    let all = api.get("/connectors?expand=info&expand=status").await?;
    screen.show(&all, || {
        let mut table = screen.table(&["NAME", "TYPE", "STATE", "TASKS", "CLASS"]);
        let connectors = all.as_object().cloned().unwrap_or_default();
        for (name, connector) in &connectors {
            let status = &connector["status"];
            table.add_row(vec![
                Cell::new(name),
                Cell::new(plain(&status["type"])),
                state_cell(status, screen),
                Cell::new(tasks_running(status)),
                Cell::new(plain(&connector["info"]["config"]["connector.class"])),
            ]);
        }
        if connectors.is_empty() {
            "no connectors; `aqueduct connectors create FILE` makes one".to_owned()
        } else {
            lines(&table)
        }
    })
}

/// The connector's state, or FAILED when a task has.
pub(crate) fn state_cell(status: &Value, screen: &Screen) -> Cell {
    let failed = tasks(status).iter().any(|task| task["state"] == "FAILED");
    screen.state(&if failed { "FAILED".to_owned() } else { plain(&status["connector"]["state"]) })
}

/// `2/3`: how many of its tasks run.
pub(crate) fn tasks_running(status: &Value) -> String {
    let tasks = tasks(status);
    format!("{}/{}", tasks.iter().filter(|task| task["state"] == "RUNNING").count(), tasks.len())
}

/// What sources tell of themselves, with the task's id.
pub(crate) fn reports(status: &Value) -> impl Iterator<Item = (&Value, &str)> {
    tasks(status).iter().filter_map(|task| Some((&task["id"], task["aqueduct"]["report"]["summary"].as_str()?)))
}

pub(crate) fn tasks(status: &Value) -> &[Value] {
    status["tasks"].as_array().map_or(&[], Vec::as_slice)
}

async fn describe(api: &Api, name: &str, screen: &Screen) -> Outcome {
    let path = format!("/connectors/{}", segment(name));
    let info = api.get(&path).await?;
    let status = api.get(&format!("{path}/status")).await?;
    let topics = api.get(&format!("{path}/topics")).await.unwrap_or_default();
    let topics = &topics[name]["topics"];
    let class = plain(&info["config"]["connector.class"]);
    let options = api.get(&format!("/connector-plugins/{}/config", segment(&class))).await.unwrap_or_default();
    let config = without_passwords(&info["config"], &options);
    let all = json!({ "name": name, "type": info["type"], "config": config, "status": status, "topics": topics });
    screen.show(&all, || described(name, &info["type"], &config, &status, topics, screen))
}

/// Terminals are looked at by others, and their output is kept: a password that stands in the config as it is, is not shown. References are.
fn without_passwords(config: &Value, options: &Value) -> Map<String, Value> {
    let options = options.as_array().map_or(&[][..], Vec::as_slice);
    let is_password = |key: &str| options.iter().any(|option| option["name"] == key && option["type"] == "PASSWORD");
    let is_reference =
        |value: &Value| value.as_str().is_some_and(|text| text.starts_with("${") && text.find('}') == Some(text.len() - 1));
    let config = config.as_object().cloned().unwrap_or_default();
    let shown = |(key, value): (String, Value)| {
        let hidden = is_password(&key) && !is_reference(&value);
        (key, if hidden { "[hidden]".into() } else { value })
    };
    config.into_iter().map(shown).collect()
}

fn described(name: &str, kind: &Value, config: &Map<String, Value>, status: &Value, topics: &Value, screen: &Screen) -> String {
    let topics: Vec<String> = topics.as_array().map_or(&[][..], Vec::as_slice).iter().map(plain).collect();
    let state = plain(&status["connector"]["state"]);
    let mut text = format!("{}  {}, {state}, on {}\n", screen.bold(name), plain(kind), plain(&status["connector"]["worker_id"]));
    if !topics.is_empty() {
        text.push_str(&format!("topics: {}\n", topics.join(", ")));
    }
    let mut table = screen.table(&["TASK", "STATE", ">IN", ">OUT", ">LAG", ">RETRIES", ">DEAD LETTERS"]);
    for task in tasks(status) {
        let figure = |name: &str| Cell::new(plain(&task["aqueduct"][name]));
        table.add_row(vec![
            Cell::new(plain(&task["id"])),
            screen.state(&plain(&task["state"])),
            figure("records_in"),
            figure("records_out"),
            figure("lag"),
            figure("retries"),
            figure("records_dead_lettered"),
        ]);
    }
    if !tasks(status).is_empty() {
        text.push_str(&format!("\n{}\n", lines(&table)));
    }
    for (task, said) in reports(status) {
        text.push_str(&format!("\ntask {task}: {said}\n"));
    }
    let traces = std::iter::once(("connector".to_owned(), &status["connector"]["trace"]))
        .chain(tasks(status).iter().map(|task| (format!("task {}", task["id"]), &task["trace"])));
    for (what, trace) in traces.filter(|(_, trace)| trace.is_string()) {
        text.push_str(&format!("\n{} {}\n", screen.red(&format!("{what}:")), plain(trace).replace('\n', "\n  ")));
    }
    text.push_str("\nconfig:\n");
    for (key, value) in config {
        text.push_str(&format!("  {key}: {}\n", plain(value)));
    }
    text
}

async fn create(api: &Api, files: &[PathBuf], update: bool, initial: Option<&str>, screen: &Screen) -> Outcome {
    let mut configs = Vec::new();
    for file in files {
        configs.extend(read_configs(file)?);
    }
    let mut made = Vec::new();
    for (name, config) in configs {
        let info = if update {
            api.call("PUT", &format!("/connectors/{}/config", segment(&name)), Some(&config)).await?
        } else {
            let mut body = json!({ "name": name, "config": config });
            if let Some(initial) = initial {
                body["initial_state"] = json!(initial.to_ascii_uppercase());
            }
            api.call("POST", "/connectors", Some(&body)).await?
        };
        screen.done(&format!("{name} {}", if update { "is up to date" } else { "created" }))?;
        made.push(info);
    }
    if screen.format == crate::output::Format::Table { Ok(()) } else { screen.show(&made, String::new) }
}

/// The configs of a file, flat; a file that cannot be read as such is not sent at all.
fn read_configs(path: &Path) -> Outcome<Vec<(String, Value)>> {
    let (name, text) = read_text(path)?;
    let documents = connector_documents(&name, &text).map_err(|issues| {
        let errors: Vec<String> = issues.iter().filter(|issue| issue.is_error()).map(ToString::to_string).collect();
        Failure::failed(errors.join("\n"))
    })?;
    Ok(documents.into_iter().map(|document| (document.name, json!(document.flat.entries))).collect())
}

fn read_text(path: &Path) -> Outcome<(String, String)> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().take(aqueduct_config::document::FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
        return Ok(("stdin".to_owned(), text));
    }
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    Ok((path.display().to_string(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_sent_flat_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.yaml");
        std::fs::write(&path, "name: orders\nconnector.class: file-source\npath: [/a, /b]\ntransforms:\n  t: {type: Filter}\n")
            .unwrap();
        let expected = json!({"name": "orders", "connector.class": "file-source", "path": "/a,/b", "transforms": "t", "transforms.t.type": "Filter"});
        assert_eq!(read_configs(&path).unwrap(), [("orders".to_owned(), expected)]);
        std::fs::write(&path, "connector.class: x\n").unwrap();
        assert!(read_configs(&path).unwrap_err().text().contains("name: is required"));
        std::fs::write(&path, "a: [1\n").unwrap();
        assert!(read_configs(&path).unwrap_err().text().contains("orders.yaml:"));
    }

    #[test]
    fn a_failed_task_is_the_state_of_the_list() {
        let screen = Screen::new(crate::output::Format::Table);
        let status = json!({"connector": {"state": "RUNNING"}, "tasks": [{"state": "RUNNING"}, {"state": "FAILED"}]});
        assert_eq!((state_cell(&status, &screen).content(), tasks_running(&status)), ("FAILED".into(), "1/2".into()));
    }
}
