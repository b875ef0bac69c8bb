//! A sink that drops rows, to measure everything before it.

use std::sync::Arc;

use crate::backoff::Outage;
use crate::failure::Failure;
use crate::row::{Image, Rows};
use crate::sink::{Owner, Refusal, Sink};

/// Drops rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Discard;

impl Sink for Discard {
    fn write(&mut self, _rows: &Rows, _owner: &dyn Owner) -> Result<Vec<Refusal>, Failure> {
        Ok(Vec::new())
    }

    fn length(&mut self) -> Result<Option<u64>, Failure> {
        Ok(None)
    }

    fn truncate(&mut self, _length: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn images(&mut self, _rows: &Rows, _at: &[usize]) -> Result<Vec<Image>, Failure> {
        Ok(Vec::new())
    }

    fn restore(&mut self, _images: &[Image], _owner: &dyn Owner) -> Result<(), Failure> {
        Ok(())
    }

    fn outage(&self) -> Arc<Outage> {
        Arc::default()
    }
}
