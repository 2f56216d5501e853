//! The mapped control file, and the moment at which the library is loaded.
//!
//! Must never fail silently: a run whose faults don't work would prove nothing, so a
//! control file that is named and can't be used ends the process.

use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use libc::{c_char, c_int};

use crate::{clock, layout};

/// The exit code of a process whose control file can't be used.
const UNUSABLE: c_int = 97;

static WORDS: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
static DATA: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());
static DATA_LENGTH: AtomicUsize = AtomicUsize::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// Called by the dynamic linker before the program begins.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    clock::begin();
    // SAFETY: the names are C strings, and no thread that could change the environment
    // runs yet.
    let (control, data) =
        unsafe { (libc::getenv(layout::ENV_CONTROL.as_ptr()), libc::getenv(layout::ENV_DATA.as_ptr())) };
    if control.is_null() {
        return;
    }
    if data.is_null() {
        give_up(b"the torture library was given a control file and no data folder\n");
    }
    // SAFETY: it is a string of the environment, which outlives all calls.
    DATA_LENGTH.store(unsafe { libc::strlen(data) }, Ordering::Relaxed);
    DATA.store(data, Ordering::Release);
    let words = map(control);
    // SAFETY: `map` gives as many words as the layout has.
    let magic = unsafe { (*words.add(layout::MAGIC)).load(Ordering::Relaxed) };
    if magic != layout::MAGIC_VALUE {
        give_up(b"the torture library was given a file that is no control file\n");
    }
    // SAFETY: as above.
    RANDOM.store(unsafe { (*words.add(layout::SEED)).load(Ordering::Relaxed) }, Ordering::Relaxed);
    WORDS.store(words, Ordering::Release);
}

fn map(path: *const c_char) -> *mut AtomicU64 {
    let size = layout::WORDS * size_of::<u64>();
    // SAFETY: the path is a C string; the mapping is new, and is never unmapped. A file
    // that is too short is found before it is touched.
    unsafe {
        let fd = libc::open(path, libc::O_RDWR | libc::O_CLOEXEC);
        if fd < 0 {
            give_up(b"the torture library can't open its control file\n");
        }
        if libc::lseek(fd, 0, libc::SEEK_END) < size as libc::off_t {
            give_up(b"the torture library was given a control file that is too short\n");
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let mapped = libc::mmap(std::ptr::null_mut(), size, access, libc::MAP_SHARED, fd, 0);
        if mapped == libc::MAP_FAILED {
            give_up(b"the torture library can't map its control file\n");
        }
        libc::close(fd);
        mapped.cast()
    }
}

fn give_up(message: &[u8]) -> ! {
    // SAFETY: the message is a slice, and ending the process is the purpose.
    unsafe {
        libc::syscall(libc::SYS_write, libc::STDERR_FILENO, message.as_ptr(), message.len());
        libc::_exit(UNUSABLE)
    }
}

/// A word of the control file; `None` where there is none.
pub(crate) fn word(place: usize) -> Option<&'static AtomicU64> {
    debug_assert!(place < layout::WORDS);
    let words = WORDS.load(Ordering::Acquire);
    if words.is_null() || place >= layout::WORDS {
        return None;
    }
    // SAFETY: the mapping holds `layout::WORDS` words, is aligned to a page, and stays
    // until the process ends.
    Some(unsafe { &*words.add(place) })
}

/// What a word says; 0 where there is no control file.
pub(crate) fn get(place: usize) -> u64 {
    word(place).map_or(0, |word| word.load(Ordering::Relaxed))
}

/// Counts something that happened.
pub(crate) fn count(place: usize) {
    if let Some(word) = word(place) {
        word.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes one from a word that tells how often something is to happen; false if it was 0.
pub(crate) fn take(place: usize) -> bool {
    word(place).is_some_and(|word| {
        word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    })
}

/// Whether something that happens as often as a word says, in a thousand times, happens
/// now.
pub(crate) fn roll(place: usize) -> bool {
    let per_mille = get(place);
    per_mille > 0 && random() % 1_000 < per_mille
}

/// `SplitMix64`, as the harness's own random numbers.
fn random() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = RANDOM.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The data folder, without a slash at its end.
pub(crate) fn data_folder() -> Option<&'static [u8]> {
    let data = DATA.load(Ordering::Acquire);
    if data.is_null() {
        return None;
    }
    // SAFETY: pointer and length are of one string of the environment.
    Some(unsafe { std::slice::from_raw_parts(data.cast(), DATA_LENGTH.load(Ordering::Relaxed)) })
}
