//! Erases a typed connector to what the registry holds.

use crate::options::{invalid, parse_as};
use crate::shape::Shape;
use crate::{SinkConnector, SourceConnector};
use aqueduct_core::{
    Descriptor, Issue, Options, Plugin, PluginKind, Result, SinkPlugin, SinkTask, SourceOffset, SourcePlugin, SourceTask,
    TaskSpec,
};
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::sync::Arc;

/// A source for the list of built-ins.
pub fn source<C: SourceConnector>() -> Plugin {
    Plugin::Source(Arc::new(Builtin::<C>::new::<C::Config>(PluginKind::Source, C::NAME, C::ALIASES, C::SUMMARY)))
}

/// A sink for the list of built-ins.
pub fn sink<C: SinkConnector>() -> Plugin {
    Plugin::Sink(Arc::new(Builtin::<C>::new::<C::Config>(PluginKind::Sink, C::NAME, C::ALIASES, C::SUMMARY)))
}

struct Builtin<C> {
    descriptor: Descriptor,
    shape: &'static Shape,
    connector: PhantomData<fn() -> C>,
}

impl<C> Builtin<C> {
    fn new<O: schemars::JsonSchema>(kind: PluginKind, name: &str, aliases: &[&str], summary: &str) -> Self {
        let shape = Shape::of::<O>();
        let descriptor = Descriptor {
            name: name.to_owned(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            kind,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: summary.to_owned(),
            options: shape.options(),
        };
        Self { descriptor, shape, connector: PhantomData }
    }

    fn typed<O: DeserializeOwned>(&self, options: &Options, judge: fn(&O) -> Vec<Issue>) -> Result<O> {
        let config: O = parse_as(self.shape, options).map_err(|issues| invalid(&issues))?;
        let issues = judge(&config);
        if issues.iter().any(Issue::is_error) { Err(invalid(&issues)) } else { Ok(config) }
    }

    fn issues<O: DeserializeOwned>(&self, options: &Options, judge: fn(&O) -> Vec<Issue>) -> Vec<Issue> {
        parse_as(self.shape, options).map_or_else(|issues| issues, |config| judge(&config))
    }
}

#[async_trait]
impl<C: SourceConnector> SourcePlugin for Builtin<C> {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn validate(&self, options: &Options) -> Vec<Issue> {
        self.issues(options, C::validate)
    }

    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        let config = self.typed(options, C::validate)?;
        C::plan(&config, tasks_max).await
    }

    async fn open(&self, options: &Options, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<Box<dyn SourceTask>> {
        let config = self.typed(options, C::validate)?;
        Ok(Box::new(C::open(config, task, resume).await?))
    }

    fn check_offset(&self, offset: &SourceOffset) -> Result<()> {
        C::check_offset(offset)
    }
}

#[async_trait]
impl<C: SinkConnector> SinkPlugin for Builtin<C> {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn validate(&self, options: &Options) -> Vec<Issue> {
        self.issues(options, C::validate)
    }

    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        let config = self.typed(options, C::validate)?;
        C::plan(&config, tasks_max).await
    }

    async fn open(&self, options: &Options, task: TaskSpec) -> Result<Box<dyn SinkTask>> {
        let config = self.typed(options, C::validate)?;
        Ok(Box::new(C::open(config, task).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::*;
    use aqueduct_core::{Batch, OptionKind, Polled, TaskContext};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Deserialize, Serialize, JsonSchema, PartialEq, Default, Clone, Copy)]
    #[serde(rename_all = "lowercase")]
    enum From {
        #[default]
        Start,
        /// Only what is written from now on.
        End,
    }

    fn ten_seconds() -> Millis {
        Millis::from_secs(10)
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Config {
        /// The files to tail.
        #[serde(rename = "path")]
        #[schemars(extend("x-example" = "/var/log/*.log", "x-group" = "File", "x-aliases" = ["file"]))]
        path: GlobList,
        #[serde(rename = "read.from", default)]
        from: From,
        /// How long to wait
        /// between looks.
        #[serde(rename = "scan.interval.ms", default = "ten_seconds")]
        #[schemars(range(min = 100, max = 60_000))]
        interval: Millis,
        #[serde(rename = "buffer.bytes", default)]
        buffer: Option<ByteSize>,
        #[serde(default)]
        #[schemars(range(min = 1, max = 9))]
        level: Option<u8>,
        #[serde(default)]
        follow: bool,
        #[serde(default)]
        ratio: Option<f64>,
        #[serde(default)]
        pattern: Option<Regex>,
        #[serde(default)]
        password: Option<Secret>,
        #[serde(default)]
        names: List<u32>,
        #[serde(rename = "header.*")]
        headers: Family<u32>,
        #[serde(default)]
        charset: Charset,
        mode: Option<From>,
    }

    struct Tail;
    struct TailTask;

    #[async_trait]
    impl SourceTask for TailTask {
        async fn poll(&mut self, _: &TaskContext) -> Result<Polled> {
            Ok(Polled { batch: Batch::default(), resume: Vec::new() })
        }
    }

    #[async_trait]
    impl SourceConnector for Tail {
        type Config = Config;
        type Task = TailTask;
        const NAME: &'static str = "tail-source";
        const SUMMARY: &'static str = "Tails.";

        fn validate(config: &Config) -> Vec<Issue> {
            if config.path.is_empty() { vec![Issue::error("path", "tail.empty", "no path")] } else { Vec::new() }
        }

        async fn open(_: Config, _: TaskSpec, _: Vec<SourceOffset>) -> Result<TailTask> {
            Ok(TailTask)
        }
    }

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn text_becomes_types() {
        let config: Config = crate::options::parse(&options(&[
            ("file", "/a/*.{log,txt},/b"),
            ("read.from", "END"),
            ("scan.interval.ms", "5 s"),
            ("buffer.bytes", "1 MiB"),
            ("level", " 3 "),
            ("follow", "TRUE"),
            ("ratio", "1e-3"),
            ("pattern", "^a,b$"),
            ("password", "x,y"),
            ("names", "1, 2,3"),
            ("header.a", "1"),
            ("header.b.c", "2"),
            ("tasks.max", "not looked at"),
            ("charset", "latin1"),
            ("mode", "start"),
        ]))
        .unwrap();
        assert_eq!(config.path.iter().count(), 2);
        assert_eq!((config.from, config.mode), (From::End, Some(From::Start)));
        assert_eq!(config.interval, Millis::from_secs(5));
        assert_eq!(config.buffer, Some(ByteSize::mib(1)));
        assert_eq!((config.level, config.follow, config.ratio), (Some(3), true, Some(0.001)));
        assert_eq!(config.pattern.unwrap().as_str(), "^a,b$");
        assert_eq!(config.password.unwrap().expose(), "x,y");
        assert_eq!(config.names.0, [1, 2, 3]);
        assert_eq!(config.headers.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>(), [("a", 1), ("b.c", 2)]);
        assert_eq!(config.charset.to_string(), "windows-1252");
    }

    #[test]
    fn every_issue_at_once() {
        let issues = source::<Tail>().validate(&options(&[
            ("read.from", "strat"),
            ("scan.interval.ms", "10 parsecs"),
            ("buffer.bytes", "lots"),
            ("level", "300"),
            ("follow", "yes"),
            ("ratio", "much"),
            ("pattern", "a(b"),
            ("names", "1,x"),
            ("header.a", "z"),
            ("charset", "klingon"),
        ]));
        let found: Vec<(&str, &str)> = issues.iter().map(|issue| (issue.path.as_str(), issue.code.as_str())).collect();
        assert_eq!(
            found,
            [
                ("path", "config.missing"),
                ("read.from", "config.enum"),
                ("scan.interval.ms", "config.duration"),
                ("buffer.bytes", "config.bytes"),
                ("level", "config.range"),
                ("follow", "config.type"),
                ("ratio", "config.type"),
                ("pattern", "config.regex"),
                ("names", "config.type"),
                ("header.a", "config.type"),
                ("charset", "config.charset"),
            ]
        );
        assert!(issues[1].fix.as_deref().unwrap().starts_with("did you mean start?"), "{}", issues[1]);
        let issues = source::<Tail>().validate(&options(&[("path", "/a"), ("scan.interval.ms", "5"), ("level", "0")]));
        let found: Vec<String> = issues.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "scan.interval.ms: 5 is below the minimum of 100ms; use a value from 100ms to 1min [config.range]",
                "level: 0 is below the minimum of 1; use a value from 1 to 9 [config.range]"
            ]
        );
        assert_eq!(source::<Tail>().validate(&options(&[("path", " , ")]))[0].code, "tail.empty");
    }

    #[test]
    fn the_struct_documents_itself() {
        let plugin = source::<Tail>();
        let options = &plugin.descriptor().options;
        let names: Vec<&str> = options.iter().map(|option| option.name.as_str()).collect();
        assert_eq!(names[..4], ["path", "read.from", "scan.interval.ms", "buffer.bytes"], "in the order of the fields");
        assert!(options[0].required && options[0].example.as_deref() == Some("/var/log/*.log") && options[0].group == "File");
        assert_eq!((options[0].kind, options[0].documentation.as_str()), (OptionKind::List, "The files to tail."));
        assert_eq!(
            (&options[1].allowed, options[1].default.as_deref()),
            (&vec!["start".to_owned(), "end".to_owned()], Some("start"))
        );
        assert_eq!((options[2].default.as_deref(), options[2].kind), (Some("10000"), OptionKind::Long));
        assert_eq!(options[2].documentation, "How long to wait between looks.");
        assert_eq!(options[4].kind, OptionKind::Short);
        let password = options.iter().find(|o| o.name == "password").unwrap();
        assert_eq!((password.kind, password.required, &password.default), (OptionKind::Password, false, &None));
        assert!(!options.iter().any(|o| o.name == "header.*" && o.required));
    }

    #[tokio::test]
    async fn open_gives_the_reason() {
        let Plugin::Source(plugin) = source::<Tail>() else { panic!("a source") };
        let error = plugin.open(&options(&[("level", "x")]), TaskSpec::new(), Vec::new()).await.err().unwrap();
        assert_eq!(error.code(), "config.invalid");
        assert!(error.message().contains("path: is required") && error.message().contains("level:"), "{error}");
        assert!(plugin.open(&options(&[("path", "/x")]), TaskSpec::new(), Vec::new()).await.is_ok());
        assert_eq!(plugin.plan(&options(&[("path", "/x")]), 4).await.unwrap().len(), 1);
    }
}
