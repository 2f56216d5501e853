//! Sender and receiver together, with the network between them played by the
//! test: it cuts the stream anywhere, and damages it in every way that it can
//! think of.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use bytes::BytesMut;
use futures_util::stream;
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine as _;
use openraft::vote::RaftLeaderId as _;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use super::super::snapshot_receiver::{ReceiveError, Received, receive};
use super::*;
use crate::command::Command;
use crate::engine::EngineOptions;
use crate::inflight::InflightBytes;
use crate::store::StateMachineStore;
use crate::store::data_dir::DataDir;
use crate::store::log_codec::{LeaderId, Payload};
use crate::{Entry, LogId, Member, Membership};

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new(3, 1), index)
}

/// A state machine with a folder of its own.
struct Node {
    store: StateMachineStore,
    _data: DataDir,
    _durable: watch::Sender<Option<LogId>>,
    _dir: TempDir,
}

fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path(), 1).unwrap();
    let durable = watch::Sender::new(Some(log_id(u64::MAX)));
    let options = EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 8 << 20 };
    let store = StateMachineStore::open(&data, &options, durable.subscribe(), InflightBytes::new(usize::MAX))
        .unwrap();
    Node { store, _data: data, _durable: durable, _dir: dir }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let word = |number: usize| XxHash3_64::oneshot_with_seed(seed, &number.to_le_bytes()).to_le_bytes();
    (0..length.div_ceil(8)).flat_map(word).take(length).collect()
}

/// A snapshot of some incompressible MiB in several files, made once.
struct Sample {
    node: Node,
    meta: SnapshotMeta,
    dir: SnapshotDir,
}

fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| block_on(make_sample()))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn make_sample() -> Sample {
    let node = node();
    let members = [1, 2].map(|id| (id, Member { addr: format!("127.0.0.1:{id}") }));
    let membership = Membership::new(vec![[1, 2].into()], std::collections::BTreeMap::from(members)).unwrap();
    let mut entries = vec![Payload::Membership(membership)];
    entries.extend(
        (1..10).map(|index| {
            Payload::Normal(Command::put(format!("key {index}"), noise(index, 300_000)).encode())
        }),
    );
    let numbered = entries.into_iter().enumerate();
    let entries: Vec<_> = numbered
        .map(|(index, payload)| Ok((Entry { log_id: log_id(index as u64), payload }, None)))
        .collect();
    node.store.clone().apply(stream::iter(entries)).await.unwrap();
    let mut builder = node.store.clone();
    let built = RaftSnapshotBuilder::build_snapshot(&mut builder).await.unwrap();
    Sample { node, meta: built.meta, dir: built.snapshot }
}

fn vote() -> Vote {
    Vote::new_committed(3, 1)
}

fn job(encoding: Encoding, frames: mpsc::Sender<Result<Frame<Bytes>, io::Error>>) -> ReadJob {
    let (meta, dir) = (sample().meta.clone(), sample().dir.clone());
    let pace = Pace { bytes_per_second: 0 };
    ReadJob { vote: vote(), meta, dir, encoding, pace, frames, progress: Arc::default() }
}

/// Everything that the sender sends, a frame each.
fn sent(encoding: Encoding) -> Vec<Bytes> {
    let (frames, mut receiver) = mpsc::channel(CHUNKS_AHEAD);
    let job = job(encoding, frames);
    let reader = std::thread::Builder::new().spawn(move || block_on(job.run())).unwrap();
    let mut sent = Vec::new();
    while let Some(frame) = receiver.blocking_recv() {
        sent.push(frame.unwrap().into_data().unwrap());
    }
    reader.join().unwrap().unwrap();
    sent
}

/// The same, understood.
fn sent_frames() -> Vec<SnapshotFrame> {
    let decode = |frame: Bytes| SnapshotFrame::decode(Encoding::Binary, frame.slice(4..)).unwrap();
    sent(Encoding::Binary).into_iter().map(decode).collect()
}

/// Receives the pieces in `snapshots`, as the inbound end does.
fn received(pieces: Vec<Bytes>, encoding: Encoding, snapshots: &Path) -> Result<Received, ReceiveError> {
    let (sender, receiver) = mpsc::channel(1);
    let (announced, announcement) = oneshot::channel();
    let (go_on, gone_on) = oneshot::channel();
    let feeder = std::thread::Builder::new()
        .spawn(move || pieces.into_iter().all(|piece| sender.blocking_send(piece).is_ok()))
        .unwrap();
    let answerer = std::thread::Builder::new()
        .spawn(move || {
            if announcement.blocking_recv().is_ok() {
                let _ = go_on.send(());
            }
        })
        .unwrap();
    let result = block_on(receive(receiver, encoding, snapshots, "sample", announced, gone_on));
    feeder.join().unwrap();
    answerer.join().unwrap();
    result
}

fn received_frames(frames: &[SnapshotFrame], snapshots: &Path) -> Result<Received, ReceiveError> {
    let pieces = frames.iter().map(|frame| encode_frame(frame, Encoding::Binary)).collect();
    received(pieces, Encoding::Binary, snapshots)
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// Makes the end frame right for what comes before it.
fn seal(frames: &mut [SnapshotFrame]) {
    let mut total = Checksum::of(&frames[0]);
    for frame in frames {
        match frame {
            SnapshotFrame::Begin { .. } => {}
            SnapshotFrame::Chunk { checksum, .. } => total.add(*checksum),
            SnapshotFrame::End { checksum } => *checksum = total.value(),
        }
    }
}

fn chunk(data: &[u8]) -> SnapshotFrame {
    SnapshotFrame::Chunk { checksum: XxHash3_64::oneshot(data), data: Bytes::copy_from_slice(data) }
}

#[test]
fn the_sample_has_files_of_several_chunks() {
    let frames = sent_frames();
    let full = |frame: &&SnapshotFrame| matches!(frame, SnapshotFrame::Chunk { data, .. } if data.len() == CHUNK_BYTES);
    assert!(frames.iter().filter(full).count() > 2 * CHUNKS_AHEAD);
    assert!(matches!(&frames[0], SnapshotFrame::Begin { files, .. } if files.len() > 5));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_is_sent_arrives_however_it_is_cut(
        cuts in proptest::collection::vec(1_usize..400_000, 1..40),
        is_binary in any::<bool>(),
    ) {
        let encoding = if is_binary { Encoding::Binary } else { Encoding::Json };
        let mut stream: BytesMut = sent(encoding).iter().flatten().copied().collect();
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            if stream.is_empty() {
                break;
            }
            pieces.push(stream.split_to((*cut).min(stream.len())).freeze());
        }
        let snapshots = tempfile::tempdir().unwrap();
        let Received { vote: by, meta, dir } = received(pieces, encoding, snapshots.path()).unwrap();
        prop_assert_eq!(by, vote());
        prop_assert_eq!(&meta, &sample().meta);
        let files = dir.files().unwrap();
        prop_assert_eq!(&files, &sample().dir.files().unwrap());
        for (name, _) in files {
            let (one, other) = (dir.path().join(&name), sample().dir.path().join(&name));
            prop_assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{}", name);
        }
        drop(dir);
        prop_assert!(is_empty(snapshots.path()), "it was not installed, so it goes");
    }

    #[test]
    fn a_damaged_byte_is_refused_wherever_it_is(
        frame in any::<proptest::sample::Index>(),
        place in any::<proptest::sample::Index>(),
        bit in 0..8_u8,
        is_binary in any::<bool>(),
        in_the_frame_s_head in any::<bool>(),
    ) {
        let encoding = if is_binary { Encoding::Binary } else { Encoding::Json };
        let mut pieces = sent(encoding);
        let frame = frame.index(pieces.len());
        let mut damaged = pieces[frame].to_vec();
        let reach = if in_the_frame_s_head { damaged.len().min(40) } else { damaged.len() };
        damaged[place.index(reach)] ^= 1 << bit;
        prop_assume!(!says_the_same(encoding, &damaged, &pieces[frame]));
        pieces[frame] = damaged.into();
        let snapshots = tempfile::tempdir().unwrap();
        prop_assert!(received(pieces, encoding, snapshots.path()).is_err());
        prop_assert!(is_empty(snapshots.path()));
    }
}

#[test]
fn every_damaged_announcement_is_refused() {
    let snapshots = tempfile::tempdir().unwrap();
    for encoding in [Encoding::Binary, Encoding::Json] {
        let pieces = sent(encoding);
        for place in (0..pieces[0].len()).step_by(7) {
            let mut pieces = pieces.clone();
            let mut damaged = pieces[0].to_vec();
            damaged[place] ^= 1;
            if says_the_same(encoding, &damaged, &pieces[0]) {
                println!("{}", String::from_utf8_lossy(&damaged));
                continue;
            }
            pieces[0] = damaged.into();
            assert!(received(pieces, encoding, snapshots.path()).is_err(), "{encoding}, byte {place}");
            assert!(is_empty(snapshots.path()));
        }
    }
}

/// Whether the damage of a frame is none: JSON may carry fields that nobody reads.
fn says_the_same(encoding: Encoding, damaged: &[u8], frame: &Bytes) -> bool {
    let decode = |frame: &[u8]| match encoding {
        Encoding::Binary => None,
        Encoding::Json => SnapshotFrame::decode(encoding, Bytes::copy_from_slice(frame)).ok(),
    };
    decode(damaged).is_some_and(|damaged| Some(damaged) == decode(frame))
}

fn is_table(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "sst")
}

type Damage = fn(&mut Vec<SnapshotFrame>);

/// Damage with a right sum at the end, and without it.
const DAMAGES: [(&str, bool, Damage); 17] = [
    ("a chunk is missing", false, |frames| drop(frames.remove(1))),
    ("a chunk is missing", true, |frames| drop(frames.remove(1))),
    ("the last chunk is missing", true, |frames| drop(frames.remove(frames.len() - 2))),
    ("a chunk is doubled", false, |frames| frames.insert(1, frames[1].clone())),
    ("the last chunk is doubled", true, |frames| {
        frames.insert(frames.len() - 1, frames[frames.len() - 2].clone());
    }),
    ("two chunks are swapped", false, |frames| {
        let full = |frame: &SnapshotFrame| matches!(frame, SnapshotFrame::Chunk { data, .. } if data.len() == CHUNK_BYTES);
        let first = frames.iter().position(full).unwrap();
        frames.swap(first, first + 1);
    }),
    ("a chunk is empty", true, |frames| frames.insert(1, chunk(b""))),
    ("a chunk is longer", true, |frames| {
        let SnapshotFrame::Chunk { data, .. } = &frames[1] else { panic!("it is a chunk") };
        frames[1] = chunk(&[data, b"!".as_slice()].concat());
    }),
    ("a chunk is shorter", true, |frames| {
        let SnapshotFrame::Chunk { data, .. } = &frames[1] else { panic!("it is a chunk") };
        frames[1] = chunk(&data[1..]);
    }),
    ("a chunk does not have its sum", true, |frames| {
        let SnapshotFrame::Chunk { checksum, .. } = &mut frames[1] else { panic!("it is a chunk") };
        *checksum += 1;
    }),
    ("the sum at the end is wrong", false, |frames| {
        let Some(SnapshotFrame::End { checksum }) = frames.last_mut() else { panic!("it is the end") };
        *checksum ^= 1;
    }),
    ("there is no end", true, |frames| drop(frames.pop())),
    ("the end comes early", true, |frames| {
        let end = frames.pop().unwrap();
        frames.insert(2, end);
    }),
    ("there is no beginning", false, |frames| drop(frames.remove(0))),
    ("it begins twice", true, |frames| frames.insert(1, frames[0].clone())),
    ("there is another beginning for the end", true, |frames| {
        let begin = frames[0].clone();
        *frames.last_mut().unwrap() = begin;
    }),
    ("there is nothing", false, Vec::clear),
];

#[test]
fn every_other_damage_is_refused_and_leaves_nothing_behind() {
    let snapshots = tempfile::tempdir().unwrap();
    let sound = sent_frames();
    for (what, is_sealed, damage) in DAMAGES {
        let mut frames = sound.clone();
        damage(&mut frames);
        if is_sealed {
            seal(&mut frames);
        }
        let refused = received_frames(&frames, snapshots.path()).expect_err(what);
        assert!(matches!(refused, ReceiveError::Invalid(_)), "{what}: {refused}");
        assert!(is_empty(snapshots.path()), "{what}");
    }
    assert!(received_frames(&sound, snapshots.path()).is_ok());
}

/// The sample with another announcement, and the right sum for it.
fn announced(change: impl FnOnce(&mut SnapshotMeta, &mut Vec<SnapshotFile>)) -> Vec<SnapshotFrame> {
    let mut frames = sent_frames();
    let SnapshotFrame::Begin { meta, files, .. } = &mut frames[0] else { panic!("it is the beginning") };
    change(meta, files);
    seal(&mut frames);
    frames
}

#[test]
fn file_names_that_lead_elsewhere_are_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = root.path().join("snapshots");
    fs::create_dir(&snapshots).unwrap();
    for name in ["../evil", "/tmp/evil", "a/b", "./a", "a/", ".", "..", "", "a/../../evil", "/"] {
        let frames = announced(|_, files| files[0].name = name.into());
        let refused = received_frames(&frames, &snapshots).unwrap_err();
        assert!(matches!(refused, ReceiveError::Invalid(_)), "{name:?}: {refused}");
        assert!(is_empty(&snapshots));
    }
    let twice = announced(|_, files| files[1].name = files[0].name.clone());
    assert!(matches!(received_frames(&twice, &snapshots), Err(ReceiveError::Invalid(_))));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn files_that_do_not_hold_what_was_announced_are_refused() {
    let snapshots = tempfile::tempdir().unwrap();
    let wrong = [
        announced(|meta, _| meta.last_log_id = Some(log_id(10))),
        announced(|meta, _| meta.last_log_id = None),
        announced(|meta, _| {
            meta.last_membership = crate::StoredMembership::new(Some(log_id(0)), Membership::default());
        }),
        // A table under the name of another is no database.
        announced(|_, files| {
            let tables: Vec<_> = (0..files.len()).filter(|at| is_table(&files[*at].name)).collect();
            let name = files[tables[0]].name.clone();
            files[tables[0]].name = std::mem::replace(&mut files[tables[1]].name, name);
        }),
        announced(|_, files| {
            let current = files.iter_mut().find(|file| file.name == "CURRENT").unwrap();
            current.name = "PAST".into();
        }),
    ];
    for (number, frames) in wrong.iter().enumerate() {
        let refused = received_frames(frames, snapshots.path()).expect_err(&number.to_string());
        assert!(matches!(refused, ReceiveError::Invalid(_)), "{number}: {refused}");
        assert!(is_empty(snapshots.path()), "{number}");
    }
}

#[test]
fn a_snapshot_without_files_is_refused() {
    let snapshots = tempfile::tempdir().unwrap();
    let begin = SnapshotFrame::Begin { vote: vote(), meta: SnapshotMeta::default(), files: Vec::new() };
    let mut frames = vec![begin, SnapshotFrame::End { checksum: 0 }];
    seal(&mut frames);
    assert!(received_frames(&frames, snapshots.path()).is_err());
    assert!(is_empty(snapshots.path()));
}

#[test]
fn a_stream_that_ends_early_is_refused_wherever_it_ends() {
    let snapshots = tempfile::tempdir().unwrap();
    let whole = sent(Encoding::Binary);
    for kept in 0..whole.len() {
        let mut pieces = whole[..kept].to_vec();
        pieces.push(whole[kept].slice(..whole[kept].len() - 1));
        let refused = received(pieces, Encoding::Binary, snapshots.path()).unwrap_err();
        assert!(refused.to_string().contains("ends before"), "{refused}");
        assert!(is_empty(snapshots.path()));
    }
}

#[test]
fn nothing_is_written_until_someone_wants_it() {
    let snapshots = tempfile::tempdir().unwrap();
    for is_wanted in [false, true] {
        let (pieces, receiver) = mpsc::channel(100);
        for piece in sent(Encoding::Binary) {
            pieces.blocking_send(piece).unwrap();
        }
        let (announced, announcement) = oneshot::channel();
        let (go_on, gone_on) = oneshot::channel();
        let path = snapshots.path().to_owned();
        let receiving = std::thread::Builder::new()
            .spawn(move || block_on(receive(receiver, Encoding::Binary, &path, "sample", announced, gone_on)))
            .unwrap();
        assert_eq!(announcement.blocking_recv().unwrap().vote, vote());
        std::thread::sleep(Duration::from_millis(30));
        assert!(is_empty(snapshots.path()));
        if is_wanted {
            go_on.send(()).unwrap();
        } else {
            drop(go_on);
        }
        drop(pieces);
        assert_eq!(receiving.join().unwrap().is_ok(), is_wanted);
        assert!(is_empty(snapshots.path()));
    }
}

#[test]
fn a_disk_that_refuses_is_an_error_that_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = root.path().join("snapshots");
    fs::create_dir(&snapshots).unwrap();
    // In the middle of the transfer: a name that the file system does not take.
    let frames = announced(|_, files| {
        let last = files.len() - 1;
        files[last].name = "x".repeat(300);
    });
    let refused = received_frames(&frames, &snapshots).unwrap_err();
    assert!(matches!(refused, ReceiveError::Storage(_)), "{refused}");
    assert!(is_empty(&snapshots));
    // And before it begins: there can be no folder.
    fs::remove_dir(&snapshots).unwrap();
    fs::write(&snapshots, "a file").unwrap();
    let refused = received_frames(&sent_frames(), &snapshots).unwrap_err();
    assert!(matches!(refused, ReceiveError::Storage(_)), "{refused}");
}

#[test]
fn a_frame_beyond_the_limit_is_refused_before_it_is_collected() {
    let snapshots = tempfile::tempdir().unwrap();
    let mut pieces = sent(Encoding::Binary);
    pieces[1] = Bytes::from_static(&[0xff; 8]);
    let refused = received(pieces, Encoding::Binary, snapshots.path()).unwrap_err();
    assert!(matches!(refused, ReceiveError::Wire(_)), "{refused}");
    assert!(is_empty(snapshots.path()));
}

#[test]
fn an_arrived_snapshot_installs_and_equals_the_sender_s_state() {
    let target = node();
    let arrived = received(sent(Encoding::Json), Encoding::Json, target.store.snapshots_dir()).unwrap();
    block_on(async { target.store.clone().install_snapshot(&arrived.meta, arrived.dir).await.unwrap() });
    assert_eq!(target.store.store().state_hash(), sample().node.store.store().state_hash());
    assert_eq!(target.store.applied_log_id(), sample().meta.last_log_id);
    assert_eq!(fs::read_dir(target.store.snapshots_dir()).unwrap().count(), 1);
}

#[test]
fn the_sender_reads_only_a_few_chunks_ahead_and_stops_with_its_listener() {
    let (frames, mut receiver) = mpsc::channel(CHUNKS_AHEAD);
    let job = job(Encoding::Binary, frames);
    let progress = Arc::clone(&job.progress);
    let reader = std::thread::Builder::new().spawn(move || block_on(job.run())).unwrap();
    for taken in 0..3 {
        std::thread::sleep(Duration::from_millis(50));
        let ahead = progress.load(Ordering::Relaxed) - taken;
        assert!(ahead <= CHUNKS_AHEAD as u64, "{ahead} frames wait");
        let frame = receiver.blocking_recv().unwrap().unwrap().into_data().unwrap();
        assert!(frame.len() <= CHUNK_BYTES + 100);
    }
    drop(receiver);
    reader.join().unwrap().unwrap();
}

#[test]
fn a_file_that_can_t_be_read_ends_the_stream_without_its_end() {
    let copy = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::incoming(copy.path(), "broken").unwrap();
    for (name, _) in sample().dir.files().unwrap() {
        fs::copy(sample().dir.path().join(&name), dir.path().join(&name)).unwrap();
    }
    let (frames, mut receiver) = mpsc::channel(CHUNKS_AHEAD);
    let job = ReadJob { dir: dir.clone(), ..job(Encoding::Binary, frames) };
    let reader = std::thread::Builder::new().spawn(move || block_on(job.run())).unwrap();
    let mut pieces = vec![receiver.blocking_recv().unwrap().unwrap().into_data().unwrap()];
    // The last of the files goes while the first are under way.
    let (last, _) = dir.files().unwrap().pop().unwrap();
    fs::remove_file(dir.path().join(last)).unwrap();
    while let Some(frame) = receiver.blocking_recv() {
        pieces.push(frame.unwrap().into_data().unwrap());
    }
    assert!(reader.join().unwrap().is_err());
    let snapshots = tempfile::tempdir().unwrap();
    assert!(received(pieces, Encoding::Binary, snapshots.path()).is_err());
}

#[test]
fn the_pace_is_kept_and_none_is_no_pause() {
    let started = Instant::now();
    assert_eq!(Pace { bytes_per_second: 0 }.pause(u64::MAX, started), Duration::ZERO);
    let pause = Pace { bytes_per_second: 1000 }.pause(60_000, started);
    assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&pause), "{pause:?}");
    assert_eq!(Pace { bytes_per_second: u64::MAX }.pause(1, started), Duration::ZERO);
}

#[test]
fn a_slow_pace_does_not_outlive_its_listener() {
    let (frames, mut receiver) = mpsc::channel(CHUNKS_AHEAD);
    let job = ReadJob { pace: Pace { bytes_per_second: 1 }, ..job(Encoding::Binary, frames) };
    let reader = std::thread::Builder::new().spawn(move || block_on(job.run())).unwrap();
    // The announcement and the first chunk; the second is due in days.
    receiver.blocking_recv().unwrap().unwrap();
    receiver.blocking_recv().unwrap().unwrap();
    drop(receiver);
    reader.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_is_given_up_when_it_takes_nothing_or_never_answers() {
    let (soon, late) = (Duration::from_millis(40), Duration::from_secs(60));
    let progress = AtomicU64::new(0);
    let frozen = tokio::spawn(std::future::pending());
    let error = give_up(frozen, &progress, soon, late).await;
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);

    let finished = tokio::spawn(async { Ok(()) });
    let error = give_up(finished, &progress, late, soon).await;
    assert!(error.to_string().contains("installed"), "{error}");

    let failed = tokio::spawn(async { Err(io::Error::other("bad sector")) });
    assert_eq!(give_up(failed, &progress, late, late).await.to_string(), "bad sector");

    // Slow is not frozen.
    let progress = Arc::new(AtomicU64::new(0));
    let slow = {
        let progress = Arc::clone(&progress);
        tokio::spawn(async move {
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                progress.fetch_add(1, Ordering::Relaxed);
            }
            Err(io::Error::other("the end"))
        })
    };
    assert_eq!(give_up(slow, &progress, soon, late).await.to_string(), "the end");
}
