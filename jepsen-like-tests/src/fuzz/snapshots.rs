//! Snapshot images that are not what a leader would send, with checksums that are right all the same.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kelson_storage::codec::encode_batch;
use kelson_storage::command::{Command, CommandId, Proposal, Put};
use kelson_storage::disk::Disk;
use kelson_storage::error::Fault;
use kelson_storage::limits::CacheBudget;
use kelson_storage::revision::LogPosition;
use kelson_storage::snapshot::{self, ImageReader, ImageWriter};
use kelson_storage::store::{ApplySink, Store, StoreOptions};
use kelson_storage::testing::FaultyDisk;

use super::Input;

/// Bytes in front of a frame's part of the stream: its number and its checksum.
const FRAME_HEADER_BYTES: usize = 8;
/// Changes made to a sound image.
const CHANGES_MAX: usize = 6;
/// Keys in a sound image, and how many of them have a lease.
const KEYS: u64 = 12;

struct Nobody;

impl ApplySink for Nobody {
    fn outcome(&mut self, _: CommandId, _: kelson_storage::applied::Outcome) {}
    fn lease_granted(&mut self, _: i64, _: i64) {}
    fn lease_revoked(&mut self, _: i64) {}
}

fn disk() -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.create_directory(Path::new("/snap"))
        .expect("directories are made");
    disk
}

fn options() -> StoreOptions {
    StoreOptions {
        database: "/snap/db".into(),
        cache: CacheBudget {
            overlay: 1 << 20,
            event_ring: 1 << 20,
            ..CacheBudget::default()
        },
    }
}

/// The stream of a sound image.
fn stream() -> Vec<u8> {
    let mut store = Store::open(Arc::new(disk()), options()).expect("a fresh disk");
    let mut checkpointer = store.checkpointer();
    for seq in 1..=KEYS {
        let command = match seq {
            1 => Command::LeaseGrant { id: 7, ttl: 60 },
            seq => Command::Put(Put {
                key: Bytes::from(format!("key/{}", seq % 5)),
                value: Bytes::from(format!("value {seq}")),
                lease: if seq % 3 == 0 { 7 } else { 0 },
                ..Put::default()
            }),
        };
        let id = CommandId {
            origin: 1,
            session: 1,
            seq,
        };
        let proposal = Proposal {
            id,
            low: seq,
            command,
        };
        let at = LogPosition {
            term: 1,
            index: seq - 1,
        };
        store
            .apply_batch(at, &encode_batch([&proposal]), &mut Nobody)
            .expect("a sound disk");
    }
    checkpointer.step(true).expect("a sound disk");
    let mut image = ImageWriter::new(&store.reader().tables()).expect("a sound database");
    let mut stream = Vec::new();
    while let Some(frame) = image.next_frame().expect("a sound database") {
        stream.extend_from_slice(&frame[FRAME_HEADER_BYTES..]);
    }
    stream
}

/// Puts a stream into frames of `frame_bytes` with the checksums that it must have.
fn frames(stream: &[u8], frame_bytes: usize) -> Vec<Bytes> {
    let mut crc = 0;
    let mut frames = Vec::new();
    for (number, part) in (0u32..).zip(stream.chunks(frame_bytes)) {
        let mut hasher = crc32fast::Hasher::new_with_initial(crc);
        hasher.update(&number.to_be_bytes());
        hasher.update(part);
        crc = hasher.finalize();
        frames.push([&number.to_be_bytes(), &crc.to_be_bytes(), part].concat().into());
    }
    frames
}

/// Takes the image in and starts from it.
fn take(stream: &[u8], frame_bytes: usize) -> Result<Store, Fault> {
    let disk = disk();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let database = options().database;
    let temporary = snapshot::temporary_beside(&disk, &database);
    let mut reader = ImageReader::create(shared.clone(), &temporary)?;
    for frame in frames(stream, frame_bytes) {
        reader.feed(frame)?;
    }
    let meta = reader.finish()?;
    snapshot::install(&disk, &temporary, &database)?;
    let store = Store::open(shared, options())?;
    assert_eq!(store.applied(), meta.applied, "the image is of another position");
    Ok(store)
}

/// An image of any bytes, or a sound one with changes.
pub(super) fn load(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let frame_bytes = input.one_of(&[1 << 14, 64, 1, 700]);
    if input.once_in(4) {
        // Refused, nearly always; what is not must open.
        let _ = take(input.rest(), frame_bytes);
        return;
    }
    let sound = stream();
    let mut changed = sound.clone();
    for _ in 0..input.below(CHANGES_MAX) {
        let place = input.below(changed.len().max(1));
        match input.below(4) {
            0 if place < changed.len() => changed[place] ^= 1 << input.below(8),
            1 if place < changed.len() => changed[place] = input.byte(),
            2 => changed.truncate(place),
            _ => {
                let bytes = input.bytes(40);
                let place = place.min(changed.len());
                changed.splice(place..place, bytes.iter().copied());
            }
        }
    }
    let taken = take(&changed, frame_bytes);
    if changed == sound {
        let store = taken.expect("a sound image is taken");
        assert_eq!(store.applied().map(|at| at.index), Some(KEYS - 1));
    }
}
