//! Every option of Kafka's clients, and what becomes of it here.

use super::ClientKind;
use super::ClientKind::{Admin, Consumer, Producer};

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It is heeded.
    Mapped,
    /// Here it is always so: these values, in any case of letters, say nothing new; another one cannot be had.
    Always(&'static [&'static str]),
    /// It concerns the JVM's client alone; nothing is lost without it.
    Ignored,
    /// It cannot be had; why.
    Refused(&'static str),
}

use Use::{Always, Ignored, Mapped, Refused};

const JAVA: Use = Refused("names a Java class, and there is no JVM here");
const OURS: Use = Refused("is set by Aqueduct itself");
const EVERY: &[ClientKind] = &[Producer, Consumer, Admin];

type Named = (&'static str, &'static [ClientKind], Use);

pub(super) const NAMES: &[Named] = &[
    (
        "bootstrap.servers",
        EVERY,
        Refused("is the cluster of the worker's log: another cluster is for the connectors kafka-source and kafka-sink"),
    ),
    ("client.dns.lookup", EVERY, Always(&["use_all_dns_ips"])),
    ("client.id", EVERY, Mapped),
    ("client.rack", &[Consumer], Mapped),
    ("config.providers", EVERY, Refused("belongs to the worker: config.providers in worker.yaml")),
    ("connections.max.idle.ms", EVERY, Mapped),
    ("default.api.timeout.ms", EVERY, Mapped),
    ("enable.metrics.push", EVERY, Always(&["false"])),
    ("metadata.max.age.ms", EVERY, Ignored),
    ("metadata.max.idle.ms", &[Producer], Ignored),
    ("metadata.recovery.rebootstrap.trigger.ms", EVERY, Ignored),
    ("metadata.recovery.strategy", EVERY, Always(&["rebootstrap"])),
    ("metric.reporters", EVERY, JAVA),
    ("metrics.num.samples", EVERY, Ignored),
    ("metrics.recording.level", EVERY, Ignored),
    ("metrics.sample.window.ms", EVERY, Ignored),
    ("receive.buffer.bytes", EVERY, Mapped),
    ("reconnect.backoff.max.ms", EVERY, Ignored),
    ("reconnect.backoff.ms", EVERY, Ignored),
    ("request.timeout.ms", EVERY, Mapped),
    ("retries", EVERY, Refused("has no meaning here: default.api.timeout.ms and delivery.timeout.ms say how long is tried")),
    ("retry.backoff.max.ms", EVERY, Mapped),
    ("retry.backoff.ms", EVERY, Mapped),
    ("security.protocol", EVERY, Mapped),
    ("security.providers", EVERY, JAVA),
    ("send.buffer.bytes", EVERY, Mapped),
    ("socket.connection.setup.timeout.max.ms", EVERY, Ignored),
    ("socket.connection.setup.timeout.ms", EVERY, Mapped),
    // TLS and SASL.
    ("sasl.client.callback.handler.class", EVERY, JAVA),
    ("sasl.jaas.config", EVERY, Mapped),
    ("sasl.kerberos.kinit.cmd", EVERY, Refused("Kerberos is not supported")),
    ("sasl.kerberos.min.time.before.relogin", EVERY, Refused("Kerberos is not supported")),
    ("sasl.kerberos.service.name", EVERY, Refused("Kerberos is not supported")),
    ("sasl.kerberos.ticket.renew.jitter", EVERY, Refused("Kerberos is not supported")),
    ("sasl.kerberos.ticket.renew.window.factor", EVERY, Refused("Kerberos is not supported")),
    ("sasl.login.callback.handler.class", EVERY, JAVA),
    ("sasl.login.class", EVERY, JAVA),
    ("sasl.login.connect.timeout.ms", EVERY, Ignored),
    ("sasl.login.read.timeout.ms", EVERY, Mapped),
    ("sasl.login.refresh.buffer.seconds", EVERY, Ignored),
    ("sasl.login.refresh.min.period.seconds", EVERY, Ignored),
    ("sasl.login.refresh.window.factor", EVERY, Ignored),
    ("sasl.login.refresh.window.jitter", EVERY, Ignored),
    ("sasl.login.retry.backoff.max.ms", EVERY, Ignored),
    ("sasl.login.retry.backoff.ms", EVERY, Ignored),
    ("sasl.mechanism", EVERY, Mapped),
    ("sasl.oauthbearer.client.credentials.client.id", EVERY, Mapped),
    ("sasl.oauthbearer.client.credentials.client.secret", EVERY, Mapped),
    ("sasl.oauthbearer.scope", EVERY, Mapped),
    ("sasl.oauthbearer.token.endpoint.url", EVERY, Mapped),
    ("ssl.cipher.suites", EVERY, Refused("the suites are rustls's, all of them safe")),
    ("ssl.enabled.protocols", EVERY, Always(&["tlsv1.2,tlsv1.3", "tlsv1.3,tlsv1.2", "tlsv1.2", "tlsv1.3"])),
    ("ssl.endpoint.identification.algorithm", EVERY, Always(&["https"])),
    ("ssl.engine.factory.class", EVERY, JAVA),
    ("ssl.key.password", EVERY, Mapped),
    ("ssl.keymanager.algorithm", EVERY, JAVA),
    ("ssl.keystore.certificate.chain", EVERY, Mapped),
    ("ssl.keystore.key", EVERY, Mapped),
    ("ssl.keystore.location", EVERY, Mapped),
    (
        "ssl.keystore.password",
        EVERY,
        Refused("is for Java's keystores: convert it to PEM, and give ssl.key.password when the key is encrypted"),
    ),
    ("ssl.keystore.type", EVERY, Always(&["pem"])),
    ("ssl.protocol", EVERY, Always(&["tlsv1.3", "tlsv1.2", "tls"])),
    ("ssl.provider", EVERY, JAVA),
    ("ssl.secure.random.implementation", EVERY, JAVA),
    ("ssl.trustmanager.algorithm", EVERY, JAVA),
    ("ssl.truststore.certificates", EVERY, Mapped),
    ("ssl.truststore.location", EVERY, Mapped),
    ("ssl.truststore.password", EVERY, Refused("is for Java's truststores: convert it to PEM, which has no password")),
    ("ssl.truststore.type", EVERY, Always(&["pem"])),
    // Producers.
    ("acks", &[Producer], Mapped),
    ("batch.size", &[Producer], Mapped),
    ("buffer.memory", &[Producer], Mapped),
    ("compression.gzip.level", &[Producer], Refused("the level is the codec's default")),
    ("compression.lz4.level", &[Producer], Refused("the level is the codec's default")),
    ("compression.type", &[Producer], Mapped),
    ("compression.zstd.level", &[Producer], Refused("the level is the codec's default")),
    ("delivery.timeout.ms", &[Producer], Mapped),
    ("enable.idempotence", &[Producer], Always(&["true"])),
    ("interceptor.classes", &[Producer, Consumer], JAVA),
    ("key.serializer", &[Producer], OURS),
    ("linger.ms", &[Producer], Mapped),
    ("max.block.ms", &[Producer], Mapped),
    ("max.in.flight.requests.per.connection", &[Producer], Mapped),
    ("max.request.size", &[Producer], Mapped),
    ("partitioner.adaptive.partitioning.enable", &[Producer], Ignored),
    ("partitioner.availability.timeout.ms", &[Producer], Ignored),
    ("partitioner.class", &[Producer], JAVA),
    ("partitioner.ignore.keys", &[Producer], Always(&["false"])),
    ("transaction.timeout.ms", &[Producer], Mapped),
    ("transaction.two.phase.commit.enable", &[Producer], Always(&["false"])),
    ("transactional.id", &[Producer], OURS),
    ("value.serializer", &[Producer], OURS),
    // Consumers.
    ("allow.auto.create.topics", &[Consumer], Always(&["false"])),
    ("auto.commit.interval.ms", &[Consumer], Ignored),
    ("auto.offset.reset", &[Consumer], Mapped),
    ("check.crcs", &[Consumer], Always(&["true"])),
    ("enable.auto.commit", &[Consumer], Always(&["false"])),
    ("exclude.internal.topics", &[Consumer], Always(&["true"])),
    ("fetch.max.bytes", &[Consumer], Mapped),
    ("fetch.max.wait.ms", &[Consumer], Mapped),
    ("fetch.min.bytes", &[Consumer], Mapped),
    ("group.id", &[Consumer], Refused("is connect-<connector>, as in Kafka Connect")),
    ("group.instance.id", &[Consumer], OURS),
    ("group.protocol", &[Consumer], Always(&["consumer"])),
    ("group.remote.assignor", &[Consumer], Always(&["uniform"])),
    ("heartbeat.interval.ms", &[Consumer], Refused("is the broker's: group.consumer.heartbeat.interval.ms")),
    ("isolation.level", &[Consumer], Always(&["read_committed"])),
    ("key.deserializer", &[Consumer], OURS),
    ("max.partition.fetch.bytes", &[Consumer], Mapped),
    ("max.poll.interval.ms", &[Consumer], Mapped),
    ("max.poll.records", &[Consumer], Ignored),
    (
        "partition.assignment.strategy",
        &[Consumer],
        Refused("partitions are shared out by the broker (KIP-848): group.consumer.assignors"),
    ),
    ("session.timeout.ms", &[Consumer], Refused("is the broker's: group.consumer.session.timeout.ms")),
    ("share.acknowledgement.mode", &[Consumer], Refused("sinks are consumer groups, not share groups")),
    ("value.deserializer", &[Consumer], OURS),
];

pub(super) fn find(name: &str) -> Option<&'static Named> {
    NAMES.iter().find(|(known, ..)| *known == name)
}
