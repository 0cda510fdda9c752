//! Sets the owner, the group and the permissions of a socket file.

use std::fs;
use std::io;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, Uid, chownat};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use rustix::fs::{CWD, chmodat};
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::fs::{FileType, OFlags, chmod, fstat, open};

use crate::transport::unix_options::{Account, UnixOptions};

/// Sets what `options` says. It never follows a link, and on Linux changes nothing but a socket: a user who can replace
/// the file in its folder cannot make a server of root change another file.
pub(crate) fn set_access(path: &Path, options: &UnixOptions<'_>) -> io::Result<()> {
    if *options == UnixOptions::default() {
        return Ok(());
    }
    let uid = options.owner.map(|owner| id(owner, "user", "/etc/passwd")).transpose()?;
    let gid = options.group.map(|group| id(group, "group", "/etc/group")).transpose()?;
    let file = TheFile::open(path)?;
    if uid.is_some() || gid.is_some() {
        file.set_owner(uid.map(Uid::from_raw), gid.map(Gid::from_raw))
            .map_err(|error| describe(&error, "owner or group"))?;
    }
    // Last: a change of the owner may clear bits of the mode.
    if let Some(mode) = options.mode {
        file.set_mode(Mode::from_raw_mode(mode as _)).map_err(|error| describe(&error, "mode"))?;
    }
    Ok(())
}

/// The socket file, open as a path: replacing the file changes nothing here. Linux before 6.6 cannot set the mode of a
/// path without following links, but that of an open file.
#[cfg(any(target_os = "linux", target_os = "android"))]
struct TheFile(OwnedFd);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl TheFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::Socket {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another program has replaced the socket file",
            ));
        }
        Ok(Self(file))
    }

    fn set_owner(&self, owner: Option<Uid>, group: Option<Gid>) -> io::Result<()> {
        Ok(chownat(&self.0, c"", owner, group, AtFlags::EMPTY_PATH)?)
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        Ok(chmod(format!("/proc/self/fd/{}", self.0.as_raw_fd()), mode)?)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
struct TheFile<'a>(&'a Path);

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl<'a> TheFile<'a> {
    #[expect(clippy::unnecessary_wraps, reason = "Linux opens the file")]
    fn open(path: &'a Path) -> io::Result<Self> {
        Ok(Self(path))
    }

    fn set_owner(&self, owner: Option<Uid>, group: Option<Gid>) -> io::Result<()> {
        Ok(chownat(CWD, self.0, owner, group, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        Ok(chmodat(CWD, self.0, mode, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// The number of a user or group. A name is looked up in `table` only: asking LDAP and the like needs the C library's
/// `getpwnam`, for which there is no safe function without another dependency.
fn id(account: Account<'_>, kind: &str, table: &str) -> io::Result<u32> {
    let name = match account {
        Account::Id(id) => return Ok(id),
        Account::Name(name) => name,
    };
    let text = fs::read(table).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read {table} to find {kind} {name}: {error}"))
    })?;
    find_id(&String::from_utf8_lossy(&text), name).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("{table} has no {kind} {name}; write its number"))
    })
}

/// Finds the number of `name` in a text of lines such as `www-data:x:33:`.
fn find_id(table: &str, name: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

fn describe(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("cannot set the {what} of the socket file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_name_is_in_its_line() {
        let table =
            "root:x:0:\n# comment\nbroken\nwww:x\nwww-data:x:33:alice,bob\nwww:x:34:\nlast:x:notanumber:\n";
        for (name, id) in [
            ("root", Some(0)),
            ("www-data", Some(33)),
            ("www", Some(34)),
            ("alice", None),
            ("", None),
            ("last", None),
            ("broken", None),
        ] {
            assert_eq!(find_id(table, name), id, "{name:?}");
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "of value").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&target, &link).unwrap();
        let owner = fs::metadata(&target).unwrap().uid();
        let options =
            UnixOptions { mode: Some(0o666), owner: Some(Account::Id(owner + 1)), ..UnixOptions::default() };
        let _ = set_access(&link, &options);
        let file = fs::metadata(&target).unwrap();
        assert_eq!((file.mode() & 0o777, file.uid()), (0o600, owner));
    }
}
