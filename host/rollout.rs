//! How logic is changed by a person: what is looked at before a deployment is ordered, shadows, and the watched file.

pub mod difference;
mod held;
pub mod order;
pub mod shadow;
pub mod watch_file;
