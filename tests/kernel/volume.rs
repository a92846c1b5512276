//! A small file system of one's own, to be filled up and to lose its power.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::ioctl::{Setter, ioctl, opcode};
use tempfile::TempDir;

/// A mounted file system, in an image of its own or in memory. Unmounted when it is dropped.
pub(crate) struct Volume {
    home: TempDir,
    mount: Vec<String>,
    mounted: bool,
}

impl Volume {
    /// An ext4 as `mkfs` makes it, but for the blocks that it would reserve.
    pub(crate) fn ext4(bytes: u64) -> Volume {
        Volume::in_an_image(bytes, &["mkfs.ext4", "-q", "-m", "0"])
    }

    /// An xfs. It is never smaller than 300 MiB.
    pub(crate) fn xfs() -> Volume {
        Volume::in_an_image(320 << 20, &["mkfs.xfs", "-q"])
    }

    pub(crate) fn tmpfs(bytes: u64) -> Volume {
        Volume::mounted(
            new_home(),
            vec!["-t".into(), "tmpfs".into(), "-o".into(), format!("size={bytes}"), "tmpfs".into()],
        )
    }

    fn in_an_image(bytes: u64, mkfs: &[&str]) -> Volume {
        let home = new_home();
        let image = home.path().join("image");
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image can be made");
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
        // The kernel gives the loop device back when it is unmounted.
        Volume::mounted(
            home,
            vec!["-o".into(), "loop".into(), image.to_str().expect("made of letters").into()],
        )
    }

    fn mounted(home: TempDir, mount: Vec<String>) -> Volume {
        fs::create_dir(home.path().join("mnt")).expect("a mount point can be made");
        let mut volume = Volume { home, mount, mounted: false };
        volume.mount();
        volume
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    pub(crate) fn mount(&mut self) {
        run(Command::new("mount").args(&self.mount).arg(self.path()));
        self.mounted = true;
    }

    pub(crate) fn unmount(&mut self) {
        run(Command::new("umount").arg(self.path()));
        self.mounted = false;
    }

    /// Whatever was not synced is gone, and nothing can be written any more until it has been
    /// unmounted and mounted.
    ///
    /// The file system forgets its own caches and its open transaction. What it has handed to the
    /// block device is kept: a disk that loses what it has in a volatile cache of its own is not
    /// tried here.
    pub(crate) fn cut_power(&self) {
        /// `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN`: one number for both.
        const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
        /// Not even the log of the file system is written.
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(self.path()).expect("it is mounted");
        // SAFETY: both file systems read one u32 behind the pointer and write nothing.
        unsafe { ioctl(root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }
            .expect("the file system can be shut down");
    }

    /// Fills it up with a file, but for about `room` bytes. The room is back when the ballast is
    /// dropped.
    pub(crate) fn fill_but(&self, room: u64) -> Ballast {
        let path = self.path().join("ballast");
        let file = File::create(&path).expect("there is room for one more name");
        let ballast = Ballast(path);
        let mut filled = 0;
        // What it takes to keep the blocks takes blocks itself, and so it is done in steps.
        while let Some(more) =
            self.free().checked_sub(room).map(|bytes| bytes & !4095).filter(|bytes| *bytes > 0)
        {
            if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), filled, more)
                .is_err()
            {
                break;
            }
            filled += more;
        }
        file.sync_all().expect("blocks that are there can be synced");
        ballast
    }

    fn free(&self) -> u64 {
        let facts = rustix::fs::statvfs(self.path()).expect("it is mounted");
        facts.f_bfree * facts.f_frsize
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a test that failed may still hold files open.
            let _ = Command::new("umount").arg("-l").arg(self.path()).status();
        }
    }
}

/// A file that takes up room.
pub(crate) struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("a file can be removed from a full disk");
    }
}

fn new_home() -> TempDir {
    let images = env::var_os("DLEDGER_IMAGES").map_or(PathBuf::from("/dev/shm"), PathBuf::from);
    let images = if images.is_dir() { images } else { env::temp_dir() };
    tempfile::Builder::new()
        .prefix("dledger-")
        .tempdir_in(images)
        .expect("there is room for images")
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed (is this root?): {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Removes a directory with all that is in it, if it is there, so that no power cut brings it back.
pub(crate) fn clear(dir: &Path) {
    if dir.exists() {
        fs::remove_dir_all(dir).expect("it is no longer used");
        let parent = File::open(dir.parent().expect("it lies in a volume")).expect("it is mounted");
        rustix::fs::syncfs(parent).expect("the volume has power");
    }
}
