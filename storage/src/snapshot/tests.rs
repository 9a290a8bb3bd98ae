//! Round trips of images, and the many ways in which one can be wrong.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::command::AlarmKind;
use crate::disk::Disk;
use crate::error::Fault;
use crate::limits::SNAPSHOT_FRAME_BYTES;
use crate::real_disk::RealDisk;
use crate::revision::{LogPosition, Revision};
use crate::store::MemberRecord;
use crate::tables::{LeaseRow, Meta, Row, Tables, WriteBatch};

fn disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk::without_sync())
}

fn meta() -> Meta {
    Meta {
        applied: Some(LogPosition { term: 3, index: 77 }),
        membership: Some((None, Bytes::from_static(b"members"))),
        revision: 900,
        compact_scheduled: Some(12),
        compact_finished: Some(11),
        sessions: Bytes::from_static(b"sessions"),
        hash: 0xfeed,
        members: vec![MemberRecord {
            id: 5,
            name: "five".into(),
            peer_urls: vec!["http://a".into()],
            client_urls: vec![],
            is_learner: true,
        }],
        removed_members: vec![9],
        alarms: vec![(5, AlarmKind::NoSpace)],
        cluster_version: Some("3.7.0".into()),
        log_end: 0,
    }
}

/// A database with rows of these sizes.
fn database(path: &Path, sizes: &[usize]) -> Tables {
    let tables = Tables::open(disk(), path, 1 << 20).unwrap();
    let rows = (2..).zip(sizes).map(|(main, size)| {
        let row = Row {
            tombstone: main % 3 == 0,
            previous: (main % 2 == 0).then(|| Revision::new(main - 1, 1)),
            kv: Bytes::from(vec![main as u8; *size]),
        };
        (Revision::new(main, 0), Arc::new(row))
    });
    let batch = WriteBatch {
        rows: rows.collect(),
        leases_put: vec![LeaseRow { id: 4, ttl: 60 }, LeaseRow { id: -4, ttl: 61 }],
        meta: meta(),
        ..WriteBatch::default()
    };
    tables.write(&batch, true).unwrap();
    tables
}

fn image(tables: &Tables) -> Vec<Bytes> {
    let mut writer = ImageWriter::new(tables).unwrap();
    assert_eq!(*writer.meta(), tables.meta().unwrap());
    let mut frames = Vec::new();
    while let Some(frame) = writer.next_frame().unwrap() {
        assert!(frame.len() <= SNAPSHOT_FRAME_BYTES);
        frames.push(frame);
    }
    assert_eq!(writer.next_frame().unwrap(), None);
    frames
}

/// Reads an image into a new file beside `path`.
fn load(path: &Path, frames: &[Bytes]) -> Result<Meta, Fault> {
    let temporary = temporary_beside(&*disk(), path);
    let mut reader = ImageReader::create(disk(), &temporary)?;
    for frame in frames {
        reader.feed(frame.clone())?;
    }
    let meta = reader.finish()?;
    install(&*disk(), &temporary, path)?;
    Ok(meta)
}

fn contents(tables: &Tables) -> (Meta, Vec<LeaseRow>, Vec<(Revision, Row)>) {
    let mut rows = Vec::new();
    tables
        .scan(|revision, row| {
            rows.push((revision, row));
            Ok(())
        })
        .unwrap();
    (tables.meta().unwrap(), tables.leases().unwrap(), rows)
}

/// Checks that `frames` are refused and that nothing is left of them.
fn assert_refused(path: &Path, frames: &[Bytes], what: &str) {
    match load(path, frames) {
        Err(Fault::Damaged { .. } | Fault::Unusable { .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
    let left = disk().list(path.parent().unwrap()).unwrap();
    assert_eq!(left, ["source"], "{what}");
}

#[test]
fn an_image_gives_the_same_database() {
    for sizes in [
        vec![],
        vec![3; 40],
        vec![20_000; 150],
        vec![10, 3 * SNAPSHOT_FRAME_BYTES, 0, SNAPSHOT_FRAME_BYTES - 8, 5],
    ] {
        let directory = tempfile::tempdir().unwrap();
        let source = database(&directory.path().join("source"), &sizes);
        let target = directory.path().join("target");
        assert_eq!(load(&target, &image(&source)).unwrap(), meta());
        let target = Tables::open(disk(), &target, 1 << 20).unwrap();
        assert_eq!(contents(&target), contents(&source));
        assert_eq!(image(&target), image(&source));
    }
}

#[test]
fn an_image_replaces_an_older_database() {
    let directory = tempfile::tempdir().unwrap();
    let source = database(&directory.path().join("source"), &[7; 30]);
    let target = directory.path().join("target");
    let old = database(&target, &[8; 10]);
    load(&target, &image(&source)).unwrap();
    assert_eq!(contents(&old).2.len(), 10);
    drop(old);
    let target = Tables::open(disk(), &target, 1 << 20).unwrap();
    assert_eq!(contents(&target), contents(&source));
}

#[test]
fn an_image_shows_one_write_whatever_is_written_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let source = database(&directory.path().join("source"), &[50_000; 100]);
    let expected = image(&source);
    let mut writer = ImageWriter::new(&source).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = writer.next_frame().unwrap() {
        frames.push(frame);
        let batch = WriteBatch {
            deletes: vec![Revision::new(60 + frames.len() as u64, 0)],
            ..WriteBatch::default()
        };
        source.write(&batch, frames.len() % 2 == 0).unwrap();
    }
    assert!(frames == expected);
}

#[test]
fn a_cut_or_overlong_image_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("target");
    let source = database(&directory.path().join("source"), &[300_000; 12]);
    let frames = image(&source);
    assert!(frames.len() > 3);
    for length in 0..frames.len() {
        assert_refused(&path, &frames[..length], &format!("cut at {length}"));
        let mut without = frames.clone();
        without.remove(length);
        assert_refused(&path, &without, &format!("without {length}"));
        let mut repeated = frames.clone();
        repeated.insert(length, frames[length].clone());
        assert_refused(&path, &repeated, &format!("{length} twice"));
    }
    let mut shortened = frames.clone();
    let last = shortened.last_mut().unwrap();
    last.truncate(last.len() - 1);
    assert_refused(&path, &shortened, "last frame cut");
    assert_refused(&path, &[frames.clone(), frames].concat(), "image twice");
}

#[test]
fn an_image_with_frames_of_another_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("target");
    let source = database(&directory.path().join("source"), &[300_000; 8]);
    let frames = image(&source);
    let batch = WriteBatch {
        meta: Meta { hash: 1, ..meta() },
        ..WriteBatch::default()
    };
    source.write(&batch, false).unwrap();
    let other = image(&source);
    assert_eq!(frames.len(), other.len());
    for at in 1..frames.len() {
        let mixed = [&frames[..at], &other[at..]].concat();
        assert_refused(&path, &mixed, &format!("from {at} on of another image"));
    }
    assert_refused(&path, &[Bytes::from_static(b"redb no image")], "foreign");
    assert_refused(&path, &[Bytes::new()], "empty frame");
}

#[test]
fn an_image_with_any_byte_flipped_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("target");
    let source = database(&directory.path().join("source"), &[4; 3]);
    let frames = image(&source);
    assert_eq!(frames.len(), 1);
    for byte in 0..frames[0].len() {
        let mut flipped = frames[0].to_vec();
        flipped[byte] ^= 1 << (byte % 8);
        assert_refused(&path, &[Bytes::from(flipped)], &format!("byte {byte}"));
    }
}

/// What only a wrong writer could send: sound frames around a stream that is none.
#[test]
fn a_stream_that_is_no_image_is_refused_behind_its_checksums() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("target");
    let source = database(&directory.path().join("source"), &[4; 3]);
    let stream = image(&source)[0][FRAME_HEADER_BYTES..].to_vec();
    let frame = |stream: &[u8]| {
        let crc = advance(0, 0, stream);
        Bytes::from([&0u32.to_be_bytes()[..], &crc.to_be_bytes(), stream].concat())
    };
    assert_refused(&path, &[frame(&stream[..stream.len() - 1])], "cut");
    assert_refused(&path, &[frame(&[&stream[..], b"x"].concat())], "overlong");
    for byte in 0..stream.len() {
        let mut flipped = stream.clone();
        flipped[byte] ^= 1;
        // The lease records have no checksum but the frame's; everything else is checked once more.
        match load(&path, &[frame(&flipped)]) {
            Err(Fault::Damaged { .. } | Fault::Unusable { .. }) => {}
            Ok(meta) => {
                assert_eq!(meta, super::tests::meta());
                let tables = Tables::open(disk(), &path, 1 << 20).unwrap();
                assert_eq!(contents(&tables).2, contents(&source).2);
            }
            Err(other) => panic!("byte {byte}: {other:?}"),
        }
    }
}

#[test]
fn leftovers_are_removed_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("source");
    drop(database(&path, &[1]));
    let temporary = temporary_beside(&*disk(), &path);
    let reader = ImageReader::create(disk(), &temporary).unwrap();
    assert_ne!(temporary_beside(&*disk(), &path), temporary);
    assert_eq!(disk().list(directory.path()).unwrap().len(), 2);
    remove_leftovers(&*disk(), directory.path()).unwrap();
    assert_eq!(disk().list(directory.path()).unwrap(), ["source"]);
    drop(reader);
}
