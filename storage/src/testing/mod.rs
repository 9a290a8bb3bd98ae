//! What tests of this crate and of others need: a disk that loses and damages what real ones do, and seeded chance.

mod disk_state;
mod faulty_disk;
mod faulty_file;
mod random;
#[cfg(test)]
mod tests;

pub use disk_state::{DiskError, DiskOperation, Recording};
pub use faulty_disk::FaultyDisk;
pub use random::Random;
