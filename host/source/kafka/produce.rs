//! Records that a command puts into a topic of the source's brokers: redriven dead letters, the doctor's probe. A command has a person who
//! waits: what is not acknowledged in [`PATIENCE`] has failed.

use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders, Timestamp};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::config;
use crate::failure::Failure;
use crate::position::Partition;
use crate::record::HeaderColumns;
use crate::source::kafka::broker::{Voice, client_config, kafka_partition, locked, refused_configuration};

/// How long a record may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one wait for room or acknowledgements is.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// Sends records to topics.
pub struct Sender {
    producer: BaseProducer<Reports>,
}

/// A record to send.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outgoing<'a> {
    /// Where; by the key if it is left open, as Kafka's own producer has it.
    pub partition: Option<Partition>,
    /// Key, if any.
    pub key: Option<&'a [u8]>,
    /// Payload; none is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Headers: a batch's, and the record's row in them.
    pub headers: Option<(&'a HeaderColumns, usize)>,
}

impl Sender {
    /// For the brokers of this source, with its properties.
    pub fn open(config: &config::KafkaSource) -> Result<Sender, Failure> {
        let mut client = client_config(config);
        client.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "0");
        client.set("message.timeout.ms", PATIENCE.as_millis().to_string());
        client.set("partitioner", "murmur2_random").set("message.max.bytes", "1000000000");
        let producer = client.create_with_context(Reports::default()).map_err(refused_configuration)?;
        Ok(Sender { producer })
    }

    /// Hands a record over; [`Sender::finish`] says that all are acknowledged.
    pub fn send(&self, topic: &str, record: Outgoing<'_>) -> Result<(), Failure> {
        let mut message = BaseRecord::<[u8], [u8]>::to(topic);
        message.partition = record.partition.map(kafka_partition);
        (message.key, message.payload) = (record.key, record.payload);
        if let Some((columns, i)) = record.headers {
            let headers = columns.of(i).fold(OwnedHeaders::new(), |headers, (name, value)| {
                headers.insert(Header { key: &String::from_utf8_lossy(name), value: Some(value) })
            });
            message = message.headers(headers);
        }
        while let Err((error, unsent)) = self.producer.send(message) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(unsendable(topic, &error));
            }
            self.producer.poll(LOOK_AROUND);
            message = unsent;
        }
        Ok(())
    }

    /// Back when all is acknowledged: the time that the brokers gave to the last record, where it is theirs.
    pub fn finish(&self, topic: &str) -> Result<Option<i64>, Failure> {
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(LOOK_AROUND);
        }
        self.producer.poll(Duration::ZERO); // a report may have come with the last acknowledgement
        let reports = self.producer.context();
        match locked(&reports.failed).take() {
            Some(error) => Err(unsendable(topic, &error)),
            None => Ok(locked(&reports.stamp).take()),
        }
    }
}

fn unsendable(topic: &str, error: &KafkaError) -> Failure {
    Failure::outside(format!("topic {topic} does not take a record: {error}"))
}

/// What became of the records.
#[derive(Default)]
struct Reports {
    voice: Voice,
    failed: Mutex<Option<KafkaError>>,
    /// The broker's time of the last record.
    stamp: Mutex<Option<i64>>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.line(level as i32, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.trouble(error.rdkafka_error_code().map_or(0, |code| code as i32), reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                let stamp = match message.timestamp() {
                    Timestamp::LogAppendTime(ms) => Some(ms),
                    Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
                };
                *locked(&self.stamp) = stamp;
            }
            Err((error, _)) => {
                locked(&self.failed).get_or_insert_with(|| error.clone());
            }
        }
    }
}
