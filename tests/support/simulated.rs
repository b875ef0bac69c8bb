//! What the simulation shares with the tests of the program: the naive model, and the generators.
#![allow(dead_code, reason = "the tests of the program use more of it")]

pub(crate) mod generate;
pub(crate) mod model;
pub(crate) mod random;
