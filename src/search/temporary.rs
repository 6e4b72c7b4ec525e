//! A file that gets its final name only when it is complete.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// A temporary file beside its target. It is deleted on drop unless it was renamed.
pub(super) enum TemporaryFile {
    /// Without a name, so a killed process leaves nothing behind.
    #[cfg(target_os = "linux")]
    Unnamed(File),
    /// With a name that starts with `.ctxembed-`, for file systems without unnamed files.
    Named(NamedTempFile),
}

impl TemporaryFile {
    /// An empty file in `directory`, with the permissions of any new file.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Ok(file) = unnamed(directory) {
            return Ok(Self::Unnamed(file));
        }
        // Opened here and not by the builder, which sets other permissions and hides the system's error.
        let mut refusal = None;
        let named = builder().make_in(directory, |path| {
            let created = OpenOptions::new().read(true).write(true).create_new(true).open(path);
            created.inspect_err(|error| refusal = error.raw_os_error())
        });
        named.map(Self::Named).map_err(|error| refusal.map_or(error, io::Error::from_raw_os_error))
    }

    /// The file itself.
    pub(super) fn file(&mut self) -> &mut File {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file_mut(),
        }
    }

    /// Move the file to `target`, replacing what is there.
    pub(super) fn rename(self, directory: &Path, target: &Path) -> io::Result<()> {
        match self {
            // No system call links over an existing file, so the file gets a temporary name first.
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => {
                let named = builder().make_in(directory, |path| link(&file, path))?;
                named.into_temp_path().persist(target).map_err(|error| error.error)
            }
            Self::Named(file) => file.persist(target).map(drop).map_err(|error| error.error),
        }
    }
}

fn builder() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(".ctxembed-").suffix(".tmp");
    builder
}

#[cfg(target_os = "linux")]
fn unnamed(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let (flags, mode) = (OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
    Ok(open(directory, flags, mode)?.into())
}

#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{AtFlags, CWD, linkat};
    // As open(2) describes it for a process without privileges.
    Ok(linkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}
