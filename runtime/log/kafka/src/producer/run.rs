//! The task that owns a producer: does what `txn` says, tells it what came of it. Ends when the producer was dropped and nothing is in flight.

use super::lane::Shipment;
use super::registry::Registration;
use super::request::{Delivered, Link, Parcel};
use super::txn::{Action, Ask, Identity, Mode, Txn, again};
use super::verdict::{self, Verdict};
use crate::client::Connection;
use crate::error;
use crate::log::Shared;
use aqueduct_core::failpoint::{self, point};
use aqueduct_core::{Error, Result};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

pub(crate) struct Owner {
    shared: Arc<Shared>,
    link: Arc<Link>,
    txn: Txn,
    asks: mpsc::Receiver<Ask>,
    failed: Arc<Mutex<Option<Error>>>,
    identity: Arc<Mutex<Identity>>,
    /// Until the end of this task.
    registration: Registration,
    /// Requests on their way, polled first in the order of their making: so they are written in that order.
    flights: FuturesUnordered<BoxFuture<'static, Event>>,
    connections: FxHashMap<i32, Connection>,
}

enum Event {
    Produced { broker: i32, connection: Option<Connection>, delivered: Vec<Delivered> },
    Registered(Vec<usize>, Verdict),
    Positioned(Verdict),
    Looked(usize, Result<i32>),
    Ended(Verdict, Identity),
    Settled,
}

impl Owner {
    pub(crate) fn new(
        shared: Arc<Shared>,
        link: Link,
        mut txn: Txn,
        asks: mpsc::Receiver<Ask>,
        failed: Arc<Mutex<Option<Error>>>,
        identity: Arc<Mutex<Identity>>,
        registration: Registration,
    ) -> Self {
        txn.count_in(&shared.counters);
        let (flights, connections) = (FuturesUnordered::new(), FxHashMap::default());
        Self { shared, link: Arc::new(link), txn, asks, failed, identity, registration, flights, connections }
    }

    pub(crate) async fn run(mut self) {
        let closed = self.shared.closed.clone();
        let (superseded, abandoned) = (self.registration.tokens.superseded.clone(), self.registration.tokens.abandoned.clone());
        let mut gathering = true;
        loop {
            self.act();
            if self.txn.why().is_some() && superseded.is_cancelled() {
                // The successor's InitProducerId ends what is open and fences what is under way: it need not be waited for.
                break;
            }
            if self.txn.is_idle() && self.flights.is_empty() && (!gathering || self.txn.is_over()) {
                break;
            }
            let wake = self.txn.wake_at(Instant::now());
            tokio::select! {
                biased;
                Some(event) = self.flights.next(), if !self.flights.is_empty() => self.happened(event),
                ask = self.asks.recv(), if gathering => match ask {
                    Some(ask) => self.gather(ask),
                    None => gathering = self.stop_gathering(),
                },
                () = closed.cancelled(), if gathering => {
                    self.asks.close();
                    gathering = self.stop_gathering();
                }
                () = superseded.cancelled(), if gathering => {
                    let name = self.link.transactional_id.as_deref().unwrap_or_default();
                    self.failed.lock().get_or_insert_with(|| verdict::fenced(name));
                    self.asks.close();
                    gathering = self.stop_gathering();
                }
                () = abandoned.cancelled() => {
                    let name = self.link.transactional_id.as_deref().unwrap_or_default();
                    self.txn.fail(&verdict::fenced(name));
                }
                () = async { if let Some(at) = wake { sleep_until(at).await } }, if wake.is_some() => {}
            }
        }
        self.refuse_rest();
        self.release().await;
    }

    /// Everything that was appended is still written.
    fn stop_gathering(&mut self) -> bool {
        while let Ok(ask) = self.asks.try_recv() {
            self.txn.gather(ask, Instant::now());
        }
        self.txn.close();
        false
    }

    fn gather(&mut self, ask: Ask) {
        let now = Instant::now();
        self.txn.gather(ask, now);
        // What came meanwhile is one commit with it.
        while let Ok(ask) = self.asks.try_recv() {
            self.txn.gather(ask, now);
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.txn.next(Instant::now()) {
            let flight = self.begin(action);
            self.flights.push(flight);
        }
        if let Some(error) = self.txn.why() {
            self.failed.lock().get_or_insert_with(|| again(error));
        }
    }

    fn begin(&mut self, action: Action) -> BoxFuture<'static, Event> {
        let (link, mode, identity) = (self.link.clone(), self.txn.mode(), self.txn.identity());
        match action {
            Action::Produce(broker, shipments) => {
                let known = self.connections.get(&broker).filter(|connection| connection.is_usable()).cloned();
                let parcels = shipments.into_iter().map(|shipment| self.parcel(shipment)).collect();
                async move {
                    let (connection, delivered) = link.produce(known, broker, mode, parcels).await;
                    Event::Produced { broker, connection, delivered }
                }
                .boxed()
            }
            Action::Register(lanes) => {
                let partitions =
                    lanes.iter().map(|&lane| (self.txn.lanes[lane].target.meta.name.clone(), self.txn.lanes[lane].partition));
                let partitions: Vec<_> = partitions.collect();
                async move {
                    let verdict = link.register(identity, partitions).await;
                    Event::Registered(lanes, verdict)
                }
                .boxed()
            }
            Action::Positions(positions) => {
                async move { Event::Positioned(link.positions(mode, identity, positions).await) }.boxed()
            }
            Action::Look(lane) => {
                let tp = self.txn.lanes[lane].tp();
                let id = self.txn.lanes[lane].target.meta.id;
                async move {
                    link.client.cluster.forget(&tp.topic);
                    let leader = match link.client.leader(&tp).await {
                        // A topic of the same name is another one.
                        Ok(leader) if leader.topic.id != id => Err(error::unknown_topic(&tp.topic)),
                        Ok(leader) => Ok(leader.broker),
                        Err(error) => Err(error),
                    };
                    Event::Looked(lane, leader)
                }
                .boxed()
            }
            Action::Settle => async move {
                link.settle().await;
                Event::Settled
            }
            .boxed(),
            Action::End { commit } => async move {
                failpoint::hit(point::KAFKA_ENDING);
                let (verdict, next) = link.end(mode, identity, commit).await;
                Event::Ended(verdict, next)
            }
            .boxed(),
        }
    }

    fn parcel(&self, shipment: Shipment) -> Parcel {
        let lane = &self.txn.lanes[shipment.lane];
        Parcel { topic: lane.target.meta.name.clone(), id: lane.target.meta.id, partition: lane.partition, shipment }
    }

    fn happened(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Produced { broker, connection, delivered } => {
                failpoint::hit(point::KAFKA_PRODUCED);
                self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
                match connection {
                    Some(connection) => self.connections.insert(broker, connection),
                    None => self.connections.remove(&broker),
                };
                self.txn.answered(broker);
                for (lane, serial, verdict, offset) in delivered {
                    self.txn.produced(lane, serial, verdict, offset, now);
                }
            }
            Event::Registered(lanes, verdict) => self.txn.registered(&lanes, verdict, now),
            Event::Positioned(verdict) => self.txn.positioned(verdict, now),
            Event::Looked(lane, leader) => self.txn.looked(lane, leader, now),
            Event::Ended(verdict, next) => {
                failpoint::hit(point::KAFKA_ENDED);
                self.txn.ended(verdict, next, now);
                *self.identity.lock() = self.txn.identity();
            }
            Event::Settled => self.txn.settled(),
        }
    }

    fn refuse_rest(&mut self) {
        self.asks.close();
        while let Ok(ask) = self.asks.try_recv() {
            let why = self.failed.lock().as_ref().map_or_else(error::closed, again);
            let _ = ask.reply.send(Err(why));
        }
    }

    /// The open transaction of a producer that was given up is aborted at once, so that readers need not wait for its time limit. By EndTxn with its own
    /// id and epoch, which the coordinator compares: InitProducerId would abort whatever is open, a successor's too. Without KIP-890 nothing: the epoch
    /// stays, and what is still under way could follow the abort.
    async fn release(self) {
        let (mode, identity) = (self.txn.mode(), self.txn.identity());
        let given_up = self.txn.why().is_some_and(Error::is_retriable) && self.txn.is_left_open();
        if given_up && mode == (Mode::Transactional { v2: true }) && !self.registration.tokens.superseded.is_cancelled() {
            drop(self.flights);
            let aborting = timeout(self.link.client.config.request_timeout, self.link.abort(mode, identity));
            tokio::select! {
                _ = aborting => {}
                () = self.registration.tokens.abandoned.cancelled() => {}
            }
        }
        self.link.client.close().await;
    }
}
