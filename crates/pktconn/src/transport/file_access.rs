//! Sets the owner, the group and the permissions of a socket file.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chownat};

use crate::transport::unix_options::{Account, UnixOptions};

/// Sets what `options` says. It never follows a link, so a user who can replace the file in its folder cannot make a
/// server of root change another file.
pub(crate) fn set_access(path: &Path, options: &UnixOptions<'_>) -> io::Result<()> {
    let uid = options.owner.map(|owner| id(owner, "user", "/etc/passwd")).transpose()?;
    let gid = options.group.map(|group| id(group, "group", "/etc/group")).transpose()?;
    if uid.is_some() || gid.is_some() {
        let (owner, group) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        chownat(CWD, path, owner, group, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| describe(&error.into(), "owner or group"))?;
    }
    // Last: a change of the owner may clear bits of the mode.
    if let Some(mode) = options.mode {
        set_mode(path, Mode::from_raw_mode(mode as _)).map_err(|error| describe(&error, "mode"))?;
    }
    Ok(())
}

/// Linux before 6.6 cannot change the mode of a path without following links, but that of a file that is open as a path.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_mode(path: &Path, mode: Mode) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{FileType, OFlags, chmod, fstat, open};

    let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another program has replaced the socket file"));
    }
    Ok(chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_mode(path: &Path, mode: Mode) -> io::Result<()> {
    Ok(rustix::fs::chmodat(CWD, path, mode, AtFlags::SYMLINK_NOFOLLOW)?)
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
        let options = UnixOptions { mode: Some(0o666), ..UnixOptions::default() };
        let _ = set_access(&link, &options);
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
    }
}
