//! What a node's data folder lies on: a plain folder, or a file system of its own that
//! can lose its power and be full.
//!
//! A file system of its own lies in an image file on a loop device. Losing power is done
//! by the file system itself (`FS_IOC_SHUTDOWN`): from that moment nothing more reaches
//! the image, and the next mount replays the journal as after a real power loss. It needs
//! root, loop devices and the tools of ext4; [`image_disks_work`] tells.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::error::HarnessError;
use super::system::{self, Journal};

/// How the file systems are mounted: the journal is written late, so that much is lost
/// when nothing asked for it.
const MOUNT_OPTIONS: &str = "loop,noatime,commit=60";
/// How often an unmount is tried again while the system still holds the disk.
const UNMOUNT_TRIES: u32 = 40;
/// How long to wait in between.
const UNMOUNT_RETRY: Duration = Duration::from_millis(50);
/// How often filling a disk is tried again, each time with so much more left.
const FILL_TRIES: u64 = 20;
const FILL_MARGIN: u64 = 64 << 10;
/// The name of the file that fills a disk.
const FILLER: &str = "filler";

/// Where a node's data folder lies.
#[derive(Debug)]
pub struct Disk {
    /// The folder in which the data folder lies, or the place where its file system is
    /// mounted.
    folder: PathBuf,
    image: Option<PathBuf>,
    is_mounted: bool,
}

impl Disk {
    /// A new empty one in `parent`; with `image_bytes`, a file system of its own of that
    /// size.
    pub fn create(parent: &Path, image_bytes: Option<u64>) -> Result<Self, HarnessError> {
        let folder = parent.join("disk");
        fs::create_dir_all(&folder).map_err(HarnessError::io(format!("creating {}", folder.display())))?;
        let Some(bytes) = image_bytes else { return Ok(Self { folder, image: None, is_mounted: false }) };
        let image = parent.join("disk.ext4");
        let what = format!("creating {}", image.display());
        File::create(&image).and_then(|file| file.set_len(bytes)).map_err(HarnessError::io(what))?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&image)])?;
        let mut disk = Self { folder, image: Some(image), is_mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    /// The data folder; the node makes it when it first starts.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Whether it can lose its power and be full.
    pub fn is_image(&self) -> bool {
        self.image.is_some()
    }

    /// Its power is lost: what is not on it now never gets there. The process that uses
    /// it must be killed next, and then [`Self::power_on`] follows.
    pub fn power_off(&self, journal: Journal) -> Result<(), HarnessError> {
        let what = || HarnessError::io(format!("shutting down {}", self.folder.display()));
        let folder = File::open(&self.folder).map_err(what())?;
        system::blocking(|| system::shut_down_file_system(&folder, journal)).map_err(what())
    }

    /// Brings it back after a loss of power.
    pub fn power_on(&mut self) -> Result<(), HarnessError> {
        self.unmount()?;
        if let Some(image) = &self.image {
            // 1 says that it repaired something, which replaying the journal is.
            run_with("e2fsck", &["-p", &text(image)], 1)?;
        }
        self.mount()
    }

    /// Fills it up but for about so many bytes.
    pub fn fill(&self, left: u64) -> Result<(), HarnessError> {
        let filler = text(&self.folder.join(FILLER));
        let mut tries = 0;
        loop {
            let available = self.available()?;
            // What the node writes meanwhile, and what the file system itself takes.
            let margin = tries * FILL_MARGIN;
            if available <= left + margin {
                return Ok(());
            }
            let length = (available - left - margin).to_string();
            match run("fallocate", &["-l", &length, &filler]) {
                Ok(_) => return Ok(()),
                Err(error) if tries == FILL_TRIES => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    fn available(&self) -> Result<u64, HarnessError> {
        let output = run("df", &["--output=avail", "-B1", &text(&self.folder)])?;
        let available = output.lines().last().and_then(|line| line.trim().parse().ok());
        available.ok_or_else(|| HarnessError::Refused(format!("df answered {output:?}")))
    }

    /// Makes room again.
    pub fn free(&self) -> Result<(), HarnessError> {
        match fs::remove_file(self.folder.join(FILLER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(HarnessError::io("removing the file that fills the disk")(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Empties it for good.
    pub fn discard(&mut self) -> Result<(), HarnessError> {
        self.unmount()?;
        let removed = fs::remove_dir_all(&self.folder);
        removed.map_err(HarnessError::io(format!("removing {}", self.folder.display())))?;
        match self.image.take() {
            Some(image) => {
                fs::remove_file(&image).map_err(HarnessError::io(format!("removing {}", image.display())))
            }
            None => Ok(()),
        }
    }

    fn mount(&mut self) -> Result<(), HarnessError> {
        let Some(image) = &self.image else { return Ok(()) };
        run("mount", &["-t", "ext4", "-o", MOUNT_OPTIONS, &text(image), &text(&self.folder)])?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), HarnessError> {
        if self.is_mounted {
            unmount(&self.folder)?;
            self.is_mounted = false;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nobody is left to be told; leftovers are looked for before the next run.
        let _ = self.unmount();
    }
}

/// Tries whether file systems in image files work here, in a folder that is there; the
/// error says why not.
pub fn image_disks_work(folder: &Path) -> Result<(), HarnessError> {
    if !system::is_root() {
        return Err(HarnessError::Refused("mounting needs root".to_owned()));
    }
    let trial = folder.join("trial");
    let mut disk = Disk::create(&trial, Some(16 << 20))?;
    let written = disk.folder.join("written");
    fs::write(&written, b"not synced").map_err(HarnessError::io("writing to a new disk"))?;
    disk.power_off(Journal::Lost)?;
    disk.power_on()?;
    if written.exists() {
        return Err(HarnessError::Refused("the kernel does not lose what is not synced".to_owned()));
    }
    disk.discard()?;
    fs::remove_dir_all(&trial).map_err(HarnessError::io("removing the trial of a disk"))
}

/// Unmounts all that an earlier run, which was killed, has left mounted below a folder.
pub fn unmount_leftovers(folder: &Path) -> Result<(), HarnessError> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(HarnessError::io("reading the mounts"))?;
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for place in places.map(Path::new).filter(|place| place.starts_with(&folder)) {
        unmount(place)?;
    }
    Ok(())
}

fn unmount(place: &Path) -> Result<(), HarnessError> {
    let mut tries = 0;
    loop {
        match run("umount", &[&text(place)]) {
            Ok(_) => return Ok(()),
            Err(error) if tries == UNMOUNT_TRIES => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        system::blocking(|| std::thread::sleep(UNMOUNT_RETRY));
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Runs a program to its end and gives what it printed.
fn run(program: &str, args: &[&str]) -> Result<String, HarnessError> {
    run_with(program, args, 0)
}

/// The same, where exit codes up to `worst` are a success.
fn run_with(program: &str, args: &[&str], worst: i32) -> Result<String, HarnessError> {
    let output = system::blocking(|| Command::new(program).args(args).output());
    let output = output.map_err(HarnessError::io(format!("running {program}")))?;
    if output.status.code().is_some_and(|code| code <= worst) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(HarnessError::Refused(format!("{program} {}: {}: {error}", args.join(" "), output.status)))
}
