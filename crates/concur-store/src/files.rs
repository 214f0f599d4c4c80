//! What several parts do with files.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes durable which files a directory holds.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}
