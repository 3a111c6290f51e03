use super::*;

pub(super) async fn created_and_described(cx: &mut Cx) {
    let topic = cx.topic("t", 3).await;
    for _ in 0..2 {
        let info = cx.log.topic(&topic).await.unwrap().unwrap();
        assert_eq!(info.name, topic);
        let bounds: Vec<_> = info.partitions.iter().map(|p| (p.partition, p.start, p.end)).collect();
        assert_eq!(bounds, [(0, 0, 0), (1, 0, 0), (2, 0, 0)]);
        cx.reopen().await;
    }
    assert_eq!(cx.log.topic(&cx.unique("other")).await.unwrap(), None);
}

pub(super) async fn existing_is_refused(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    cx.produce(&topic, &["a"]).await;
    let error = cx.log.create_topic(&topic, &TopicSpec { partitions: 2, ..TopicSpec::default() }).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), ("log.topic_exists", false));
    assert_eq!(cx.values(&topic, 0).await, ["a"]);
    assert_eq!(cx.log.topic(&topic).await.unwrap().unwrap().partitions.len(), 1);
}

pub(super) async fn bad_names_and_configs_are_refused(cx: &mut Cx) {
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a/b", "a b", "é", "a\0", "../up", &long] {
        assert_eq!(code(cx.log.create_topic(name, &TopicSpec::default()).await), "log.topic_name", "{name:?}");
    }
    for (key, value) in [("retention.ms", "soon"), ("cleanup.policy", "shred"), ("no.such.config", "1")] {
        let spec = TopicSpec { configs: BTreeMap::from([(key.to_owned(), value.to_owned())]), ..TopicSpec::default() };
        assert_eq!(code(cx.log.create_topic(&cx.unique("t"), &spec).await), "log.topic_config", "{key}={value}");
    }
    let none = TopicSpec { partitions: 0, ..TopicSpec::default() };
    assert_eq!(code(cx.log.create_topic(&cx.unique("t"), &none).await), "log.topic_config");
    assert_eq!(cx.log.topic(&cx.unique("t")).await.unwrap(), None);
}

pub(super) async fn deleted_is_gone(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    cx.produce(&topic, &["a"]).await;
    cx.log.delete_topic(&topic).await.unwrap();
    for _ in 0..2 {
        assert_eq!(cx.log.topic(&topic).await.unwrap(), None);
        assert_eq!(code(cx.log.delete_topic(&topic).await), "log.unknown_topic");
        let tp = TopicPartition::new(topic.clone(), 0);
        assert_eq!(code(cx.log.fetch(&tp, 0, 100, Duration::ZERO).await), "log.unknown_topic");
        assert_eq!(code(append(&mut *cx.writer(0).await, vec![to(&topic, 0, "b")], vec![]).await), "log.unknown_topic");
        cx.reopen().await;
    }
}

pub(super) async fn recreated_is_another(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let old = cx.log.topic(&topic).await.unwrap().unwrap();
    cx.produce(&topic, &["old 1", "old 2", "old 3"]).await;
    let mut member = cx.member("g", "m", &[&topic]).await;
    member.until_read(3).await;
    member.commit().await.unwrap();
    member.reader.close().await.unwrap();
    cx.log.delete_topic(&topic).await.unwrap();
    let new = cx.log.create_topic(&topic, &TopicSpec { partitions: 2, ..TopicSpec::default() }).await.unwrap();
    assert_ne!(new.id, old.id);
    cx.produce(&topic, &["new"]).await;
    for _ in 0..2 {
        let info = cx.log.topic(&topic).await.unwrap().unwrap();
        assert_eq!((info.id, info.partitions.len()), (new.id, 2));
        assert_eq!(cx.values(&topic, 0).await, ["new"]);
        assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap(), [], "positions went with the topic");
        cx.reopen().await;
    }
}

pub(super) async fn configs_are_kept(cx: &mut Cx) {
    let topic = cx.topic_with("t", 1, &[("retention.ms", "-1"), ("cleanup.policy", "compact")]).await;
    for _ in 0..2 {
        let configs = cx.log.topic(&topic).await.unwrap().unwrap().configs;
        assert_eq!((configs["retention.ms"].as_str(), configs["cleanup.policy"].as_str()), ("-1", "compact"));
        cx.reopen().await;
    }
}

pub(super) async fn listed_by_name(cx: &mut Cx) {
    let mut created = vec![cx.topic("b", 1).await, cx.topic("a", 1).await, cx.topic("a-1", 12).await];
    created.sort();
    for _ in 0..2 {
        let topics = cx.log.topics().await.unwrap();
        let ours: Vec<_> = topics.iter().map(|topic| topic.name.clone()).filter(|name| created.contains(name)).collect();
        assert_eq!(ours, created);
        cx.reopen().await;
    }
}
