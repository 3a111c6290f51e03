//! Several brokers on one machine, for what needs another one to take over.

use crate::broker::Broker;
use crate::options::Options;
use std::process::Stdio;

/// Every node is broker and controller. Internal topics have as many replicas as there are nodes, `min.isr` one less.
#[derive(Debug)]
pub struct Cluster {
    pub brokers: Vec<Broker>,
}

impl Cluster {
    /// Three for a majority without one of them.
    ///
    /// # Panics
    /// When they do not start.
    #[track_caller]
    pub fn start(nodes: u16, options: &Options) -> Self {
        let mut brokers: Vec<Broker> = (1..=nodes).map(|node| Broker::new(node, options.clone())).collect();
        let voters: Vec<String> = brokers.iter().map(Broker::controller).collect();
        let isr = (nodes - 1).max(1);
        let lines = [
            format!("controller.quorum.voters={}", voters.join(",")),
            format!("default.replication.factor={nodes}\nmin.insync.replicas={isr}"),
            format!("offsets.topic.replication.factor={nodes}"),
            format!("transaction.state.log.replication.factor={nodes}\ntransaction.state.log.min.isr={isr}"),
            format!("share.coordinator.state.topic.replication.factor={nodes}\nshare.coordinator.state.topic.min.isr={isr}"),
        ];
        brokers.iter_mut().for_each(|broker| broker.add_properties(&lines));
        // At once: none serves before a majority is there.
        let children: Vec<_> = brokers
            .iter()
            .map(|broker| broker.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bash is there"))
            .collect();
        for (broker, child) in brokers.iter_mut().zip(children) {
            broker.started(&child.wait_with_output().expect("our own child can be waited for"));
        }
        Self { brokers }
    }

    /// The plain listeners of all.
    pub fn bootstrap(&self) -> String {
        self.brokers.iter().map(Broker::bootstrap).collect::<Vec<_>>().join(",")
    }

    /// # Panics
    /// When there is none with this id.
    pub fn broker(&mut self, node: u16) -> &mut Broker {
        self.brokers.iter_mut().find(|broker| broker.node == node).expect("a node of this cluster")
    }
}
