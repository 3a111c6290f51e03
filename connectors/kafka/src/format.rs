//! `topic.format`: what a topic is called on the other side.

use aqueduct_core::Topic;
use aqueduct_core::offset::is_valid_topic_name;

/// A text with `${topic}`, and `${cluster}` where there is an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicFormat {
    text: String,
    cluster: String,
}

impl TopicFormat {
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub(crate) fn parse(text: &str, cluster: Option<&str>) -> Result<Self, String> {
        let format = Self { text: text.trim().to_owned(), cluster: cluster.unwrap_or_default().to_owned() };
        if format.text.contains("${cluster}") && cluster.is_none() {
            return Err(format!("{text:?} names ${{cluster}}, but source.cluster.alias is not set"));
        }
        let example = format.apply("t");
        if !is_valid_topic_name(&example) {
            return Err(format!("{text:?} gives {example:?} for the topic t, which is not a topic name"));
        }
        Ok(format)
    }

    /// The name may be too long: the log, or the broker, says so.
    pub(crate) fn apply(&self, topic: &str) -> Topic {
        if self.text == "${topic}" {
            return topic.into();
        }
        self.text.replace("${topic}", topic).replace("${cluster}", &self.cluster).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_topics() {
        let apply = |text: &str, cluster| TopicFormat::parse(text, cluster).map(|format| format.apply("orders").to_string());
        assert_eq!(apply("${topic}", None), Ok("orders".to_owned()));
        assert_eq!(apply("${cluster}.${topic}", Some("eu")), Ok("eu.orders".to_owned()));
        assert_eq!(apply("all", None), Ok("all".to_owned()));
        assert!(apply("${cluster}.${topic}", None).unwrap_err().contains("source.cluster.alias"));
        assert!(apply("${topc}", None).unwrap_err().contains("not a topic name"));
        assert!(apply("", None).is_err());
    }
}
