//! A file that appears under its name when it is whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// A file that is written beside its place, and is gone where it does not get there.
pub(super) enum Temporary {
    /// Without a name: what is left of it when the process is killed is nothing.
    #[cfg(target_os = "linux")]
    Nameless(File),
    /// With one that starts with `.ctxembed-`, for file systems that know no other.
    Named(NamedTempFile),
}

impl Temporary {
    /// An empty file in `directory`, with the permissions of any new file.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Ok(file) = nameless(directory) {
            return Ok(Self::Nameless(file));
        }
        // Opened here, not by the builder, for those permissions and for the system's own error.
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
            Self::Nameless(file) => file,
            Self::Named(file) => file.as_file_mut(),
        }
    }

    /// Put the file at its place, over what is there.
    pub(super) fn rename(self, directory: &Path, target: &Path) -> io::Result<()> {
        match self {
            // No system call links over a file that exists: it gets a name of its own for the moment of the rename.
            #[cfg(target_os = "linux")]
            Self::Nameless(file) => {
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
fn nameless(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let (flags, mode) = (OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
    Ok(open(directory, flags, mode)?.into())
}

#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{AtFlags, CWD, linkat};
    // The way that open(2) gives for a process without privileges.
    Ok(linkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}
