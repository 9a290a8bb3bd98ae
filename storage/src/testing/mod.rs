//! What tests of this crate and of others need: a disk that loses and damages what real ones do, and seeded chance.

mod faulty_disk;
mod faulty_file;
mod random;
#[cfg(test)]
mod tests;

pub use faulty_disk::{DiskError, DiskOperation, FaultyDisk, Recording};
pub use random::Random;
