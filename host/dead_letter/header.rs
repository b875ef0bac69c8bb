//! Names of the headers by which a dead letter in a topic says what happened. They follow the record's own headers.

pub(crate) const TOPIC: &str = "__connect.errors.topic";
pub(crate) const PARTITION: &str = "__connect.errors.partition";
pub(crate) const OFFSET: &str = "__connect.errors.offset";
pub(crate) const STAGE: &str = "__connect.errors.stage";
pub(crate) const REASON: &str = "__connect.errors.exception.message";
pub(crate) const PLUGIN: &str = "keyfold.plugin.digest";
pub(crate) const DEPLOYMENT: &str = "keyfold.deployment";
pub(crate) const EVENT: &str = "keyfold.event";
pub(crate) const TIMESTAMP: &str = "keyfold.timestamp";
/// Says that the record has no key: the topic takes no record without one.
pub(crate) const NO_KEY: &str = "keyfold.key.none";
/// The length of a payload that was cut.
pub(crate) const PAYLOAD_BYTES: &str = "keyfold.cut.payload.bytes";
/// Its SHA-256, in hexadecimal.
pub(crate) const PAYLOAD_SHA256: &str = "keyfold.cut.payload.sha256";
/// The length of a key that was cut.
pub(crate) const KEY_BYTES: &str = "keyfold.cut.key.bytes";
/// Its SHA-256, in hexadecimal.
pub(crate) const KEY_SHA256: &str = "keyfold.cut.key.sha256";
/// How many of the record's own headers were left out.
pub(crate) const CUT_HEADERS: &str = "keyfold.cut.headers";

/// All of them. Those of another form come last.
pub(crate) const ALL: [&str; 15] = [
    TOPIC,
    PARTITION,
    OFFSET,
    STAGE,
    REASON,
    PLUGIN,
    DEPLOYMENT,
    EVENT,
    TIMESTAMP,
    PAYLOAD_BYTES,
    PAYLOAD_SHA256,
    KEY_BYTES,
    KEY_SHA256,
    CUT_HEADERS,
    NO_KEY,
];
/// Those that tell of a cut.
pub(crate) const CUTS: [&str; 3] = [PAYLOAD_BYTES, KEY_BYTES, CUT_HEADERS];
