//! Names of files: which of them mean standard output, and which lead to the same file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names of standard output. The last three are not opened: they may lead to a file, which must not be emptied.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

pub(crate) fn is_stdout(path: &Path) -> bool {
    STDOUT.iter().any(|name| path.as_os_str() == *name)
}

/// The folder of a file.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether both names lead to the same file, whether it exists yet or not.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    match (identity(one), identity(other)) {
        (Some(one), Some(other)) => one == other,
        _ => place(one) == place(other),
    }
}

/// The name of a file in its canonical folder.
fn place(path: &Path) -> PathBuf {
    let folder = parent(path);
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    path.file_name().map_or_else(|| folder.clone(), |name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_other_spellings_are_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "").unwrap();
        fs::create_dir(path("folder")).unwrap();
        fs::hard_link(path("file"), path("hard")).unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        for name in ["file", "./file", "folder/../file", "hard", "link"] {
            assert!(is_same_file(&path(name), &path("file")), "{name}");
            assert!(!is_same_file(&path(name), &path("other")), "{name}");
        }
        assert!(is_same_file(&path("new"), &path("folder/../new")));
        assert!(is_same_file(Path::new("no-such-file"), Path::new("./no-such-file")));
        assert!(!is_same_file(&path("new"), &path("folder/new")));
    }
}
