//! What is kept of a key, and its bytes.

use keyfold_sdk::Stored;

/// What may count towards an excess that is still to come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// The latest time by which the limit was exceeded; ms since 1970.
    pub over: Option<i64>,
    /// The times of events, in order; ms since 1970.
    pub times: Vec<i64>,
}

impl Stored for Recent {
    type Read<'a> = Recent;

    fn write(&self, out: &mut Vec<u8>) {
        self.over.unwrap_or(i64::MIN).write(out);
        self.times.iter().for_each(|time| time.write(out));
    }

    fn read(bytes: &[u8]) -> Result<Recent, String> {
        let mut times = bytes.chunks(8).map(i64::read);
        let over = times.next().ok_or("there is no time of an excess")??;
        Ok(Recent { over: (over != i64::MIN).then_some(over), times: times.collect::<Result<_, _>>()? })
    }
}
