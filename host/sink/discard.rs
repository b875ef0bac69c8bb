//! No sink: rows are dropped. For measurements of everything before it.

use std::sync::Arc;

use crate::backoff::Outage;
use crate::row::Image;
use crate::row::Rows;
use crate::sink::{Error, Refusal, Sink};

/// Drops rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Discard;

impl Sink for Discard {
    fn write(&mut self, _rows: &Rows) -> Result<Vec<Refusal>, Error> {
        Ok(Vec::new())
    }

    fn length(&mut self) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn truncate(&mut self, _length: u64) -> Result<(), Error> {
        Ok(())
    }

    fn images(&mut self, _rows: &Rows, _at: &[usize]) -> Result<Vec<Image>, Error> {
        Ok(Vec::new())
    }

    fn restore(&mut self, _images: &[Image]) -> Result<(), Error> {
        Ok(())
    }

    fn outage(&self) -> Arc<Outage> {
        Arc::default()
    }
}
